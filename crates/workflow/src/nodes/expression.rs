//! Arithmetic as Python writes and computes it: what `ComfyMathExpression` evaluates.
//!
//! Numbers are whole, in 128 bits, or `f64`; division gives the latter, `//` and `%` round towards minus infinity.
//! Nothing else can be called than the functions of [`FUNCTIONS`].

use std::fmt;

use thiserror::Error;

/// Why an expression has no value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum ExpressionError {
    /// It is not one.
    #[error("character {place} of `{text}`: {problem}")]
    Syntax {
        /// The expression.
        text: String,
        /// Where, from 1.
        place: usize,
        /// What is wrong there.
        problem: String,
    },
    /// Its value cannot be.
    #[error("`{text}`: {problem}")]
    Value {
        /// The expression.
        text: String,
        /// Why.
        problem: String,
    },
}

/// A number as Python has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
    Bool(bool),
}
use Number::{Bool, Float, Int};

impl Number {
    pub fn real(self) -> f64 {
        match self {
            Int(number) => number as f64,
            Float(number) => number,
            Bool(yes) => f64::from(u8::from(yes)),
        }
    }

    pub fn is_true(self) -> bool {
        match self {
            Int(number) => number != 0,
            Float(number) => number != 0.0,
            Bool(yes) => yes,
        }
    }

    /// Its whole number, where it is one.
    fn whole(self) -> Option<i128> {
        match self {
            Int(number) => Some(number),
            Bool(yes) => Some(yes.into()),
            Float(_) => None,
        }
    }

    /// Cut towards 0, as `int` does.
    pub fn cut(self) -> Option<i128> {
        match self {
            Float(number) => whole_of(number.trunc()),
            other => other.whole(),
        }
    }
}

/// A whole number of a real one that is whole; `None` beyond 127 bits.
fn whole_of(number: f64) -> Option<i128> {
    const LIMIT: f64 = 1.7e38;
    (number.abs() < LIMIT).then_some(number as i128)
}

/// What is known by names: numbers, and `values` for all of them.
pub(super) struct Names<'a> {
    /// Each with its name.
    pub numbers: &'a [(&'a str, Number)],
}

/// The value of an expression.
///
/// # Errors
/// Where it is none, or its value cannot be.
pub(super) fn evaluate(text: &str, names: &Names<'_>) -> Result<Number, ExpressionError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens: &tokens, at: 0, depth: 0, names };
    let value = parser.condition()?;
    match parser.peek() {
        None => parser.single(value),
        Some(token) => Err(parser.wrong(&format!("`{}` is not expected", token.text))),
    }
}

struct Token<'t> {
    text: &'t str,
    /// Characters before it.
    place: usize,
}

/// The signs of the language, the longest first.
const SIGNS: [&str; 24] = [
    "**", "//", "==", "!=", "<=", ">=", "<<", ">>", "<", ">", "+", "-", "*", "/", "%", "(", ")",
    "[", "]", ",", "&", "|", "^", "~",
];

fn tokens(text: &str) -> Result<Vec<Token<'_>>, ExpressionError> {
    let mut tokens = Vec::new();
    let (mut rest, mut place) = (text, 0);
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            sign.len()
        } else if first.is_ascii_digit() || first == '.' {
            number_length(rest)
        } else if first.is_alphabetic() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else {
            let problem = format!("`{first}` is no part of an expression");
            return Err(ExpressionError::Syntax {
                text: text.to_owned(),
                place: place + 1,
                problem,
            });
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() {
            tokens.push(Token { text: token, place });
        }
        place += token.chars().count();
        rest = after;
    }
    Ok(tokens)
}

/// Bytes of the number that a text starts with.
fn number_length(text: &str) -> usize {
    let mut end = 0;
    let mut before = ' ';
    for c in text.chars() {
        let exponent_sign = matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
        if !(c.is_ascii_digit() || matches!(c, '.' | '_' | 'e' | 'E') || exponent_sign) {
            break;
        }
        before = c;
        end += c.len_utf8();
    }
    end
}

