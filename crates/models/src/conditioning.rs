//! What diffusion models read beside the hidden states of a prompt, and why there may be none.
//!
//! SDXL's class vector (Podell et al., <https://arxiv.org/abs/2307.01952>, section 2.2) joins
//! the pooled output with the picture's size: [`sdxl_vector`], [`refiner_vector`].

use distorch_checkpoint::family::Family;
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Tensor};

use crate::ModelError;
use crate::prompt::PromptError;
use crate::prompt::t5_tokenizer::TokenizerError;
use crate::timestep::timestep_embedding;

/// Width of each number's embedding in a class vector.
const NUMBER_WIDTH: usize = 256;

/// Why a prompt could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConditioningError {
    /// The prompt could not be read.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A text encoder could not be built or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The checkpoint lacks a text encoder of its family.
    #[error(
        "{family} reads prompts with {encoder}, which the checkpoint does not have; it has {present}"
    )]
    NoEncoder {
        /// The family.
        family: Family,
        /// The text encoder.
        encoder: &'static str,
        /// Those that are there.
        present: String,
    },
    /// The file's own vocabulary is of no use.
    #[error(
        "the tokenizer that the file holds for {encoder} (`{tensor}`) cannot be used: {problem}"
    )]
    Vocabulary {
        /// The text encoder.
        encoder: &'static str,
        /// The tensor that holds it.
        tensor: &'static str,
        /// What is wrong with it.
        problem: TokenizerError,
    },
    /// The program's own tokenizer is of no use.
    #[error("the tokenizer of {encoder} cannot be used: {problem}")]
    Tokenizer {
        /// The text encoder.
        encoder: &'static str,
        /// What is wrong with it.
        problem: TokenizerError,
    },
    /// The file lacks the tokenizer's vocabulary, which does not come with the program.
    #[error(
        "the file of {encoder} does not hold its tokenizer (`{tensor}`): take the one that is made for ComfyUI, which does"
    )]
    NoVocabulary {
        /// The text encoder.
        encoder: &'static str,
        /// The tensor that would hold it.
        tensor: &'static str,
    },
    /// A tokenizer has ids that the text encoder has no vectors for.
    #[error("{encoder} has vectors for {rows} tokens, and its tokenizer has {ids}")]
    Tokens {
        /// The text encoder.
        encoder: &'static str,
        /// Rows of its token table.
        rows: usize,
        /// Ids of the tokenizer.
        ids: usize,
    },
    /// The text encoders see no pictures.
    #[error(
        "the text encoders of {family} see no pictures here: take the file of one that comes with its encoder of pictures (Qwen2.5-VL), for a model that edits with it"
    )]
    NoPictures {
        /// The family.
        family: Family,
    },
    /// A text has places for more pictures than there are.
    #[error(
        "the prompt has places for {places} pictures (`<|image_pad|>`), and {pictures} come with it"
    )]
    Pictures {
        /// Places.
        places: usize,
        /// Pictures.
        pictures: usize,
    },
    /// Clip skip counts layers from the last, which is 1.
    #[error("a clip skip of 0 is no layer: 1 is the last layer, 2 the one before")]
    ClipSkip,
}

/// A picture's size in SDXL's class vector, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PictureSize {
    /// Width of the picture before it was cropped.
    pub width: f64,
    /// Height of the picture before it was cropped.
    pub height: f64,
    /// Columns that were cropped away on the left.
    pub crop_x: f64,
    /// Rows that were cropped away at the top.
    pub crop_y: f64,
    /// Width of the picture that is made.
    pub target_width: f64,
    /// Height of the picture that is made.
    pub target_height: f64,
}

impl PictureSize {
    /// An uncropped picture of this size.
    pub const fn new(width: usize, height: usize) -> Self {
        let (width, height) = (width as f64, height as f64);
        Self { width, height, crop_x: 0.0, crop_y: 0.0, target_width: width, target_height: height }
    }
}

/// The aesthetic score that the refiner reads with a prompt.
pub const AESTHETIC_SCORE: f64 = 6.0;

/// The aesthetic score that the refiner reads with a negative prompt.
pub const NEGATIVE_AESTHETIC_SCORE: f64 = 2.5;

/// SDXL base's class vector: pooled output (`[batch, width]`), then embeddings of height, width,
/// crop and target height and width: `[batch, width + 6 × 256]`.
pub fn sdxl_vector(pooled: Tensor<2>, size: PictureSize) -> Tensor<2> {
    let PictureSize { width, height, crop_x, crop_y, target_width, target_height } = size;
    with_numbers(pooled, &[height, width, crop_y, crop_x, target_height, target_width])
}

/// The SDXL refiner's class vector: pooled output (`[batch, width]`), then embeddings of height,
/// width, crop and aesthetic score: `[batch, width + 5 × 256]`.
pub fn refiner_vector(pooled: Tensor<2>, size: PictureSize, aesthetic_score: f64) -> Tensor<2> {
    let PictureSize { width, height, crop_x, crop_y, .. } = size;
    with_numbers(pooled, &[height, width, crop_y, crop_x, aesthetic_score])
}

fn with_numbers(pooled: Tensor<2>, numbers: &[f64]) -> Tensor<2> {
    let [batch, _] = pooled.dims();
    let numbers: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
    let count = numbers.len();
    let numbers = TensorData::new(numbers, [count]);
    let numbers = Tensor::<1>::from_data(numbers, (&pooled.device(), DType::F32));
    let numbers = timestep_embedding(numbers, NUMBER_WIDTH).reshape([1, count * NUMBER_WIDTH]);
    let numbers = numbers.expand([batch, count * NUMBER_WIDTH]);
    Tensor::cat(vec![pooled.cast(DType::F32), numbers], 1)
}
