//! Real-ESRGAN's compact network (`SRVGGNetCompact`, <https://github.com/xinntao/Real-ESRGAN>): convolutions in a row,
//! each with a leaky rectifier whose slopes are learned, and the picture enlarged at the end.

use super::super::error::FamilyError;
use super::super::inventory::Scope;
use super::super::layout::{Module, conv, rms_norm};
use super::shuffled;
use crate::config::{CompactConfig, UpscalerConfig};

pub(super) fn is_in(scope: Scope<'_>) -> bool {
    // Without slopes they are other networks.
    scope.rank("body.0.weight") == Some(4) && scope.rank("body.1.weight") == Some(1)
}

pub(super) fn infer(scope: Scope<'_>) -> Result<UpscalerConfig, FamilyError> {
    let in_channels = scope.dim("body.0.weight", 1)?;
    // Convolutions at even places, slopes between.
    let last = scope.count("body").saturating_sub(1);
    let outputs = scope.dim(&format!("body.{last}.weight"), 0)?;
    let (scale, out_channels) = shuffled(outputs, in_channels, "compact")?;
    Ok(UpscalerConfig::Compact(CompactConfig {
        in_channels,
        out_channels,
        features: scope.dim("body.0.weight", 0)?,
        convolutions: last.saturating_sub(2) / 2,
        scale,
    }))
}

pub(super) fn layout(config: &CompactConfig) -> Module {
    let features = config.features;
    let body = (0..=config.convolutions).fold(Module::new(), |body, place| {
        let inputs = if place == 0 { config.in_channels } else { features };
        body.with((2 * place).to_string(), conv(features, inputs, 3))
            // One slope for each channel.
            .with((2 * place + 1).to_string(), rms_norm("weight", features))
    });
    let outputs = config.out_channels * config.scale * config.scale;
    let last = (2 * config.convolutions + 2).to_string();
    Module::new().with("body", body.with(last, conv(outputs, features, 3)))
}
