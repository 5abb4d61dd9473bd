//! Klein's text encoder: the hidden states of three of Qwen3's layers.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder_text::{Answer, DecoderPart, NAME, stacked};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// Tokens that a prompt is filled up to; longer ones are not cut.
const MIN_LENGTH: usize = 512;

/// Encodes prompts for Flux.2 Klein.
///
/// The context is what Qwen3 makes of the prompt as a user's turn of a chat whose answer is not thought about, filled up
/// with padding that no other token sees: `[1, 512 or more tokens, 3 × width]`, the states behind a quarter, a half and
/// three quarters of the layers side by side (9, 18 and 27 of 36). Weights, textual inversions and the layer that is asked
/// for are passed over, as in ComfyUI.
pub struct KleinText {
    part: DecoderPart,
}

impl KleinText {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`qwen3.model.…`).
    ///
    /// # Errors
    /// When the text encoder or a layer of it is missing. Flux.2 dev's, Mistral Small, is not known.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        let each: Vec<_> =
            encoders.iter().map(|encoder| (encoder, scope.at(encoder.name))).collect();
        let part = DecoderPart::find(&each)?.ok_or_else(|| ConditioningError::NoEncoder {
            family: Family::Flux2,
            encoder: NAME,
            present: clip_text::names(encoders),
        })?;
        Ok(Self { part })
    }
}

impl TextConditioner for KleinText {
    fn encode(
        &self,
        prompt: &Prompt,
        _: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let layers = self.part.layers();
        let read = [layers / 4, layers / 2, 3 * layers / 4];
        let states = self.part.chat(prompt.of(NAME), Answer::WithoutThought, &read, MIN_LENGTH)?;
        let context = stacked(states)?;
        Ok(EncodedText { states: TextStates { context, pooled: None }, warnings: Vec::new() })
    }
}
