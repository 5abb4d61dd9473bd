//! Finding the diffusion model in a file and telling its family and variant.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::LayerSpec;
use super::matching::{Part, Stored, match_layers, plain_key};
use super::model::{DiffusionModel, Family, Variant};
use super::{flux, mmdit, prediction, unet};
use crate::config::{DiffusionConfig, FluxConfig, MmditConfig, UnetConfig};
use crate::layer::Layer;

/// Where diffusion models are found: in checkpoints, in other tools' exports, in files of their
/// own.
const PREFIXES: [&str; 3] = ["model.diffusion_model.", "diffusion_model.", ""];

/// SDXL base conditions on six numbers of 256 values each besides the pooled text, the refiner on
/// five, <https://arxiv.org/abs/2307.01952>.
const REFINER_NUMBERS_WIDTH: usize = 5 * 256;

#[derive(Clone, Copy)]
enum Architecture {
    Unet,
    Mmdit,
    Flux,
}

/// Recognises the diffusion model in a file and takes its tensors; `None` where there is none.
///
/// The second value is a remark for people, if there is need for one.
#[allow(clippy::type_complexity)]
pub(super) fn split(
    inventory: &mut Inventory<'_>,
) -> Result<Option<(DiffusionModel, Vec<Layer>, Option<String>)>, FamilyError> {
    let Some((architecture, prefix)) = find(inventory).or_else(|| find_incomplete(inventory))
    else {
        return Ok(None);
    };
    let scope = Scope::new(inventory, prefix);
    let (family, variant, config, layout) = match architecture {
        Architecture::Unet => {
            let config = unet::infer(scope)?;
            let layout = unet::layout(&config).layers();
            let family = unet_family(inventory, &config)?;
            (family, unet_variant(&config)?, DiffusionConfig::Unet(config), layout)
        }
        Architecture::Mmdit => {
            let config = mmdit::infer(scope)?;
            let layout = mmdit::layout(&config).layers();
            (Family::Sd3, mmdit_variant(&config)?, DiffusionConfig::Mmdit(config), layout)
        }
        Architecture::Flux => {
            let config = flux::infer(scope)?;
            let layout = flux::layout(&config).layers();
            (Family::Flux, flux_variant(&config)?, DiffusionConfig::Flux(config), layout)
        }
    };
    let layers = take(inventory, architecture, prefix, family, layout)?;
    let found = prediction::tell(inventory, prefix, family, variant);
    let model = DiffusionModel {
        family,
        variant,
        prediction: found.prediction,
        zero_terminal_snr: found.zero_terminal_snr,
        config,
    };
    Ok(Some((model, layers, found.note)))
}

fn find(inventory: &Inventory<'_>) -> Option<(Architecture, &'static str)> {
    PREFIXES.into_iter().find_map(|prefix| {
        let has = |name: &str| inventory.has(&format!("{prefix}{name}"));
        let architecture = if has(mmdit::ANCHOR) {
            Architecture::Mmdit
        } else if has(flux::ANCHOR) {
            Architecture::Flux
        } else if has(unet::ANCHOR) && !has(unet::CONTROLNET_ANCHOR) {
            Architecture::Unet
        } else {
            return None;
        };
        Some((architecture, prefix))
    })
}

/// What is left of a diffusion model that lacks the tensor it is known by.
fn find_incomplete(inventory: &Inventory<'_>) -> Option<(Architecture, &'static str)> {
    PREFIXES.into_iter().find_map(|prefix| {
        let scope = Scope::new(inventory, prefix);
        let architecture = if scope.count("joint_blocks") > 0 {
            Architecture::Mmdit
        } else if scope.count("double_blocks") > 0 {
            Architecture::Flux
        } else if scope.count("output_blocks") > 0 {
            Architecture::Unet
        } else {
            return None;
        };
        Some((architecture, prefix))
    })
}

fn take(
    inventory: &mut Inventory<'_>,
    architecture: Architecture,
    prefix: &str,
    family: Family,
    layout: Vec<LayerSpec>,
) -> Result<Vec<Layer>, FamilyError> {
    let label = format!("{family} diffusion model");
    let part = Part { label: &label, root: "", use_start: 0 };
    match_layers(inventory, &part, layout, |inventory, layer, param| match architecture {
        Architecture::Flux => flux::stored(inventory, prefix, layer, param),
        _ => Stored::whole(plain_key(prefix, &layer.name, param), param),
    })
}

/// A class vector makes it SDXL; else linear projections make it SD 2.x.
fn unet_family(inventory: &Inventory<'_>, config: &UnetConfig) -> Result<Family, FamilyError> {
    let Some(adm) = config.adm_in_channels else {
        return Ok(if config.linear_projections { Family::Sd2 } else { Family::Sd1 });
    };
    if config.context_dim == 1024 && [1536, 2048].contains(&adm) && config.model_channels == 320 {
        return Err(FamilyError::Unsupported {
            what: "SD 2.x unCLIP".to_owned(),
            reason: "it is conditioned on CLIP's picture embedding".to_owned(),
        });
    }
    let has = |key: &str| inventory.has(key);
    let refiner = if has("conditioner.embedders.1.model.token_embedding.weight") {
        false
    } else if has("conditioner.embedders.0.model.token_embedding.weight") {
        true
    } else {
        // The refiner reads one text encoder, whose width is that of its pooled output.
        adm.checked_sub(REFINER_NUMBERS_WIDTH) == Some(config.context_dim)
    };
    Ok(if refiner { Family::SdxlRefiner } else { Family::SdxlBase })
}

fn unet_variant(config: &UnetConfig) -> Result<Variant, FamilyError> {
    let latent = config.out_channels;
    match config.in_channels {
        n if n == latent => Ok(Variant::Base),
        n if n == latent + 1 => Ok(Variant::Depth),
        n if n == 2 * latent => Ok(Variant::InstructPix2Pix),
        n if n == 2 * latent + 1 => Ok(Variant::Inpaint),
        n => Err(odd_input("a UNet", n, latent)),
    }
}

fn mmdit_variant(config: &MmditConfig) -> Result<Variant, FamilyError> {
    let latent = config.out_channels;
    match config.in_channels {
        n if n == latent => Ok(Variant::Base),
        n if n == 2 * latent + 1 => Ok(Variant::Inpaint),
        n => Err(odd_input("an MMDiT", n, latent)),
    }
}

fn flux_variant(config: &FluxConfig) -> Result<Variant, FamilyError> {
    let latent = config.out_channels;
    match config.in_channels {
        n if n == latent => Ok(Variant::Base),
        n if n == 2 * latent => Ok(Variant::Control),
        // The mask keeps its full resolution: 8 × 8 pixels for each of a patch's 2 × 2 latents,
        // which is four times the 16 × 2 × 2 channels of a patch.
        n if n == 6 * latent => Ok(Variant::Inpaint),
        n => Err(odd_input("a Flux transformer", n, latent)),
    }
}

fn odd_input(what: &str, input: usize, output: usize) -> FamilyError {
    FamilyError::Unsupported {
        what: format!("{what} with {input} input and {output} output channels"),
        reason: "what it takes beside the latent is not known".to_owned(),
    }
}
