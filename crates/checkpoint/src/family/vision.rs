//! Encoders of pictures beside language models: that of Qwen2.5-VL.
//!
//! Module names and their order are those of transformers' `…VLModel.visual`.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{Module, conv_of_frames, linear, rms_norm};
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
        _ => return Ok(None),
    };
    let patches = format!("{root}.patch_embed.proj.weight");
    if !scope.has(&patches) {
        return Ok(None);
    }
    Ok(Some(VisionConfig {
        kind,
        width: scope.dim(&patches, 0)?,
        layers: scope.count(&format!("{root}.blocks")),
        heads: HEADS,
        intermediate: scope.dim(&format!("{root}.blocks.0.mlp.gate_proj.weight"), 0)?,
        patch_size: scope.dim(&patches, 4)?,
    }))
}

/// The modules of an encoder of this configuration, for a language model of this width.
pub(super) fn layout(config: &VisionConfig, out: usize) -> Module {
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
