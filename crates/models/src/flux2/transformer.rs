//! The whole transformer.

use distorch_checkpoint::config::Flux2Config;
use distorch_runtime::kernels::{modulated_norm, silu};
use distorch_runtime::{DType, Scope, Tensor};

use super::MODEL;
use super::block::{DoubleBlock, EPSILON, SingleBlock, Step};
use crate::ModelError;
use crate::layers::Linear;
use crate::network::{Network, NetworkInput};
use crate::rope;
use crate::timestep::timestep_embedding;

/// Features of the embedding of time and guidance.
const FREQUENCIES: usize = 256;

/// What time, from 0 to 1, and guidance are multiplied with before they are embedded.
const TIME_FACTOR: f64 = 1000.0;

/// The longest period of the rotation.
const THETA: f64 = 2000.0;

/// How far the indices of reference latents are apart.
const REFERENCE_INDEX: usize = 10;

/// A Flux.2 transformer: predicts the velocity of a rectified flow.
///
/// A token has four ids, which turn as many features of a head each: an index, a row, a column and the place in the text.
/// Text has only the last one; a latent's pixels have row and column, those of reference latents an index besides: 10,
/// 20, ….
pub struct Flux2Transformer {
    config: Flux2Config,
    axes: [usize; 4],
    img_in: Linear,
    time_in: Embedder,
    guidance_in: Option<Embedder>,
    /// Of the picture's stream, of the text's, and of single blocks.
    modulations: [Linear; 3],
    txt_in: Linear,
    double_blocks: Vec<DoubleBlock>,
    single_blocks: Vec<SingleBlock>,
    last_modulation: Linear,
    last: Linear,
}

impl Flux2Transformer {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &Flux2Config) -> Result<Self, ModelError> {
        let axes = check(config)?;
        let (double, single) = (scope.at("double_blocks"), scope.at("single_blocks"));
        Ok(Self {
            axes,
            img_in: Linear::load(scope, "img_in")?,
            time_in: Embedder::load(&scope.at("time_in"))?,
            guidance_in: match config.guidance_embed {
                true => Some(Embedder::load(&scope.at("guidance_in"))?),
                false => None,
            },
            modulations: [
                Linear::load(scope, "double_stream_modulation_img.lin")?,
                Linear::load(scope, "double_stream_modulation_txt.lin")?,
                Linear::load(scope, "single_stream_modulation.lin")?,
            ],
            txt_in: Linear::load(scope, "txt_in")?,
            double_blocks: (0..config.depth)
                .map(|at| DoubleBlock::load(&double.at(at), config.heads))
                .collect::<Result<_, _>>()?,
            single_blocks: (0..config.depth_single)
                .map(|at| SingleBlock::load(&single.at(at), config.heads, config.mlp_width))
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
        if let (Some(guidance_in), Some(guidance)) = (&self.guidance_in, &input.guidance) {
            vector = vector + guidance_in.forward(embed(guidance))?;
        }
        Ok(silu(vector))
    }

    fn check_inputs(&self, input: &NetworkInput) -> Result<(), ModelError> {
        let Flux2Config { in_channels, context_dim, .. } = self.config;
        input.expect_latents(MODEL, in_channels)?;
        input.expect_timesteps(MODEL)?;
        if let Some(guidance) = &input.guidance {
            let batch = input.x.dims()[0];
            ModelError::expect(MODEL, "guidance", &[batch], &guidance.dims())?;
        }
        input.expect_context(MODEL, context_dim)
    }
}

impl Network for Flux2Transformer {
    /// - `x`: `[batch, in_channels, height, width]`, of any size: latents as Flux.2's autoencoder packs them
    /// - `timesteps`: from 0 (clean) to 1 (noise)
    /// - `guidance`: read where the model was distilled with it; without it, nothing stands for it
    /// - `reference_latents`: in batches of one or of `x`; each has an index of its own, whatever the method
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        self.check_inputs(&input)?;
        if !input.reference_latents.is_empty() {
            input.reference_method.check_one_time(MODEL)?;
        }
        let dtype = input.x.dtype();
        let [batch, _, height, width] = input.x.dims();
        let words = input.context.dims()[1];
        let mut places: Vec<_> = (0..words).map(|at| [0, 0, 0, at]).collect();
        let mut tokens = Vec::with_capacity(1 + input.reference_latents.len());
        for (at, latent) in std::iter::once(&input.x).chain(&input.reference_latents).enumerate() {
            let [rows, channels, height, width] = latent.dims();
            let latent = latent.clone().cast(dtype);
            let latent = if rows == batch { latent } else { latent.repeat_dim(0, batch) };
            tokens.push(latent.reshape([batch, channels, height * width]).swap_dims(1, 2));
            let index = at * REFERENCE_INDEX;
            let row = |row| (0..width).map(move |column| [index, row, column, 0]);
            places.extend((0..height).flat_map(row));
        }
        let rotation = rope::rotation(self.axes, THETA, &places);
        let tokens = if tokens.len() == 1 { tokens.remove(0) } else { Tensor::cat(tokens, 1) };

        let picture = self.img_in.tokens_to(tokens, self.config.width)?;
        let vector = self.vector(&input, dtype)?;
        let [of_picture, of_text, of_both] = &self.modulations;
        let of_picture = Step::all::<2>(of_picture, &vector)?;
        let of_text = Step::all::<2>(of_text, &vector)?;
        let [of_both] = Step::all::<1>(of_both, &vector)?;
        let text = self.txt_in.tokens_to(input.context.cast(dtype), self.config.width)?;
        let mut streams = [text, picture];
        for (at, block) in self.double_blocks.iter().enumerate() {
            if !input.skip.double.contains(&at) {
                streams = block.forward(streams, [&of_text, &of_picture], &rotation)?;
            }
        }
        let mut x = Tensor::cat(streams.into(), 1);
        for (at, block) in self.single_blocks.iter().enumerate() {
            if !input.skip.single.contains(&at) {
                x = block.forward(x, &of_both, &rotation)?;
            }
        }
        // Neither the text nor the references are predicted.
        let x = x.narrow(1, words, height * width);
        let features = self.config.width;
        let all = self.last_modulation.forward_to(vector, 2 * features)?;
        let (shift, scale) =
            (all.clone().narrow(1, 0, features), all.narrow(1, features, features));
        let x = self
            .last
            .tokens_to(modulated_norm(x, shift, scale, EPSILON), self.config.out_channels)?;
        Ok(x.swap_dims(1, 2).reshape([batch, self.config.out_channels, height, width]))
    }
}

/// The features of a head that each id turns, a quarter each.
fn check(config: &Flux2Config) -> Result<[usize; 4], ModelError> {
    let Flux2Config { in_channels, out_channels, width, heads, .. } = *config;
    let head = width.checked_div(heads).unwrap_or(0);
    let reason = if head == 0 || head * heads != width {
        format!("a width of {width} does not divide into {heads} heads")
    } else if !head.is_multiple_of(8) {
        format!("heads of {head} features cannot turn in pairs by four ids")
    } else if in_channels == 0 || out_channels == 0 {
        format!("{in_channels} channels in, {out_channels} out")
    } else {
        return Ok([head / 4; 4]);
    };
    Err(ModelError::Config { model: MODEL, reason })
}

/// Two linear layers with SiLU between, from an embedding to the vector.
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
