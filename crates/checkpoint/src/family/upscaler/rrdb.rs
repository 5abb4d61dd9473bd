//! ESRGAN's residual-in-residual dense blocks (<https://arxiv.org/abs/1809.00219>), with ESRGAN+'s further paths
//! (<https://arxiv.org/abs/2001.08073>) and Real-ESRGAN's unshuffled pixels (<https://arxiv.org/abs/2107.10833>).
//!
//! Layers are named as Real-ESRGAN has them. Files have one of three sets of names.

use super::super::error::FamilyError;
use super::super::inventory::Scope;
use super::super::layout::{Module, conv, conv_without_bias};
use crate::config::{RrdbConfig, UpscalerConfig};

/// Dense blocks of a residual block, and convolutions of a dense block.
const DENSE: usize = 3;
const CONVOLUTIONS: usize = 5;

/// How a file names its layers.
enum Style {
    /// ESRGAN's first: a list in which the blocks are the second member.
    Listed,
    /// ESRGAN's second: `RRDB_trunk`, `trunk_conv`, `upconv1`, `HRconv`.
    Trunk,
    /// Real-ESRGAN's: `body`, `conv_body`, `conv_up1`, `conv_hr`.
    Body,
}

fn style(scope: Scope<'_>) -> Option<Style> {
    let has = |name: &str| scope.has(name);
    if has("model.0.weight")
        && (has("model.1.sub.0.RDB1.conv1.0.weight") || has("model.1.sub.0.RDB1.conv1x1.weight"))
    {
        Some(Style::Listed)
    } else if has("conv_first.weight") && has("RRDB_trunk.0.RDB1.conv1.weight") {
        Some(Style::Trunk)
    } else if has("conv_first.weight") && has("body.0.rdb1.conv1.weight") {
        Some(Style::Body)
    } else {
        None
    }
}

pub(super) fn is_in(scope: Scope<'_>) -> bool {
    style(scope).is_some()
}

pub(super) fn infer(scope: Scope<'_>) -> Result<UpscalerConfig, FamilyError> {
    let config = match style(scope) {
        Some(Style::Listed) | None => {
            // The first convolution, the blocks, two more convolutions with what is between, and three for each doubling.
            let length = scope.count("model");
            let doublings = length.saturating_sub(5) / 3;
            let last = format!("model.{}.weight", length.saturating_sub(1));
            read(
                scope,
                ["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight", &last],
                // The last of the list is the convolution behind the blocks.
                scope.count("model.1.sub").saturating_sub(1),
                doublings,
                scope.has("model.1.sub.0.RDB1.conv1x1.weight"),
            )?
        }
        Some(Style::Trunk) => {
            let first = "RRDB_trunk.0.RDB1.conv1.weight";
            read(
                scope,
                ["conv_first.weight", first, "conv_last.weight"],
                scope.count("RRDB_trunk"),
                doublings(scope, "upconv"),
                scope.has("RRDB_trunk.0.RDB1.conv1x1.weight"),
            )?
        }
        Some(Style::Body) => read(
            scope,
            ["conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"],
            scope.count("body"),
            doublings(scope, "conv_up"),
            scope.has("body.0.rdb1.conv1x1.weight"),
        )?,
    };
    Ok(UpscalerConfig::Rrdb(config))
}

/// How many convolutions behind a doubling there are: `upconv1`, `upconv2`, ….
fn doublings(scope: Scope<'_>, name: &str) -> usize {
    (1..=4).take_while(|number| scope.has(&format!("{name}{number}.weight"))).count()
}

