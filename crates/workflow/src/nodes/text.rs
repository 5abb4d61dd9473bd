//! Texts put together, cut, compared and shown.

use serde_json::json;

use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "text";

pub(super) const STRING: Input = Input::string("string", "").multiline().tooltip("The text.");
const A: Input = Input::string("string_a", "").multiline().tooltip("The one text.");
const B: Input = Input::string("string_b", "").multiline().tooltip("The other text.");
const CASE_SENSITIVE: Input = Input::boolean("case_sensitive", true)
    .advanced()
    .tooltip("Whether capitals are other letters than small ones.");

pub(super) const TEXT: &[Output] = &[Output::new(Type::String)];

/// What comes out where all inputs are known before the run.
macro_rules! foreseen {
    ($compute:path) => {
        Some(|ahead: &Ahead<'_>| {
            if ahead.is_linked_to_unknown() {
                return Ok(Vec::new());
            }
            Ok(vec![Known::Value(Box::new($compute(ahead.inputs())?))])
        })
    };
}

/// A node that computes one value of its inputs.
macro_rules! pure {
    ($name:ident, $class:literal, $title:literal, $about:literal, $outputs:expr, $compute:path, $inputs:expr) => {
        #[doc = $about]
        pub const $name: Node = Node {
            class: $class,
            title: $title,
            category: CATEGORY,
            about: $about,
            inputs: $inputs,
            outputs: $outputs,
            forecast: foreseen!($compute),
            run: |_, inputs| Ok(vec![$compute(inputs)?]),
            ..Node::EMPTY
        };
    };
}
pub(super) use {foreseen, pure};

pure!(
    CONCATENATE,
    "StringConcatenate",
    "Concatenate Text",
    "Joins two texts, with another between them.",
    TEXT,
    concatenated,
    &[A, B, Input::string("delimiter", "").tooltip("What goes between.")]
);
pure!(
    SUBSTRING,
    "StringSubstring",
    "Substring",
    "Cuts a part out of a text, from one character to before another, counted from 0; negative numbers count from \
     the end.",
    TEXT,
    substring,
    &[STRING, Input::int("start", 0, -MOST, MOST), Input::int("end", 0, -MOST, MOST)]
);
pure!(
    LENGTH,
    "StringLength",
    "Text Length",
    "Counts the characters of a text.",
    &[Output::new(Type::Int).named("length")],
    length,
    &[STRING]
);
pure!(
    CASE,
    "CaseConverter",
    "Convert Text Case",
    "Writes a text in capitals or small letters, or with capitals at beginnings.",
    TEXT,
    cased,
    &[STRING, Input::choice("mode", &["UPPERCASE", "lowercase", "Capitalize", "Title Case"])]
);
pure!(
    TRIM,
    "StringTrim",
    "Trim Text",
    "Takes blanks away from the ends of a text.",
    TEXT,
    trimmed,
    &[STRING, Input::choice("mode", &["Both", "Left", "Right"])]
);
pure!(
    REPLACE,
    "StringReplace",
    "Replace Text",
    "Replaces a text wherever it occurs in another.",
    TEXT,
    replaced,
    &[
        STRING,
        Input::string("find", "").multiline().tooltip("What is replaced."),
        Input::string("replace", "").multiline().tooltip("What takes its place."),
    ]
);
pure!(
    CONTAINS,
    "StringContains",
    "Contains Text",
    "Returns whether a text occurs in another.",
    &[Output::new(Type::Boolean).named("contains")],
    contains,
    &[
        STRING,
        Input::string("substring", "").multiline().tooltip("What is looked for."),
        CASE_SENSITIVE
    ]
);
pure!(
    COMPARE,
    "StringCompare",
    "Compare Text",
    "Returns whether a text is another, or starts or ends with it.",
    &[Output::new(Type::Boolean)],
    compared,
    &[A, B, Input::choice("mode", &["Starts With", "Ends With", "Equal"]), CASE_SENSITIVE]
);

/// The largest whole number of 64 bits with a sign.
const MOST: i128 = i64::MAX as i128;

pub(super) fn string(text: impl AsRef<str>) -> Value {
    Value::String(text.as_ref().into())
}

fn concatenated(inputs: &Inputs) -> Result<Value, NodeError> {
    let [a, b, between] = ["string_a", "string_b", "delimiter"].map(|name| inputs.text(name));
    Ok(string(format!("{}{}{}", a?, between?, b?)))
}

