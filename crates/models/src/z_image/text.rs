//! Z-Image's text encoder: Qwen3's hidden states behind its last layer but one.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::conditioning::ConditioningError;
use crate::decoder_text::{Answer, DecoderPart, QWEN3, stacked};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions};

/// Encodes prompts for Z-Image.
///
/// The context is what Qwen3-4B makes of the prompt as a user's turn of a chat, with the beginning of the answer:
/// `[1, tokens, 2560]`, behind the last layer but one, without the final norm. [`TextOptions::clip_skip`] counts layers
/// from the last, which is 1; more than there are is the family's own. Weights and textual inversions are read as text,
/// as in ComfyUI.
pub struct ZImageText {
    part: DecoderPart,
}

impl ZImageText {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`qwen3.model.…`).
    ///
    /// # Errors
    /// When the text encoder or a layer of it is missing.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        Ok(Self { part: DecoderPart::load(scope, encoders, QWEN3, Family::ZImage)? })
    }
}

impl TextConditioner for ZImageText {
    fn encode(
        &self,
        prompt: &Prompt,
        _: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        let read = [self.part.last_but_one(options)?];
        let states = self.part.chat(prompt.of(QWEN3), Answer::Open, &read, 0)?;
        Ok(EncodedText::of_tokens(stacked(states)?))
    }
}
