//! The whole transformer.

use distorch_checkpoint::config::NextDitConfig;
use distorch_runtime::kernels::{Rotation, modulated_norm, silu};
use distorch_runtime::{DType, LayerHandle, Scope, Tensor};

use super::block::{Block, EPSILON};
use super::patches::{grid, pack, unpack};
use super::rules::{Rules, rules};
use crate::ModelError;
use crate::layers::{Linear, RmsNorm};
use crate::network::{Network, NetworkInput};
use crate::rope;
use crate::timestep::{Mlp, timestep_embedding};

/// Features of the embedding of the time.
const FREQUENCIES: usize = 256;

/// What the last norm adds to the variance.
const LAST_EPSILON: f64 = 1e-6;

/// The transformer: predicts the velocity of a rectified flow.
///
/// A token has three ids: an index, which counts the text's tokens from 1 on and is the next one for all of the picture,
/// a row and a column.
pub struct NextDit {
    config: NextDitConfig,
    rules: Rules,
    axes: [usize; 3],
    time: Mlp,
    patches: Linear,
    patch_padding: Option<LayerHandle>,
    noise_refiner: Vec<Block>,
    caption_norm: RmsNorm,
    caption: Linear,
    caption_padding: Option<LayerHandle>,
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
        let rules = rules(config.kind);
        let axes = check(config, rules)?;
        let padding = |name: &str| (rules.multiple > 1).then(|| scope.layer(name)).transpose();
        let blocks = |list: &str, count: usize, is_modulated| {
            let list = scope.at(list);
            let block = |at| Block::load(&list.at(at), config, is_modulated);
            (0..count).map(block).collect::<Result<Vec<_>, _>>()
        };
        let caption = scope.at("cap_embedder");
        let last = scope.at("final_layer");
        Ok(Self {
            rules,
            axes,
            time: Mlp::load(&scope.at("t_embedder.mlp"))?,
            patches: Linear::load(scope, "x_embedder")?,
            patch_padding: padding("x_pad_token")?,
            noise_refiner: blocks("noise_refiner", config.refiner_depth, true)?,
            caption_norm: RmsNorm::load(&caption, "0", EPSILON)?,
            caption: Linear::load(&caption, "1")?,
            caption_padding: padding("cap_pad_token")?,
            context_refiner: blocks("context_refiner", config.refiner_depth, false)?,
            layers: blocks("layers", config.depth, true)?,
            last_modulation: Linear::load(&last, "adaLN_modulation.1")?,
            last: Linear::load(&last, "linear")?,
            config: config.clone(),
        })
    }

    fn check_inputs(&self, input: &NetworkInput) -> Result<(), ModelError> {
        let NextDitConfig { in_channels, context_dim, .. } = self.config;
        let model = self.rules.model;
        input.expect_latent(model, in_channels)?;
        input.expect_timesteps(model)?;
        input.expect_context(model, context_dim)
    }

    fn rotation(&self, ids: &[[usize; 3]]) -> Rotation {
        rope::rotation(self.axes, self.rules.theta, ids)
    }

    /// Tokens up to a multiple of the model's, with a learned one behind; it takes part in all attention.
    fn padded(
        &self,
        x: Tensor<3>,
        token: Option<&LayerHandle>,
        name: &str,
    ) -> Result<Tensor<3>, ModelError> {
        let [batch, tokens, width] = x.dims();
        let missing = tokens.next_multiple_of(self.rules.multiple) - tokens;
        let Some(token) = token.filter(|_| missing > 0) else { return Ok(x) };
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
        let Rules { multiple, time_factor, activates_time, .. } = self.rules;
        let words_padded = words.next_multiple_of(multiple);

        let time = (timesteps.cast(DType::F32) * -1.0 + 1.0) * time_factor;
        let time = self.time.forward(timestep_embedding(time, FREQUENCIES).cast(dtype))?;
        let activated = silu(time.clone());
        let given = if activates_time { &activated } else { &time };
        let place = |row| (0..columns).map(move |column| [words_padded + 1, row, column]);
        let mut places: Vec<_> = (0..rows).flat_map(place).collect();
        // Padding of the picture is nowhere, that of the text goes on behind it.
        places.resize(patches.next_multiple_of(multiple), [0; 3]);
        let words_places: Vec<_> = (1..=words_padded).map(|at| [at, 0, 0]).collect();

        let mut picture = self.patches.tokens_to(pack(x, side), model_width)?;
        picture = self.padded(picture, self.patch_padding.as_ref(), "x_pad_token")?;
        let rotation = self.rotation(&places);
        for block in &self.noise_refiner {
            picture = block.forward(picture, given, &rotation)?;
        }
        let text = self.caption_norm.forward(context)?.cast(dtype);
        let mut text = self.caption.tokens_to(text, model_width)?;
        text = self.padded(text, self.caption_padding.as_ref(), "cap_pad_token")?;
        let rotation = self.rotation(&words_places);
        for block in &self.context_refiner {
            text = block.forward(text, given, &rotation)?;
        }
        places.extend(words_places);
        let rotation = self.rotation(&places);
        let mut x = Tensor::cat(vec![picture, text], 1);
        for block in &self.layers {
            x = block.forward(x, given, &rotation)?;
        }
        let scale = self.last_modulation.forward_to(activated, model_width)?;
        let shift = Tensor::zeros([batch, model_width], (&scale.device(), scale.dtype()));
        let x = modulated_norm(x.narrow(1, 0, patches), shift, scale, LAST_EPSILON);
        let features = side * side * self.config.out_channels;
        // It predicts the way from noise to picture.
        Ok(unpack(self.last.tokens_to(x, features)?, height, width, side) * -1.0)
    }
}

/// The features of a head that index, row and column turn: 32 each of the published 96 of Lumina 2, a quarter and the rest in
/// halves with Z-Image, 32, 48 and 48 of the published 128.
fn check(config: &NextDitConfig, rules: Rules) -> Result<[usize; 3], ModelError> {
    let NextDitConfig { in_channels, out_channels, patch_size, width, heads, kv_heads, .. } =
        *config;
    let head = width.checked_div(heads).unwrap_or(0);
    let (part, of) = rules.place;
    let place = 2 * (part * head / (2 * of));
    let reason = if head == 0 || head * heads != width {
        format!("a width of {width} does not divide into {heads} heads")
    } else if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        format!("{heads} heads of queries do not share {kv_heads} of keys")
    } else if !head.is_multiple_of(2) {
        format!("heads of {head} features cannot turn in pairs")
    } else if patch_size == 0 || in_channels == 0 || out_channels == 0 {
        format!("patches of {patch_size} with {in_channels} channels in, {out_channels} out")
    } else {
        return Ok([head - 2 * place, place, place]);
    };
    Err(ModelError::Config { model: rules.model, reason })
}
