//! The whole transformer.

use distorch_checkpoint::config::Krea2Config;
use distorch_runtime::kernels::gelu_tanh;
use distorch_runtime::{DType, LayerHandle, Scope, Tensor};

use super::MODEL;
use super::block::{Block, EPSILON, Sizes, TextBlock, modulated};
use crate::ModelError;
use crate::flux::blocks::{AREA, pack, unpack};
use crate::layers::{Linear, RmsNorm};
use crate::network::{Network, NetworkInput, ReferenceMethod};
use crate::rope;
use crate::timestep::timestep_embedding;

/// What the time, from 0 (clean) to 1 (noise), is multiplied with before it is embedded.
const TIME_FACTOR: f64 = 1000.0;

/// The longest period of the rotation.
const THETA: f64 = 1000.0;

/// Krea 2's transformer: predicts the velocity of a rectified flow.
///
/// A token has three ids: an index, which is 0 but for references, a row and a column. Those of the text are all 0.
pub struct Krea2Transformer {
    config: Krea2Config,
    axes: [usize; 3],
    time: [Linear; 2],
    modulation: Linear,
    layerwise: Vec<TextBlock>,
    /// From the layers of a token to one.
    projector: Linear,
    refiner: Vec<TextBlock>,
    text_norm: RmsNorm,
    text: [Linear; 2],
    first: Linear,
    blocks: Vec<Block>,
    last_modulation: LayerHandle,
    last_norm: RmsNorm,
    last: Linear,
}

impl Krea2Transformer {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &Krea2Config) -> Result<Self, ModelError> {
        let axes = check(config)?;
        let Krea2Config { width, heads, kv_heads, .. } = *config;
        let sizes = Sizes { width, heads, kv_heads };
        let of_text = Sizes {
            width: config.text_width,
            heads: config.text_heads,
            kv_heads: config.text_kv_heads,
        };
        let (fusion, blocks) = (scope.at("txtfusion"), scope.at("blocks"));
        let text_blocks = |list: &str, count: usize| {
            let list = fusion.at(list);
            let block = |at| TextBlock::load(&list.at(at), of_text);
            (0..count).map(block).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            axes,
            time: [Linear::load(scope, "tmlp.0")?, Linear::load(scope, "tmlp.2")?],
            modulation: Linear::load(scope, "tproj.1")?,
            layerwise: text_blocks("layerwise_blocks", config.layerwise_depth)?,
            projector: Linear::load(&fusion, "projector")?,
            refiner: text_blocks("refiner_blocks", config.refiner_depth)?,
            text_norm: RmsNorm::load_around_one(scope, "txtmlp.0", EPSILON)?,
            text: [Linear::load(scope, "txtmlp.1")?, Linear::load(scope, "txtmlp.3")?],
            first: Linear::load(scope, "first")?,
            blocks: (0..config.depth)
                .map(|at| Block::load(&blocks.at(at), sizes))
                .collect::<Result<_, _>>()?,
            last_modulation: scope.layer("last.modulation.lin")?,
            last_norm: RmsNorm::load_around_one(scope, "last.norm", EPSILON)?,
            last: Linear::load(scope, "last.linear")?,
            config: config.clone(),
        })
    }

    fn check_inputs(&self, input: &NetworkInput) -> Result<(), ModelError> {
        let Krea2Config { in_channels, text_width, text_layers, .. } = self.config;
        input.expect_latent(MODEL, in_channels)?;
        if input.reference_method != ReferenceMethod::Own {
            input.expect_references(MODEL, in_channels)?;
        }
        input.expect_timesteps(MODEL)?;
        input.expect_context(MODEL, text_layers * text_width)
    }

    /// The embedding of times, `[batch, width]`.
    fn time(&self, timesteps: Tensor<1>, dtype: DType) -> Result<Tensor<2>, ModelError> {
        let width = self.config.width;
        let time = timestep_embedding(timesteps * TIME_FACTOR, self.config.time_frequencies);
        let [first, second] = &self.time;
        second.forward_to(gelu_tanh(first.forward_to(time.cast(dtype), width)?), width)
    }

    /// One state a token of the states of several layers: `[batch, tokens, layers × width of the text]` to
    /// `[batch, tokens, width]`.
    fn fuse(&self, context: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let Krea2Config { width, text_width, text_layers, .. } = self.config;
        let [batch, tokens, _] = context.dims();
        let mut x = context.reshape([batch * tokens, text_layers, text_width]);
        for block in &self.layerwise {
            x = block.forward(x)?;
        }
        let x = self.projector.tokens_to(x.swap_dims(1, 2), 1)?;
        let mut x = x.reshape([batch, tokens, text_width]);
        for block in &self.refiner {
            x = block.forward(x)?;
        }
        let [first, second] = &self.text;
        let x = first.tokens_to(self.text_norm.forward(x)?, width)?;
        second.tokens_to(gelu_tanh(x), width)
    }
}

