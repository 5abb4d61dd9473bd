//! Prompts: from text to weighted tokens, in chunks that a text encoder takes.
//!
//! The way: [`syntax`] cuts the text by weight, [`embedding`] finds the textual inversions that it
//! names, [`tokenizer`] or [`t5_tokenizer`] turns the rest into ids, [`chunk`] lays the tokens out.

mod byte_bpe;
mod charsmap;
pub mod chunk;
pub mod embedding;
pub mod gemma_tokenizer;
mod number;
mod protobuf;
pub mod qwen_tokenizer;
pub mod spiece;
mod spiece_bpe;
pub mod syntax;
pub mod t5_tokenizer;
pub mod tekken;
pub mod token;
pub mod tokenizer;
mod unigram;
mod words;

use embedding::{EmbeddingProblem, Embeddings};
use t5_tokenizer::T5Tokenizer;
use token::{Token, WeightedToken};

/// What starts a textual inversion's name in a prompt.
const EMBEDDING: &str = "embedding:";

/// Why a prompt could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// Parentheses nested too deep.
    #[error("the prompt nests parentheses more than {limit} deep: write a weight, `(word:1.5)`")]
    Nesting {
        /// The deepest that is read.
        limit: usize,
    },
    /// A weight that is no finite number.
    #[error("the prompt gives `{text}` the weight {weight}: give it a finite number")]
    Weight {
        /// What is weighted.
        text: String,
        /// The weight as written.
        weight: String,
    },
}

/// What the layout of a prompt depends on in a text encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLayout<'a> {
    /// The encoder's name, by which textual inversions for several encoders are told apart.
    pub encoder: &'a str,
    /// Values of a token's vector.
    pub width: usize,
    /// Tokens of a chunk, start and end included.
    pub length: usize,
    /// The id that fills the last chunk up.
    pub pad: u32,
}

/// A prompt as tokens.
#[derive(Debug)]
pub struct PromptTokens {
    /// Chunks of equally many tokens; at least one.
    pub chunks: Vec<Vec<WeightedToken>>,
    /// The textual inversions that were left out.
    pub warnings: Vec<EmbeddingProblem>,
}

/// Reads a prompt for one text encoder.
///
/// # Errors
/// When the prompt's weights cannot be read. A textual inversion that cannot be had is left out, with
/// a warning.
pub fn read(
    prompt: &str,
    layout: TokenLayout<'_>,
    embeddings: &Embeddings,
) -> Result<PromptTokens, PromptError> {
    let (encoder, width) = (layout.encoder, layout.width);
    let (groups, warnings) = groups(prompt, encoder, width, embeddings, tokenizer::tokenize)?;
    Ok(PromptTokens { chunks: chunk::chunks(groups, layout.length, layout.pad), warnings })
}

/// The id that fills T5's texts up.
pub const T5_PAD: u32 = 0;

/// What the layout of a prompt depends on in a T5 encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct T5Layout<'a> {
    /// The encoder's name, by which textual inversions for several encoders are told apart.
    pub encoder: &'a str,
    /// Values of a token's vector.
    pub width: usize,
    /// Padding tokens behind any text.
    pub min_padding: usize,
    /// Tokens that a text is filled up to, the end token and these included.
    pub min_length: usize,
}

/// Reads a prompt for T5: one chunk of all tokens, however many, with an end token and padding behind.
///
/// # Errors
/// As [`read`].
pub fn read_t5(
    prompt: &str,
    tokenizer: &T5Tokenizer,
    layout: T5Layout<'_>,
    embeddings: &Embeddings,
) -> Result<PromptTokens, PromptError> {
    let tokenize = |text: &str| tokenizer.tokenize(text);
    let (groups, warnings) = groups(prompt, layout.encoder, layout.width, embeddings, tokenize)?;
    let mut tokens = groups.concat();
    tokens.push(WeightedToken::plain(tokenizer.end()));
    let padded = tokens.len().saturating_add(layout.min_padding);
    tokens.resize(padded, WeightedToken::plain(T5_PAD));
    if tokens.len() < layout.min_length {
        tokens.resize(layout.min_length, WeightedToken::plain(T5_PAD));
    }
    Ok(PromptTokens { chunks: vec![tokens], warnings })
}