fn read(
    scope: Scope<'_>,
    [first, dense, last]: [&str; 3],
    blocks: usize,
    doublings: usize,
    plus: bool,
) -> Result<RrdbConfig, FamilyError> {
    let (inputs, outputs) = (scope.dim(first, 1)?, scope.dim(last, 0)?);
    let unshuffled = [2, 4].into_iter().find(|side| inputs == outputs * side * side).unwrap_or(1);
    if doublings > 4 || (1 << doublings) < unshuffled {
        return Err(FamilyError::Unsupported {
            what: "an upscaler (ESRGAN) of another scale".to_owned(),
            reason: format!(
                "it doubles {doublings} times, of pixels put {unshuffled}×{unshuffled} together"
            ),
        });
    }
    Ok(RrdbConfig {
        in_channels: inputs / (unshuffled * unshuffled),
        out_channels: outputs,
        features: scope.dim(first, 0)?,
        growth: scope.dim(dense, 0)?,
        blocks,
        doublings,
        unshuffled,
        plus,
    })
}

pub(super) fn layout(config: &RrdbConfig) -> Module {
    let (features, growth) = (config.features, config.growth);
    let dense = || {
        let inputs = |place: usize| features + place * growth;
        let last = CONVOLUTIONS - 1;
        let module = (0..last).fold(Module::new(), |module, place| {
            let module = module.with(format!("conv{}", place + 1), conv(growth, inputs(place), 3));
            // Used behind the second convolution.
            module.with_if(config.plus && place == 1, "conv1x1", || {
                conv_without_bias(growth, features, 1).into()
            })
        });
        module.with(format!("conv{CONVOLUTIONS}"), conv(features, inputs(last), 3))
    };
    let block = || {
        (1..=DENSE).fold(Module::new(), |module, place| module.with(format!("rdb{place}"), dense()))
    };
    let first = config.in_channels * config.unshuffled * config.unshuffled;
    let module = Module::new()
        .with("conv_first", conv(features, first, 3))
        .with_each("body", (0..config.blocks).map(|_| block()))
        .with("conv_body", conv(features, features, 3));
    let module = (1..=config.doublings).fold(module, |module, place| {
        module.with(format!("conv_up{place}"), conv(features, features, 3))
    });
    module
        .with("conv_hr", conv(features, features, 3))
        .with("conv_last", conv(config.out_channels, features, 3))
}

/// Where a file keeps the layers.
pub(super) struct Names {
    style: Style,
    blocks: usize,
    doublings: usize,
}

impl Names {
    pub fn of(scope: Scope<'_>, config: &RrdbConfig) -> Self {
        let style = style(scope).unwrap_or(Style::Body);
        Self { style, blocks: config.blocks, doublings: config.doublings }
    }

    pub fn of_layer(&self, layer: &str) -> String {
        let number =
            |name: &str| layer.strip_prefix(name).and_then(|rest| rest.parse::<usize>().ok());
        let in_block = layer.strip_prefix("body.").map(|rest| rest.replace("rdb", "RDB"));
        match (&self.style, in_block) {
            (Style::Body, _) => layer.to_owned(),
            (Style::Trunk, Some(rest)) => format!("RRDB_trunk.{rest}"),
            (Style::Trunk, None) => match (layer, number("conv_up")) {
                ("conv_body", _) => "trunk_conv".to_owned(),
                ("conv_hr", _) => "HRconv".to_owned(),
                (_, Some(number)) => format!("upconv{number}"),
                (other, _) => other.to_owned(),
            },
            (Style::Listed, Some(rest)) if rest.ends_with("conv1x1") => {
                format!("model.1.sub.{rest}")
            }
            (Style::Listed, Some(rest)) => format!("model.1.sub.{rest}.0"),
            (Style::Listed, None) => match (layer, number("conv_up")) {
                ("conv_first", _) => "model.0".to_owned(),
                ("conv_body", _) => format!("model.1.sub.{}", self.blocks),
                ("conv_hr", _) => format!("model.{}", 3 * self.doublings + 2),
                ("conv_last", _) => format!("model.{}", 3 * self.doublings + 4),
                (_, Some(number)) => format!("model.{}", 3 * number),
                (other, _) => other.to_owned(),
            },
        }
    }
}
