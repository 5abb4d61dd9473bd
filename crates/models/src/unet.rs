//! The UNet of latent diffusion (Rombach et al., <https://arxiv.org/abs/2112.10752>): SD 1.x, SD
//! 2.x and SDXL (Podell et al., <https://arxiv.org/abs/2307.01952>) differ in their configuration
//! only.

use distorch_checkpoint::config::UnetConfig;
use distorch_runtime::kernels::{self, Addend};
use distorch_runtime::tensor::ops;
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::freeu::FreeU;
use crate::layers::{Conv2d, GroupNorm, LayerNorm, Linear};
use crate::network::{Network, NetworkInput};
use crate::timestep::{Mlp, timestep_embedding};

/// Groups of every group normalisation.
const GROUPS: usize = 32;

/// A latent-diffusion UNet: predicts the noise (or velocity, or clean latent) in a noisy latent.
pub struct Unet {
    config: UnetConfig,
    time_embed: Mlp,
    label_embed: Option<Mlp>,
    input: Vec<Block>,
    middle: Block,
    output: Vec<Block>,
    out_norm: GroupNorm,
    out_conv: Conv2d,
    freeu: Vec<FreeU>,
}

impl Unet {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &UnetConfig) -> Result<Self, ModelError> {
        check(config)?;
        let label_embed = match config.adm_in_channels {
            Some(_) => Some(Mlp::load(&scope.at("label_emb.0"))?),
            None => None,
        };
        Ok(Self {
            time_embed: Mlp::load(&scope.at("time_embed"))?,
            label_embed,
            input: input_blocks(&scope.at("input_blocks"), config)?,
            middle: middle_block(&scope.at("middle_block"), config)?,
            output: output_blocks(&scope.at("output_blocks"), config)?,
            out_norm: GroupNorm::load(scope, "out.0", GROUPS, 1e-5)?,
            out_conv: Conv2d::load(scope, "out.2", 1, 1)?,
            config: config.clone(),
            freeu: Vec::new(),
        })
    }

    /// The same weights with FreeU where skip connections join, one after the other.
    #[must_use]
    pub fn with_freeu(self, freeu: Vec<FreeU>) -> Self {
        Self { freeu, ..self }
    }

    /// One evaluation.
    ///
    /// - `x`: the scaled noisy latent `[batch, in_channels, height, width]`, of any size
    /// - `timesteps`: `[batch]`, from 0 to 999; need not be whole
    /// - `context`: the text conditioning `[batch, tokens, context_dim]`
    /// - `y`: the class vector `[batch, adm_in_channels]`, for a model that takes one
    ///
    /// Gives `[batch, out_channels, height, width]` in the dtype of `x`.
    ///
    /// # Errors
    /// When an input has another shape, or weights cannot be fetched or do not fit.
    pub fn forward(
        &self,
        x: Tensor<4>,
        timesteps: Tensor<1>,
        context: Tensor<3>,
        y: Option<Tensor<2>>,
    ) -> Result<Tensor<4>, ModelError> {
        self.check_inputs(&x, &timesteps, &context, y.as_ref())?;
        let dtype = x.dtype();
        let context = context.cast(dtype);
        let emb = timestep_embedding(timesteps, self.config.model_channels).cast(dtype);
        let mut emb = self.time_embed.forward(emb)?;
        if let (Some(label_embed), Some(y)) = (&self.label_embed, y) {
            emb = emb + label_embed.forward(y.cast(dtype))?;
        }
        // Every residual block begins with this activation.
        let emb = kernels::silu(emb);

        let mut skips = Vec::with_capacity(self.input.len());
        let mut h = x;
        for block in &self.input {
            h = block.forward(h, &emb, &context, None)?;
            skips.push(h.clone());
        }
        h = self.middle.forward(h, &emb, &context, None)?;
        for block in &self.output {
            if let Some(mut skip) = skips.pop() {
                for freeu in &self.freeu {
                    (h, skip) = freeu.join(h, skip, self.config.model_channels);
                }
                h = kernels::join_channels(vec![h, skip]);
            }
            let size = skips.last().map(|skip| [skip.dims()[2], skip.dims()[3]]);
            h = block.forward(h, &emb, &context, size)?;
        }
        self.out_conv.forward(self.out_norm.forward_silu(h)?)
    }

    fn check_inputs(
        &self,
        x: &Tensor<4>,
        timesteps: &Tensor<1>,
        context: &Tensor<3>,
        y: Option<&Tensor<2>>,
    ) -> Result<(), ModelError> {
        let [batch, channels, height, width] = x.dims();
        let UnetConfig { in_channels, context_dim, adm_in_channels, .. } = self.config;
        let pixels = if height * width == 0 { "no pixels" } else { "pixels" };
        ModelError::expect("UNet", "latent", &(in_channels, "pixels"), &(channels, pixels))?;
        ModelError::expect("UNet", "timesteps", &[batch], &timesteps.dims())?;
        let [rows, tokens, dim] = context.dims();
        ModelError::expect(
            "UNet",
            "context",
            &[batch, tokens.max(1), context_dim],
            &[rows, tokens, dim],
        )?;
        let expected = adm_in_channels.map(|width| [batch, width]);
        ModelError::expect("UNet", "class vector", &expected, &y.map(|y| y.dims()))
    }
}

