//! Lumina 2's text encoder: Gemma 2's hidden states behind its last layer but one.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::conditioning::ConditioningError;
use crate::decoder_text::{DecoderPart, GEMMA2};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// Encodes prompts for Lumina 2.
///
/// The context is what Gemma 2 2B makes of the prompt behind the token that begins a text: `[1, tokens, 2304]`, behind the last
/// layer but one, without the final norm. [`TextOptions::clip_skip`] counts layers from the last, which is 1; more than
/// there are is the family's own. What the model is told before the prompt is a part of the prompt.
pub struct Lumina2Text {
    part: DecoderPart,
}

impl Lumina2Text {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`gemma2.model.…`).
    ///
    /// # Errors
    /// When the text encoder, its tokenizer or a layer of it is missing.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        Ok(Self { part: DecoderPart::load(scope, encoders, GEMMA2, Family::Lumina2)? })
    }
}

impl TextConditioner for Lumina2Text {
    fn encode(
        &self,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        let layer = self.part.last_but_one(options)?;
        let (context, warnings) = self.part.weighted(prompt.of(GEMMA2), embeddings, layer)?;
        let states = TextStates { context, pooled: None, picture_slots: Vec::new() };
        Ok(EncodedText { states, warnings })
    }
}
