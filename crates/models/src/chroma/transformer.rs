//! The whole transformer.

use distorch_checkpoint::config::ChromaConfig;
use distorch_runtime::kernels::modulated_norm;
use distorch_runtime::{Scope, Tensor};

use super::MODEL;
use super::approximator::Approximator;
use crate::ModelError;
use crate::flux::blocks::{
    AREA, Axes, DoubleBlock, EPSILON, SingleBlock, Step, Streams, ids, pack, unpack,
};
use crate::layers::Linear;
use crate::network::{Network, NetworkInput};

/// Chroma's transformer: predicts the velocity of a rectified flow.
pub struct ChromaTransformer {
    config: ChromaConfig,
    axes: Axes,
    approximator: Approximator,
    img_in: Linear,
    txt_in: Linear,
    double_blocks: Vec<DoubleBlock>,
    single_blocks: Vec<SingleBlock>,
    last: Linear,
}

impl ChromaTransformer {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &ChromaConfig) -> Result<Self, ModelError> {
        let axes = check(config)?;
        let (double, single) = (scope.at("double_blocks"), scope.at("single_blocks"));
        let approximator = scope.at("distilled_guidance_layer");
        Ok(Self {
            axes,
            approximator: Approximator::load(&approximator, config.approximator_depth)?,
            img_in: Linear::load(scope, "img_in")?,
            txt_in: Linear::load(scope, "txt_in")?,
            double_blocks: (0..config.depth)
                .map(|at| DoubleBlock::load(&double.at(at)))
                .collect::<Result<_, _>>()?,
            single_blocks: (0..config.depth_single)
                .map(|at| SingleBlock::load(&single.at(at), config.mlp_width))
                .collect::<Result<_, _>>()?,
            last: Linear::load(scope, "final_layer.linear")?,
            config: config.clone(),
        })
    }

    fn check_inputs(&self, input: &NetworkInput) -> Result<(), ModelError> {
        let ChromaConfig { in_channels, context_dim, .. } = self.config;
        input.expect_latent(MODEL, in_channels / AREA)?;
        input.expect_timesteps(MODEL)?;
        input.expect_context(MODEL, context_dim)
    }
}

impl Network for ChromaTransformer {
    /// - `x`: `[batch, in_channels / 4, height, width]`, of any size
    /// - `timesteps`: from 0 (clean) to 1 (noise)
    ///
    /// Of further inputs only the context is read.
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        self.check_inputs(&input)?;
        let (dtype, heads) = (input.x.dtype(), self.config.heads);
        let [_, _, height, width] = input.x.dims();
        let words = input.context.dims()[1];
        let places = ids(words, [height, width], &[], input.reference_method);
        let rotation = self.axes.rotation(&places);
        let (depth, single) = (self.double_blocks.len(), self.single_blocks.len());

        let vectors = 3 * single + 2 * 6 * depth + 2;
        let vectors = self.approximator.forward(&input.timesteps, vectors, dtype)?;
        let vector = |at: usize| {
            let [batch, _, width] = vectors.dims();
            vectors.clone().narrow(1, at, 1).reshape([batch, width])
        };
        let step = |at: usize| Step::new(vector(at), vector(at + 1), vector(at + 2));
        let picture = self.img_in.tokens_to(pack(input.x), self.config.width)?;
        let text = self.txt_in.tokens_to(input.context.cast(dtype), self.config.width)?;
        let mut streams = Streams { picture, text };
        // Single blocks' vectors come first, then those of pictures, those of texts, and the last norm's.
        for (at, block) in self.double_blocks.iter().enumerate() {
            if !input.skip.double.contains(&at) {
                let of_picture = 3 * single + 6 * at;
                let of_text = of_picture + 6 * depth;
                let steps = [of_picture, of_text].map(|first| [step(first), step(first + 3)]);
                streams = block.forward(streams, &steps, &rotation, heads)?;
            }
        }
        let Streams { picture, text } = streams;
        let mut x = Tensor::cat(vec![text, picture], 1);
        for (at, block) in self.single_blocks.iter().enumerate() {
            if !input.skip.single.contains(&at) {
                x = block.forward(x, &step(3 * at), &rotation, heads)?;
            }
        }
        let patches = x.dims()[1] - words;
        let last = 3 * single + 12 * depth;
        let x =
            modulated_norm(x.narrow(1, words, patches), vector(last), vector(last + 1), EPSILON);
        let x = self.last.tokens_to(x, self.config.out_channels)?;
        Ok(unpack(x, height, width))
    }
}

fn check(config: &ChromaConfig) -> Result<Axes, ModelError> {
    let ChromaConfig { in_channels, out_channels, width, heads, .. } = *config;
    let reason = if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
        format!("a width of {width} does not divide into {heads} heads")
    } else if let Some(channels) =
        [in_channels, out_channels].iter().find(|n| **n == 0 || !n.is_multiple_of(AREA))
    {
        format!("{channels} channels of a patch are not those of {AREA} latent pixels")
    } else {
        return Axes::of(width / heads);
    };
    Err(ModelError::Config { model: MODEL, reason })
}
