//! Texts matched with regular expressions, as Python's `re` has them.

use regex::{Captures, Regex, RegexBuilder};

use super::text::{STRING, TEXT, foreseen, pure, string};
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "text";

const PATTERN: Input =
    Input::string("regex_pattern", "").multiline().tooltip("The regular expression.");
const CASE_INSENSITIVE: Input = Input::boolean("case_insensitive", true)
    .advanced()
    .tooltip("Whether capitals are the same as small letters.");
const MULTILINE: Input = Input::boolean("multiline", false)
    .advanced()
    .tooltip("Whether ^ and $ are at the ends of lines too.");
const DOTALL: Input =
    Input::boolean("dotall", false).advanced().tooltip("Whether a dot is a line's end too.");

pure!(
    MATCH,
    "RegexMatch",
    "Match Text",
    "Returns whether a regular expression matches a part of a text.",
    &[Output::new(Type::Boolean).named("matches")],
    matches,
    &[STRING, PATTERN, CASE_INSENSITIVE, MULTILINE, DOTALL]
);
pure!(
    EXTRACT,
    "RegexExtract",
    "Extract Text",
    "Returns what a regular expression matches in a text, or a group of it; several on lines of their own.",
    TEXT,
    extracted,
    &[
        STRING,
        PATTERN,
        Input::choice("mode", &["First Match", "All Matches", "First Group", "All Groups"]),
        CASE_INSENSITIVE,
        MULTILINE,
        DOTALL,
        Input::int("group_index", 1, 0, 100).advanced().tooltip("Which group."),
    ]
);
pure!(
    REPLACE,
    "RegexReplace",
    "Replace Text (Regex)",
    "Replaces what a regular expression matches in a text; \\\\1 or \\\\g<name> stands for a group.",
    TEXT,
    replaced,
    &[
        STRING,
        PATTERN,
        Input::string("replace", "").multiline().tooltip("What takes its place."),
        CASE_INSENSITIVE.optional(),
        MULTILINE.optional(),
        DOTALL.optional(),
        Input::int("count", 0, 0, 100).optional().advanced().tooltip("How many at most; 0 is all."),
    ]
);

/// What Python's expressions have and these have not.
const LOOKS_AROUND: [&str; 4] = ["(?=", "(?!", "(?<=", "(?<!"];

/// The expression; `None` where it is none.
fn compiled(inputs: &Inputs) -> Result<Option<Regex>, NodeError> {
    let pattern = inputs.text("regex_pattern")?;
    let flag = |name: &str, default: bool| inputs.boolean(name).unwrap_or(default);
    let compiled = RegexBuilder::new(pattern)
        .case_insensitive(flag("case_insensitive", true))
        .multi_line(flag("multiline", false))
        .dot_matches_new_line(flag("dotall", false))
        .build();
    let wrong = |problem: &str| Err(NodeError::input("regex_pattern", problem));
    match compiled {
        Ok(regex) => Ok(Some(regex)),
        Err(regex::Error::CompiledTooBig(_)) => wrong("the expression is too large"),
        Err(_) if LOOKS_AROUND.iter().any(|sign| pattern.contains(sign)) => wrong(
            "what is before or behind a match cannot be asked for here: `(?=`, `(?!`, `(?<=`, `(?<!`",
        ),
        Err(_) if has_reference(pattern) => {
            wrong("a group cannot be asked for again here: `\\1`, `(?P=name)`")
        }
        Err(_) => Ok(None),
    }
}

fn has_reference(pattern: &str) -> bool {
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter == '\\' && letters.next().is_some_and(|next| next.is_ascii_digit() && next != '0')
        {
            return true;
        }
    }
    pattern.contains("(?P=")
}

fn matches(inputs: &Inputs) -> Result<Value, NodeError> {
    let text = inputs.text("string")?;
    Ok(Value::Boolean(compiled(inputs)?.is_some_and(|regex| regex.is_match(text))))
}