/// Reads a prompt for a language model: one chunk of all tokens, however many, behind the token `start`.
///
/// # Errors
/// As [`read`].
pub fn read_from_start(
    prompt: &str,
    tokenize: impl Fn(&str) -> Vec<u32>,
    start: u32,
    (encoder, width): (&str, usize),
    embeddings: &Embeddings,
) -> Result<PromptTokens, PromptError> {
    let (groups, warnings) = groups(prompt, encoder, width, embeddings, tokenize)?;
    let mut tokens = vec![WeightedToken::plain(start)];
    tokens.extend(groups.into_iter().flatten());
    Ok(PromptTokens { chunks: vec![tokens], warnings })
}

/// Groups of tokens that are kept together where there is room, and the textual inversions that were left out.
type Groups = (Vec<Vec<WeightedToken>>, Vec<EmbeddingProblem>);

/// The tokens of each part of a prompt that has one weight, and of each textual inversion.
fn groups(
    prompt: &str,
    encoder: &str,
    width: usize,
    embeddings: &Embeddings,
    tokenize: impl Fn(&str) -> Vec<u32>,
) -> Result<Groups, PromptError> {
    let mut groups = Vec::new();
    let mut warnings = Vec::new();
    for segment in syntax::segments(prompt)? {
        for part in split_embeddings(&segment.text) {
            let mut text = part.to_owned();
            if let Some(name) = part.strip_prefix(EMBEDDING) {
                let (vectors, rest) = inversion(name, encoder, width, embeddings);
                match vectors {
                    Ok(vectors) => groups.push(weigh(vectors, Token::Vector, segment.weight)),
                    Err(problem) => warnings.push(problem),
                }
                text = rest;
            }
            groups.push(weigh(tokenize(&text), Token::Id, segment.weight));
        }
    }
    Ok((groups, warnings))
}

fn weigh<T>(tokens: Vec<T>, token: impl Fn(T) -> Token, weight: f64) -> Vec<WeightedToken> {
    tokens.into_iter().map(|item| WeightedToken { token: token(item), weight }).collect()
}

/// Cuts a text before each `embedding:` that follows a space or a line's end, without these.
fn split_embeddings(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(EMBEDDING) {
        if at > start && matches!(text.as_bytes().get(at - 1), Some(b' ' | b'\n')) {
            parts.push(&text[start..at - 1]);
            start = at;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The vectors of a textual inversion, one for each token that it stands for.
type Vectors = Vec<std::sync::Arc<[f32]>>;

/// The vectors of the inversion that a text starts with, and the rest of the text.
///
/// A name ends at white space; commas around it are its own only where a file is so called.
fn inversion(
    text: &str,
    encoder: &str,
    width: usize,
    embeddings: &Embeddings,
) -> (Result<Vectors, EmbeddingProblem>, String) {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap_or_default();
    let rest = words.collect::<Vec<_>>().join(" ");
    let bare = name.trim_matches(',');
    if embeddings.find(name).is_some() || bare.len() == name.len() {
        return (embeddings.load(name, encoder, width), rest);
    }
    let commas = &name[name.trim_end_matches(',').len()..];
    (embeddings.load(bare, encoder, width), format!("{commas} {rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_start_at_a_space_or_a_line() {
        let cut = split_embeddings;
        assert_eq!(cut("a cat"), ["a cat"]);
        assert_eq!(cut("embedding:x"), ["embedding:x"]);
        assert_eq!(cut("a embedding:x b embedding:y"), ["a", "embedding:x b", "embedding:y"]);
        assert_eq!(cut("a\nembedding:x"), ["a", "embedding:x"]);
        assert_eq!(cut("a,embedding:x"), ["a,embedding:x"]);
        assert_eq!(cut(" embedding:x"), ["", "embedding:x"]);
    }

    #[test]
    fn an_unknown_embedding_is_left_out_with_a_warning() {
        let layout = TokenLayout { encoder: "clip_l", width: 4, length: 77, pad: tokenizer::END };
        let read = |prompt| read(prompt, layout, &Embeddings::default()).unwrap();
        for (prompt, same) in [
            ("a embedding:none cat", "a cat"),
            ("embedding:none, a cat", ", a cat"),
            ("a cat embedding:", "a cat"),
            ("(embedding:none:1.3) a cat", " a cat"),
        ] {
            let tokens = read(prompt);
            assert_eq!(tokens.warnings.len(), 1, "{prompt}");
            assert_eq!(tokens.chunks, read(same).chunks, "{prompt}");
        }
    }
}
