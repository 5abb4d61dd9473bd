//! Texts filled in and read out: Python's `str.format`, and a value of a JSON record.

use serde_json::Value as Json;

use super::text::{TEXT, foreseen, pure, string};
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Growing, Input, Node};
use crate::value::{Type, Value};

const CATEGORY: &str = "text";

const VALUES: Growing =
    Growing { name: "values", one: "value", named: true, least: 0, optional: true };

macro_rules! letters {
    ($($letter:literal)*) => {
        &[
            Input::string("f_string", "{a}")
                .multiline()
                .tooltip("The text; {a} stands for the value a, {{ for a brace."),
            $(Input::link(concat!("values.", $letter), Type::Any).one_of(&VALUES)),*
        ]
    };
}

pure!(
    FORMAT,
    "StringFormat",
    "Format Text",
    "Writes values into a text where their letters stand in braces, as Python's format does: {a}, {b:.2f}, {c:>8}.",
    TEXT,
    formatted,
    letters!["a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z"]
);
pure!(
    JSON_EXTRACT,
    "JsonExtractString",
    "Extract Text from JSON",
    "Reads the first JSON record in a text and returns the value of a name; an empty text where there is none.",
    TEXT,
    extracted,
    &[
        Input::string("json_string", "").multiline().tooltip("The text with the record."),
        Input::string("key", "").tooltip("The name.")
    ]
);

fn formatted(inputs: &Inputs) -> Result<Value, NodeError> {
    let wrong = |problem: String| NodeError::input("f_string", problem);
    let text = inputs.text("f_string")?;
    let (mut out, mut letters) = (String::new(), text.chars().peekable());
    while let Some(letter) = letters.next() {
        match letter {
            '{' if letters.next_if_eq(&'{').is_some() => out.push('{'),
            '}' if letters.next_if_eq(&'}').is_some() => out.push('}'),
            '}' => return Err(wrong("a `}` stands alone: write `}}` for one".to_owned())),
            '{' => {
                let mut field = String::new();
                loop {
                    match letters.next() {
                        Some('}') => break,
                        Some('{') => {
                            return Err(wrong("fields in fields are not read here".to_owned()));
                        }
                        Some(letter) => field.push(letter),
                        None => return Err(wrong("a `{` has no `}`".to_owned())),
                    }
                }
                let (name, format) = field.split_once(':').unwrap_or((&field, ""));
                let (name, is_quoted) = match name.split_once('!') {
                    None => (name, false),
                    Some((name, "s")) => (name, false),
                    Some((name, "r")) => (name, true),
                    Some((_, other)) => return Err(wrong(format!("`!{other}` is not read here"))),
                };
                let value = inputs.get(&format!("values.{name}")).ok_or_else(|| {
                    wrong(format!(
                        "nothing is linked to a value `{name}`, which `{{{field}}}` asks for"
                    ))
                })?;
                let spec = Spec::read(format).ok_or_else(|| {
                    wrong(format!("`{format}` of `{{{field}}}` is no format that is read here"))
                })?;
                out.push_str(
                    &spec.written(value, is_quoted).ok_or_else(|| {
                        wrong(format!("`{{{field}}}`: the value has no such form"))
                    })?,
                );
            }
            letter => out.push(letter),
        }
    }
    Ok(string(out))
}

/// Python's format specification: `[[fill]align][sign][0][width][,][.precision][type]`.
struct Spec {
    fill: char,
    align: Option<char>,
    sign: char,
    width: usize,
    grouped: bool,
    precision: Option<usize>,
    kind: Option<char>,
}

/// The widest field, and the most digits of one.
const WIDEST: usize = 1000;

