//! From a prompt to what a diffusion model reads: one [`PromptEncoder`] for every family.
//!
//! Families differ in their text encoders, the layer that is read, and the padding; [`recipe`] is the
//! table. SDXL's class vector (Podell et al., <https://arxiv.org/abs/2307.01952>, section 2.2) joins
//! the pooled output with the picture's size: [`sdxl_vector`], [`refiner_vector`].

use distorch_checkpoint::config::TextEncoderConfig;
use distorch_checkpoint::family::{Family, TextEncoder};
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{BoolTensor, DType, Scope, Tensor};

use crate::ModelError;
use crate::clip::{ClipRequest, ClipTextEncoder, ClipToken};
use crate::prompt::chunk::{self, WeightedToken};
use crate::prompt::embedding::{EmbeddingProblem, Embeddings};
use crate::prompt::tokenizer::END;
use crate::prompt::{self, PromptError, PromptTokens, TokenLayout};
use crate::text::{EncodedText, Prompt, TextConditioner, TextOptions, TextStates};
use crate::timestep::timestep_embedding;

/// Texts that are encoded at once.
const BATCH: usize = 16;

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
    /// The family's text encoders are not run yet.
    #[error("prompts for {family} cannot be encoded yet: SD 1.x, SD 2.x and SDXL can")]
    Family {
        /// The family.
        family: Family,
    },
    /// Clip skip counts layers from the last, which is 1.
    #[error("a clip skip of 0 is no layer: 1 is the last layer, 2 the one before")]
    ClipSkip,
}

/// What a diffusion model reads of a prompt, in f32.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// For the cross-attention: `[1, tokens, width]`, with a multiple of 77 tokens.
    pub context: Tensor<3>,
    /// The summary of the prompt's first chunk: `[1, width]`.
    pub pooled: Tensor<2>,
}

/// A prompt's conditioning, and what was left out of it.
#[derive(Debug)]
pub struct EncodedPrompt {
    /// The conditioning.
    pub conditioning: Conditioning,
    /// The textual inversions that were left out, each once.
    pub warnings: Vec<EmbeddingProblem>,
}

/// How a family uses one of its text encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderUse {
    /// The text encoder.
    pub name: &'static str,
    /// The layer that is read where nobody asks for another, counted from the last.
    pub layer_from_end: usize,
    /// Whether the final layer norm is applied to it.
    pub final_layer_norm: bool,
    /// Whether its pooled output is the family's.
    pub pooled: bool,
    /// The id that fills chunks up.
    pub pad: u32,
}

/// The text encoders of a family, in the order in which their hidden states are joined; none for
/// the families that are not encoded here.
pub const fn recipe(family: Family) -> &'static [EncoderUse] {
    const L: EncoderUse = EncoderUse {
        name: "clip_l",
        layer_from_end: 1,
        final_layer_norm: true,
        pooled: true,
        pad: END,
    };
    const H: EncoderUse = EncoderUse { name: "clip_h", layer_from_end: 2, pad: 0, ..L };
    const G: EncoderUse = EncoderUse { name: "clip_g", final_layer_norm: false, ..H };
    const XL_L: EncoderUse =
        EncoderUse { layer_from_end: 2, final_layer_norm: false, pooled: false, ..L };
    match family {
        Family::Sd1 => &[L],
        Family::Sd2 => &[H],
        Family::SdxlBase => &[XL_L, G],
        Family::SdxlRefiner => &[G],
        Family::Sd3 | Family::Flux => &[],
    }
}

/// Encodes prompts for one checkpoint.
pub struct PromptEncoder {
    encoders: Vec<(EncoderUse, ClipTextEncoder)>,
}

impl PromptEncoder {
    /// Takes the family's text encoders from a scope whose layers' names start with the encoders'
    /// (`clip_l.text_model.…`).
    ///
    /// # Errors
    /// When the family is not encoded here, or a text encoder or a layer of it is missing.
    pub fn load(
        family: Family,
        text_encoders: &[TextEncoder],
        scope: &Scope,
    ) -> Result<Self, ConditioningError> {
        let uses = recipe(family);
        if uses.is_empty() {
            return Err(ConditioningError::Family { family });
        }
        let encoders = uses.iter().map(|usage| {
            let config = text_encoders.iter().find_map(|encoder| match &encoder.config {
                TextEncoderConfig::Clip(config) if encoder.name == usage.name => Some(config),
                _ => None,
            });
            let config = config.ok_or_else(|| ConditioningError::NoEncoder {
                family,
                encoder: usage.name,
                present: names(text_encoders),
            })?;
            Ok((*usage, ClipTextEncoder::load(config, &scope.at(usage.name))?))
        });
        Ok(Self { encoders: encoders.collect::<Result<_, ConditioningError>>()? })
    }

