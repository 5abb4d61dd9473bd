//! The Flux transformer.
//!
//! Module names and their order are those of Black Forest Labs' flux.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{LayerSpec, Module, ParamSpec, linear, rms_norm};
use super::matching::{Stored, plain_key};
use crate::config::FluxConfig;

/// A tensor that every Flux transformer has, under its prefix.
pub(super) const ANCHOR: &str = "double_blocks.0.img_attn.qkv.weight";

/// The layer that the packed latents go through first.
pub(super) const INPUT: &str = "img_in";

/// Width of the sinusoidal embedding of time and guidance.
const TIME_FREQUENCIES: usize = 256;

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<FluxConfig, FamilyError> {
    let width = scope.dim("img_in.weight", 0)?;
    let head_width = head_width(scope)?;
    Ok(FluxConfig {
        in_channels: scope.dim("img_in.weight", 1)?,
        out_channels: scope.dim("final_layer.linear.weight", 0)?,
        width,
        heads: (width / head_width).max(1),
        context_dim: scope.dim("txt_in.weight", 1)?,
        vec_dim: scope.dim("vector_in.in_layer.weight", 1)?,
        depth: scope.count("double_blocks"),
        depth_single: scope.count("single_blocks"),
        mlp_width: scope.dim("double_blocks.0.img_mlp.0.weight", 0)?,
        guidance_embed: scope.has("guidance_in.in_layer.weight")
            || scope.has("guidance_in.out_layer.weight"),
    })
}

/// Features of a head, which a norm tells.
pub(super) fn head_width(scope: Scope<'_>) -> Result<usize, FamilyError> {
    let query_norm = "double_blocks.0.img_attn.norm.query_norm";
    let norm_param = if scope.has(&format!("{query_norm}.weight")) { "weight" } else { "scale" };
    scope.dim(&format!("{query_norm}.{norm_param}"), 0)
}

/// Where the parameter of a layer is under `prefix`: some files call a norm's `scale` `weight`.
pub(super) fn stored(
    inventory: &Inventory<'_>,
    prefix: &str,
    layer: &LayerSpec,
    param: &ParamSpec,
) -> Stored {
    let key = plain_key(prefix, &layer.name, param);
    let other = format!("{prefix}{}.weight", layer.name);
    if param.name == "scale" && !inventory.has(&key) && inventory.has(&other) {
        return Stored::whole(other, param);
    }
    Stored::whole(key, param)
}

/// The modules of a Flux transformer of this configuration.
pub(super) fn layout(config: &FluxConfig) -> Module {
    let width = config.width;
    let sizes = BlockSizes { width, heads: config.heads, mlp_width: config.mlp_width };
    let final_layer = Module::new()
        .with("linear", linear(config.out_channels, width))
        .with("adaLN_modulation.1", linear(2 * width, width))
        .used_as(&["adaLN_modulation.1", "linear"]);
    Module::new()
        .with(INPUT, linear(width, config.in_channels))
        .with("time_in", embedder(TIME_FREQUENCIES, width))
        .with("vector_in", embedder(config.vec_dim, width))
        .with_if(config.guidance_embed, "guidance_in", || embedder(TIME_FREQUENCIES, width).into())
        .with("txt_in", linear(width, config.context_dim))
        .with_each("double_blocks", (0..config.depth).map(|_| double_block(sizes, true)))
        .with_each("single_blocks", (0..config.depth_single).map(|_| single_block(sizes, true)))
        .with("final_layer", final_layer)
}

fn embedder(input: usize, width: usize) -> Module {
    Module::new().with("in_layer", linear(width, input)).with("out_layer", linear(width, width))
}

/// What blocks are made for.
#[derive(Clone, Copy)]
pub(super) struct BlockSizes {
    pub width: usize,
    pub heads: usize,
    pub mlp_width: usize,
}

/// Picture and text, each with weights of its own; with layers that modulate them, or without.
pub(super) fn double_block(sizes: BlockSizes, is_modulated: bool) -> Module {
    let width = sizes.width;
    let attention = || {
        Module::new()
            .with("qkv", linear(3 * width, width))
            .with("norm", query_key_norm(sizes))
            .with("proj", linear(width, width))
    };
    let feed_forward = || {
        Module::new()
            .with("0", linear(sizes.mlp_width, width))
            .with("2", linear(width, sizes.mlp_width))
    };
    Module::new()
        .with_if(is_modulated, "img_mod.lin", || linear(6 * width, width).into())
        .with("img_attn", attention())
        .with("img_mlp", feed_forward())
        .with_if(is_modulated, "txt_mod.lin", || linear(6 * width, width).into())
        .with("txt_attn", attention())
        .with("txt_mlp", feed_forward())
        .used_as(&[
            "img_mod.lin",
            "txt_mod.lin",
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
pub(super) fn single_block(sizes: BlockSizes, is_modulated: bool) -> Module {
    let (width, mlp) = (sizes.width, sizes.mlp_width);
    Module::new()
        .with("linear1", linear(3 * width + mlp, width))
        .with("linear2", linear(width, width + mlp))
        .with("norm", query_key_norm(sizes))
        .with_if(is_modulated, "modulation.lin", || linear(3 * width, width).into())
        .used_as(&["modulation.lin", "linear1", "norm", "linear2"])
}

fn query_key_norm(sizes: BlockSizes) -> Module {
    let head_width = sizes.width / sizes.heads.max(1);
    Module::new()
        .with("query_norm", rms_norm("scale", head_width))
        .with("key_norm", rms_norm("scale", head_width))
}
