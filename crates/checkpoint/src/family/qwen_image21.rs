//! Qwen-Image 2.1's transformer: one stream of text, references and picture, whose blocks share one modulation.
//!
//! Module names and their order are those of diffusers' `QwenImage21Transformer2DModel`, which ComfyUI's files keep but for
//! the feed-forward layers' first matrices, which these join.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{Module, linear_without_bias, rms_norm};
use crate::config::QwenImage21Config;

/// A tensor that every Qwen-Image 2.1 transformer has, under its prefix.
pub(super) const ANCHOR: &str = "txt_in.text_norm.weight";

/// The list by which it is known where that tensor is missing: others have `transformer_blocks`, too.
pub(super) const BLOCKS: &str = "modulation";

/// Width of the sinusoidal embedding of the time.
const TIME_FREQUENCIES: usize = 256;

/// Two scales and two gates.
const MODULATIONS: usize = 4;

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<QwenImage21Config, FamilyError> {
    let feed_forward = "transformer_blocks.0.img_mlp";
    let fused = format!("{feed_forward}.gate_up.weight");
    let fused_gate = scope.has(&fused);
    let mlp_width = match fused_gate {
        true => scope.dim(&fused, 0)? / 2,
        false => scope.dim(&format!("{feed_forward}.proj.weight"), 0)?,
    };
    let width = scope.dim("img_in.weight", 0)?;
    let head_width = scope.dim("transformer_blocks.0.attn.norm_q.weight", 0)?;
    Ok(QwenImage21Config {
        in_channels: scope.dim("img_in.weight", 1)?,
        out_channels: scope.dim("proj_out.weight", 0)?,
        width,
        heads: width.checked_div(head_width).unwrap_or(0).max(1),
        context_dim: scope.dim(ANCHOR, 0)?,
        mlp_width,
        depth: scope.count("transformer_blocks"),
        fused_gate,
    })
}

/// The modules of a transformer of this configuration.
pub(super) fn layout(config: &QwenImage21Config) -> Module {
    let width = config.width;
    let time = Module::new()
        .with("timestep_embedder.linear_1", linear_without_bias(width, TIME_FREQUENCIES))
        .with("timestep_embedder.linear_2", linear_without_bias(width, width));
    let text = Module::new()
        .with("text_norm", rms_norm("weight", config.context_dim))
        .with("in_layer", linear_without_bias(width, config.context_dim))
        .with("out_layer", linear_without_bias(width, width));
    Module::new()
        .with("time_text_embed", time)
        .with("txt_in", text)
        .with("img_in", linear_without_bias(width, config.in_channels))
        .with("modulation.1", linear_without_bias(MODULATIONS * width, width))
        .with_each("transformer_blocks", (0..config.depth).map(|_| block(config)))
        .with("norm_out.linear", linear_without_bias(width, width))
        .with("proj_out", linear_without_bias(config.out_channels, width))
        .used_as(&[
            "txt_in",
            "img_in",
            "time_text_embed",
            "modulation.1",
            "transformer_blocks",
            "norm_out.linear",
            "proj_out",
        ])
}

fn block(config: &QwenImage21Config) -> Module {
    let (width, mlp_width) = (config.width, config.mlp_width);
    let head = width.checked_div(config.heads).unwrap_or(0);
    let attention = Module::new()
        .with("to_q", linear_without_bias(width, width))
        .with("to_k", linear_without_bias(width, width))
        .with("to_v", linear_without_bias(width, width))
        .with("to_out.0", linear_without_bias(width, width))
        .with("norm_q", rms_norm("weight", head))
        .with("norm_k", rms_norm("weight", head))
        .used_as(&["to_q", "to_k", "to_v", "norm_q", "norm_k", "to_out.0"]);
    let feed_forward = match config.fused_gate {
        true => Module::new().with("gate_up", linear_without_bias(2 * mlp_width, width)),
        false => Module::new()
            .with("proj", linear_without_bias(mlp_width, width))
            .with("gate_layer", linear_without_bias(mlp_width, width)),
    };
    let feed_forward = feed_forward.with("out", linear_without_bias(width, mlp_width)).used_as(&[
        "gate_up",
        "gate_layer",
        "proj",
        "out",
    ]);
    Module::new().with("attn", attention).with("img_mlp", feed_forward)
}