    /// Encodes a prompt.
    ///
    /// `clip_skip` is the layer to read in every encoder, counted from the last, which is 1; `None`
    /// is the family's own. More than the encoder has is its last one with the final layer norm.
    ///
    /// # Errors
    /// When the prompt cannot be read or encoded.
    pub fn encode(
        &self,
        prompt: &str,
        embeddings: &Embeddings,
        clip_skip: Option<usize>,
    ) -> Result<EncodedPrompt, ConditioningError> {
        let tokens = self.read(|_| prompt, embeddings)?;
        self.encode_tokens(tokens, clip_skip)
    }

    /// Encodes a prompt for each text encoder, which `prompt` gives by the encoder's name. Where
    /// one has fewer chunks, empty ones follow.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_each<'t>(
        &self,
        prompt: impl Fn(&str) -> &'t str,
        embeddings: &Embeddings,
        clip_skip: Option<usize>,
    ) -> Result<EncodedPrompt, ConditioningError> {
        let mut tokens = self.read(prompt, embeddings)?;
        let most = tokens.iter().map(|tokens| tokens.chunks.len()).max().unwrap_or(0);
        for ((usage, encoder), tokens) in self.encoders.iter().zip(&mut tokens) {
            let empty = chunk::chunks([], encoder.config().max_positions, usage.pad).concat();
            tokens.chunks.resize(most, empty);
        }
        self.encode_tokens(tokens, clip_skip)
    }

    /// Reads a prompt for each text encoder.
    fn read<'t>(
        &self,
        prompt: impl Fn(&str) -> &'t str,
        embeddings: &Embeddings,
    ) -> Result<Vec<PromptTokens>, PromptError> {
        let read = |(usage, encoder): &(EncoderUse, ClipTextEncoder)| {
            prompt::read(prompt(usage.name), layout(usage, encoder), embeddings)
        };
        self.encoders.iter().map(read).collect()
    }

    /// Encodes the tokens for each text encoder.
    fn encode_tokens(
        &self,
        tokens: Vec<PromptTokens>,
        clip_skip: Option<usize>,
    ) -> Result<EncodedPrompt, ConditioningError> {
        if clip_skip == Some(0) {
            return Err(ConditioningError::ClipSkip);
        }
        let mut contexts = Vec::new();
        let mut pooled = None;
        let mut warnings: Vec<EmbeddingProblem> = Vec::new();
        for ((usage, encoder), tokens) in self.encoders.iter().zip(tokens) {
            let request = request(usage, encoder, clip_skip);
            let (context, summary) = encode_chunks(encoder, &tokens.chunks, request, usage.pad)?;
            contexts.push(context);
            pooled = pooled.or(summary);
            for warning in tokens.warnings {
                if warnings.iter().all(|known| known.to_string() != warning.to_string()) {
                    warnings.push(warning);
                }
            }
        }
        let pooled = pooled.ok_or_else(|| no_output("pooled output"))?;
        Ok(EncodedPrompt {
            conditioning: Conditioning { context: join(contexts)?, pooled },
            warnings,
        })
    }
}

impl TextConditioner for PromptEncoder {
    fn encode(
        &self,
        prompt: &Prompt,
        embeddings: &Embeddings,
        options: &TextOptions,
    ) -> Result<EncodedText, ConditioningError> {
        let encoded = match prompt {
            Prompt::Same(text) => self.encode(text, embeddings, options.clip_skip)?,
            Prompt::Each(_) => {
                self.encode_each(|name| prompt.of(name), embeddings, options.clip_skip)?
            }
        };
        let Conditioning { context, pooled } = encoded.conditioning;
        let states = TextStates { context, pooled: Some(pooled) };
        Ok(EncodedText { states, warnings: encoded.warnings })
    }
}

