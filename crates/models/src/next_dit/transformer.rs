//! The whole transformer.

use distorch_checkpoint::config::NextDitConfig;
use distorch_runtime::kernels::{Rotation, modulated_norm};
use distorch_runtime::tensor::ops::activation::silu;
use distorch_runtime::{DType, LayerHandle, Scope, Tensor};

use super::MODEL;
use super::block::{Block, EPSILON};
use super::patches::{grid, pack, unpack};
use crate::ModelError;
use crate::layers::{Linear, RmsNorm};
use crate::network::{Network, NetworkInput};
use crate::rope;
use crate::timestep::{Mlp, timestep_embedding};

/// Features of the embedding of the time.
const FREQUENCIES: usize = 256;

/// What the time, from 0 (noise) to 1 (clean), is multiplied with before it is embedded.
const TIME_FACTOR: f64 = 1000.0;

/// Tokens of picture and of text come in multiples of this.
const MULTIPLE: usize = 32;

/// The longest period of the rotation.
const THETA: f64 = 256.0;

/// What the last norm adds to the variance.
const LAST_EPSILON: f64 = 1e-6;

/// Z-Image's transformer: predicts the velocity of a rectified flow.
///
/// A token has three ids: an index, which counts the text's tokens from 1 on and is the next one for all of the picture,
/// a row and a column.
pub struct NextDit {
    config: NextDitConfig,
    axes: [usize; 3],
    time: Mlp,
    patches: Linear,
    patch_padding: LayerHandle,
    noise_refiner: Vec<Block>,
    caption_norm: RmsNorm,
    caption: Linear,
    caption_padding: LayerHandle,
    context_refiner: Vec<Block>,
    layers: Vec<Block>,
    last_modulation: Linear,
    last: Linear,
}

impl NextDit {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &NextDitConfig) -> Result<Self, ModelError> {
        let axes = check(config)?;
        let blocks = |list: &str, count: usize, is_modulated| {
            let list = scope.at(list);
            let block = |at| Block::load(&list.at(at), config, is_modulated);
            (0..count).map(block).collect::<Result<Vec<_>, _>>()
        };
        let caption = scope.at("cap_embedder");
        let last = scope.at("final_layer");
        Ok(Self {
            axes,
            time: Mlp::load(&scope.at("t_embedder.mlp"))?,
            patches: Linear::load(scope, "x_embedder")?,
            patch_padding: scope.layer("x_pad_token")?,
            noise_refiner: blocks("noise_refiner", config.refiner_depth, true)?,
            caption_norm: RmsNorm::load(&caption, "0", EPSILON)?,
            caption: Linear::load(&caption, "1")?,
            caption_padding: scope.layer("cap_pad_token")?,
            context_refiner: blocks("context_refiner", config.refiner_depth, false)?,
            layers: blocks("layers", config.depth, true)?,
            last_modulation: Linear::load(&last, "adaLN_modulation.1")?,
            last: Linear::load(&last, "linear")?,
            config: config.clone(),
        })
    }

    fn check_inputs(&self, input: &NetworkInput) -> Result<(), ModelError> {
        let NextDitConfig { in_channels, context_dim, .. } = self.config;
        let [batch, channels, height, width] = input.x.dims();
        let pixels = if height * width == 0 { "no pixels" } else { "pixels" };
        ModelError::expect(MODEL, "latent", &(in_channels, "pixels"), &(channels, pixels))?;
        ModelError::expect(MODEL, "timesteps", &[batch], &input.timesteps.dims())?;
        let [rows, tokens, dim] = input.context.dims();
        let expected = [batch, tokens.max(1), context_dim];
        ModelError::expect(MODEL, "context", &expected, &[rows, tokens, dim])
    }

    fn rotation(&self, ids: &[[usize; 3]]) -> Rotation {
        rope::rotation(self.axes, THETA, ids)
    }

    /// Tokens up to a multiple of [`MULTIPLE`], with a learned one behind; it takes part in all attention.
    fn padded(
        &self,
        x: Tensor<3>,
        token: &LayerHandle,
        name: &str,
    ) -> Result<Tensor<3>, ModelError> {
        let [batch, tokens, width] = x.dims();
        let missing = tokens.next_multiple_of(MULTIPLE) - tokens;
        if missing == 0 {
            return Ok(x);
        }
        let params = token.fetch()?;
        let token: Tensor<2> = params.get(name)?;
        if token.dims() != [1, width] {
            return Err(ModelError::Layer {
                layer: params.layer().to_owned(),
                expected: format!("a token of {width} features"),
                found: format!("{:?}", token.dims()),
            });
        }
        let padding = token.cast(x.dtype()).reshape([1, 1, width]);
        Ok(Tensor::cat(vec![x, padding.expand([batch, missing, width])], 1))
    }
}

