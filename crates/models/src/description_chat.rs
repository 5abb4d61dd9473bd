//! The chat in which Qwen's vision-language models are told to describe a picture, and what of it a picture is made by.

use std::borrow::Cow;

use distorch_runtime::Tensor;

use crate::conditioning::ConditioningError;
use crate::text::{PictureTask, Prompt};

/// How a prompt that is a whole chat already begins.
const TURN: &str = "<|im_start|>";

/// What stands before a prompt: what the model is told to do, and the beginning of the user's turn.
const BEFORE: &str = "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, \
                      spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n";

/// What stands before a prompt that is about pictures.
const BEFORE_EDIT: &str = "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, \
                           objects, background), then explain how the user's text instruction should alter or modify the \
                           image. Generate a new image that meets the user's requirements while maintaining consistency \
                           with the original input where appropriate.<|im_end|>\n<|im_start|>user\n";

/// What stands for a picture, and what of it is the picture.
const PICTURE: &str = "<|vision_start|><|image_pad|><|vision_end|>";
const PAD: &str = "<|image_pad|>";

/// The beginning of a user's turn.
const USERS_TURN: &str = "<|im_start|>user\n";

/// What stands behind: the beginning of the answer.
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// The tokens that begin a turn, name the user, and end a line.
const TURN_ID: u32 = 151_644;
const USER: [u32; 2] = [872, 198];

/// What a family tells its model about pictures where a prompt does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// To describe the picture that is to be made, as without any (Krea 2).
    Describe,
    /// To say how the text changes them (Qwen-Image-Edit).
    Edit,
}

/// The chat of a prompt, which may be a whole one already, with a place for each of its pictures.
pub(crate) fn chat<'p>(
    prompt: &'p str,
    of: &Prompt,
    own: Own,
) -> Result<Cow<'p, str>, ConditioningError> {
    let pictures = of.pictures().len();
    let edits = match of {
        Prompt::WithPictures(prompt) if prompt.task == PictureTask::Edit => true,
        Prompt::WithPictures(_) => own == Own::Edit && pictures > 0,
        Prompt::Same(_) | Prompt::Each(_) => false,
    };
    let chat = match (prompt.starts_with(TURN), edits) {
        (true, _) => Cow::Borrowed(prompt),
        (false, false) => Cow::Owned(format!("{BEFORE}{prompt}{BEHIND}")),
        (false, true) => Cow::Owned(format!("{BEFORE_EDIT}{prompt}{BEHIND}")),
    };
    match of {
        Prompt::WithPictures(_) => with_places(chat, pictures),
        Prompt::Same(_) | Prompt::Each(_) => Ok(chat),
    }
}

/// A chat with places for so many pictures: those that it lacks come behind the first that it has, or begin the user's turn.
fn with_places(chat: Cow<'_, str>, pictures: usize) -> Result<Cow<'_, str>, ConditioningError> {
    let places = chat.matches(PAD).count();
    let Some(lacking) = pictures.checked_sub(places) else {
        return Err(ConditioningError::Pictures { places, pictures });
    };
    if lacking == 0 {
        return Ok(chat);
    }
    let behind = |text: &str| chat.find(text).map(|at| at + text.len());
    let at = behind(PICTURE).or_else(|| behind(USERS_TURN)).unwrap_or(0);
    let (before, after) = chat.split_at(at);
    Ok(Cow::Owned(format!("{before}{}{after}", PICTURE.repeat(lacking))))
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

/// The states of a chat's tokens, `[1, tokens, width]`, without those of the first ones.
pub(crate) fn from(first: usize, states: Tensor<3>) -> Tensor<3> {
    let kept = states.dims()[1].saturating_sub(first);
    states.narrow(1, first, kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::qwen_tokenizer::QwenTokenizer;
    use crate::text::{PicturePrompt, PromptPicture};

    fn prompt(text: &str, task: PictureTask, pictures: usize) -> Prompt {
        let picture = PromptPicture::new([1, 1], vec![0.0; 3]).unwrap();
        let pictures = vec![picture; pictures];
        Prompt::WithPictures(PicturePrompt { text: text.into(), task, pictures })
    }

    /// After ComfyUI's rules by hand.
    #[test]
    fn pictures_have_their_places() {
        let of = |text: &str, task, pictures| {
            chat(text, &prompt(text, task, pictures), Own::Edit).map(Cow::into_owned).ok()
        };
        let edit = |text: &str| Some(format!("{BEFORE_EDIT}{text}{BEHIND}"));
        let placed = format!("Picture 1: {PICTURE}a cat");
        assert_eq!(of("a cat", PictureTask::Own, 1), edit(&format!("{PICTURE}a cat")));
        assert_eq!(of(&placed, PictureTask::Edit, 1), edit(&placed));
        let two = placed.replace(PICTURE, &PICTURE.repeat(2));
        assert_eq!(of(&placed, PictureTask::Edit, 2), edit(&two));
        assert_eq!(of("a cat", PictureTask::Edit, 0), edit("a cat"));
        assert_eq!(of("a cat", PictureTask::Own, 0), Some(format!("{BEFORE}a cat{BEHIND}")));
        let own = "<|im_start|>system\nx<|im_end|>\n<|im_start|>user\na cat";
        let seen = own.replace("user\n", &format!("user\n{PICTURE}"));
        assert_eq!(of(own, PictureTask::Own, 1), Some(seen));
        assert_eq!(of(&placed, PictureTask::Edit, 0), None);
        // Without pictures, a place for one is a token like others.
        let same = Prompt::Same(PAD.into());
        assert_eq!(chat(PAD, &same, Own::Edit).unwrap(), format!("{BEFORE}{PAD}{BEHIND}"));
        let described = chat("a cat", &prompt("a cat", PictureTask::Own, 1), Own::Describe);
        assert_eq!(described.unwrap(), format!("{BEFORE}{PICTURE}a cat{BEHIND}"));
    }

    /// The numbers of diffusers' pipelines for their templates, and of chats of one's own after ComfyUI's rules by hand.
    #[test]
    fn what_is_before_the_prompt_is_dropped() {
        let tokenizer = QwenTokenizer::standard().unwrap();
        let of = |text: &str| dropped(&tokenizer.tokenize(text));
        assert_eq!(of(&format!("{BEFORE}a cat{BEHIND}")), 34);
        assert_eq!(of(&format!("{BEFORE_EDIT}{PICTURE}a cat{BEHIND}")), 64);
        assert_eq!(of("<|im_start|>user\na cat<|im_end|>\n"), 3);
        assert_eq!(of("<|im_start|>system\nx<|im_end|>\n<|im_start|>tool\na cat"), 6);
        assert_eq!(of("a cat"), 0);
    }
}