/// What an expression may be on the way to its number.
#[derive(Clone, Debug)]
enum Part {
    One(Number),
    List(Vec<Number>),
}

struct Parser<'t, 'n> {
    text: &'t str,
    tokens: &'t [Token<'t>],
    at: usize,
    depth: usize,
    names: &'n Names<'n>,
}

/// How deep brackets and signs may be nested.
const DEEPEST: usize = 100;

/// The largest exponent that a whole number is raised to.
const LARGEST_EXPONENT: f64 = 4000.0;

type Parsed<T> = Result<T, ExpressionError>;

impl<'t> Parser<'t, '_> {
    fn peek(&self) -> Option<&'t Token<'t>> {
        self.tokens.get(self.at)
    }

    /// Takes one of these tokens, if it comes next.
    fn take(&mut self, any: &[&str]) -> Option<&'t str> {
        let token = self.peek()?.text;
        any.contains(&token).then(|| {
            self.at += 1;
            token
        })
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        match self.take(&[token]) {
            Some(_) => Ok(()),
            None => Err(self.wrong(&format!("`{token}` is expected"))),
        }
    }

    fn wrong(&self, problem: &str) -> ExpressionError {
        let place = self.peek().map_or(self.text.chars().count(), |token| token.place) + 1;
        ExpressionError::Syntax { text: self.text.to_owned(), place, problem: problem.to_owned() }
    }

    fn cannot(&self, problem: impl fmt::Display) -> ExpressionError {
        ExpressionError::Value { text: self.text.to_owned(), problem: problem.to_string() }
    }

    fn single(&self, part: Part) -> Parsed<Number> {
        match part {
            Part::One(number) => Ok(number),
            Part::List(_) => Err(self.cannot("a list is no number: take its sum, min or max")),
        }
    }

    /// `a if b else c`
    fn condition(&mut self) -> Parsed<Part> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong("this is nested too deeply"));
        }
        let value = self.either()?;
        let result = match self.take(&["if"]) {
            None => value,
            Some(_) => {
                let test = self.either()?;
                self.expect("else")?;
                let other = self.condition()?;
                if self.single(test)?.is_true() { value } else { other }
            }
        };
        self.depth -= 1;
        Ok(result)
    }

    /// `a or b`, whose value is one of both.
    fn either(&mut self) -> Parsed<Part> {
        let mut left = self.both()?;
        while self.take(&["or"]).is_some() {
            let right = self.both()?;
            left = if self.single(left.clone())?.is_true() { left } else { right };
        }
        Ok(left)
    }

    fn both(&mut self) -> Parsed<Part> {
        let mut left = self.negated()?;
        while self.take(&["and"]).is_some() {
            let right = self.negated()?;
            left = if self.single(left.clone())?.is_true() { right } else { left };
        }
        Ok(left)
    }

    fn negated(&mut self) -> Parsed<Part> {
        let mut count = 0_usize;
        while self.take(&["not"]).is_some() {
            count += 1;
        }
        let value = self.comparison()?;
        match count {
            0 => Ok(value),
            _ => Ok(Part::One(Bool(self.single(value)?.is_true() == count.is_multiple_of(2)))),
        }
    }

    /// `a < b <= c`: each with the next.
    fn comparison(&mut self) -> Parsed<Part> {
        let left = self.bits(0)?;
        let mut result = None;
        let mut last = left.clone();
        while let Some(sign) = self.take(&["==", "!=", "<=", ">=", "<", ">"]) {
            let right = self.bits(0)?;
            let holds = compare(sign, self.single(last)?, self.single(right.clone())?);
            result = Some(result.unwrap_or(true) && holds);
            last = right;
        }
        Ok(result.map_or(left, |holds| Part::One(Bool(holds))))
    }

    /// Operators of whole numbers, from the loosest on, then sums.
    fn bits(&mut self, level: usize) -> Parsed<Part> {
        const LEVELS: [&[&str]; 4] = [&["|"], &["^"], &["&"], &["<<", ">>"]];
        let Some(signs) = LEVELS.get(level) else { return self.sum() };
        let mut left = self.bits(level + 1)?;
        while let Some(sign) = self.take(signs) {
            let right = self.bits(level + 1)?;
            let (a, b) = (self.single(left)?.whole(), self.single(right)?.whole());
            let (Some(a), Some(b)) = (a, b) else {
                return Err(self.cannot(format!("`{sign}` takes whole numbers")));
            };
            let shift = u32::try_from(b).ok().filter(|shift| *shift < 120);
            let value = match sign {
                "|" => Some(a | b),
                "^" => Some(a ^ b),
                "&" => Some(a & b),
                "<<" => shift.and_then(|by| a.checked_mul(1_i128.checked_shl(by)?)),
                _ => shift.map(|by| a >> by),
            };
            left = Part::One(Int(value.ok_or_else(|| self.cannot("the number is too large"))?));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed<Part> {
        let mut left = self.product()?;
        while let Some(sign) = self.take(&["+", "-"]) {
            let right = self.product()?;
            left = Part::One(self.computed(sign, left, right)?);
        }
        Ok(left)
    }

    fn product(&mut self) -> Parsed<Part> {
        let mut left = self.signed()?;
        while let Some(sign) = self.take(&["*", "//", "/", "%"]) {
            let right = self.signed()?;
            left = Part::One(self.computed(sign, left, right)?);
        }
        Ok(left)
    }

    /// `-a`, which binds less than `**` behind it.
    fn signed(&mut self) -> Parsed<Part> {
        let Some(sign) = self.take(&["-", "+", "~"]) else { return self.power() };
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong("this is nested too deeply"));
        }
        let value = self.signed()?;
        self.depth -= 1;
        let value = self.single(value)?;
        let too_large = || self.cannot("the number is too large");
        Ok(Part::One(match (sign, value) {
            ("+", Bool(yes)) => Int(yes.into()),
            ("+", other) => other,
            ("-", Float(number)) => Float(-number),
            ("-", other) => Int(other.whole().and_then(i128::checked_neg).ok_or_else(too_large)?),
            (_, other) => {
                let whole = other.whole().ok_or_else(|| self.cannot("`~` takes a whole number"))?;
                Int(!whole)
            }
        }))
    }

    fn power(&mut self) -> Parsed<Part> {
        let base = self.atom()?;
        if self.take(&["**"]).is_none() {
            return Ok(base);
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong("this is nested too deeply"));
        }
        let exponent = self.signed()?;
        self.depth -= 1;
        let (base, exponent) = (self.single(base)?, self.single(exponent)?);
        Ok(Part::One(self.raised(base, exponent)?))
    }

    fn raised(&self, base: Number, exponent: Number) -> Parsed<Number> {
        if exponent.real().abs() > LARGEST_EXPONENT {
            return Err(self.cannot(format!("the exponent is beyond {LARGEST_EXPONENT}")));
        }
        if let (Some(base), Some(exponent)) = (base.whole(), exponent.whole())
            && let Ok(exponent) = u32::try_from(exponent)
        {
            let power = base.checked_pow(exponent);
            return power.map(Int).ok_or_else(|| self.cannot("the number is too large"));
        }
        if base.real() == 0.0 && exponent.real() < 0.0 {
            return Err(self.cannot("0 cannot be raised to a negative power"));
        }
        let power = base.real().powf(exponent.real());
        if power.is_nan() {
            return Err(self.cannot("the power is no real number"));
        }
        Ok(Float(power))
    }

    fn computed(&self, sign: &str, left: Part, right: Part) -> Parsed<Number> {
        let (a, b) = (self.single(left)?, self.single(right)?);
        let divides = matches!(sign, "/" | "//" | "%");
        if divides && b.real() == 0.0 {
            return Err(self.cannot("it divides by 0"));
        }
        if let (Some(a), Some(b), false) = (a.whole(), b.whole(), sign == "/") {
            let value = match sign {
                "+" => a.checked_add(b),
                "-" => a.checked_sub(b),
                "*" => a.checked_mul(b),
                "//" => floor_div(a, b),
                _ => floor_div(a, b).and_then(|times| a.checked_sub(times.checked_mul(b)?)),
            };
            return value.map(Int).ok_or_else(|| self.cannot("the number is too large"));
        }
        let (a, b) = (a.real(), b.real());
        Ok(Float(match sign {
            "+" => a + b,
            "-" => a - b,
            "*" => a * b,
            "/" => a / b,
            "//" => (a / b).floor(),
            _ => {
                let rest = a % b;
                if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
            }
        }))
    }

    fn atom(&mut self) -> Parsed<Part> {
        if self.take(&["("]).is_some() {
            let value = self.condition()?;
            self.expect(")")?;
            return Ok(value);
        }
        if self.take(&["["]).is_some() {
            return Ok(Part::List(self.numbers("]")?));
        }
        let Some(token) = self.peek() else { return Err(self.wrong("a value is expected")) };
        let text = token.text;
        if text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            let digits = text.replace('_', "");
            let number = digits.parse().map(Int).or_else(|_| digits.parse().map(Float));
            let number = number.map_err(|_| self.wrong(&format!("`{text}` is no number")))?;
            self.at += 1;
            return Ok(Part::One(number));
        }
        if !text.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return Err(self.wrong("a value is expected"));
        }
        let known = FUNCTIONS.iter().find(|(name, _)| *name == text);
        if let (Some((name, function)), Some("(")) =
            (known, self.tokens.get(self.at + 1).map(|token| token.text))
        {
            self.at += 2;
            let arguments = self.numbers(")")?;
            let value = function(&arguments).map_err(|problem| match problem {
                Problem::Count => self.cannot(format!("`{name}` is given {}", arguments.len())),
                Problem::Value(problem) => self.cannot(format!("{name}: {problem}")),
                Problem::Power(base, exponent) => match self.raised(base, exponent) {
                    Ok(_) => self.cannot("the power is no number"),
                    Err(error) => error,
                },
            });
            return value.map(Part::One);
        }
        let value = match text {
            "True" => Part::One(Bool(true)),
            "False" => Part::One(Bool(false)),
            "values" => Part::List(self.names.numbers.iter().map(|(_, number)| *number).collect()),
            _ => {
                let named = self.names.numbers.iter().find(|(name, _)| *name == text);
                let Some((_, number)) = named else {
                    let names: Vec<&str> =
                        self.names.numbers.iter().map(|(name, _)| *name).collect();
                    let problem =
                        format!("nothing is called `{text}`; there are {}", names.join(", "));
                    return Err(self.wrong(&problem));
                };
                Part::One(*number)
            }
        };
        self.at += 1;
        Ok(value)
    }

    /// Numbers with commas between, up to a closing bracket; lists count as what is in them.
    fn numbers(&mut self, close: &str) -> Parsed<Vec<Number>> {
        let mut all = Vec::new();
        while self.take(&[close]).is_none() {
            match self.condition()? {
                Part::One(number) => all.push(number),
                Part::List(numbers) => all.extend(numbers),
            }
            if self.take(&[","]).is_none() {
                self.expect(close)?;
                break;
            }
        }
        Ok(all)
    }
}

