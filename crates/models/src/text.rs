//! The seam of text conditioners: from a prompt to what a diffusion network reads.

use std::sync::Arc;

use distorch_runtime::Tensor;

use crate::conditioning::ConditioningError;
use crate::prompt::embedding::{EmbeddingProblem, Embeddings};

/// A prompt, or one for each text encoder.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// The same text for every encoder.
    Same(Arc<str>),
    /// A text for each encoder, by its name (`clip_l`, `clip_g`, `t5xxl`); the empty one for those without.
    Each(Vec<(&'static str, Arc<str>)>),
}

impl Prompt {
    /// The text for an encoder.
    pub fn of(&self, encoder: &str) -> &str {
        match self {
            Prompt::Same(text) => text,
            Prompt::Each(texts) => {
                texts.iter().find(|(name, _)| *name == encoder).map_or("", |(_, text)| text)
            }
        }
    }
}

/// How a prompt is encoded.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// The layer that is read in CLIP encoders, counted from the last, which is 1; `None` is the family's own.
    pub clip_skip: Option<usize>,
    /// Whether an encoder whose text is empty is not asked, so that zeros or nothing stand for its part (SD3); else the
    /// empty text is encoded.
    pub skip_empty: bool,
    /// How T5's prompts are filled up; `None` is as the family does it.
    pub t5_padding: Option<T5Padding>,
}

/// How a prompt for T5 is filled up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct T5Padding {
    /// Padding tokens behind any text.
    pub padding: usize,
    /// Tokens that there are at least, with these.
    pub length: usize,
}

/// What a diffusion network reads of a prompt, in f32.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// `[1, tokens, width]`.
    pub context: Tensor<3>,
    /// The summary of the prompt, `[1, width]`, for families that read one.
    pub pooled: Option<Tensor<2>>,
}

/// An encoded prompt, and what was left out of it.
#[derive(Debug)]
pub struct EncodedText {
    /// The states.
    pub states: TextStates,
    /// The textual inversions that were left out, each once.
    pub warnings: Vec<EmbeddingProblem>,
}

/// Text encoders with their weights, as a family reads them.
pub trait TextConditioner: Send + Sync {
    /// Encodes a prompt.
    ///
    /// # Errors
    /// When the prompt cannot be read, or weights cannot be fetched or do not fit.
    fn encode(
        &self,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError>;
}