impl Spec {
    fn read(text: &str) -> Option<Self> {
        let letters: Vec<char> = text.chars().collect();
        let at = |place: usize| letters.get(place).copied();
        let is_align = |letter: Option<char>| letter.filter(|letter| "<>^=".contains(*letter));
        let mut place = 0;
        let mut spec = Self {
            fill: ' ',
            align: None,
            sign: '-',
            width: 0,
            grouped: false,
            precision: None,
            kind: None,
        };
        if is_align(at(1)).is_some() {
            (spec.fill, spec.align, place) = (at(0)?, at(1), 2);
        } else if is_align(at(0)).is_some() {
            (spec.align, place) = (at(0), 1);
        }
        if let Some(sign) = at(place).filter(|letter| "+- ".contains(*letter)) {
            (spec.sign, place) = (sign, place + 1);
        }
        if at(place) == Some('0') {
            place += 1;
            if spec.align.is_none() {
                (spec.fill, spec.align) = ('0', Some('='));
            }
        }
        let number = |place: &mut usize| -> Option<usize> {
            let digits: String =
                letters.iter().skip(*place).take_while(|digit| digit.is_ascii_digit()).collect();
            *place += digits.len();
            digits.parse().ok().filter(|number| *number <= WIDEST)
        };
        if at(place).is_some_and(|letter| letter.is_ascii_digit()) {
            spec.width = number(&mut place)?;
        }
        if at(place) == Some(',') {
            (spec.grouped, place) = (true, place + 1);
        }
        if at(place) == Some('.') {
            place += 1;
            spec.precision = Some(number(&mut place)?);
        }
        if let Some(kind) = at(place).filter(|letter| "sdfFeExXob%".contains(*letter)) {
            (spec.kind, place) = (Some(kind), place + 1);
        }
        (place == letters.len()).then_some(spec)
    }

    /// The value in this form; `None` where it has none.
    fn written(&self, value: &Value, is_quoted: bool) -> Option<String> {
        let number = match value {
            Value::Int(number) => Some((*number as f64, Some(*number))),
            Value::Float(number) => Some((*number, None)),
            Value::Boolean(yes) if self.kind.is_some_and(|kind| kind != 's') => {
                Some((f64::from(u8::from(*yes)), Some(i128::from(*yes))))
            }
            _ => None,
        };
        let Some((real, whole)) = number.filter(|_| self.kind != Some('s') && !is_quoted) else {
            if self.kind.is_some_and(|kind| kind != 's') || self.align == Some('=') {
                return None;
            }
            let text = plain(value)?;
            let text = if is_quoted { quoted(value, &text) } else { text };
            let text: String = match self.precision {
                Some(most) => text.chars().take(most).collect(),
                None => text,
            };
            return Some(self.padded("", &text, '<'));
        };
        let size = real.abs();
        let digits = self.precision.unwrap_or(6);
        let body = match (self.kind, whole) {
            (None | Some('d'), Some(whole)) if self.precision.is_none() => {
                whole.unsigned_abs().to_string()
            }
            (Some('x'), Some(whole)) => format!("{:x}", whole.unsigned_abs()),
            (Some('X'), Some(whole)) => format!("{:X}", whole.unsigned_abs()),
            (Some('o'), Some(whole)) => format!("{:o}", whole.unsigned_abs()),
            (Some('b'), Some(whole)) => format!("{:b}", whole.unsigned_abs()),
            (Some('f' | 'F'), _) => format!("{size:.digits$}"),
            (Some('%'), _) => format!("{:.digits$}%", size * 100.0),
            (Some(kind @ ('e' | 'E')), _) => exponential(size, digits, kind),
            (None, None) if self.precision.is_none() => {
                plain(&Value::Float(size)).unwrap_or_default()
            }
            _ => return None,
        };
        let body = if self.grouped { grouped(&body) } else { body };
        let is_negative = whole.map_or(real.is_sign_negative(), |whole| whole < 0);
        let sign = match (is_negative, self.sign) {
            (true, _) => "-",
            (false, '+') => "+",
            (false, ' ') => " ",
            _ => "",
        };
        Some(self.padded(sign, &body, '>'))
    }

