//! The tokenizer of Qwen2, Qwen2.5 and Qwen3: byte-pair encoding over the bytes of words.
//!
//! What is done to a text is what their `tokenizer.json` says: special tokens are taken out by their names; what is between
//! is normalised to NFC and cut into words of letters, single digits, and runs of other characters and of blanks.

use std::io::Read;
use std::sync::{Arc, LazyLock};

use flate2::read::GzDecoder;
use unicode_normalization::UnicodeNormalization;

use super::byte_bpe::ByteBpe;
use super::t5_tokenizer::TokenizerError;
use super::words::{Digits, Words};

/// The vocabulary; see the notice beside it. For each token the number of its bytes, and these.
const VOCABULARY: &[u8] = include_bytes!("../../data/qwen/vocabulary.gz");

/// The tokens that follow the vocabulary.
const SPECIAL: [&str; 26] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
];

/// A tokenizer of Qwen's.
pub struct QwenTokenizer {
    bpe: ByteBpe,
    words: Words,
}

impl QwenTokenizer {
    /// The tokenizer, which is unpacked when it is first asked for.
    ///
    /// # Errors
    /// Only where the program was built with a damaged vocabulary.
    pub fn standard() -> Result<Arc<Self>, TokenizerError> {
        static STANDARD: LazyLock<Result<Arc<QwenTokenizer>, TokenizerError>> =
            LazyLock::new(|| QwenTokenizer::unpack().map(Arc::new));
        STANDARD.clone()
    }

    fn unpack() -> Result<Self, TokenizerError> {
        let damaged = |problem: &str| TokenizerError::Damaged { problem: problem.to_owned() };
        let mut bytes = Vec::new();
        let read = GzDecoder::new(VOCABULARY).read_to_end(&mut bytes);
        read.map_err(|error| damaged(&error.to_string()))?;
        let mut tokens = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((&count, behind)) = rest.split_first() {
            let (token, behind) = behind
                .split_at_checked(usize::from(count))
                .ok_or_else(|| damaged("its last token is cut off"))?;
            tokens.push(token);
            rest = behind;
        }
        let bpe = ByteBpe::new(tokens);
        if !bpe.is_complete() {
            return Err(damaged("a byte is missing"));
        }
        let words = Words::new(Digits::One).map_err(|error| damaged(&error.to_string()))?;
        Ok(Self { bpe, words })
    }

    /// How many ids there are, special tokens included.
    pub fn ids(&self) -> usize {
        self.bpe.len() + SPECIAL.len()
    }

    /// The token ids of a text.
    pub fn tokenize(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut start = 0;
        for (at, _) in text.match_indices('<') {
            // Not within the name of the one before.
            let Some(rest) = text.get(at..).filter(|_| at >= start) else { continue };
            let found = SPECIAL.iter().zip(self.bpe.len()..);
            let found =
                found.map(|(name, id)| (*name, id)).find(|(name, _)| rest.starts_with(name));
            if let Some((name, id)) = found {
                self.tokenize_plain(text.get(start..at).unwrap_or_default(), &mut ids);
                ids.extend(u32::try_from(id));
                start = at + name.len();
            }
        }
        self.tokenize_plain(text.get(start..).unwrap_or_default(), &mut ids);
        ids
    }

    /// The ids of a text between special tokens.
    fn tokenize_plain(&self, text: &str, ids: &mut Vec<u32>) {
        let text: String = text.nfc().collect();
        for word in self.words.of(&text) {
            self.bpe.encode(word.as_bytes(), ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_follow_the_vocabulary() {
        let tokenizer = QwenTokenizer::standard().unwrap();
        assert_eq!(tokenizer.ids(), 151_669);
        assert_eq!(
            tokenizer.tokenize("<|endoftext|><|im_start|><|im_end|>"),
            [151_643, 151_644, 151_645]
        );
        assert_eq!(tokenizer.tokenize("</think>"), [151_668]);
    }
}