impl Network for NextDit {
    /// - `x`: `[batch, in_channels, height, width]`, of any size
    /// - `timesteps`: from 0 (clean) to 1 (noise)
    /// - `context`: the states of the prompt's tokens, without padding
    ///
    /// Nothing else is read.
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        self.check_inputs(&input)?;
        let NetworkInput { x, timesteps, context, .. } = input;
        let (dtype, side, model_width) = (x.dtype(), self.config.patch_size, self.config.width);
        let [batch, _, height, width] = x.dims();
        let [rows, columns] = grid(height, width, side);
        let (patches, words) = (rows * columns, context.dims()[1]);
        let words_padded = words.next_multiple_of(MULTIPLE);

        let time = (timesteps.cast(DType::F32) * -1.0 + 1.0) * TIME_FACTOR;
        let time = self.time.forward(timestep_embedding(time, FREQUENCIES).cast(dtype))?;
        let place = |row| (0..columns).map(move |column| [words_padded + 1, row, column]);
        let mut places: Vec<_> = (0..rows).flat_map(place).collect();
        // Padding of the picture is nowhere, that of the text goes on behind it.
        places.resize(patches.next_multiple_of(MULTIPLE), [0; 3]);
        let words_places: Vec<_> = (1..=words_padded).map(|at| [at, 0, 0]).collect();

        let mut picture = self.patches.tokens_to(pack(x, side), model_width)?;
        picture = self.padded(picture, &self.patch_padding, "x_pad_token")?;
        let rotation = self.rotation(&places);
        for block in &self.noise_refiner {
            picture = block.forward(picture, &time, &rotation)?;
        }
        let text = self.caption_norm.forward(context)?.cast(dtype);
        let mut text = self.caption.tokens_to(text, model_width)?;
        text = self.padded(text, &self.caption_padding, "cap_pad_token")?;
        let rotation = self.rotation(&words_places);
        for block in &self.context_refiner {
            text = block.forward(text, &time, &rotation)?;
        }
        places.extend(words_places);
        let rotation = self.rotation(&places);
        let mut x = Tensor::cat(vec![picture, text], 1);
        for block in &self.layers {
            x = block.forward(x, &time, &rotation)?;
        }
        let scale = self.last_modulation.forward_to(silu(time), model_width)?;
        let shift = Tensor::zeros([batch, model_width], (&scale.device(), scale.dtype()));
        let x = modulated_norm(x.narrow(1, 0, patches), shift, scale, LAST_EPSILON);
        let features = side * side * self.config.out_channels;
        // It predicts the way from noise to picture.
        Ok(unpack(self.last.tokens_to(x, features)?, height, width, side) * -1.0)
    }
}

/// The features of a head that each id turns: index a quarter, row and column the rest, 32, 48 and 48 of the published 128.
fn check(config: &NextDitConfig) -> Result<[usize; 3], ModelError> {
    let NextDitConfig { in_channels, out_channels, patch_size, width, heads, .. } = *config;
    let head = width.checked_div(heads).unwrap_or(0);
    let place = 2 * (3 * head / 16);
    let reason = if head == 0 || head * heads != width {
        format!("a width of {width} does not divide into {heads} heads")
    } else if !head.is_multiple_of(2) {
        format!("heads of {head} features cannot turn in pairs")
    } else if patch_size == 0 || in_channels == 0 || out_channels == 0 {
        format!("patches of {patch_size} with {in_channels} channels in, {out_channels} out")
    } else {
        return Ok([head - 2 * place, place, place]);
    };
    Err(ModelError::Config { model: MODEL, reason })
}