impl Network for Unet {
    fn forward(&self, input: NetworkInput) -> Result<Tensor<4>, ModelError> {
        self.forward(input.x, input.timesteps, input.context, input.vector)
    }
}

fn check(config: &UnetConfig) -> Result<(), ModelError> {
    let levels = config.channel_mult.len();
    let down: usize = config.num_res_blocks.iter().sum();
    let reason = if levels == 0 || config.num_res_blocks.len() != levels {
        format!("{levels} levels, but residual blocks for {}", config.num_res_blocks.len())
    } else if config.transformer_depth.len() != down {
        format!("{down} blocks down, but {} transformer depths", config.transformer_depth.len())
    } else if config.transformer_depth_output.len() != down + levels {
        let depths = config.transformer_depth_output.len();
        format!("{} blocks up, but {depths} transformer depths", down + levels)
    } else if let Some(mult) = config.channel_mult.iter().find(|&&mult| {
        let channels = mult * config.model_channels;
        channels == 0
            || !channels.is_multiple_of(GROUPS)
            || !channels.is_multiple_of(config.heads.count(channels))
    }) {
        let channels = mult * config.model_channels;
        format!("{channels} channels do not divide into {GROUPS} groups and {:?}", config.heads)
    } else {
        return Ok(());
    };
    Err(ModelError::Config { model: "UNet", reason })
}

/// The down path: the first convolution, then per level its residual blocks and a halving of the
/// resolution, except after the last.
fn input_blocks(scope: &Scope, config: &UnetConfig) -> Result<Vec<Block>, ModelError> {
    let mut blocks = vec![Block::new(Stage::Conv(Conv2d::load(scope, "0.0", 1, 1)?))];
    let mut depths = config.transformer_depth.iter();
    for (level, (mult, count)) in config.channel_mult.iter().zip(&config.num_res_blocks).enumerate()
    {
        let heads = config.heads.count(mult * config.model_channels);
        for _ in 0..*count {
            let scope = scope.at(blocks.len());
            let depth = depths.next().copied().unwrap_or(0);
            blocks.push(Block::residual(&scope, depth, heads)?);
        }
        if level + 1 < config.channel_mult.len() {
            let scope = scope.at(blocks.len());
            blocks.push(Block::new(Stage::Downsample(Conv2d::load(&scope, "0.op", 2, 1)?)));
        }
    }
    Ok(blocks)
}

/// Residual blocks at the lowest resolution, with a transformer behind the first. Pruned models have
/// fewer or none.
fn middle_block(scope: &Scope, config: &UnetConfig) -> Result<Block, ModelError> {
    let channels = config.channel_mult.last().unwrap_or(&1) * config.model_channels;
    let heads = config.heads.count(channels);
    let mut block = Block { stages: Vec::new() };
    for i in 0..config.middle_res_blocks {
        let residual = ResBlock::load(&scope.at(block.stages.len()))?;
        block.stages.push(Stage::Residual(residual));
        if let (0, Some(depth)) = (i, config.transformer_depth_middle) {
            let transformer = SpatialTransformer::load(&scope.at(1), depth, heads)?;
            block.stages.push(Stage::Transformer(transformer));
        }
    }
    Ok(block)
}