fn compare(sign: &str, a: Number, b: Number) -> bool {
    let order = match (a.whole(), b.whole()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.real().partial_cmp(&b.real()),
    };
    let Some(order) = order else { return sign == "!=" };
    match sign {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<=" => order.is_le(),
        ">=" => order.is_ge(),
        "<" => order.is_lt(),
        _ => order.is_gt(),
    }
}

/// Rounded towards minus infinity.
fn floor_div(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    let rest = a.checked_rem(b)?;
    if rest != 0 && (rest < 0) != (b < 0) { quotient.checked_sub(1) } else { Some(quotient) }
}

/// What is wrong with a function's arguments.
enum Problem {
    /// Their number.
    Count,
    /// Their values.
    Value(&'static str),
    /// A power that is checked as `**` is.
    Power(Number, Number),
}

type Function = fn(&[Number]) -> Result<Number, Problem>;

/// The functions that there are, by ComfyUI's list.
const FUNCTIONS: &[(&str, Function)] = &[
    ("sum", |all| {
        let whole = all.iter().try_fold(0_i128, |sum, number| sum.checked_add(number.whole()?));
        Ok(whole.map_or_else(|| Float(all.iter().map(|number| number.real()).sum()), Int))
    }),
    ("min", |all| extreme(all, |a, b| compare("<", a, b))),
    ("max", |all| extreme(all, |a, b| compare(">", a, b))),
    ("abs", |all| match one(all)? {
        Float(number) => Ok(Float(number.abs())),
        other => whole(other.whole().and_then(i128::checked_abs)),
    }),
    ("round", |all| match all {
        [number] => whole(number.whole().or_else(|| whole_of(number.real().round_ties_even()))),
        [Float(number), digits] => {
            let digits = digits.whole().ok_or(Problem::Value("digits are a whole number"))?;
            Ok(Float(rounded(*number, digits)))
        }
        [number, _] => Ok(*number),
        _ => Err(Problem::Count),
    }),
    ("pow", |all| match all {
        [base, exponent] => power(*base, *exponent),
        _ => Err(Problem::Count),
    }),
    ("sqrt", |all| real(all, f64::sqrt)),
    ("ceil", |all| whole(whole_of(one(all)?.real().ceil()))),
    ("floor", |all| whole(whole_of(one(all)?.real().floor()))),
    ("log", |all| match all {
        [number] => real(&[*number], f64::ln),
        [number, base] => real(&[Float(number.real().ln() / base.real().ln())], |value| value),
        _ => Err(Problem::Count),
    }),
    ("log2", |all| real(all, f64::log2)),
    ("log10", |all| real(all, f64::log10)),
    ("sin", |all| real(all, f64::sin)),
    ("cos", |all| real(all, f64::cos)),
    ("tan", |all| real(all, f64::tan)),
    ("int", |all| whole(one(all)?.cut())),
    ("float", |all| Ok(Float(one(all)?.real()))),
];

fn one(all: &[Number]) -> Result<Number, Problem> {
    match all {
        [number] => Ok(*number),
        _ => Err(Problem::Count),
    }
}

fn whole(number: Option<i128>) -> Result<Number, Problem> {
    number.map(Int).ok_or(Problem::Value("the number is too large"))
}

fn extreme(all: &[Number], is_better: impl Fn(Number, Number) -> bool) -> Result<Number, Problem> {
    let better = |best: Number, next: &Number| if is_better(*next, best) { *next } else { best };
    let (first, rest) = all.split_first().ok_or(Problem::Count)?;
    Ok(rest.iter().fold(*first, better))
}

fn real(all: &[Number], function: impl Fn(f64) -> f64) -> Result<Number, Problem> {
    let value = function(one(all)?.real());
    if value.is_finite() {
        Ok(Float(value))
    } else {
        Err(Problem::Value("there is no such number"))
    }
}

fn power(base: Number, exponent: Number) -> Result<Number, Problem> {
    if exponent.real().abs() > LARGEST_EXPONENT {
        return Err(Problem::Power(base, exponent));
    }
    if let (Some(whole), Some(times)) = (base.whole(), exponent.whole())
        && let Ok(times) = u32::try_from(times)
    {
        return whole.checked_pow(times).map(Int).ok_or(Problem::Power(base, exponent));
    }
    let value = base.real().powf(exponent.real());
    if value.is_finite() { Ok(Float(value)) } else { Err(Problem::Power(base, exponent)) }
}

/// To so many digits behind the point, to the nearest by decimal digits as Python does.
fn rounded(number: f64, digits: i128) -> f64 {
    match usize::try_from(digits) {
        Ok(digits) if digits <= 300 => format!("{number:.digits$}").parse().unwrap_or(number),
        Ok(_) => number,
        Err(_) => {
            let scale = 10_f64.powi(digits.unsigned_abs().min(400) as i32);
            (number / scale).round_ties_even() * scale
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<Number, String> {
        let numbers = [("a", Int(7)), ("b", Float(2.5)), ("c", Bool(true))];
        evaluate(text, &Names { numbers: &numbers }).map_err(|error| error.to_string())
    }

    /// What Python 3 prints for these.
    #[test]
    fn values_are_pythons() {
        for (text, expected) in [
            ("a + b", Float(9.5)),
            ("a * 8 // 3", Int(18)),
            ("-a // 2", Int(-4)),
            ("-a % 3", Int(2)),
            ("-7.5 % 2", Float(0.5)),
            ("7 / 2", Float(3.5)),
            ("6 / 2", Float(3.0)),
            ("2 ** 3 ** 2", Int(512)),
            ("-2 ** 2", Int(-4)),
            ("2 ** -1", Float(0.5)),
            ("(a + 1) * 2", Int(16)),
            ("round(2.5)", Int(2)),
            ("round(3.5)", Int(4)),
            ("round(2.675, 2)", Float(2.67)),
            ("ceil(b) + floor(b)", Int(5)),
            ("int(-2.7)", Int(-2)),
            ("max(values)", Int(7)),
            ("sum(values)", Float(10.5)),
            ("sum(1, 2, 3)", Int(6)),
            ("min(a, b)", Float(2.5)),
            ("sqrt(16)", Float(4.0)),
            ("pow(2, 10)", Int(1024)),
            ("log2(8)", Float(3.0)),
            ("log(8, 2)", Float(3.0)),
            ("abs(-a)", Int(7)),
            ("1 < a <= 7", Bool(true)),
            ("1 if a > 7 else 2", Int(2)),
            ("not a == 7", Bool(false)),
            ("0 or 3", Int(3)),
            ("a and 0", Int(0)),
            ("c + 1", Int(2)),
            ("6 & 3 | 8", Int(10)),
            ("5 ^ 1", Int(4)),
            ("1 << 4", Int(16)),
            ("~a", Int(-8)),
            ("1e3 + .5", Float(1000.5)),
            ("1_000", Int(1000)),
            ("True", Bool(true)),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        for (text, part) in [
            ("a +", "character 4 of `a +`: a value is expected"),
            ("a b", "character 3 of `a b`: `b` is not expected"),
            ("d + 1", "nothing is called `d`; there are a, b, c"),
            ("a / 0", "it divides by 0"),
            ("a % 0", "it divides by 0"),
            ("9 ** 99999", "the exponent is beyond 4000"),
            ("pow(9, 99999)", "the exponent is beyond 4000"),
            ("9 ** 3000", "the number is too large"),
            ("sqrt(-1)", "sqrt: there is no such number"),
            ("values", "a list is no number"),
            ("sin(1, 2)", "`sin` is given 2"),
            ("open(1)", "nothing is called `open`"),
            ("a; b", "`;` is no part of an expression"),
            ("(a", "`)` is expected"),
        ] {
            let error = value(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let deep = "(".repeat(100_000);
        assert!(value(&deep).unwrap_err().contains("nested too deeply"));
        let signs = "-".repeat(100_000);
        assert!(value(&signs).unwrap_err().contains("nested too deeply"));
    }
}
