//! The latent-diffusion UNet of SD 1.x, SD 2.x and SDXL.
//!
//! Module names and their order are those of `UNetModel` in CompVis' latent-diffusion and
//! Stability's generative-models.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{Module, Node, conv, linear, linear_without_bias, norm};
use crate::config::{Heads, UnetConfig};

/// A tensor that every UNet of this layout has, under its prefix.
pub(super) const ANCHOR: &str = "input_blocks.0.0.weight";

/// A tensor that tells a ControlNet, which copies half of a UNet, from one.
pub(super) const CONTROLNET_ANCHOR: &str = "zero_convs.0.0.weight";

/// Heads of a model with 1×1 convolutions as projections (SD 1.x).
const HEADS: Heads = Heads::Count(8);
/// Heads of a model with linear projections (SD 2.x, SDXL).
const HEADS_OF_LINEAR: Heads = Heads::Width(64);

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<UnetConfig, FamilyError> {
    let model_channels = scope.dim(ANCHOR, 0)?;
    let levels = infer_levels(scope)?;
    let mut channel_mult = Vec::with_capacity(levels.len());
    for level in &levels {
        channel_mult.push(level.multiple_of(model_channels, scope.prefix)?);
    }
    let num_res_blocks: Vec<_> = levels.iter().map(|level| level.depths.len()).collect();
    let output_blocks = num_res_blocks.iter().map(|n| n + 1).sum();
    let transformer_depth_output =
        (0..output_blocks).map(|at| depth(scope, &format!("output_blocks.{at}.1"))).collect();
    let middle_depth = depth(scope, "middle_block.1");
    let (context_dim, linear_projections) = infer_attention(scope)?;

    Ok(UnetConfig {
        in_channels: scope.dim(ANCHOR, 1)?,
        out_channels: scope.dim("out.2.weight", 0)?,
        model_channels,
        channel_mult,
        num_res_blocks,
        transformer_depth: levels.into_iter().flat_map(|level| level.depths).collect(),
        middle_res_blocks: scope.count("middle_block").min(3).div_ceil(2),
        transformer_depth_middle: (middle_depth > 0).then_some(middle_depth),
        transformer_depth_output,
        context_dim,
        heads: if linear_projections { HEADS_OF_LINEAR } else { HEADS },
        linear_projections,
        adm_in_channels: match scope.count("label_emb") > 0 {
            true => Some(scope.dim("label_emb.0.0.weight", 1)?),
            false => None,
        },
    })
}

/// One resolution of the way down.
#[derive(Default)]
struct Level {
    channels: usize,
    /// Transformer blocks behind each residual block.
    depths: Vec<usize>,
}

impl Level {
    fn multiple_of(&self, model_channels: usize, prefix: &str) -> Result<usize, FamilyError> {
        if self.channels > 0 && self.channels.is_multiple_of(model_channels) {
            return Ok(self.channels / model_channels);
        }
        Err(FamilyError::Unsupported {
            what: format!("a UNet under `{prefix}` with levels of uneven width"),
            reason: format!("{} is no multiple of {model_channels} channels", self.channels),
        })
    }
}

fn infer_levels(scope: Scope<'_>) -> Result<Vec<Level>, FamilyError> {
    let mut levels = Vec::new();
    let mut level = Level::default();
    for at in 1..scope.count("input_blocks") {
        let block = format!("input_blocks.{at}.0");
        if scope.has(&format!("{block}.op.weight")) || scope.has(&format!("{block}.op.bias")) {
            levels.push(std::mem::take(&mut level));
        } else {
            level.channels = scope.dim(&format!("{block}.in_layers.2.weight"), 0)?;
            level.depths.push(depth(scope, &format!("input_blocks.{at}.1")));
        }
    }
    levels.push(level);
    Ok(levels)
}

/// Number of transformer blocks in the spatial transformer at a path; 0 where there is none.
fn depth(scope: Scope<'_>, path: &str) -> usize {
    scope.count(&format!("{path}.transformer_blocks"))
}

/// The width of the text conditioning, and whether projections are linear.
fn infer_attention(scope: Scope<'_>) -> Result<(usize, bool), FamilyError> {
    let transformers: Vec<_> = (1..scope.count("input_blocks"))
        .map(|at| format!("input_blocks.{at}.1"))
        .chain(["middle_block.1".to_owned()])
        .filter(|path| depth(scope, path) > 0)
        .collect();
    let keys = |name: &str| -> Vec<_> {
        transformers.iter().map(|path| format!("{path}.{name}")).collect()
    };
    let context = keys("transformer_blocks.0.attn2.to_k.weight");
    let Some(first) = context.first() else {
        return Err(FamilyError::Unsupported {
            what: format!("a UNet under `{}` without cross-attention", scope.prefix),
            reason: "it takes no text".to_owned(),
        });
    };
    let context = context.iter().find(|key| scope.has(key)).unwrap_or(first);
    let rank = keys("proj_in.weight").iter().find_map(|key| scope.rank(key));
    Ok((scope.dim(context, 1)?, rank == Some(2)))
}

