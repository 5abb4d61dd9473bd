//! Mistral's tokenizer Tekken: byte-pair encoding over the bytes of words, with a vocabulary that comes with the weights.
//!
//! The vocabulary is a `tekken.json` of Mistral's library mistral-common. Special tokens are taken out by their names; what
//! is between is not normalised. Words are cut as ComfyUI and the published `tokenizer.json` of Mistral Small 3 do it, which
//! is not by the pattern that the vocabulary names: that one is for other programs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::byte_bpe::ByteBpe;
use super::t5_tokenizer::TokenizerError;
use super::words::{Digits, Words};

/// The special tokens that no file is believed to have more of.
const MOST_SPECIAL: usize = 1 << 16;

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<Entry>,
    #[serde(default)]
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

/// A token, whose rank is its place.
#[derive(Deserialize)]
struct Entry {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// A Tekken tokenizer.
pub struct TekkenTokenizer {
    bpe: ByteBpe,
    words: Words,
    /// By their names, longest first.
    special: Vec<(String, u32)>,
    /// Ids before those of the vocabulary.
    offset: u32,
}

impl TekkenTokenizer {
    /// The tokenizer of a `tekken.json`, such as model files hold under `tekken_model`.
    ///
    /// # Errors
    /// When the bytes are none, or tokens are missing in it.
    pub fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let wrong = |problem: String| TokenizerError::Tekken { problem };
        let file: File = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let Config { default_vocab_size: size, default_num_special_tokens: offset } = file.config;
        let count = size.checked_sub(offset).filter(|_| offset <= MOST_SPECIAL);
        let count = count
            .ok_or_else(|| wrong(format!("{offset} of {size} tokens cannot be special ones")))?;
        let mut tokens = Vec::with_capacity(count.min(file.vocab.len()));
        for (place, Entry { rank, token_bytes }) in file.vocab.into_iter().take(count).enumerate() {
            if rank != place {
                return Err(wrong(format!("token {rank} is at place {place}")));
            }
            let token = STANDARD.decode(token_bytes);
            tokens.push(token.map_err(|error| wrong(format!("token {rank}: {error}")))?);
        }
        let bpe = ByteBpe::new(tokens.iter().map(Vec::as_slice));
        if !bpe.is_complete() || bpe.len() != tokens.len() {
            return Err(wrong("a byte is missing, or a token is there twice".to_owned()));
        }
        let named = file.special_tokens.unwrap_or_default();
        if named.is_empty() {
            return Err(wrong("it names no special tokens".to_owned()));
        }
        let mut special = Vec::with_capacity(named.len());
        for Special { rank, token_str } in named {
            if rank >= offset || token_str.is_empty() {
                return Err(wrong(format!("special token {rank} of {offset}: `{token_str}`")));
            }
            special.push((token_str, rank as u32)); // below `MOST_SPECIAL`
        }
        special.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let words = Words::new(Digits::Three).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { bpe, words, special, offset: offset as u32 })
    }

    /// How many ids there are, special tokens included.
    pub fn ids(&self) -> usize {
        self.bpe.len().saturating_add(self.offset as usize)
    }

    /// The id of the special token of a name.
    pub fn special(&self, name: &str) -> Option<u32> {
        self.special.iter().find(|(known, _)| known == name).map(|(_, id)| *id)
    }

    /// The token ids of a text, without a token for its beginning.
    pub fn tokenize(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut start = 0;
        for (at, _) in text.char_indices() {
            // Not within the name of the one before.
            let Some(rest) = text.get(at..).filter(|_| at >= start) else { continue };
            let found = self.special.iter().find(|(name, _)| rest.starts_with(name.as_str()));
            if let Some((name, id)) = found {
                self.tokenize_plain(text.get(start..at).unwrap_or_default(), &mut ids);
                ids.push(*id);
                start = at + name.len();
            }
        }
        self.tokenize_plain(text.get(start..).unwrap_or_default(), &mut ids);
        ids
    }

    /// The ids of a text between special tokens.
    fn tokenize_plain(&self, text: &str, ids: &mut Vec<u32>) {
        let first = ids.len();
        for word in self.words.of(text) {
            self.bpe.encode(word.as_bytes(), ids);
        }
        for id in ids.iter_mut().skip(first) {
            *id = id.saturating_add(self.offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: usize, special: &str) -> String {
        let token = |rank: usize| {
            let bytes = STANDARD.encode(match u8::try_from(rank) {
                Ok(byte) => vec![byte],
                Err(_) => b"ab".to_vec(),
            });
            format!(r#"{{"rank":{rank},"token_bytes":"{bytes}","token_str":null}}"#)
        };
        let tokens: Vec<String> = (0..257).map(token).collect();
        format!(
            r#"{{"config":{{"pattern":"x","default_vocab_size":{size},"default_num_special_tokens":10}},
            "vocab":[{}]{special}}}"#,
            tokens.join(",")
        )
    }

    #[test]
    fn ids_follow_the_special_tokens() {
        let special =
            r#","special_tokens":[{"rank":1,"token_str":"<s>"},{"rank":2,"token_str":"<s>x"}]"#;
        let tokenizer = TekkenTokenizer::parse(file(267, special).as_bytes()).unwrap();
        assert_eq!(tokenizer.ids(), 267);
        assert_eq!(tokenizer.special("<s>"), Some(1));
        assert_eq!(tokenizer.tokenize("abc<s>x<s>c"), [266, 10 + 99, 2, 1, 10 + 99]);
        // What does not fit into the table is left out.
        let short = TekkenTokenizer::parse(file(266, special).as_bytes()).unwrap();
        assert_eq!(short.tokenize("ab"), [10 + 97, 10 + 98]);
    }

    #[test]
    fn what_is_no_vocabulary_is_an_error() {
        let problem =
            |text: &str| TekkenTokenizer::parse(text.as_bytes()).err().unwrap().to_string();
        assert!(problem("{").contains("tekken"));
        assert!(problem(&file(267, "")).contains("no special tokens"));
        assert!(problem(&file(9, "")).contains("10 of 9"));
        assert!(problem(&file(100, "")).contains("a byte is missing"));
        let far = r#","special_tokens":[{"rank":10,"token_str":"<s>"}]"#;
        assert!(problem(&file(267, far)).contains("special token 10 of 10"));
    }
}
