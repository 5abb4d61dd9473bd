//! The swift parameter-free attention network (SPAN, <https://arxiv.org/abs/2311.12770>).
//!
//! Its convolutions are three in a row beside a skip, which inference makes one of (`eval_conv`). Files may have that one
//! as it was when training last looked at it, so it is made of the others.

use super::super::error::FamilyError;
use super::super::inventory::Scope;
use super::super::layout::{Module, conv};
use super::shuffled;
use crate::config::{SpanConfig, UpscalerConfig};

/// Attention blocks.
pub(super) const BLOCKS: usize = 6;

pub(super) fn is_in(scope: Scope<'_>) -> bool {
    ["conv_1.sk.weight", "block_1.c1_r.sk.weight", "conv_cat.weight", "upsampler.0.weight"]
        .iter()
        .all(|name| scope.has(name))
}

pub(super) fn infer(scope: Scope<'_>) -> Result<UpscalerConfig, FamilyError> {
    let in_channels = scope.dim("conv_1.sk.weight", 1)?;
    let (scale, out_channels) = shuffled(scope.dim("upsampler.0.weight", 0)?, in_channels, "SPAN")?;
    Ok(UpscalerConfig::Span(SpanConfig {
        in_channels,
        out_channels,
        features: scope.dim("conv_1.sk.weight", 0)?,
        scale,
        centred: !scope.has("no_norm"),
    }))
}

pub(super) fn layout(config: &SpanConfig) -> Module {
    let features = config.features;
    // Twice as wide inside.
    let convolution = |inputs: usize| {
        Module::new()
            .with("sk", conv(features, inputs, 1))
            .with("conv.0", conv(2 * inputs, inputs, 1))
            .with("conv.1", conv(2 * features, 2 * inputs, 3))
            .with("conv.2", conv(features, 2 * features, 1))
    };
    let block = || {
        Module::new()
            .with("c1_r", convolution(features))
            .with("c2_r", convolution(features))
            .with("c3_r", convolution(features))
    };
    let module = Module::new().with("conv_1", convolution(config.in_channels));
    let module =
        (1..=BLOCKS).fold(module, |module, place| module.with(format!("block_{place}"), block()));
    let outputs = config.out_channels * config.scale * config.scale;
    module
        .with("conv_2", convolution(features))
        .with("conv_cat", conv(features, 4 * features, 1))
        .with("upsampler.0", conv(outputs, features, 3))
}
