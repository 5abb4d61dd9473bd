//! The seam of text conditioners: from a prompt to what a diffusion network reads.

use std::sync::Arc;

use distorch_runtime::Tensor;

use crate::conditioning::ConditioningError;
use crate::prompt::embedding::{EmbeddingProblem, Embeddings};

/// A prompt, or one for each text encoder.
///
/// A text encoder that sees no pictures refuses a prompt with some.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// The same text for every encoder.
    Same(Arc<str>),
    /// A text for each encoder, by its name (`clip_l`, `clip_g`, `t5xxl`); the empty one for those without.
    Each(Vec<(&'static str, Arc<str>)>),
    /// A text with pictures, for models that edit them.
    WithPictures(PicturePrompt),
}

/// A text with pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct PicturePrompt {
    /// The text. `<|image_pad|>` in it stands for the next picture; pictures that have no place in it come first.
    pub text: Arc<str>,
    /// What the model is told to do with them.
    pub task: PictureTask,
    /// The pictures, in order.
    pub pictures: Vec<PromptPicture>,
}

/// What a model that reads a prompt with pictures is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureTask {
    /// As the family has it.
    Own,
    /// To say how the text changes the pictures, as Qwen-Image-Edit's encoder is.
    Edit,
}

/// A picture in a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptPicture {
    size: [usize; 2],
    values: Arc<[f32]>,
}

impl PromptPicture {
    /// A picture of `[height, width]` pixels, row by row: red, green and blue from 0 to 1. `None` where there are not as many
    /// values, or none.
    pub fn new(size: [usize; 2], values: impl Into<Arc<[f32]>>) -> Option<Self> {
        let values = values.into();
        let count = size.into_iter().try_fold(3_usize, usize::checked_mul)?;
        (count > 0 && count == values.len()).then_some(Self { size, values })
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// All values.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

impl Prompt {
    /// The text for an encoder.
    pub fn of(&self, encoder: &str) -> &str {
        match self {
            Prompt::Same(text) | Prompt::WithPictures(PicturePrompt { text, .. }) => text,
            Prompt::Each(texts) => {
                texts.iter().find(|(name, _)| *name == encoder).map_or("", |(_, text)| text)
            }
        }
    }

    /// The pictures.
    pub fn pictures(&self) -> &[PromptPicture] {
        match self {
            Prompt::WithPictures(prompt) => &prompt.pictures,
            Prompt::Same(_) | Prompt::Each(_) => &[],
        }
    }
}

/// How a prompt is encoded.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// The layer that is read in CLIP encoders, counted from the last, which is 1; `None` is the family's own.
    pub clip_skip: Option<usize>,
    /// Whether an encoder whose text is empty is not asked, so that zeros or nothing stand for its part (SD3); else the
    /// empty text is encoded.
    pub skip_empty: bool,
    /// How T5's prompts are filled up; `None` is as the family does it.
    pub t5_padding: Option<T5Padding>,
    /// Whether the tokens of pictures are left out, where latents of the same pictures stand for them (Qwen-Image 2.1).
    pub leave_pictures_out: bool,
}

/// How a prompt for T5 is filled up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct T5Padding {
    /// Padding tokens behind any text.
    pub padding: usize,
    /// Tokens that there are at least, with these.
    pub length: usize,
}

/// What a diffusion network reads of a prompt, in f32.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// `[1, tokens, width]`.
    pub context: Tensor<3>,
    /// The summary of the prompt, `[1, width]`, for families that read one.
    pub pooled: Option<Tensor<2>>,
    /// Before which tokens the pictures stand whose own tokens are left out ([`TextOptions::leave_pictures_out`]).
    pub picture_slots: Vec<usize>,
}

/// An encoded prompt, and what was left out of it.
#[derive(Debug)]
pub struct EncodedText {
    /// The states.
    pub states: TextStates,
    /// The textual inversions that were left out, each once.
    pub warnings: Vec<EmbeddingProblem>,
}

impl EncodedText {
    /// Of an encoder that has neither a summary of the prompt nor textual inversions: the states of its tokens,
    /// `[1, tokens, width]`.
    pub(crate) fn of_tokens(context: Tensor<3>) -> Self {
        let states = TextStates { context, pooled: None, picture_slots: Vec::new() };
        Self { states, warnings: Vec::new() }
    }
}

/// Text encoders with their weights, as a family reads them.
pub trait TextConditioner: Send + Sync {
    /// Whether pictures in a prompt are seen.
    fn sees_pictures(&self) -> bool {
        false
    }

    /// Encodes a prompt.
    ///
    /// # Errors
    /// When the prompt cannot be read, or has pictures that the encoders do not see, or weights cannot be fetched or do not
    /// fit.
    fn encode(
        &self,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError>;
}
