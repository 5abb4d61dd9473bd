//! Models that enlarge pictures, in files of their own.
//!
//! One file an architecture: how it is told by its keys, what its configuration is, which layers it has, and where a
//! file keeps each. A further architecture is a row in [`ARCHITECTURES`].

mod compact;
mod rrdb;
mod span;

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{LayerSpec, Module};
use super::matching::{Part, Stored, match_layers};
use crate::config::UpscalerConfig;
use crate::layer::Layer;

/// Where a file keeps the weights: at its top, or in one of the dicts that trainers save, averaged weights first.
const PREFIXES: [&str; 8] =
    ["", "params_ema.", "params-ema.", "params.", "model.", "net.", "module.", "netG."];

/// An architecture.
struct Architecture {
    /// Whether the tensors are those of such a model.
    is_in: fn(Scope<'_>) -> bool,
    /// Its configuration, read off the shapes.
    infer: fn(Scope<'_>) -> Result<UpscalerConfig, FamilyError>,
}

const ARCHITECTURES: [Architecture; 3] = [
    Architecture { is_in: rrdb::is_in, infer: rrdb::infer },
    Architecture { is_in: span::is_in, infer: span::infer },
    Architecture { is_in: compact::is_in, infer: compact::infer },
];

/// The layers of a configuration.
fn layout(config: &UpscalerConfig) -> Module {
    match config {
        UpscalerConfig::Rrdb(config) => rrdb::layout(config),
        UpscalerConfig::Compact(config) => compact::layout(config),
        UpscalerConfig::Span(config) => span::layout(config),
    }
}

/// The upscaler in a file, with its layers; `None` where there is none.
///
/// # Errors
/// When it lacks tensors that it needs, or has them in other shapes.
pub(super) fn split(
    inventory: &mut Inventory<'_>,
) -> Result<Option<(UpscalerConfig, Vec<Layer>)>, FamilyError> {
    let found = PREFIXES.into_iter().find_map(|prefix| {
        let scope = Scope::new(inventory, prefix);
        Some((prefix, ARCHITECTURES.iter().find(|known| (known.is_in)(scope))?))
    });
    let Some((prefix, architecture)) = found else { return Ok(None) };
    let config = (architecture.infer)(Scope::new(inventory, prefix))?;
    let names = match &config {
        UpscalerConfig::Rrdb(config) => {
            Some(rrdb::Names::of(Scope::new(inventory, prefix), config))
        }
        _ => None,
    };
    let name = |layer: &LayerSpec| match &names {
        Some(names) => names.of_layer(&layer.name),
        None => layer.name.clone(),
    };
    let part = Part { label: config.name(), root: "", use_start: 0 };
    let layers = match_layers(inventory, &part, layout(&config).layers(), |_, layer, param| {
        let dot = if param.name.is_empty() { "" } else { "." };
        Stored::whole(format!("{prefix}{}{dot}{}", name(layer), param.name), param)
    })?;
    Ok(Some((config, layers)))
}

/// How often a network enlarges at its end, and the channels that come out, of which `scale² · channels` are
/// `outputs`: those that go in, as a rule.
fn shuffled(outputs: usize, inputs: usize, what: &str) -> Result<(usize, usize), FamilyError> {
    let scale = |channels: usize| {
        let square = outputs.checked_div(channels).filter(|_| outputs.is_multiple_of(channels))?;
        (1..=16).find(|scale| scale * scale == square)
    };
    let found =
        [inputs, 3, 4, 1].into_iter().find_map(|channels| Some((scale(channels)?, channels)));
    found.ok_or_else(|| FamilyError::Unsupported {
        what: format!("an upscaler ({what}) whose last layer makes {outputs} channels"),
        reason: "they are no picture's channels, enlarged".to_owned(),
    })
}
