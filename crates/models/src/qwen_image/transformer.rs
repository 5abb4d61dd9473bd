//! The whole transformer.

use distorch_checkpoint::config::QwenImageConfig;
use distorch_runtime::kernels::{modulated_norm, silu};
use distorch_runtime::{DType, Scope, Tensor};

use super::MODEL;
use super::block::{Block, Times};
use super::inputs::Sizes;
use super::places::places;
use crate::ModelError;
use crate::flux::blocks::{AREA, EPSILON, grid, pack, unpack};
use crate::layers::{Linear, RmsNorm};
use crate::network::{Network, NetworkInput, ReferenceMethod};
use crate::rope;
use crate::timestep::timestep_embedding;

/// Features of the embedding of the time.
const FREQUENCIES: usize = 256;

/// What the time, from 0 to 1, is multiplied with before it is embedded.
const TIME_FACTOR: f64 = 1000.0;

/// The longest period of the rotation.
const THETA: f64 = 10_000.0;

/// Qwen-Image's transformer: predicts the velocity of a rectified flow.
pub struct QwenImageTransformer {
    config: QwenImageConfig,
    axes: [usize; 3],
    picture: Linear,
    time: [Linear; 2],
    text_norm: RmsNorm,
    text: Linear,
    blocks: Vec<Block>,
    last_modulation: Linear,
    last: Linear,
}

impl QwenImageTransformer {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &QwenImageConfig) -> Result<Self, ModelError> {
        let axes = sizes(config).axes()?;
        let time = scope.at("time_text_embed.timestep_embedder");
        let blocks = scope.at("transformer_blocks");
        let block = |at| Block::load(&blocks.at(at), config.heads);
        Ok(Self {
            axes,
            picture: Linear::load(scope, "img_in")?,
            time: [Linear::load(&time, "linear_1")?, Linear::load(&time, "linear_2")?],
            text_norm: RmsNorm::load(scope, "txt_norm", EPSILON)?,
            text: Linear::load(scope, "txt_in")?,
            blocks: (0..config.depth).map(block).collect::<Result<_, _>>()?,
            last_modulation: Linear::load(scope, "norm_out.linear")?,
            last: Linear::load(scope, "proj_out")?,
            config: config.clone(),
        })
    }

    /// The vectors that modulate, `[times, width]`, activated as each block reads them.
    fn vectors(&self, times: Tensor<1>, dtype: DType) -> Result<Tensor<2>, ModelError> {
        let width = self.config.width;
        let times = timestep_embedding(times.cast(DType::F32) * TIME_FACTOR, FREQUENCIES);
        let [first, second] = &self.time;
        let hidden = silu(first.forward_to(times.cast(dtype), width)?);
        Ok(silu(second.forward_to(hidden, width)?))
    }
}

impl Network for QwenImageTransformer {
    /// - `x`: `[batch, in_channels, height, width]`, of any size
    /// - `timesteps`: from 0 (clean) to 1 (noise)
    /// - `context`: the states of the prompt's tokens, without padding
    /// - `reference_latents`: in batches of one or of `x`; each has an index of its own where nobody says otherwise, and no
    ///   noise where the model was trained so
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        sizes(&self.config).check(&input)?;
        let (dtype, model_width) = (input.x.dtype(), self.config.width);
        let [batch, _, height, width] = input.x.dims();
        let words = input.context.dims()[1];
        let size = |x: &Tensor<4>| grid(x.dims()[2], x.dims()[3]);
        let sizes: Vec<_> = input.reference_latents.iter().map(size).collect();
        let places = places(words, grid(height, width), &sizes, input.reference_method);
        let rotation = rope::rotation_at(self.axes, THETA, &places);

        let mut tokens = vec![pack(input.x)];
        let noisy = tokens.iter().map(|tokens| tokens.dims()[1]).sum();
        for reference in input.reference_latents {
            let rows = reference.dims()[0];
            let reference = reference.cast(dtype);
            let reference = if rows == batch { reference } else { reference.repeat_dim(0, batch) };
            tokens.push(pack(reference));
        }
        let tokens = if tokens.len() == 1 { tokens.remove(0) } else { Tensor::cat(tokens, 1) };

        let picture = self.picture.tokens_to(tokens, model_width)?;
        let mut times = input.timesteps;
        let at_zero = match input.reference_method {
            ReferenceMethod::Own => self.config.references_at_zero,
            method => method == ReferenceMethod::IndexAtZero,
        };
        if at_zero && !sizes.is_empty() {
            times = Tensor::cat(vec![times.clone(), times.zeros_like()], 0);
        }
        let times = Times { vectors: self.vectors(times, dtype)?, noisy };
        let text = self.text_norm.forward(input.context.cast(dtype))?;
        let text = self.text.tokens_to(text, model_width)?;
        let mut streams = [text, picture];
        for (at, block) in self.blocks.iter().enumerate() {
            if !input.skip.double.contains(&at) {
                streams = block.forward(streams, &times, &rotation)?;
            }
        }
        // Neither the text nor the references are predicted.
        let [_, picture] = streams;
        let vector = times.vectors.narrow(0, 0, batch);
        let all = self.last_modulation.forward_to(vector, 2 * model_width)?;
        let (scale, shift) =
            (all.clone().narrow(1, 0, model_width), all.narrow(1, model_width, model_width));
        let x = modulated_norm(picture.narrow(1, 0, noisy), shift, scale, EPSILON);
        let x = self.last.tokens_to(x, AREA * self.config.out_channels)?;
        Ok(unpack(x, height, width))
    }
}

fn sizes(config: &QwenImageConfig) -> Sizes {
    let QwenImageConfig { in_channels, out_channels, width, heads, context_dim, .. } = *config;
    Sizes { model: MODEL, in_channels, out_channels, width, heads, context_dim }
}
