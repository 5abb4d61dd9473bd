//! Krea 2's text encoder: the hidden states of every third layer of Qwen3-VL.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder_text::{DecoderPart, QWEN3VL, stacked};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// What stands before and behind a prompt: the instructions of a chat, one turn of it, and the beginning of the answer.
const BEFORE: &str = "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, \
                      text, spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n";
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// What begins a turn. A prompt that starts with it is the whole chat.
const TURN: &str = "<|im_start|>";

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

    /// Tokens that are dropped: those before what the user says, the beginning of the second turn included.
    fn dropped(&self, ids: &[u32]) -> usize {
        let turn = self.part.tokenize(TURN);
        let user = self.part.tokenize("user\n");
        let starts = ids.iter().enumerate().filter(|(_, id)| turn.contains(id));
        let Some((at, _)) = starts.take(2).last() else { return 0 };
        let is_user = ids.get(at + 1..).is_some_and(|rest| rest.starts_with(&user));
        let behind = at + 1 + user.len();
        // What is left is never nothing.
        if is_user && behind < ids.len() { behind } else { at }
    }
}

impl TextConditioner for Krea2Text {
    fn encode(
        &self,
        prompt: &Prompt,
        _: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        let read: Vec<usize> = (FIRST..self.part.layers()).step_by(STEP).collect();
        let ids = match prompt.of(QWEN3VL) {
            chat if chat.starts_with(TURN) => self.part.tokenize(chat),
            prompt => self.part.tokenize(&format!("{BEFORE}{prompt}{BEHIND}")),
        };
        let dropped = self.dropped(&ids);
        let context = stacked(self.part.states(ids, &read)?)?;
        let tokens = context.dims()[1].saturating_sub(dropped);
        let context = context.narrow(1, dropped, tokens);
        Ok(EncodedText { states: TextStates { context, pooled: None }, warnings: Vec::new() })
    }
}
