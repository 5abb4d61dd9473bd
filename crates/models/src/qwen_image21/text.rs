//! Qwen-Image 2.1's text encoder: the states behind Qwen3-VL's last layer.

use std::borrow::Cow;
use std::ops::Range;

use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::{Scope, Tensor};

use crate::clip_text;
use crate::conditioning::ConditioningError;
use crate::decoder::Piece;
use crate::decoder_text::{DecoderPart, QWEN3VL, stacked};
use crate::prompt::embedding::Embeddings;
use crate::prompt::token::Token;
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};

/// How a prompt that is a whole chat already begins.
const TURN: &str = "<|im_start|>";

/// The token that begins a turn.
const TURN_ID: u32 = 151_644;

/// What stands before a prompt: what the model is told to do, and the beginning of the user's turn.
const BEFORE: &str =
    "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n<|im_start|>user\n";

/// A picture's place.
const PICTURE: &str = "<|vision_start|><|image_pad|><|vision_end|>";

/// What stands behind: the beginning of the answer.
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// Encodes prompts for Qwen-Image 2.1.
///
/// The context is what Qwen3-VL-8B makes of the prompt as a user's turn of a chat, behind its last layer without the final
/// norm, from the user's turn on: `[1, tokens, 4096]`. Pictures stand before the prompt, each with its number. A prompt that begins with `<|im_start|>` is a chat of its own.
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
        let text = prompt.of(QWEN3VL).replace("\\(", "(").replace("\\)", ")");
        let ids = self.part.tokenize(&chat(&text, prompt.pictures().len()));
        let pieces = self.part.pieces(&ids, prompt.pictures())?;
        let kept = Kept::of(&pieces, options.leave_pictures_out);
        let states = stacked(self.part.states(pieces, &[self.part.layers()])?)?;
        let run = |run: &Range<usize>| states.clone().narrow(1, run.start, run.len());
        let context = match kept.runs.as_slice() {
            [one] => run(one),
            runs => Tensor::cat(runs.iter().map(run).collect(), 1),
        };
        let states = TextStates { context, pooled: None, picture_slots: kept.slots };
        Ok(EncodedText { states, warnings: Vec::new() })
    }
}

/// The chat of a prompt with so many pictures before it, each with its number; the prompt may be a whole chat.
fn chat(prompt: &str, pictures: usize) -> Cow<'_, str> {
    if prompt.starts_with(TURN) {
        return Cow::Borrowed(prompt);
    }
    let picture = |number| format!("<image{number}>{PICTURE}");
    let pictures: Vec<_> = (1..=pictures).map(picture).collect();
    Cow::Owned(format!("{BEFORE}{}{prompt}{BEHIND}", pictures.join(" ")))
}

/// What of a chat's tokens is kept.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// Runs of tokens.
    runs: Vec<Range<usize>>,
    /// How many of these are before each picture whose own tokens are left out.
    slots: Vec<usize>,
}

impl Kept {
    /// All from the second turn on, with the tokens of pictures or without.
    fn of(pieces: &[Piece], leave_pictures_out: bool) -> Self {
        let (mut at, mut turns, mut pictures) = (0, Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Words(tokens) => {
                    let words = tokens.iter().enumerate();
                    let begin = words.filter(|(_, token)| matches!(token, Token::Id(TURN_ID)));
                    turns.extend(begin.map(|(word, _)| at + word));
                    at += tokens.len();
                }
                Piece::Picture(picture) => {
                    let count = picture.states.dims()[1];
                    pictures.push(at..at + count);
                    at += count;
                }
            }
        }
        let mut start = turns.get(1).copied().unwrap_or(0);
        let (mut runs, mut slots, mut before) = (Vec::new(), Vec::new(), 0);
        for picture in pictures.into_iter().filter(|_| leave_pictures_out) {
            if picture.start > start {
                before += picture.start - start;
                runs.push(start..picture.start);
            }
            slots.push(before);
            start = start.max(picture.end);
        }
        if at > start || runs.is_empty() {
            runs.push(start..at);
        }
        Self { runs, slots }
    }
}
