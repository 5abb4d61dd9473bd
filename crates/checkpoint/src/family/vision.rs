//! Encoders of pictures beside language models: those of Qwen2.5-VL and Qwen3-VL.
//!
//! Module names and their order are those of transformers' `…VLModel.visual`.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{
    Module, conv_of_frames, conv_of_frames_with_bias, embedding, linear, norm, rms_norm,
};
use crate::config::{DecoderKind, VisionConfig, VisionKind};

/// The module that holds all its layers.
pub(super) const ROOT: &str = "visual";

/// Attention heads of every published one, which no tensor tells.
const HEADS: usize = 16;

/// Patches along a side that are one token of the language model.
const MERGED: usize = 2;

/// Frames of a patch.
const FRAMES: usize = 2;

/// Reads the configuration off the tensors of a root (`visual`, `model.visual`) beside a language model, where there is one
/// that is known.
pub(super) fn infer(
    scope: Scope<'_>,
    root: &str,
    kind: DecoderKind,
) -> Result<Option<VisionConfig>, FamilyError> {
    let kind = match kind {
        DecoderKind::Qwen25Vl => VisionKind::Qwen25Vl,
        DecoderKind::Qwen3Vl => VisionKind::Qwen3Vl,
        _ => return Ok(None),
    };
    let patches = format!("{root}.patch_embed.proj.weight");
    let feed_forward = match kind {
        VisionKind::Qwen25Vl => format!("{root}.blocks.0.mlp.gate_proj.weight"),
        VisionKind::Qwen3Vl => format!("{root}.blocks.0.mlp.linear_fc1.weight"),
    };
    if !scope.has(&patches) || !scope.has(&feed_forward) {
        return Ok(None);
    }
    let positions = match kind {
        VisionKind::Qwen25Vl => 0,
        VisionKind::Qwen3Vl => scope.dim(&format!("{root}.pos_embed.weight"), 0)?,
    };
    Ok(Some(VisionConfig {
        kind,
        width: scope.dim(&patches, 0)?,
        layers: scope.count(&format!("{root}.blocks")),
        heads: HEADS,
        intermediate: scope.dim(&feed_forward, 0)?,
        patch_size: scope.dim(&patches, 4)?,
        positions,
        deepstack: scope.count(&format!("{root}.deepstack_merger_list")),
    }))
}

/// The modules of an encoder of this configuration, for a language model of this width.
pub(super) fn layout(config: &VisionConfig, out: usize) -> Module {
    match config.kind {
        VisionKind::Qwen25Vl => qwen25(config, out),
        VisionKind::Qwen3Vl => qwen3(config, out),
    }
}

fn qwen3(config: &VisionConfig, out: usize) -> Module {
    let VisionConfig { width, intermediate, patch_size, .. } = *config;
    let merged = MERGED * MERGED * width;
    let merger = |normalised: usize| {
        Module::new()
            .with("norm", norm(normalised))
            .with("linear_fc1", linear(merged, merged))
            .with("linear_fc2", linear(out, merged))
    };
    let block = |_| {
        let attention =
            Module::new().with("qkv", linear(3 * width, width)).with("proj", linear(width, width));
        let feed_forward = Module::new()
            .with("linear_fc1", linear(intermediate, width))
            .with("linear_fc2", linear(width, intermediate));
        Module::new()
            .with("norm1", norm(width))
            .with("norm2", norm(width))
            .with("attn", attention)
            .with("mlp", feed_forward)
            .used_as(&["norm1", "attn", "norm2", "mlp"])
    };
    let patches = conv_of_frames_with_bias(width, 3, [FRAMES, patch_size, patch_size]);
    Module::new()
        .with("patch_embed.proj", patches)
        .with("pos_embed", embedding(config.positions, width))
        .with_each("blocks", (0..config.layers).map(block))
        .with("merger", merger(width))
        .with_each("deepstack_merger_list", (0..config.deepstack).map(|_| merger(merged)))
}

fn qwen25(config: &VisionConfig, out: usize) -> Module {
    let (width, merged) = (config.width, MERGED * MERGED * config.width);
    let patches = conv_of_frames(width, 3, [FRAMES, config.patch_size, config.patch_size]);
    let merger = Module::new()
        .with("ln_q", rms_norm("weight", width))
        .with("mlp.0", linear(merged, merged))
        .with("mlp.2", linear(out, merged));
    Module::new()
        .with("patch_embed.proj", patches)
        .with_each("blocks", (0..config.layers).map(|_| block(config)))
        .with("merger", merger)
}

fn block(config: &VisionConfig) -> Module {
    let (width, intermediate) = (config.width, config.intermediate);
    let attention =
        Module::new().with("qkv", linear(3 * width, width)).with("proj", linear(width, width));
    let feed_forward = Module::new()
        .with("gate_proj", linear(intermediate, width))
        .with("up_proj", linear(intermediate, width))
        .with("down_proj", linear(width, intermediate));
    Module::new()
        .with("norm1", rms_norm("weight", width))
        .with("norm2", rms_norm("weight", width))
        .with("attn", attention)
        .with("mlp", feed_forward)
        .used_as(&["norm1", "attn", "norm2", "mlp"])
}