impl Network for Krea2Transformer {
    /// - `x`: `[batch, in_channels, height, width]`, of any size
    /// - `timesteps`: from 0 (clean) to 1 (noise)
    /// - `context`: of each of the prompt's tokens the states of all layers that are read, without padding
    /// - `reference_latents`: in batches of one or of `x`, each with an index of its own; read only where a method says where
    ///   they are, whichever it is
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        self.check_inputs(&input)?;
        let NetworkInput { x, timesteps, context, reference_method, mut reference_latents, .. } =
            input;
        if reference_method == ReferenceMethod::Own {
            reference_latents.clear();
        }
        let (dtype, model_width) = (x.dtype(), self.config.width);
        let [batch, _, height, width] = x.dims();

        let clean = timesteps.zeros_like();
        let time = self.time(timesteps, dtype)?;
        let shared = |time: Tensor<2>| self.modulation.forward_to(gelu_tanh(time), 6 * model_width);
        let of_picture = shared(time.clone())?;

        let text = self.fuse(context.cast(dtype))?;
        let words = text.dims()[1];
        let mut places = vec![[0; 3]; words];
        let mut tokens = Vec::with_capacity(1 + reference_latents.len());
        for (index, latent) in std::iter::once(x).chain(reference_latents).enumerate() {
            let [rows, _, _, width] = latent.dims();
            let latent = latent.cast(dtype);
            let latent = if rows == batch { latent } else { latent.repeat_dim(0, batch) };
            let latent = pack(latent);
            let columns = width.div_ceil(self.config.patch_size).max(1);
            let patches = latent.dims()[1];
            places.extend((0..patches).map(|at| [index, at / columns, at % columns]));
            tokens.push(latent);
        }
        let rotation = rope::rotation(self.axes, THETA, &places);
        let patches = tokens.first().map_or(0, |tokens| tokens.dims()[1]);
        let tokens = if tokens.len() == 1 { tokens.remove(0) } else { Tensor::cat(tokens, 1) };
        let all = words + tokens.dims()[1];
        let mut modulations = vec![(words + patches, of_picture)];
        match all - words - patches {
            0 => {}
            more if reference_method == ReferenceMethod::IndexAtZero => {
                modulations.push((more, shared(self.time(clean, dtype)?)?));
            }
            more => modulations.iter_mut().for_each(|(count, _)| *count += more),
        }
        let picture = self.first.tokens_to(tokens, model_width)?;
        let mut x = Tensor::cat(vec![text, picture], 1);
        for block in &self.blocks {
            x = block.forward(x, &modulations, &rotation)?;
        }

        let params = self.last_modulation.fetch()?;
        let own: Tensor<2> = params.get("lin")?;
        ModelError::expect(MODEL, "last modulation", &[2, model_width], &own.dims())?;
        let own = own.cast(dtype);
        let part = |at: usize| time.clone() + own.clone().narrow(0, at, 1);
        let x = self.last_norm.forward(x.narrow(1, words, patches))?;
        let x = modulated(x, part(0), part(1));
        let features = AREA * self.config.out_channels;
        Ok(unpack(self.last.tokens_to(x, features)?, height, width))
    }
}

/// The features of a head that each id turns: index a quarter, row and column the rest, 32, 48 and 48 of the published 128.
fn check(config: &Krea2Config) -> Result<[usize; 3], ModelError> {
    let Krea2Config { in_channels, out_channels, patch_size, width, heads, kv_heads, .. } = *config;
    let Krea2Config { text_width, text_layers, text_heads, text_kv_heads, .. } = *config;
    let head = width.checked_div(heads).unwrap_or(0);
    let text_head = text_width.checked_div(text_heads).unwrap_or(0);
    let place = 6 * (head / 16);
    let share = |heads: usize, shared: usize| shared > 0 && heads.is_multiple_of(shared);
    let reason = if head == 0 || head * heads != width {
        format!("a width of {width} does not divide into {heads} heads")
    } else if text_head == 0 || text_head * text_heads != text_width {
        format!("a text's width of {text_width} does not divide into {text_heads} heads")
    } else if !share(heads, kv_heads) || !share(text_heads, text_kv_heads) {
        format!("{heads} and {text_heads} heads do not share {kv_heads} and {text_kv_heads}")
    } else if !head.is_multiple_of(2) {
        format!("heads of {head} features cannot turn in pairs")
    } else if patch_size * patch_size != AREA || in_channels == 0 || out_channels == 0 {
        format!("patches of {patch_size} with {in_channels} channels in, {out_channels} out")
    } else if text_layers == 0 {
        "no layer of the text encoder is read".to_owned()
    } else {
        return Ok([head - 2 * place, place, place]);
    };
    Err(ModelError::Config { model: MODEL, reason })
}
