//! Prompts: from text to weighted tokens, in chunks that a text encoder takes.
//!
//! The way: [`syntax`] cuts the text by weight, [`tokenizer`] turns words into ids,
//! [`embedding`] finds textual inversions, [`chunk`] lays the tokens out.

pub mod syntax;
pub mod tokenizer;

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