/// The up path: the down path's mirror, with one more residual block per level, since each block
/// takes in one skip connection.
fn output_blocks(scope: &Scope, config: &UnetConfig) -> Result<Vec<Block>, ModelError> {
    let mut blocks = Vec::new();
    let mut depths = config.transformer_depth_output.iter();
    for (level, (mult, count)) in
        config.channel_mult.iter().zip(&config.num_res_blocks).enumerate().rev()
    {
        let heads = config.heads.count(mult * config.model_channels);
        for i in 0..=*count {
            let scope = scope.at(blocks.len());
            let depth = depths.next().copied().unwrap_or(0);
            let mut block = Block::residual(&scope, depth, heads)?;
            if level > 0 && i == *count {
                let conv = Conv2d::load(&scope.at(block.stages.len()), "conv", 1, 1)?;
                block.stages.push(Stage::Upsample(conv));
            }
            blocks.push(block);
        }
    }
    Ok(blocks)
}

/// Stages with one skip connection between them and the mirrored block.
struct Block {
    stages: Vec<Stage>,
}

enum Stage {
    Conv(Conv2d),
    Residual(ResBlock),
    Transformer(SpatialTransformer),
    Downsample(Conv2d),
    Upsample(Conv2d),
}

impl Block {
    fn new(stage: Stage) -> Self {
        Self { stages: vec![stage] }
    }

    /// A residual block, and a transformer behind it where `depth` is not 0.
    fn residual(scope: &Scope, depth: usize, heads: usize) -> Result<Self, ModelError> {
        let mut block = Self::new(Stage::Residual(ResBlock::load(&scope.at(0))?));
        if depth > 0 {
            let transformer = SpatialTransformer::load(&scope.at(1), depth, heads)?;
            block.stages.push(Stage::Transformer(transformer));
        }
        Ok(block)
    }

    /// `size` is what an upsampling stage makes of the resolution; without it, twice.
    fn forward(
        &self,
        mut x: Tensor<4>,
        emb: &Tensor<2>,
        context: &Tensor<3>,
        size: Option<[usize; 2]>,
    ) -> Result<Tensor<4>, ModelError> {
        for stage in &self.stages {
            x = match stage {
                Stage::Conv(conv) | Stage::Downsample(conv) => conv.forward(x)?,
                Stage::Residual(block) => block.forward(x, emb)?,
                Stage::Transformer(transformer) => transformer.forward(x, context)?,
                Stage::Upsample(conv) => {
                    let [_, _, height, width] = x.dims();
                    conv.forward(nearest(x, size.unwrap_or([2 * height, 2 * width])))?
                }
            };
        }
        Ok(x)
    }
}

/// Resizes to `[height, width]`, each pixel from the nearest one at or before it.
pub(crate) fn nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let options = ops::InterpolateOptions::new(ops::InterpolateMode::Nearest);
    ops::module::interpolate(x, size, options.with_align_corners(false))
}

/// The residual block, which adds the timestep embedding between its two convolutions.
struct ResBlock {
    in_norm: GroupNorm,
    in_conv: Conv2d,
    emb: Linear,
    out_norm: GroupNorm,
    out_conv: Conv2d,
    skip: Option<Conv2d>,
}

impl ResBlock {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        let skip = match scope.has("skip_connection") {
            true => Some(Conv2d::load(scope, "skip_connection", 1, 0)?),
            false => None,
        };
        Ok(Self {
            in_norm: GroupNorm::load(scope, "in_layers.0", GROUPS, 1e-5)?,
            in_conv: Conv2d::load(scope, "in_layers.2", 1, 1)?,
            emb: Linear::load(scope, "emb_layers.1")?,
            out_norm: GroupNorm::load(scope, "out_layers.0", GROUPS, 1e-5)?,
            out_conv: Conv2d::load(scope, "out_layers.3", 1, 1)?,
            skip,
        })
    }

    /// `emb` comes activated.
    fn forward(&self, x: Tensor<4>, emb: &Tensor<2>) -> Result<Tensor<4>, ModelError> {
        let h = self.in_norm.forward_silu(x.clone())?;
        let emb = || Ok(Addend::Channels(self.emb.forward(emb.clone())?));
        let h = self.in_conv.forward_plus(h, emb)?;
        let h = self.out_norm.forward_silu(h)?;
        match &self.skip {
            Some(skip) => {
                let h = self.out_conv.forward(h)?;
                skip.forward_plus(x, || Ok(Addend::Picture(h)))
            }
            None => self.out_conv.forward_plus(h, || Ok(Addend::Picture(x))),
        }
    }
}

