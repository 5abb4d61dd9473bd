//! Chroma's text encoder: T5's hidden states, without padding.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::prompt::embedding::Embeddings;
use crate::t5_text::{self, T5Part};
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// Tokens that T5 reads at least: the end token.
const MIN_LENGTH: usize = 1;

/// Encodes prompts for Chroma.
///
/// The context is T5's hidden states of the prompt's tokens and the end token, `[1, tokens, 4096]`, without padding as in
/// ComfyUI; weights move states away from those of padding alone. [`TextOptions::clip_skip`] counts for T5.
pub struct ChromaText {
    t5xxl: T5Part,
}

impl ChromaText {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`t5xxl.encoder.…`).
    ///
    /// # Errors
    /// When the text encoder or a layer of it is missing, or a vocabulary in the file is of no use.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        let each: Vec<_> =
            encoders.iter().map(|encoder| (encoder, scope.at(encoder.name))).collect();
        let missing = || ConditioningError::NoEncoder {
            family: Family::Chroma,
            encoder: t5_text::NAME,
            present: clip_text::names(encoders),
        };
        let t5xxl = T5Part::find(&each, MIN_LENGTH)?.ok_or_else(missing)?;
        Ok(Self { t5xxl: t5xxl.with_blank_empty() })
    }
}

impl TextConditioner for ChromaText {
    fn encode(
        &self,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let tokens = self.t5xxl.read(prompt.of(t5_text::NAME), embeddings, options.t5_padding)?;
        let context = self.t5xxl.encode(&tokens.chunks, options.clip_skip)?;
        let states = TextStates { context, pooled: None, picture_slots: Vec::new() };
        Ok(EncodedText { states, warnings: tokens.warnings })
    }
}