fn substring(inputs: &Inputs) -> Result<Value, NodeError> {
    let letters: Vec<char> = inputs.text("string")?.chars().collect();
    let count = letters.len() as i128;
    let place = |name: &str| {
        let given = inputs.int(name)?;
        let from_start = if given < 0 { given.saturating_add(count) } else { given };
        Ok::<_, NodeError>(from_start.clamp(0, count) as usize)
    };
    let (start, end) = (place("start")?, place("end")?);
    let part = letters.get(start..end).unwrap_or_default();
    Ok(string(part.iter().collect::<String>()))
}

fn length(inputs: &Inputs) -> Result<Value, NodeError> {
    Ok(Value::Int(inputs.text("string")?.chars().count() as i128))
}

fn cased(inputs: &Inputs) -> Result<Value, NodeError> {
    let text = inputs.text("string")?;
    Ok(string(match inputs.text("mode")? {
        "UPPERCASE" => text.to_uppercase(),
        "lowercase" => text.to_lowercase(),
        "Capitalize" => {
            let mut letters = text.chars();
            let first = letters.next().map(|letter| letter.to_uppercase().collect::<String>());
            first.unwrap_or_default() + &letters.as_str().to_lowercase()
        }
        _ => titled(text),
    }))
}

/// A capital where a word begins, that is behind anything but a letter.
fn titled(text: &str) -> String {
    let mut title = String::with_capacity(text.len());
    let mut in_word = false;
    for letter in text.chars() {
        match in_word {
            true => title.extend(letter.to_lowercase()),
            false => title.extend(letter.to_uppercase()),
        }
        in_word = letter.is_alphabetic();
    }
    title
}

fn trimmed(inputs: &Inputs) -> Result<Value, NodeError> {
    let text = inputs.text("string")?;
    Ok(string(match inputs.text("mode")? {
        "Left" => text.trim_start(),
        "Right" => text.trim_end(),
        _ => text.trim(),
    }))
}

fn replaced(inputs: &Inputs) -> Result<Value, NodeError> {
    let [text, find, by] = ["string", "find", "replace"].map(|name| inputs.text(name));
    Ok(string(text?.replace(find?, by?)))
}

fn contains(inputs: &Inputs) -> Result<Value, NodeError> {
    let (text, part) = (inputs.text("string")?, inputs.text("substring")?);
    Ok(Value::Boolean(match inputs.boolean("case_sensitive")? {
        true => text.contains(part),
        false => text.to_lowercase().contains(&part.to_lowercase()),
    }))
}

fn compared(inputs: &Inputs) -> Result<Value, NodeError> {
    let [a, b] = ["string_a", "string_b"].map(|name| inputs.text(name).map(str::to_owned));
    let (mut a, mut b) = (a?, b?);
    if !inputs.boolean("case_sensitive")? {
        (a, b) = (a.to_lowercase(), b.to_lowercase());
    }
    Ok(Value::Boolean(match inputs.text("mode")? {
        "Starts With" => a.starts_with(&b),
        "Ends With" => a.ends_with(&b),
        _ => a == b,
    }))
}

/// Any value as text.
pub const PREVIEW_ANY: Node = Node {
    class: "PreviewAny",
    title: "Preview as Text",
    category: "utilities",
    about: "Shows a value as text.",
    inputs: &[Input::link("source", Type::Any).tooltip("The value.")],
    outputs: TEXT,
    is_output: true,
    run: |context, inputs| {
        let text = inputs.get("source").map_or_else(|| "None".to_owned(), shown);
        context.show("text", vec![json!(text)]);
        Ok(vec![string(text)])
    },
    ..Node::EMPTY
};

/// A value as Python prints it, where it is a number or a text; else what it is.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Boolean(yes) => if *yes { "True" } else { "False" }.to_owned(),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e16 => {
            format!("{number:.1}")
        }
        Value::Float(number) => number.to_string(),
        Value::Absent(why) => why.to_string(),
        Value::List(values) => values.iter().map(shown).collect::<Vec<_>>().join("\n"),
        Value::Sigmas(sigmas) => format!("{sigmas:?}"),
        Value::Image(pictures) => format!("IMAGE {:?}", pictures.shape()),
        Value::Mask(mask) => format!("MASK {:?}", mask.shape()),
        Value::Latent(latent) => format!("LATENT {:?}", latent.samples.dims()),
        Value::Data(_, json) => super::text_format::written(json),
        other => format!("{other:?}"),
    }
}
