//! Qwen-Image 2.1's text encoder: the states behind Qwen3-VL's last layer.

use std::borrow::Cow;

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder_text::{DecoderPart, QWEN3VL, stacked};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// How a prompt that is a whole chat already begins.
const TURN: &str = "<|im_start|>";

/// The token that begins a turn.
const TURN_ID: u32 = 151_644;

/// What stands before a prompt: what the model is told to do, and the beginning of the user's turn.
const BEFORE: &str =
    "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n<|im_start|>user\n";

/// What stands behind: the beginning of the answer.
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// Encodes prompts for Qwen-Image 2.1.
///
/// The context is what Qwen3-VL-8B makes of the prompt as a user's turn of a chat, behind its last layer without the final
/// norm, from the user's turn on: `[1, tokens, 4096]`. A prompt that begins with `<|im_start|>` is a chat of its own.
/// Weights and textual inversions are read as text, the layer that is asked for is passed over, as in ComfyUI.
pub struct QwenImage21Text {
    part: DecoderPart,
}

impl QwenImage21Text {
    /// Takes the text encoder from a scope whose layers' names start with the encoder's (`qwen3vl.model.…`).
    ///
    /// # Errors
    /// When the text encoder or a layer of it is missing.
    pub fn load(scope: &Scope, encoders: &[TextEncoder]) -> Result<Self, ConditioningError> {
        Ok(Self { part: DecoderPart::load(scope, encoders, QWEN3VL, Family::QwenImage21)? })
    }
}

impl TextConditioner for QwenImage21Text {
    fn encode(
        &self,
        prompt: &Prompt,
        _: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        // Brackets that would not be weights elsewhere.
        let text = prompt.of(QWEN3VL).replace("\\(", "(").replace("\\)", ")");
        let ids = self.part.tokenize(&chat(&text));
        let dropped = dropped(&ids);
        let pieces = self.part.pieces(&ids, prompt.pictures())?;
        let context = stacked(self.part.states(pieces, &[self.part.layers()])?)?;
        let kept = context.dims()[1].saturating_sub(dropped);
        let context = context.narrow(1, dropped, kept);
        Ok(EncodedText { states: TextStates { context, pooled: None }, warnings: Vec::new() })
    }
}

/// The chat of a prompt, which may be a whole one.
fn chat(prompt: &str) -> Cow<'_, str> {
    match prompt.starts_with(TURN) {
        true => Cow::Borrowed(prompt),
        false => Cow::Owned(format!("{BEFORE}{prompt}{BEHIND}")),
    }
}

/// How many tokens are dropped: those before the second turn.
fn dropped(ids: &[u32]) -> usize {
    let mut turns = ids.iter().enumerate().filter(|(_, id)| **id == TURN_ID).map(|(at, _)| at);
    turns.nth(1).unwrap_or(0)
}
