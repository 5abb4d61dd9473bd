//! Cutting a text into words, within which byte-pair encoding merges: as the tokenizers of Llama 3, Qwen and others say it.

use regex::Regex;

/// How many digits make a word at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Digits {
    One,
    Three,
}

/// A rule by which words are cut.
pub(super) struct Words(Regex);

impl Words {
    /// Words are English contractions, letters with one character before them, digits, and runs of other characters and
    /// of blanks.
    pub fn new(digits: Digits) -> Result<Self, regex::Error> {
        let digits = match digits {
            Digits::One => r"\p{N}",
            Digits::Three => r"\p{N}{1,3}",
        };
        // But for `\s+(?!\S)`: a run of blanks that is not the text's end leaves its last one to the word behind.
        Ok(Self(Regex::new(&format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+"
        ))?))
    }

    /// The words of a text, which joined are the text.
    pub fn of<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        let mut start = 0;
        while let Some(word) = self.0.find_at(text, start).filter(|word| !word.is_empty()) {
            let mut end = word.end();
            let is_blank = word.as_str().chars().all(char::is_whitespace);
            if is_blank && !word.as_str().ends_with(['\r', '\n']) && end < text.len() {
                let last = word.as_str().chars().next_back().map_or(0, char::len_utf8);
                // A blank alone is a word of its own.
                if last < word.len() {
                    end -= last;
                }
            }
            words.extend(text.get(word.start()..end));
            start = end;
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_are_cut_as_asked() {
        let words = |digits, text| Words::new(digits).unwrap().of(text);
        assert_eq!(words(Digits::One, "x12"), ["x", "1", "2"]);
        assert_eq!(words(Digits::Three, "x12345"), ["x", "123", "45"]);
        assert_eq!(words(Digits::One, "I'm  a\n b"), ["I", "'m", " ", " a", "\n", " b"]);
    }

    proptest! {
        #[test]
        fn words_joined_are_the_text(text in "[a-c1-3 '\n\té猫.]{0,40}") {
            for digits in [Digits::One, Digits::Three] {
                prop_assert_eq!(Words::new(digits).unwrap().of(&text).concat(), &text[..]);
            }
        }
    }
}
