//! Krea 2's text encoder: the hidden states of every third layer of Qwen3-VL.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder_text::{DecoderPart, QWEN3VL, stacked};
use crate::description_chat::{Own, chat, dropped, from};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions};

/// The first layer that is read, and how many lie between two.
const FIRST: usize = 2;
const STEP: usize = 3;

/// Encodes prompts for Krea 2.
///
/// The context is what Qwen3-VL-4B makes of the prompt as a user's turn of a chat, without the instructions before it: of
/// each token the states behind layers 2, 5, 8, … 35 side by side, `[1, tokens, 12 × 2560]`, without the final norm. Weights,
/// textual inversions and the layer that is asked for are passed over, as in ComfyUI.
pub struct Krea2Text {
    part: DecoderPart,
}

impl Krea2Text {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`qwen3vl.model.…`).
    ///
    /// # Errors
    /// When the text encoder or a layer of it is missing.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        Ok(Self { part: DecoderPart::load(scope, encoders, QWEN3VL, Family::Krea2)? })
    }
}

impl TextConditioner for Krea2Text {
    fn sees_pictures(&self) -> bool {
        self.part.sees_pictures()
    }

    fn encode(
        &self,
        prompt: &Prompt,
        _: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let read: Vec<usize> = (FIRST..self.part.layers()).step_by(STEP).collect();
        let ids = self.part.tokenize(&chat(prompt.of(QWEN3VL), prompt, Own::Describe)?);
        let dropped = dropped(&ids);
        let pieces = self.part.pieces(&ids, prompt.pictures())?;
        let states = stacked(self.part.states(pieces, &read)?)?;
        Ok(EncodedText::of_tokens(from(dropped, states)))
    }
}
