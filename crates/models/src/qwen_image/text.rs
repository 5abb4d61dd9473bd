//! Qwen-Image's text encoder: the last states of Qwen2.5-VL.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder_text::{DecoderPart, QWEN25_VL};
use crate::description_chat::{Own, chat, dropped, from};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions};

/// Encodes prompts for Qwen-Image, with pictures for Qwen-Image-Edit.
///
/// The context is what Qwen2.5-VL makes of the prompt as a user's turn of a chat, behind its final norm, without the tokens
/// up to the prompt: `[1, tokens, 3584]`. A prompt that begins with `<|im_start|>` is a chat of its own. Weights and textual
/// inversions are read as text, the layer that is asked for is passed over, as in ComfyUI.
pub struct QwenImageText {
    part: DecoderPart,
}

impl QwenImageText {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`qwen25vl.model.…`).
    ///
    /// # Errors
    /// When the text encoder or a layer of it is missing.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        Ok(Self { part: DecoderPart::load(scope, encoders, QWEN25_VL, Family::QwenImage)? })
    }
}

impl TextConditioner for QwenImageText {
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
        // Brackets that would not be weights elsewhere.
        let text = prompt.of(QWEN25_VL).replace("\\(", "(").replace("\\)", ")");
        let ids = self.part.tokenize(&chat(&text, prompt, Own::Edit)?);
        let dropped = dropped(&ids);
        let states = self.part.last_states(self.part.pieces(&ids, prompt.pictures())?)?;
        Ok(EncodedText::of_tokens(from(dropped, states)))
    }
}