/// Transformer blocks over the pixels of a picture, which attend to each other and to the text.
struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl SpatialTransformer {
    fn load(scope: &Scope, depth: usize, heads: usize) -> Result<Self, ModelError> {
        let blocks = scope.at("transformer_blocks");
        Ok(Self {
            norm: GroupNorm::load(scope, "norm", GROUPS, 1e-6)?,
            proj_in: Linear::load(scope, "proj_in")?,
            blocks: (0..depth)
                .map(|i| TransformerBlock::load(&blocks.at(i), heads))
                .collect::<Result<_, _>>()?,
            proj_out: Linear::load(scope, "proj_out")?,
        })
    }

    /// The projections of SD 1.x are 1×1 convolutions, which on tokens are linear layers.
    fn forward(&self, x: Tensor<4>, context: &Tensor<3>) -> Result<Tensor<4>, ModelError> {
        let [_, _, height, width] = x.dims();
        let mut tokens = self.proj_in.from_pixels(self.norm.forward(x.clone())?)?;
        for block in &self.blocks {
            tokens = block.forward(tokens, context)?;
        }
        Ok(kernels::add(self.proj_out.to_pixels(tokens, height, width)?, x))
    }
}

/// Self-attention, cross-attention and feed-forward, each normalised before and added after.
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        Ok(Self {
            norm1: LayerNorm::load(scope, "norm1", 1e-5)?,
            attn1: Attention::load(&scope.at("attn1"), heads)?,
            norm2: LayerNorm::load(scope, "norm2", 1e-5)?,
            attn2: Attention::load(&scope.at("attn2"), heads)?,
            norm3: LayerNorm::load(scope, "norm3", 1e-5)?,
            ff: FeedForward::load(&scope.at("ff.net"))?,
        })
    }

    fn forward(&self, x: Tensor<3>, context: &Tensor<3>) -> Result<Tensor<3>, ModelError> {
        let h = self.norm1.forward(x.clone())?;
        let x = self.attn1.forward(h.clone(), h, x)?;
        let h = self.norm2.forward(x.clone())?;
        let x = self.attn2.forward(h, context.clone(), x)?;
        let h = self.norm3.forward(x.clone())?;
        self.ff.forward(h, x)
    }
}

/// Attention of tokens to a context, which may be the tokens themselves.
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    fn load(scope: &Scope, heads: usize) -> Result<Self, ModelError> {
        Ok(Self {
            to_q: Linear::load(scope, "to_q")?,
            to_k: Linear::load(scope, "to_k")?,
            to_v: Linear::load(scope, "to_v")?,
            to_out: Linear::load(scope, "to_out.0")?,
            heads,
        })
    }

    fn forward(
        &self,
        x: Tensor<3>,
        context: Tensor<3>,
        residual: Tensor<3>,
    ) -> Result<Tensor<3>, ModelError> {
        let q = self.to_q.forward(x)?;
        let k = self.to_k.forward(context.clone())?;
        let v = self.to_v.forward(context)?;
        let seen = attention(q, k, v, self.heads, Mask::None, self.to_q.precision());
        self.to_out.forward_plus(seen, residual)
    }
}

/// The gated feed-forward layer (GEGLU: Shazeer, <https://arxiv.org/abs/2002.05202>).
struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { proj: Linear::load(scope, "0.proj")?, out: Linear::load(scope, "2")? })
    }

    fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Result<Tensor<3>, ModelError> {
        self.out.forward_plus(self.proj.tokens_geglu(x)?, residual)
    }
}
