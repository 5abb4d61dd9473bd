//! The prompt's syntax: which part of the text has which weight.
//!
//! - `(word)` weighs 1.1 times what is around it; parentheses nest.
//! - `(word:1.3)` weighs 1.3, whatever is around it. The number is what follows the last colon,
//!   as Python's `float()` reads it (`1_3` is 13); where that is no number, the colon is text.
//! - `\(` and `\)` are parentheses in the text. All else is text, `[word]` too.
//! - Of parentheses that do not balance, one that is never closed runs to the end of the text; it is
//!   closed by a `)` that the text happens to end in, else it is text. One that closes nothing is
//!   text, and the next one that opens makes up for it and is text as well.
//!
//! This is ComfyUI's reading of a prompt, found by its behaviour.

use super::PromptError;
use super::number::python_float;

/// How deep parentheses may nest.
const MAX_DEPTH: usize = 500;

/// What a pair of parentheses without a number multiplies the weight with.
const EMPHASIS: f64 = 1.1;

/// A part of a prompt and its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// The text, unescaped.
    pub text: String,
    /// The weight; 1 where nothing says otherwise.
    pub weight: f64,
}

/// Cuts a prompt into segments of one weight each, in order.
///
/// # Errors
/// Parentheses nested more than 500 deep, and weights that are infinite or not a number.
pub fn segments(prompt: &str) -> Result<Vec<Segment>, PromptError> {
    let mut segments = Vec::new();
    cut(prompt, 1.0, 0, &mut segments)?;
    Ok(segments)
}

fn cut(text: &str, weight: f64, depth: usize, out: &mut Vec<Segment>) -> Result<(), PromptError> {
    if depth > MAX_DEPTH {
        return Err(PromptError::Nesting { limit: MAX_DEPTH });
    }
    for item in items(text) {
        match inside(item) {
            Some(inner) => {
                let (inner, weight) = weigh(inner, weight)?;
                cut(inner, weight, depth + 1, out)?;
            }
            None => out.push(Segment { text: unescape(item), weight }),
        }
    }
    Ok(())
}

/// The parts of one level: each balanced pair of parentheses with what is inside, and the text
/// between.
fn items(text: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let mut start = 0;
    let mut level = 0_i64;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' if !escaped => {
                if level == 0 {
                    items.push(&text[start..at]);
                    start = at;
                }
                level += 1;
            }
            b')' if !escaped => {
                level -= 1;
                if level == 0 {
                    items.push(&text[start..=at]);
                    start = at + 1;
                }
            }
            _ => {}
        }
        escaped = byte == b'\\';
    }
    items.push(&text[start..]);
    items.retain(|item| !item.is_empty());
    items
}

/// What is inside an item's parentheses, if it is enclosed in a pair.
fn inside(item: &str) -> Option<&str> {
    let inner = item.strip_prefix('(')?.strip_suffix(')')?;
    (!inner.ends_with('\\')).then_some(inner)
}

/// The text of what was inside parentheses and its weight, given the weight around them.
fn weigh(inner: &str, around: f64) -> Result<(&str, f64), PromptError> {
    if let Some((text, number)) = inner.rsplit_once(':')
        && !text.is_empty()
        && let Some(weight) = python_float(number)
    {
        return if weight.is_finite() {
            Ok((text, weight))
        } else {
            Err(PromptError::Weight { text: text.to_owned(), weight: number.trim().to_owned() })
        };
    }
    Ok((inner, around * EMPHASIS))
}

fn unescape(text: &str) -> String {
    text.replace("\\)", ")").replace("\\(", "(")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(prompt: &str) -> Vec<(String, f64)> {
        let segments = segments(prompt).unwrap();
        segments.into_iter().map(|segment| (segment.text, segment.weight)).collect()
    }

    #[track_caller]
    fn check(prompt: &str, expected: &[(&str, f64)]) {
        let expected: Vec<_> =
            expected.iter().map(|&(text, weight)| (text.into(), weight)).collect();
        assert_eq!(cut(prompt), expected, "{prompt:?}");
    }

    #[test]
    fn weights() {
        check("", &[]);
        check("plain, [text]", &[("plain, [text]", 1.0)]);
        check("a (b) c", &[("a ", 1.0), ("b", 1.1), (" c", 1.0)]);
        check("a (b:1.3), c", &[("a ", 1.0), ("b", 1.3), (", c", 1.0)]);
        check("(a:0.5)(b: 2 )", &[("a", 0.5), ("b", 2.0)]);
        check("(a:-1)", &[("a", -1.0)]);
        check("(a:.5) (b:5.)", &[("a", 0.5), (" ", 1.0), ("b", 5.0)]);
        check("(16:9:1.2)", &[("16:9", 1.2)]);
        check("(a:1_3)", &[("a", 13.0)]);
        check("(a:1e-1) (b:_1)", &[("a", 0.1), (" ", 1.0), ("b:_1", 1.1)]);
    }

    #[test]
    fn nested_weights() {
        let twice = 1.1 * 1.1;
        check("((a))", &[("a", twice)]);
        check("(a (b) c)", &[("a ", 1.1), ("b", twice), (" c", 1.1)]);
        check("(a (b:0.5) c:2)", &[("a ", 2.0), ("b", 0.5), (" c", 2.0)]);
        check("((a:1.2))", &[("a", 1.2)]);
        check("((a):2)", &[("a", 2.0 * 1.1)]);
    }

    #[test]
    fn colons_without_a_number_are_text() {
        check("(a:b)", &[("a:b", 1.1)]);
        check("(a:)", &[("a:", 1.1)]);
        check("(:1.2)", &[(":1.2", 1.1)]);
        check("a:1.2", &[("a:1.2", 1.0)]);
    }

    #[test]
    fn escapes() {
        check(r"a \(b\)", &[("a (b)", 1.0)]);
        check(r"(a \(b\):1.4)", &[("a (b)", 1.4)]);
        check(r"(a\)", &[("(a)", 1.0)]);
        check(r"\(a)", &[("(a)", 1.0)]);
        check(r"back\slash \\ (c)", &[(r"back\slash \\ ", 1.0), ("c", 1.1)]);
    }

    #[test]
    fn unbalanced_parentheses() {
        check("(a", &[("(a", 1.0)]);
        check("a)", &[("a)", 1.0)]);
        check("(a (b)", &[("a ", 1.1), ("(b", 1.1)]);
        check("(a (b:1.5) c", &[("(a (b:1.5) c", 1.0)]);
        check("a) (b) (c:2)", &[("a) (b) (c:2)", 1.0)]);
        check("()", &[]);
        check("(", &[("(", 1.0)]);
        check(")(", &[(")(", 1.0)]);
    }

    #[test]
    fn errors() {
        let deep = "(".repeat(501) + "a" + &")".repeat(501);
        assert!(segments(&deep).unwrap_err().to_string().contains("500"));
        let error = segments("(sky:inf)").unwrap_err().to_string();
        assert!(error.contains("sky") && error.contains("inf"), "{error}");
    }

    proptest! {
        /// Without parentheses nothing is changed; with them, all letters stay, in order.
        #[test]
        fn text_is_kept(prompt in r"[a-z ()\\]{0,60}") {
            let letters = |text: &str| text.chars().filter(char::is_ascii_lowercase).collect::<String>();
            let segments = segments(&prompt).unwrap();
            let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
            prop_assert_eq!(letters(&text), letters(&prompt));
            prop_assert!(segments.iter().all(|segment| segment.weight >= 1.0));
        }

        #[test]
        fn any_text_is_cut(prompt in ".{0,80}") {
            let _ = segments(&prompt);
        }
    }
}