/// The modules of a UNet of this configuration.
pub(super) fn layout(config: &UnetConfig) -> Module {
    let channels = config.model_channels;
    let (inputs, mut skips) = input_blocks(config);
    let bottom = skips.last().copied().unwrap_or(channels);
    Module::new()
        .with("time_embed", mlp(config, channels))
        .with_if(config.adm_in_channels.is_some(), "label_emb.0", || {
            mlp(config, config.adm_in_channels.unwrap_or_default()).into()
        })
        .with_each("input_blocks", inputs)
        .with("middle_block", middle_block(config, bottom))
        .with_each("output_blocks", output_blocks(config, bottom, &mut skips))
        .with("out.0", norm(channels))
        .with("out.2", conv(config.out_channels, channels, 3))
}

/// Linear, SiLU, linear, to the width of the time embedding.
fn mlp(config: &UnetConfig, input: usize) -> Module {
    let width = 4 * config.model_channels;
    Module::new().with("0", linear(width, input)).with("2", linear(width, width))
}

/// The way down, and the channels of every output that the way up takes in again.
fn input_blocks(config: &UnetConfig) -> (Vec<Module>, Vec<usize>) {
    let mut channels = config.model_channels;
    let mut blocks = vec![Module::new().with("0", conv(channels, config.in_channels, 3))];
    let mut skips = vec![channels];
    let mut depths = config.transformer_depth.iter().copied();
    let levels = config.channel_mult.iter().zip(&config.num_res_blocks);
    for (level, (mult, res_blocks)) in levels.enumerate() {
        if level > 0 {
            blocks.push(Module::new().with("0.op", conv(channels, channels, 3)));
            skips.push(channels);
        }
        for _ in 0..*res_blocks {
            let out = mult * config.model_channels;
            let depth = depths.next().unwrap_or_default();
            blocks.push(Module::new().with("0", res_block(config, channels, out)).with_if(
                depth > 0,
                "1",
                || spatial_transformer(config, out, depth).into(),
            ));
            channels = out;
            skips.push(channels);
        }
    }
    (blocks, skips)
}

fn middle_block(config: &UnetConfig, channels: usize) -> Module {
    let res_block = || -> Node { res_block(config, channels, channels).into() };
    let depth = config.transformer_depth_middle.unwrap_or_default();
    Module::new()
        .with_if(config.middle_res_blocks > 0, "0", res_block)
        .with_if(depth > 0, "1", || spatial_transformer(config, channels, depth).into())
        .with_if(config.middle_res_blocks > 1, "2", res_block)
}

fn output_blocks(config: &UnetConfig, mut channels: usize, skips: &mut Vec<usize>) -> Vec<Module> {
    let mut blocks = Vec::new();
    let mut depths = config.transformer_depth_output.iter().copied();
    let levels = config.channel_mult.iter().zip(&config.num_res_blocks);
    for (level, (mult, res_blocks)) in levels.enumerate().rev() {
        for at in 0..=*res_blocks {
            let out = mult * config.model_channels;
            let depth = depths.next().unwrap_or_default();
            let input = channels + skips.pop().unwrap_or_default();
            let upsample = if depth > 0 { "2.conv" } else { "1.conv" };
            blocks.push(
                Module::new()
                    .with("0", res_block(config, input, out))
                    .with_if(depth > 0, "1", || spatial_transformer(config, out, depth).into())
                    .with_if(level > 0 && at == *res_blocks, upsample, || conv(out, out, 3).into()),
            );
            channels = out;
        }
    }
    blocks
}

fn res_block(config: &UnetConfig, input: usize, out: usize) -> Module {
    Module::new()
        .with("in_layers.0", norm(input))
        .with("in_layers.2", conv(out, input, 3))
        .with("emb_layers.1", linear(out, 4 * config.model_channels))
        .with("out_layers.0", norm(out))
        .with("out_layers.3", conv(out, out, 3))
        .with_if(input != out, "skip_connection", || conv(out, input, 1).into())
}

fn spatial_transformer(config: &UnetConfig, channels: usize, depth: usize) -> Module {
    let projection = || match config.linear_projections {
        true => linear(channels, channels),
        false => conv(channels, channels, 1),
    };
    Module::new()
        .with("norm", norm(channels))
        .with("proj_in", projection())
        .with_each(
            "transformer_blocks",
            (0..depth).map(|_| transformer_block(channels, config.context_dim)),
        )
        .with("proj_out", projection())
}

fn transformer_block(channels: usize, context_dim: usize) -> Module {
    // The gated unit's matrix is twice as wide as its output, which is 4 × channels.
    let feed_forward = Module::new()
        .with("net.0.proj", linear(8 * channels, channels))
        .with("net.2", linear(channels, 4 * channels));
    Module::new()
        .with("attn1", attention(channels, channels))
        .with("ff", feed_forward)
        .with("attn2", attention(channels, context_dim))
        .with("norm1", norm(channels))
        .with("norm2", norm(channels))
        .with("norm3", norm(channels))
        .used_as(&["norm1", "attn1", "norm2", "attn2", "norm3", "ff"])
}

fn attention(channels: usize, context_dim: usize) -> Module {
    Module::new()
        .with("to_q", linear_without_bias(channels, channels))
        .with("to_k", linear_without_bias(channels, context_dim))
        .with("to_v", linear_without_bias(channels, context_dim))
        .with("to_out.0", linear(channels, channels))
}
