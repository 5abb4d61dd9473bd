//! Chroma's transformer: Flux's blocks without modulation layers of their own.
//!
//! Module names and their order are those of the original, which are Flux's where it has the same.

use super::error::FamilyError;
use super::flux;
use super::inventory::Scope;
use super::layout::{Module, linear, rms_norm};
use crate::config::ChromaConfig;

/// A tensor that every Chroma transformer has and no Flux, under its prefix.
pub(super) const ANCHOR: &str = "distilled_guidance_layer.in_proj.weight";

/// The list of layers by which it is known where that tensor is missing.
pub(super) const BLOCKS: &str = "distilled_guidance_layer.layers";

/// The order in which a forward pass uses the layers of the network that makes modulations; the published one has 5.
const APPROXIMATOR_ORDER: &[&str] = &[
    "in_proj", "norms.0", "layers.0", "norms.1", "layers.1", "norms.2", "layers.2", "norms.3",
    "layers.3", "norms.4", "layers.4", "norms.5", "layers.5", "norms.6", "layers.6", "norms.7",
    "layers.7", "out_proj",
];

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<ChromaConfig, FamilyError> {
    let width = scope.dim("img_in.weight", 0)?;
    let head_width = flux::head_width(scope)?;
    Ok(ChromaConfig {
        in_channels: scope.dim("img_in.weight", 1)?,
        out_channels: scope.dim("final_layer.linear.weight", 0)?,
        width,
        heads: (width / head_width).max(1),
        context_dim: scope.dim("txt_in.weight", 1)?,
        depth: scope.count("double_blocks"),
        depth_single: scope.count("single_blocks"),
        mlp_width: scope.dim("double_blocks.0.img_mlp.0.weight", 0)?,
        approximator_channels: scope.dim(ANCHOR, 1)?,
        approximator_width: scope.dim(ANCHOR, 0)?,
        approximator_depth: scope.count(BLOCKS),
    })
}

/// The modules of a Chroma transformer of this configuration.
pub(super) fn layout(config: &ChromaConfig) -> Module {
    let (width, inner) = (config.width, config.approximator_width);
    let sizes = flux::BlockSizes { width, heads: config.heads, mlp_width: config.mlp_width };
    let layer = |_| {
        Module::new().with("in_layer", linear(inner, inner)).with("out_layer", linear(inner, inner))
    };
    let depth = || 0..config.approximator_depth;
    let approximator = Module::new()
        .with("in_proj", linear(inner, config.approximator_channels))
        .with_each("layers", depth().map(layer))
        .with_each("norms", depth().map(|_| rms_norm("scale", inner)))
        .with("out_proj", linear(width, inner))
        .used_as(APPROXIMATOR_ORDER);
    Module::new()
        .with("img_in", linear(width, config.in_channels))
        .with("distilled_guidance_layer", approximator)
        .with("txt_in", linear(width, config.context_dim))
        .with_each("double_blocks", (0..config.depth).map(|_| flux::double_block(sizes, false)))
        .with_each(
            "single_blocks",
            (0..config.depth_single).map(|_| flux::single_block(sizes, false)),
        )
        .with("final_layer.linear", linear(config.out_channels, width))
        .used_as(&[
            "distilled_guidance_layer",
            "img_in",
            "txt_in",
            "double_blocks",
            "single_blocks",
            "final_layer.linear",
        ])
}