fn names(text_encoders: &[TextEncoder]) -> String {
    let names: Vec<_> = text_encoders.iter().map(|encoder| encoder.name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn layout(usage: &EncoderUse, encoder: &ClipTextEncoder) -> TokenLayout<'static> {
    let config = encoder.config();
    let (width, length) = (config.width, config.max_positions);
    TokenLayout { encoder: usage.name, width, length, pad: usage.pad }
}

fn request(usage: &EncoderUse, encoder: &ClipTextEncoder, clip_skip: Option<usize>) -> ClipRequest {
    let layer_from_end = clip_skip.unwrap_or(usage.layer_from_end);
    let (final_layer_norm, pooled) = (usage.final_layer_norm, usage.pooled);
    if layer_from_end > encoder.config().layers {
        return ClipRequest { layer_from_end: 1, final_layer_norm: true, pooled };
    }
    ClipRequest { layer_from_end, final_layer_norm, pooled }
}

/// Joins the hidden states of several encoders along the width, cut to the fewest tokens.
fn join(contexts: Vec<Tensor<3>>) -> Result<Tensor<3>, ModelError> {
    let tokens = contexts.iter().map(|context| context.dims()[1]).min();
    let tokens = tokens.ok_or_else(|| no_output("hidden states"))?;
    let cut = |context: Tensor<3>| {
        let [_, _, width] = context.dims();
        context.slice([0..1, 0..tokens, 0..width])
    };
    Ok(Tensor::cat(contexts.into_iter().map(cut).collect(), 2))
}

fn no_output(what: &str) -> ModelError {
    ModelError::Config { model: "prompt encoder", reason: format!("no encoder gives {what}") }
}

/// Encodes chunks and applies the weights: hidden states `[1, all tokens, width]` and the first
/// chunk's pooled output.
///
/// A token of weight w ends up at `e + (z - e) w`, where z is its encoding and e that of the empty
/// prompt at the same position; tokens of weight 1 stay as they are.
fn encode_chunks(
    encoder: &ClipTextEncoder,
    chunks: &[Vec<WeightedToken>],
    request: ClipRequest,
    pad: u32,
) -> Result<(Tensor<3>, Option<Tensor<2>>), ModelError> {
    let weighted = chunks.iter().flatten().any(|token| token.weight != 1.0);
    let tokens =
        |chunk: &Vec<WeightedToken>| chunk.iter().map(|token| token.token.clone()).collect();
    let mut texts: Vec<Vec<ClipToken>> = chunks.iter().map(tokens).collect();
    if weighted {
        texts.push(chunk::empty(encoder.config().max_positions, pad));
    }
    let mut hidden = Vec::new();
    let mut pooled = None;
    for (batch, texts) in texts.chunks(BATCH).enumerate() {
        // Only the first chunk's pooled output is read.
        let request = ClipRequest { pooled: request.pooled && batch == 0, ..request };
        let output = encoder.forward(texts, request)?;
        hidden.push(output.hidden);
        if let Some(all) = output.pooled {
            let [_, width] = all.dims();
            pooled = Some(all.slice([0..1, 0..width]));
        }
    }
    let hidden = Tensor::cat(hidden, 0);
    let hidden = if weighted { apply_weights(hidden, chunks) } else { hidden };
    let [count, length, width] = hidden.dims();
    Ok((hidden.reshape([1, count * length, width]), pooled))
}

/// `hidden` holds the chunks and then the empty prompt.
fn apply_weights(hidden: Tensor<3>, chunks: &[Vec<WeightedToken>]) -> Tensor<3> {
    let [rows, length, width] = hidden.dims();
    let device = hidden.device();
    let z = hidden.clone().slice([0..rows - 1, 0..length, 0..width]);
    let empty = hidden.slice([rows - 1..rows, 0..length, 0..width]);
    let weights: Vec<f32> = chunks.iter().flatten().map(|token| token.weight as f32).collect();
    let shape = [rows - 1, length, 1];
    let weights = Tensor::<3>::from_data(TensorData::new(weights, shape), (&device, DType::F32));
    let changed: Vec<bool> = chunks.iter().flatten().map(|token| token.weight != 1.0).collect();
    let changed = BoolTensor::<3>::from_data(TensorData::new(changed, shape), &device);
    let moved = (z.clone() - empty.clone()) * weights + empty;
    z.mask_where(changed.expand([rows - 1, length, width]), moved)
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