fn extracted(inputs: &Inputs) -> Result<Value, NodeError> {
    let text = inputs.text("string")?;
    let Some(regex) = compiled(inputs)? else { return Ok(string("")) };
    let group = inputs.count("group_index")?;
    let of =
        |found: &Captures<'_>, group: usize| found.get(group).map(|part| part.as_str().to_owned());
    let has_groups = regex.captures_len() > 1;
    let all = regex.captures_iter(text);
    Ok(string(match inputs.text("mode")? {
        "First Match" => regex.find(text).map_or("", |found| found.as_str()).to_owned(),
        "All Matches" => {
            // Where there are groups, Python finds the first instead of the match.
            let part = usize::from(has_groups);
            let found: Vec<String> =
                all.map(|found| of(&found, part).unwrap_or_default()).collect();
            found.join("\n")
        }
        "First Group" => {
            regex.captures(text).and_then(|found| of(&found, group)).unwrap_or_default()
        }
        _ if !has_groups => String::new(),
        _ => all.filter_map(|found| of(&found, group)).collect::<Vec<_>>().join("\n"),
    }))
}

fn replaced(inputs: &Inputs) -> Result<Value, NodeError> {
    let text = inputs.text("string")?;
    let regex = compiled(inputs)?;
    let regex =
        regex.ok_or_else(|| NodeError::input("regex_pattern", "it is no regular expression"))?;
    let parts = template(inputs.text("replace")?, &regex)?;
    let count = inputs.count("count").unwrap_or(0);
    let by = |found: &Captures<'_>| {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Group(group) => {
                found.get(*group).map_or_else(String::new, |g| g.as_str().to_owned())
            }
        };
        parts.iter().map(part).collect::<String>()
    };
    Ok(string(regex.replacen(text, count, by)))
}

enum Part {
    Text(String),
    Group(usize),
}

/// A replacement in Python's form.
fn template(text: &str, regex: &Regex) -> Result<Vec<Part>, NodeError> {
    let wrong = |problem: String| NodeError::input("replace", problem);
    let known = |group: usize| match group < regex.captures_len() {
        true => Ok(Part::Group(group)),
        false => Err(wrong(format!("the expression has no group {group}"))),
    };
    let (mut parts, mut plain) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + 1..).unwrap_or_default();
        let Some(next) = rest.chars().next() else {
            return Err(wrong("it ends with a `\\`: write `\\\\` for one".to_owned()));
        };
        rest = rest.get(next.len_utf8()..).unwrap_or_default();
        let group = match next {
            '1'..='9' => {
                let second = rest.chars().next().filter(char::is_ascii_digit);
                rest = rest.get(second.map_or(0, char::len_utf8)..).unwrap_or_default();
                let digits: String = [next].into_iter().chain(second).collect();
                digits.parse().ok()
            }
            'g' if let Some((name, after)) =
                rest.strip_prefix('<').and_then(|rest| rest.split_once('>')) =>
            {
                rest = after;
                let number = name.parse().ok();
                let by_name = || regex.capture_names().position(|known| known == Some(name));
                let group = number.or_else(by_name);
                Some(group.ok_or_else(|| wrong(format!("the expression has no group `{name}`")))?)
            }
            'n' => {
                plain.push('\n');
                continue;
            }
            't' => {
                plain.push('\t');
                continue;
            }
            'r' => {
                plain.push('\r');
                continue;
            }
            letter if letter.is_ascii_alphabetic() || letter == '0' => {
                return Err(wrong(format!("`\\{letter}` means nothing in a replacement")));
            }
            other => {
                plain.push(other);
                continue;
            }
        };
        parts.push(Part::Text(std::mem::take(&mut plain)));
        parts.push(known(group.unwrap_or(usize::MAX))?);
    }
    plain.push_str(rest);
    parts.push(Part::Text(plain));
    Ok(parts)
}
