//! Qwen-Image's text encoder: the last states of Qwen2.5-VL.

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::Scope;

use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder_text::{DecoderPart, QWEN25_VL};
use crate::prompt::embedding::Embeddings;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// How a prompt that is a whole chat already begins.
const TURN: &str = "<|im_start|>";

/// What stands before a prompt: what the model is told to do, and the beginning of the user's turn.
const BEFORE: &str = "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, \
                      spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n";

/// What stands behind: the beginning of the answer.
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// The tokens that begin a turn, name the user, and end a line.
const TURN_ID: u32 = 151_644;
const USER: [u32; 2] = [872, 198];

/// Encodes prompts for Qwen-Image.
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
    fn encode(
        &self,
        prompt: &Prompt,
        _: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        clip_text::check_clip_skip(options)?;
        // Brackets that would not be weights elsewhere.
        let prompt = prompt.of(QWEN25_VL).replace("\\(", "(").replace("\\)", ")");
        let chat = match prompt.starts_with(TURN) {
            true => prompt,
            false => format!("{BEFORE}{prompt}{BEHIND}"),
        };
        let ids = self.part.tokenize(&chat);
        let dropped = dropped(&ids);
        let states = self.part.last_states(ids)?;
        let kept = states.dims()[1].saturating_sub(dropped);
        let context = states.narrow(1, dropped, kept);
        Ok(EncodedText { states: TextStates { context, pooled: None }, warnings: Vec::new() })
    }
}

/// How many tokens are dropped: those before the second turn of the chat, and its heading where it is the user's.
fn dropped(ids: &[u32]) -> usize {
    let turns = ids.iter().enumerate().filter(|(_, id)| **id == TURN_ID).map(|(at, _)| at);
    let Some(start) = turns.take(2).last() else { return 0 };
    match ids.get(start + 1..start + 3) == Some(&USER) && ids.len() > start + 3 {
        true => start + 3,
        false => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::qwen_tokenizer::QwenTokenizer;

    /// The numbers of diffusers' pipeline for its template, and of chats of one's own after ComfyUI's rules by hand.
    #[test]
    fn what_is_before_the_prompt_is_dropped() {
        let tokenizer = QwenTokenizer::standard().unwrap();
        let of = |text: &str| dropped(&tokenizer.tokenize(text));
        assert_eq!(of(&format!("{BEFORE}a cat{BEHIND}")), 34);
        assert_eq!(of("<|im_start|>user\na cat<|im_end|>\n"), 3);
        assert_eq!(of("<|im_start|>system\nx<|im_end|>\n<|im_start|>tool\na cat"), 6);
        assert_eq!(of("a cat"), 0);
    }
}
