//! What the editor does with a prompt before it is run: `{a|b}` becomes one of both, and comments
//! (`// …`, `/* … */`) are cut out.
//!
//! A choice may have others inside and may be empty. `\{`, `\}` and `\|` stand for themselves;
//! every other `\` stays. The editor throws dice. Here the choice follows from a seed and from where
//! the text stands, so that the same file is the same prompt each time it is read.

use crate::graph::PromptNode;
use crate::signature::{Kind, Node};
use serde_json::Value as Json;

use crate::graph::InputValue;

/// Choices in choices, at most. What is deeper is left as it is.
const DEEPEST: usize = 64;

/// Expands the texts of a node that the editor does this with; whether it chose something.
pub(super) fn expand(node: &mut PromptNode, class: &Node, id: &str, seed: u64) -> bool {
    let mut chose = false;
    for input in class.inputs {
        if matches!(input.kind, Kind::String { dynamic_prompts: true, .. })
            && let Some(InputValue::Literal(Json::String(text))) = node.inputs.get_mut(input.name)
        {
            let mut dice = Dice::new(seed, &[id, input.name]);
            *text = expanded(text, &mut dice);
            chose |= dice.thrown;
        }
    }
    chose
}

/// Numbers that follow from a seed and a place.
struct Dice {
    state: u64,
    /// Whether there was something to choose.
    thrown: bool,
}

impl Dice {
    fn new(seed: u64, place: &[&str]) -> Self {
        // FNV-1a.
        let mut state = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |byte: u8| state = (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        for part in place {
            part.bytes().for_each(&mut mix);
            mix(0);
        }
        seed.to_le_bytes().into_iter().for_each(&mut mix);
        Self { state, thrown: false }
    }

    /// One of `0..count`, by SplitMix64.
    fn throw(&mut self, count: usize) -> usize {
        self.thrown |= count > 1;
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let scaled = (u128::from(mixed) * count as u128) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }
}

fn expanded(text: &str, dice: &mut Dice) -> String {
    chosen(text, dice, 0)
}

fn chosen(text: &str, dice: &mut Dice, depth: usize) -> String {
    if depth > DEEPEST {
        return text.to_owned();
    }
    let text = without_comments(text);
    let mut rest = text.chars();
    let mut result = String::with_capacity(text.len());
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut result, rest.next()),
            '{' => {
                let options = options(&mut rest);
                let option = options.get(dice.throw(options.len())).map_or("", String::as_str);
                result += &chosen(option, dice, depth + 1);
            }
            _ => result.push(c),
        }
    }
    unescaped(&result)
}

/// The options of a choice up to its brace, or the text's end, with what is nested in them.
fn options(rest: &mut std::str::Chars<'_>) -> Vec<String> {
    let mut options = Vec::new();
    let mut option = String::new();
    let mut depth = 0_usize;
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                escape(&mut option, rest.next());
                continue;
            }
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            '|' if depth == 0 => {
                options.push(std::mem::take(&mut option));
                continue;
            }
            _ => {}
        }
        option.push(c);
    }
    options.push(option);
    options
}

/// Keeps an escape for later. Of a `\` at the end the editor makes `\undefined`, and so the picture
/// is another than without it.
fn escape(into: &mut String, escaped: Option<char>) {
    into.push('\\');
    match escaped {
        Some(c) => into.push(c),
        None => into.push_str("undefined"),
    }
}

fn unescaped(text: &str) -> String {
    let mut rest = text.chars().peekable();
    let mut result = String::with_capacity(text.len());
    while let Some(c) = rest.next() {
        match rest.peek() {
            Some('{' | '}' | '|') if c == '\\' => {}
            _ => result.push(c),
        }
    }
    result
}

/// Cuts out block comments that end, and line comments to the end of their line.
fn without_comments(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        let (before, comment) = rest.split_at(at);
        result += before;
        let end = if comment.starts_with("/*") {
            comment.get(2..).and_then(|inner| inner.find("*/")).map(|end| end + 4)
        } else if comment.starts_with("//") {
            let is_end = |c: char| matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}');
            Some(comment.find(is_end).unwrap_or(comment.len()))
        } else {
            None
        };
        if end.is_none() {
            result.push('/');
        }
        rest = comment.get(end.unwrap_or(1)..).unwrap_or_default();
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn expand(text: &str, seed: u64) -> String {
        expanded(text, &mut Dice::new(seed, &["6", "text"]))
    }

    /// What can come of a text.
    fn all(text: &str) -> BTreeSet<String> {
        (0..400).map(|seed| expand(text, seed)).collect()
    }

    #[track_caller]
    fn check(text: &str, results: &[&str]) {
        assert_eq!(all(text), results.iter().map(|&text| text.to_owned()).collect(), "{text:?}");
    }

    #[test]
    fn one_of_the_options_is_taken() {
        check("a {red|blue} circle", &["a red circle", "a blue circle"]);
        check("{a}", &["a"]);
        check("x{}y", &["xy"]);
        check("{a|}b", &["ab", "b"]);
        check("{a|{b|{c|d}}}", &["a", "b", "c", "d"]);
        check("{a|b}{c|d}", &["ac", "ad", "bc", "bd"]);
        check("{a {1|2}|b}", &["a 1", "a 2", "b"]);
        // Braces that do not balance.
        check("{a|b", &["a", "b"]);
        check("a|b}", &["a|b}"]);
        check("{a|{b|c}", &["a", "b", "c"]);
    }

    #[test]
    fn escapes_stand_for_themselves() {
        check(r"\{a\|b\}", &["{a|b}"]);
        check(r"{a\|b|c}", &["a|b", "c"]);
        check(r"{a\}|c}", &["a}", "c"]);
        check(r"\(red:1.2\) \\ \n", &[r"\(red:1.2\) \\ \n"]);
        check("a\\", &["a\\undefined"]);
    }

    #[test]
    fn comments_are_cut_out() {
        check("a // b", &["a "]);
        check("a // b\nc", &["a \nc"]);
        check("a /* b\n c */ d", &["a  d"]);
        check("a /* b", &["a /* b"]);
        check("a /*/ b */ c", &["a  c"]);
        check("1/2 and/or", &["1/2 and/or"]);
        check("http://x.y z", &["http:"]);
        check("/* // */ a /* b */", &[" a "]);
        check("{a // |}\n|b}", &["a \n", "b"]);
        check("a /// b\r\nc", &["a \r\nc"]);
    }

    #[test]
    fn a_seed_gives_the_same_text_again_and_places_differ() {
        let text = "{1|2|3|4|5|6|7|8}".repeat(8);
        assert_eq!(expand(&text, 3), expand(&text, 3));
        assert_ne!(expand(&text, 3), expand(&text, 4));
        let other = expanded(&text, &mut Dice::new(3, &["7", "text"]));
        assert_ne!(expand(&text, 3), other);
        // Evenly.
        let count = (0..4000).filter(|&seed| expand("{a|b|c|d}", seed) == "c").count();
        assert!((850..1150).contains(&count), "{count}");
    }

    #[test]
    fn deep_nests_end() {
        let deep = "{".repeat(100_000) + "a" + &"}".repeat(100_000);
        assert!(expand(&deep, 0).contains('a'));
    }

    proptest! {
        #[test]
        fn any_text_is_expanded(text in "[{}|/*\\\\ab\n]{0,40}", seed: u64) {
            let _ = expand(&text, seed);
        }

        #[test]
        fn text_without_marks_stays(text in "[^{}|/\\\\]{0,40}") {
            prop_assert_eq!(expand(&text, 0), text);
        }
    }
}
