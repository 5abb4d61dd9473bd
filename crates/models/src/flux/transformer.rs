//! The whole transformer.

use distorch_checkpoint::config::FluxConfig;
use distorch_runtime::kernels::silu;
use distorch_runtime::{DType, Scope, Tensor};

use super::double::{ModulatedDoubleBlock, Streams};
use super::modulation::last_norm;
use super::patches::{AREA, pack, unpack};
use super::rope::{Axes, ids};
use super::single::ModulatedSingleBlock;
use crate::ModelError;
use crate::layers::Linear;
use crate::network::{Network, NetworkInput};
use crate::timestep::timestep_embedding;

const MODEL: &str = "Flux transformer";

/// Features of the embedding of time and guidance.
const FREQUENCIES: usize = 256;

/// What time, from 0 to 1, and guidance are multiplied with before they are embedded.
const TIME_FACTOR: f64 = 1000.0;

/// A Flux transformer: predicts the velocity of a rectified flow.
pub struct FluxTransformer {
    config: FluxConfig,
    axes: Axes,
    img_in: Linear,
    time_in: Embedder,
    vector_in: Embedder,
    guidance_in: Option<Embedder>,
    txt_in: Linear,
    double_blocks: Vec<ModulatedDoubleBlock>,
    single_blocks: Vec<ModulatedSingleBlock>,
    last_modulation: Linear,
    last: Linear,
}

impl FluxTransformer {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &FluxConfig) -> Result<Self, ModelError> {
        let axes = check(config)?;
        let guidance_in = match config.guidance_embed {
            true => Some(Embedder::load(&scope.at("guidance_in"))?),
            false => None,
        };
        let (double, single) = (scope.at("double_blocks"), scope.at("single_blocks"));
        Ok(Self {
            axes,
            img_in: Linear::load(scope, "img_in")?,
            time_in: Embedder::load(&scope.at("time_in"))?,
            vector_in: Embedder::load(&scope.at("vector_in"))?,
            guidance_in,
            txt_in: Linear::load(scope, "txt_in")?,
            double_blocks: (0..config.depth)
                .map(|at| ModulatedDoubleBlock::load(&double.at(at)))
                .collect::<Result<_, _>>()?,
            single_blocks: (0..config.depth_single)
                .map(|at| ModulatedSingleBlock::load(&single.at(at), config.mlp_width))
                .collect::<Result<_, _>>()?,
            last_modulation: Linear::load(scope, "final_layer.adaLN_modulation.1")?,
            last: Linear::load(scope, "final_layer.linear")?,
            config: config.clone(),
        })
    }

    /// The vector that modulates the blocks, activated as each of them reads it.
    fn vector(&self, input: &NetworkInput, dtype: DType) -> Result<Tensor<2>, ModelError> {
        let embed = |values: &Tensor<1>| {
            let values = values.clone().cast(DType::F32) * TIME_FACTOR;
            timestep_embedding(values, FREQUENCIES).cast(dtype)
        };
        let mut vector = self.time_in.forward(embed(&input.timesteps))?;
        let pooled = match &input.vector {
            Some(pooled) => pooled.clone().cast(dtype),
            None => {
                let shape = [input.x.dims()[0], self.config.vec_dim];
                Tensor::zeros(shape, (&input.x.device(), dtype))
            }
        };
        vector = vector + self.vector_in.forward(pooled)?;
        if let (Some(guidance_in), Some(guidance)) = (&self.guidance_in, &input.guidance) {
            vector = vector + guidance_in.forward(embed(guidance))?;
        }
        Ok(silu(vector))
    }

    fn check_inputs(&self, input: &NetworkInput) -> Result<(), ModelError> {
        let FluxConfig { in_channels, context_dim, vec_dim, .. } = self.config;
        let channels = in_channels / AREA;
        input.expect_latent(MODEL, channels)?;
        input.expect_timesteps(MODEL)?;
        input.expect_context(MODEL, context_dim)?;
        let batch = input.x.dims()[0];
        if let Some(vector) = &input.vector {
            ModelError::expect(MODEL, "pooled vector", &[batch, vec_dim], &vector.dims())?;
        }
        if let Some(guidance) = &input.guidance {
            ModelError::expect(MODEL, "guidance", &[batch], &guidance.dims())?;
        }
        input.expect_references(MODEL, channels)
    }
}

impl Network for FluxTransformer {
    /// - `x`: `[batch, in_channels / 4, height, width]`, of any size; for Fill the latent, the masked picture's latent and
    ///   the mask's 64 channels, for Canny and Depth the latent and the control picture's
    /// - `timesteps`: from 0 (clean) to 1 (noise)
    /// - `vector`: the pooled text; without it, zeros
    /// - `guidance`: read where the model was distilled with it; without it, nothing stands for it
    /// - `reference_latents`: in batches of one or of `x`
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        self.check_inputs(&input)?;
        let (dtype, heads) = (input.x.dtype(), self.config.heads);
        let [batch, _, height, width] = input.x.dims();
        let size = |x: &Tensor<4>| [x.dims()[2], x.dims()[3]];
        let sizes: Vec<_> = input.reference_latents.iter().map(size).collect();
        let words = input.context.dims()[1];
        if !input.reference_latents.is_empty() {
            input.reference_method.check_one_time(MODEL)?;
        }
        let places = ids(words, [height, width], &sizes, input.reference_method);
        let rotation = self.axes.rotation(&places);

        let mut tokens = vec![pack(input.x.clone())];
        let patches = tokens[0].dims()[1];
        for reference in &input.reference_latents {
            let [rows, _, _, _] = reference.dims();
            let repeated = if rows == batch { 1 } else { batch };
            tokens.push(pack(reference.clone().cast(dtype).repeat_dim(0, repeated)));
        }
        let tokens = if tokens.len() == 1 { tokens.remove(0) } else { Tensor::cat(tokens, 1) };

        let picture = self.img_in.tokens(tokens)?;
        let vector = self.vector(&input, dtype)?;
        let text = self.txt_in.tokens(input.context.clone().cast(dtype))?;
        let mut streams = Streams { picture, text };
        for (at, block) in self.double_blocks.iter().enumerate() {
            if !input.skip.double.contains(&at) {
                streams = block.forward(streams, &vector, &rotation, heads)?;
            }
        }
        let Streams { picture, text } = streams;
        let mut x = Tensor::cat(vec![text, picture], 1);
        for (at, block) in self.single_blocks.iter().enumerate() {
            if !input.skip.single.contains(&at) {
                x = block.forward(x, &vector, &rotation, heads)?;
            }
        }
        // Neither the text nor the references are predicted.
        let x = last_norm(&self.last_modulation, x.narrow(1, words, patches), &vector)?;
        Ok(unpack(self.last.tokens(x)?, height, width))
    }
}

fn check(config: &FluxConfig) -> Result<Axes, ModelError> {
    let FluxConfig { in_channels, out_channels, width, heads, .. } = *config;
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

/// Two linear layers with SiLU between, from an embedding or the pooled text to the vector.
struct Embedder {
    first: Linear,
    second: Linear,
}

impl Embedder {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        let (first, second) = (Linear::load(scope, "in_layer")?, Linear::load(scope, "out_layer")?);
        Ok(Self { first, second })
    }

    fn forward(&self, x: Tensor<2>) -> Result<Tensor<2>, ModelError> {
        self.second.forward(silu(self.first.forward(x)?))
    }
}
