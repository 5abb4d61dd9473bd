//! The chat in which Qwen's vision-language models are told to describe a picture, and what of it a picture is made by.

use std::borrow::Cow;

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

/// The chat of a prompt, which may be a whole one.
pub(crate) fn chat(prompt: &str) -> Cow<'_, str> {
    match prompt.starts_with(TURN) {
        true => Cow::Borrowed(prompt),
        false => Cow::Owned(format!("{BEFORE}{prompt}{BEHIND}")),
    }
}

/// How many tokens are dropped: those before the second turn of the chat, and its heading where it is the user's.
pub(crate) fn dropped(ids: &[u32]) -> usize {
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
