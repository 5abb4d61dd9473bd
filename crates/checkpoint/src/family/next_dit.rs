//! NextDiT, the transformer of Lumina-Image 2.0 (<https://arxiv.org/abs/2503.21758>) and of Z-Image
//! (<https://arxiv.org/abs/2511.22699>).
//!
//! Module names and their order are those of the originals, as ComfyUI's files have them: queries, keys and values fused.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{Module, linear, linear_without_bias, own_param, rms_norm};
use crate::config::{NextDitConfig, NextDitKind};

/// A tensor that every such transformer has, under its prefix.
pub(super) const ANCHOR: &str = "noise_refiner.0.attention.qkv.weight";

/// The list of blocks that read the prompt alone.
pub(super) const BLOCKS: &str = "context_refiner";

/// Tensors that only Z-Image has: what fills tokens up, and modulation without an activation before it.
const Z_IMAGE: [&str; 4] = [
    "x_pad_token",
    "cap_pad_token",
    "noise_refiner.0.adaLN_modulation.0.weight",
    "layers.0.adaLN_modulation.0.weight",
];

/// Width of the sinusoidal embedding of the time.
const TIME_FREQUENCIES: usize = 256;

/// Latent pixels of a patch, along a side.
const PATCH: usize = 2;

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<NextDitConfig, FamilyError> {
    let patches = "x_embedder.weight";
    let width = scope.dim(patches, 0)?;
    let head_width = scope.dim("layers.0.attention.q_norm.weight", 0)?;
    let projected = scope.dim("layers.0.attention.qkv.weight", 0)?;
    let is_z_image = Z_IMAGE.into_iter().any(|name| scope.has(name));
    Ok(NextDitConfig {
        kind: if is_z_image { NextDitKind::ZImage } else { NextDitKind::Lumina2 },
        in_channels: scope.dim(patches, 1)? / (PATCH * PATCH),
        out_channels: scope.dim("final_layer.linear.weight", 0)? / (PATCH * PATCH),
        patch_size: PATCH,
        width,
        heads: (width / head_width).max(1),
        kv_heads: (projected.saturating_sub(width) / 2 / head_width).max(1),
        context_dim: scope.dim("cap_embedder.1.weight", 1)?,
        mlp_width: scope.dim("layers.0.feed_forward.w1.weight", 0)?,
        time_width: scope.dim("t_embedder.mlp.0.weight", 0)?,
        modulation_width: scope.dim("t_embedder.mlp.2.weight", 0)?,
        refiner_depth: scope.count("noise_refiner"),
        depth: scope.count("layers"),
    })
}

/// The layer that makes scales and gates of the time: behind an activation, or alone.
const fn modulation(kind: NextDitKind) -> &'static str {
    match kind {
        NextDitKind::Lumina2 => "adaLN_modulation.1",
        NextDitKind::ZImage => "adaLN_modulation.0",
    }
}

/// The modules of a transformer of this configuration.
pub(super) fn layout(config: &NextDitConfig) -> Module {
    let (width, modulation) = (config.width, config.modulation_width);
    let patch = config.patch_size * config.patch_size;
    let time = Module::new()
        .with("mlp.0", linear(config.time_width, TIME_FREQUENCIES))
        .with("mlp.2", linear(modulation, config.time_width));
    let caption = Module::new()
        .with("0", rms_norm("weight", config.context_dim))
        .with("1", linear(width, config.context_dim));
    let final_layer = Module::new()
        .with("linear", linear(patch * config.out_channels, width))
        .with("adaLN_modulation.1", linear(width, modulation))
        .used_as(&["adaLN_modulation.1", "linear"]);
    let refiner = || 0..config.refiner_depth;
    let fills_up = config.kind == NextDitKind::ZImage;
    Module::new()
        .with("x_embedder", linear(width, patch * config.in_channels))
        .with_each("noise_refiner", refiner().map(|_| block(config, true)))
        .with_each("context_refiner", refiner().map(|_| block(config, false)))
        .with("t_embedder", time)
        .with("cap_embedder", caption)
        .with_if(fills_up, "x_pad_token", || own_param(&[1, width]).into())
        .with_if(fills_up, "cap_pad_token", || own_param(&[1, width]).into())
        .with_each("layers", (0..config.depth).map(|_| block(config, true)))
        .with("final_layer", final_layer)
        .used_as(&[
            "t_embedder",
            "x_embedder",
            "x_pad_token",
            "noise_refiner",
            "cap_embedder",
            "cap_pad_token",
            "context_refiner",
            "layers",
            "final_layer",
        ])
}

/// A block; those that read the prompt alone are not modulated by the time.
fn block(config: &NextDitConfig, is_modulated: bool) -> Module {
    let width = config.width;
    let head_width = width / config.heads.max(1);
    let projected = width + 2 * config.kv_heads * head_width;
    let attention = Module::new()
        .with("qkv", linear_without_bias(projected, width))
        .with("out", linear_without_bias(width, width))
        .with("q_norm", rms_norm("weight", head_width))
        .with("k_norm", rms_norm("weight", head_width))
        .used_as(&["qkv", "q_norm", "k_norm", "out"]);
    let feed_forward = Module::new()
        .with("w1", linear_without_bias(config.mlp_width, width))
        .with("w2", linear_without_bias(width, config.mlp_width))
        .with("w3", linear_without_bias(config.mlp_width, width))
        .used_as(&["w1", "w3", "w2"]);
    let modulation = modulation(config.kind);
    Module::new()
        .with("attention", attention)
        .with("feed_forward", feed_forward)
        .with("attention_norm1", rms_norm("weight", width))
        .with("ffn_norm1", rms_norm("weight", width))
        .with("attention_norm2", rms_norm("weight", width))
        .with("ffn_norm2", rms_norm("weight", width))
        .with_if(is_modulated, modulation, || linear(4 * width, config.modulation_width).into())
        .used_as(&[
            "adaLN_modulation.0",
            "adaLN_modulation.1",
            "attention_norm1",
            "attention",
            "attention_norm2",
            "ffn_norm1",
            "feed_forward",
            "ffn_norm2",
        ])
}
