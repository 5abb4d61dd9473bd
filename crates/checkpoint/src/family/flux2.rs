//! The Flux.2 transformer (dev and Klein).
//!
//! Module names and their order are those of Black Forest Labs' flux2. All blocks of a kind share one modulation, and no
//! layer has a bias.

use super::error::FamilyError;
use super::flux;
use super::inventory::Scope;
use super::layout::{Module, linear_without_bias, rms_norm};
use crate::config::Flux2Config;

/// A tensor that every Flux.2 transformer has and no Flux.1, under its prefix.
pub(super) const ANCHOR: &str = "double_stream_modulation_img.lin.weight";

/// Width of the sinusoidal embedding of time and guidance.
const TIME_FREQUENCIES: usize = 256;

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<Flux2Config, FamilyError> {
    let width = scope.dim("img_in.weight", 0)?;
    let head_width = flux::head_width(scope)?;
    Ok(Flux2Config {
        in_channels: scope.dim("img_in.weight", 1)?,
        out_channels: scope.dim("final_layer.linear.weight", 0)?,
        width,
        heads: (width / head_width).max(1),
        context_dim: scope.dim("txt_in.weight", 1)?,
        depth: scope.count("double_blocks"),
        depth_single: scope.count("single_blocks"),
        mlp_width: scope.dim("double_blocks.0.img_mlp.2.weight", 1)?,
        guidance_embed: scope.has("guidance_in.in_layer.weight")
            || scope.has("guidance_in.out_layer.weight"),
    })
}

/// The modules of a Flux.2 transformer of this configuration.
pub(super) fn layout(config: &Flux2Config) -> Module {
    let width = config.width;
    let final_layer = Module::new()
        .with("linear", linear_without_bias(config.out_channels, width))
        .with("adaLN_modulation.1", linear_without_bias(2 * width, width))
        .used_as(&["adaLN_modulation.1", "linear"]);
    let modulation = |parts: usize| linear_without_bias(parts * width, width);
    Module::new()
        .with("img_in", linear_without_bias(width, config.in_channels))
        .with("time_in", embedder(width))
        .with_if(config.guidance_embed, "guidance_in", || embedder(width).into())
        .with("double_stream_modulation_img.lin", modulation(6))
        .with("double_stream_modulation_txt.lin", modulation(6))
        .with("single_stream_modulation.lin", modulation(3))
        .with("txt_in", linear_without_bias(width, config.context_dim))
        .with_each("double_blocks", (0..config.depth).map(|_| double_block(config)))
        .with_each("single_blocks", (0..config.depth_single).map(|_| single_block(config)))
        .with("final_layer", final_layer)
}

fn embedder(width: usize) -> Module {
    Module::new()
        .with("in_layer", linear_without_bias(width, TIME_FREQUENCIES))
        .with("out_layer", linear_without_bias(width, width))
}

/// Picture and text, each with weights of its own.
fn double_block(config: &Flux2Config) -> Module {
    let width = config.width;
    let attention = || {
        Module::new()
            .with("qkv", linear_without_bias(3 * width, width))
            .with("norm", query_key_norm(config))
            .with("proj", linear_without_bias(width, width))
    };
    let feed_forward = || {
        Module::new()
            .with("0", linear_without_bias(2 * config.mlp_width, width))
            .with("2", linear_without_bias(width, config.mlp_width))
    };
    Module::new()
        .with("img_attn", attention())
        .with("img_mlp", feed_forward())
        .with("txt_attn", attention())
        .with("txt_mlp", feed_forward())
        .used_as(&[
            "img_attn.qkv",
            "img_attn.norm",
            "txt_attn.qkv",
            "txt_attn.norm",
            "img_attn.proj",
            "img_mlp",
            "txt_attn.proj",
            "txt_mlp",
        ])
}

/// Both together; attention and feed-forward side by side in two matrices.
fn single_block(config: &Flux2Config) -> Module {
    let (width, mlp) = (config.width, config.mlp_width);
    Module::new()
        .with("linear1", linear_without_bias(3 * width + 2 * mlp, width))
        .with("linear2", linear_without_bias(width, width + mlp))
        .with("norm", query_key_norm(config))
        .used_as(&["linear1", "norm", "linear2"])
}

fn query_key_norm(config: &Flux2Config) -> Module {
    let head_width = config.width / config.heads.max(1);
    Module::new()
        .with("query_norm", rms_norm("scale", head_width))
        .with("key_norm", rms_norm("scale", head_width))
}
