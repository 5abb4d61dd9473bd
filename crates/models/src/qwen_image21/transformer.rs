//! The whole transformer.

use distorch_checkpoint::config::QwenImage21Config;
use distorch_runtime::kernels::{gelu_tanh, silu};
use distorch_runtime::{DType, Scope, Tensor};

use super::MODEL;
use super::block::{Block, EPSILON, Modulation, scaled_norm};
use super::sequence::{Run, Sequence};
use crate::ModelError;
use crate::layers::{Linear, RmsNorm};
use crate::network::{Network, NetworkInput};
use crate::qwen_image::inputs::Sizes;
use crate::rope;
use crate::timestep::timestep_embedding;

/// Features of the embedding of the time.
const FREQUENCIES: usize = 256;

/// What the time, from 0 to 1, is multiplied with before it is embedded.
const TIME_FACTOR: f64 = 1000.0;

/// The longest period of the rotation.
const THETA: f64 = 10_000.0;

/// Qwen-Image 2.1's transformer: predicts the velocity of a rectified flow.
pub struct QwenImage21Transformer {
    config: QwenImage21Config,
    axes: [usize; 3],
    text_norm: RmsNorm,
    text: [Linear; 2],
    picture: Linear,
    time: [Linear; 2],
    modulation: Linear,
    blocks: Vec<Block>,
    last_modulation: Linear,
    last: Linear,
}

impl QwenImage21Transformer {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &QwenImage21Config) -> Result<Self, ModelError> {
        let axes = sizes(config).axes()?;
        let text = scope.at("txt_in");
        let time = scope.at("time_text_embed.timestep_embedder");
        let blocks = scope.at("transformer_blocks");
        let block = |at| Block::load(&blocks.at(at), config.heads);
        Ok(Self {
            axes,
            text_norm: RmsNorm::load_around_one(&text, "text_norm", EPSILON)?,
            text: [Linear::load(&text, "in_layer")?, Linear::load(&text, "out_layer")?],
            picture: Linear::load(scope, "img_in")?,
            time: [Linear::load(&time, "linear_1")?, Linear::load(&time, "linear_2")?],
            modulation: Linear::load(scope, "modulation.1")?,
            blocks: (0..config.depth).map(block).collect::<Result<_, _>>()?,
            last_modulation: Linear::load(scope, "norm_out.linear")?,
            last: Linear::load(scope, "proj_out")?,
            config: config.clone(),
        })
    }

    /// The vectors that modulate, activated: of each of the times, and in the last row of no noise.
    fn vectors(&self, times: Tensor<1>, dtype: DType) -> Result<Tensor<2>, ModelError> {
        let width = self.config.width;
        // In the compute dtype before and behind its thousandth, as the published pipeline rounds it.
        let times = (times * TIME_FACTOR).cast(dtype) / TIME_FACTOR;
        let times = times.cast(DType::F32);
        let none = Tensor::zeros([1], (&times.device(), DType::F32));
        let times = Tensor::cat(vec![times, none], 0);
        let embedded = timestep_embedding(times * TIME_FACTOR, FREQUENCIES);
        let [first, second] = &self.time;
        let hidden = silu(first.forward_to(embedded.cast(dtype), width)?);
        Ok(silu(second.forward_to(hidden, width)?))
    }
}

impl Network for QwenImage21Transformer {
    /// - `x`: `[batch, in_channels, height, width]`, of any size; each of its pixels is a token
    /// - `timesteps`: from 0 (clean) to 1 (noise)
    /// - `context`: the states of the prompt's tokens, without padding
    /// - `reference_latents`: in batches of one or of `x`, each where `reference_slots` says
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        sizes(&self.config).check(&input)?;
        let (dtype, model_width) = (input.x.dtype(), self.config.width);
        let [batch, _, height, width] = input.x.dims();
        let words = input.context.dims()[1];
        let size = |x: &Tensor<4>| [x.dims()[2], x.dims()[3]];
        let sizes: Vec<_> = input.reference_latents.iter().map(size).collect();
        let sequence = Sequence::new(words, &input.reference_slots, &sizes, [height, width]);
        let rotation = rope::rotation_at(self.axes, THETA, &sequence.places);

        let text = self.text_norm.forward(input.context.cast(dtype))?;
        let [first, second] = &self.text;
        let text = second.tokens_to(gelu_tanh(first.tokens_to(text, model_width)?), model_width)?;
        let pictures: Vec<_> = input.reference_latents.into_iter().chain([input.x]).collect();
        let mut parts = Vec::with_capacity(sequence.runs.len());
        for (run, _) in &sequence.runs {
            parts.push(match run {
                Run::Text(start, end) => text.clone().narrow(1, *start, end - start),
                Run::Picture(number) => {
                    let Some(picture) = pictures.get(*number) else { continue };
                    let picture = picture.clone().cast(dtype);
                    let rows = picture.dims()[0];
                    let picture =
                        if rows == batch { picture } else { picture.repeat_dim(0, batch) };
                    self.picture.from_pixels(picture)?
                }
            });
        }
        let mut x = Tensor::cat(parts, 1);
        let vectors = self.vectors(input.timesteps, dtype)?;
        let all = self.modulation.forward_to(vectors.clone(), 4 * model_width)?;
        let prefix = sequence.prefix();
        let modulation = Modulation::new(&all, batch, prefix);
        for (at, block) in self.blocks.iter().enumerate() {
            if !input.skip.single.contains(&at) {
                x = block.forward(x, &modulation, &rotation, &sequence)?;
            }
        }
        // Neither the text nor the references are predicted.
        let scale = self.last_modulation.forward_to(vectors.narrow(0, 0, batch), model_width)?;
        let x = scaled_norm(x.narrow(1, prefix, height * width), scale);
        let x = self.last.to_pixels(x, height, width)?;
        let expected = [batch, self.config.out_channels, height, width];
        ModelError::expect(MODEL, "output", &expected, &x.dims())?;
        Ok(x)
    }
}

fn sizes(config: &QwenImage21Config) -> Sizes {
    let QwenImage21Config { in_channels, out_channels, width, heads, context_dim, .. } = *config;
    Sizes { model: MODEL, in_channels, out_channels, width, heads, context_dim }
}