    fn padded(&self, sign: &str, body: &str, usual: char) -> String {
        let length = sign.chars().count() + body.chars().count();
        let room = self.width.saturating_sub(length);
        let fill = |count: usize| self.fill.to_string().repeat(count);
        match self.align.unwrap_or(usual) {
            '<' => format!("{sign}{body}{}", fill(room)),
            '^' => format!("{}{sign}{body}{}", fill(room / 2), fill(room - room / 2)),
            '=' => format!("{sign}{}{body}", fill(room)),
            _ => format!("{}{sign}{body}", fill(room)),
        }
    }
}

/// As Python writes it: at least two digits behind the `e`, with a sign.
fn exponential(size: f64, digits: usize, kind: char) -> String {
    let text = format!("{size:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    let sign = if power < 0 { '-' } else { '+' };
    format!("{mantissa}{kind}{sign}{:02}", power.unsigned_abs())
}

/// Commas between thousands.
fn grouped(body: &str) -> String {
    let (whole, rest) = body.split_at(body.find('.').unwrap_or(body.len()));
    let count = whole.len();
    let mut out = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (count - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// A number, a text or a switch as Python's `str` writes it.
fn plain(value: &Value) -> Option<String> {
    Some(match value {
        Value::Int(number) => number.to_string(),
        Value::Float(number) if number.is_nan() => "nan".to_owned(),
        Value::Float(number) if number.is_infinite() => {
            if *number > 0.0 {
                "inf".to_owned()
            } else {
                "-inf".to_owned()
            }
        }
        Value::Float(number) => {
            let size = number.abs();
            if size != 0.0 && !(1e-4..1e16).contains(&size) {
                let text = format!("{number:e}");
                let (mantissa, exponent) = text.split_once('e')?;
                let power: i32 = exponent.parse().ok()?;
                let sign = if power < 0 { '-' } else { '+' };
                format!("{mantissa}e{sign}{:02}", power.unsigned_abs())
            } else if number.fract() == 0.0 {
                format!("{number:.1}")
            } else {
                number.to_string()
            }
        }
        Value::Boolean(yes) => if *yes { "True" } else { "False" }.to_owned(),
        Value::String(text) => text.to_string(),
        Value::Data(_, json) => written(json),
        _ => return None,
    })
}

/// As Python's `repr` quotes a text; other values are as they are.
fn quoted(value: &Value, text: &str) -> String {
    match value {
        Value::String(_) => python_text(text),
        _ => text.to_owned(),
    }
}

fn python_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter == quote => {
                out.push('\\');
                out.push(letter);
            }
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

/// JSON as Python's `str` writes what it reads of it.
pub(super) fn written(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        other => inner(other),
    }
}

fn inner(json: &Json) -> String {
    match json {
        Json::Null => "None".to_owned(),
        Json::Bool(yes) => if *yes { "True" } else { "False" }.to_owned(),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => whole.to_string(),
            (_, Some(whole), _) => whole.to_string(),
            (_, _, Some(real)) => plain(&Value::Float(real)).unwrap_or_default(),
            _ => number.to_string(),
        },
        Json::String(text) => python_text(text),
        Json::Array(values) => {
            format!("[{}]", values.iter().map(inner).collect::<Vec<_>>().join(", "))
        }
        Json::Object(values) => {
            let pairs =
                values.iter().map(|(key, value)| format!("{}: {}", python_text(key), inner(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Braces that are tried as the beginning of a record, at most.
const MOST_TRIES: usize = 1000;

fn extracted(inputs: &Inputs) -> Result<Value, NodeError> {
    let (text, key) = (inputs.text("json_string")?, inputs.text("key")?);
    let record = text.match_indices('{').take(MOST_TRIES).find_map(|(place, _)| {
        let rest = text.get(place..)?;
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Json>();
        values.next()?.ok().filter(Json::is_object)
    });
    let found = record.as_ref().and_then(|record| record.get(key)).filter(|value| !value.is_null());
    Ok(string(found.map(written).unwrap_or_default()))
}
