//! Tiny autoencoders (TAESD, <https://github.com/madebyollin/taesd>): an encoder or a decoder in a file of its own, whose
//! modules are numbered in a row.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{Module, conv, conv_without_bias};
use super::matching::{Part, Stored, match_layers, plain_key};
use crate::config::{TinyVaeConfig, TinyVaeHalf};
use crate::layer::Layer;

/// The half in a file, with its layers; `None` where there is none.
///
/// # Errors
/// When it lacks tensors that it needs, or has them in other shapes.
pub(super) fn split(
    inventory: &mut Inventory<'_>,
) -> Result<Option<(TinyVaeConfig, Vec<Layer>)>, FamilyError> {
    let Some(config) = infer(Scope::new(inventory, ""))? else { return Ok(None) };
    let part = Part { label: "tiny autoencoder", root: "", use_start: 0 };
    let layers = match_layers(inventory, &part, layout(&config).layers(), |_, layer, param| {
        Stored::whole(plain_key("", &layer.name, param), param)
    })?;
    Ok(Some((config, layers)))
}

fn infer(scope: Scope<'_>) -> Result<Option<TinyVaeConfig>, FamilyError> {
    let is_square = |name: &str| scope.rank(name) == Some(4);
    if is_square("0.weight") && is_square("14.weight") && is_square("1.conv.0.weight") {
        return Ok(Some(TinyVaeConfig {
            half: TinyVaeHalf::Encoder,
            latent_channels: scope.dim("14.weight", 0)?,
            channels: scope.dim("0.weight", 0)?,
        }));
    }
    if is_square("1.weight") && is_square("19.weight") && is_square("3.conv.0.weight") {
        return Ok(Some(TinyVaeConfig {
            half: TinyVaeHalf::Decoder,
            latent_channels: scope.dim("1.weight", 1)?,
            channels: scope.dim("1.weight", 0)?,
        }));
    }
    Ok(None)
}

fn layout(config: &TinyVaeConfig) -> Module {
    let (latent, channels) = (config.latent_channels, config.channels);
    let block = || {
        Module::new()
            .with("conv.0", conv(channels, channels, 3))
            .with("conv.2", conv(channels, channels, 3))
            .with("conv.4", conv(channels, channels, 3))
    };
    let blocks = |module: Module, places: std::ops::RangeInclusive<usize>| {
        places.fold(module, |module, place| module.with(place.to_string(), block()))
    };
    let resize = || conv_without_bias(channels, channels, 3);
    match config.half {
        TinyVaeHalf::Encoder => {
            let module = Module::new().with("0", conv(channels, 3, 3));
            let module = blocks(module, 1..=1).with("2", resize());
            let module = blocks(module, 3..=5).with("6", resize());
            let module = blocks(module, 7..=9).with("10", resize());
            blocks(module, 11..=13).with("14", conv(latent, channels, 3))
        }
        TinyVaeHalf::Decoder => {
            let module = Module::new().with("1", conv(channels, latent, 3));
            let module = blocks(module, 3..=5).with("7", resize());
            let module = blocks(module, 8..=10).with("12", resize());
            let module = blocks(module, 13..=15).with("17", resize());
            blocks(module, 18..=18).with("19", conv(3, channels, 3))
        }
    }
}
