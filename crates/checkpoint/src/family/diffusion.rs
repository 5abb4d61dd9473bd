//! Finding the diffusion model in a file and telling its family and variant.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{LayerSpec, Module, ParamSpec};
use super::matching::{Part, Stored, match_layers, plain_key};
use super::model::{DiffusionModel, Family, Variant, Widened};
use super::{
    chroma, flux, flux2, krea2, mmdit, next_dit, prediction, qwen_image, qwen_image21, unet,
};
use crate::config::{
    ChromaConfig, DiffusionConfig, Flux2Config, FluxConfig, Krea2Config, MmditConfig,
    NextDitConfig, NextDitKind, QwenImage21Config, QwenImageConfig, UnetConfig,
};
use crate::layer::Layer;

/// Where diffusion models are found: in checkpoints, in other tools' exports, in files of their
/// own.
const PREFIXES: [&str; 3] = ["model.diffusion_model.", "diffusion_model.", ""];

/// SDXL base conditions on six numbers of 256 values each besides the pooled text, the refiner on
/// five, <https://arxiv.org/abs/2307.01952>.
const REFINER_NUMBERS_WIDTH: usize = 5 * 256;

/// What a network's file says about it.
type Inferred = (Family, Variant, DiffusionConfig);

/// One architecture of diffusion networks: how its files are known and read.
struct Architecture {
    /// A tensor that every such network has, under its prefix.
    anchor: &'static str,
    /// A tensor that it does not have, by which another one is told from it.
    without: Option<&'static str>,
    /// The list of blocks by which it is known where the anchor is missing.
    blocks: &'static str,
    /// Reads the configuration off the tensors under a prefix.
    infer: fn(&Inventory<'_>, Scope<'_>) -> Result<Inferred, FamilyError>,
    /// Where the parameter of a layer is under a prefix.
    stored: fn(&Inventory<'_>, &str, &LayerSpec, &ParamSpec) -> Stored,
}

/// All architectures; the first that fits counts.
const ARCHITECTURES: [Architecture; 9] = [
    Architecture {
        anchor: mmdit::ANCHOR,
        without: None,
        blocks: "joint_blocks",
        infer: |_, scope| {
            let config = mmdit::infer(scope)?;
            Ok((Family::Sd3, mmdit_variant(&config)?, DiffusionConfig::Mmdit(config)))
        },
        stored: as_named,
    },
    Architecture {
        anchor: flux2::ANCHOR,
        without: None,
        blocks: "double_stream_modulation_img",
        infer: |_, scope| {
            let config = flux2::infer(scope)?;
            Ok((Family::Flux2, flux2_variant(&config)?, DiffusionConfig::Flux2(config)))
        },
        stored: flux::stored,
    },
    Architecture {
        anchor: chroma::ANCHOR,
        without: None,
        blocks: chroma::BLOCKS,
        infer: |_, scope| {
            let config = chroma::infer(scope)?;
            Ok((Family::Chroma, chroma_variant(&config)?, DiffusionConfig::Chroma(config)))
        },
        stored: flux::stored,
    },
    Architecture {
        anchor: flux::ANCHOR,
        without: None,
        blocks: "double_blocks",
        infer: |_, scope| {
            let config = flux::infer(scope)?;
            Ok((Family::Flux, flux_variant(&config)?, DiffusionConfig::Flux(config)))
        },
        stored: flux::stored,
    },
    Architecture {
        anchor: next_dit::ANCHOR,
        without: None,
        blocks: next_dit::BLOCKS,
        infer: |_, scope| {
            let config = next_dit::infer(scope)?;
            let family = match config.kind {
                NextDitKind::Lumina2 => Family::Lumina2,
                NextDitKind::ZImage => Family::ZImage,
            };
            Ok((family, next_dit_variant(family, &config)?, DiffusionConfig::NextDit(config)))
        },
        stored: as_named,
    },
    Architecture {
        anchor: krea2::ANCHOR,
        without: None,
        blocks: krea2::BLOCKS,
        infer: |_, scope| {
            let config = krea2::infer(scope)?;
            Ok((Family::Krea2, krea2_variant(&config)?, DiffusionConfig::Krea2(config)))
        },
        stored: as_named,
    },
    Architecture {
        anchor: qwen_image::ANCHOR,
        without: None,
        blocks: qwen_image::BLOCKS,
        infer: |_, scope| {
            let config = qwen_image::infer(scope)?;
            Ok((
                Family::QwenImage,
                qwen_image_variant(&config)?,
                DiffusionConfig::QwenImage(config),
            ))
        },
        stored: as_named,
    },
    Architecture {
        anchor: qwen_image21::ANCHOR,
        without: None,
        blocks: qwen_image21::BLOCKS,
        infer: |_, scope| {
            let config = qwen_image21::infer(scope)?;
            Ok((
                Family::QwenImage21,
                qwen_image21_variant(&config)?,
                DiffusionConfig::QwenImage21(config),
            ))
        },
        stored: as_named,
    },
    Architecture {
        anchor: unet::ANCHOR,
        without: Some(unet::CONTROLNET_ANCHOR),
        blocks: "output_blocks",
        infer: |inventory, scope| {
            let config = unet::infer(scope)?;
            let family = unet_family(inventory, &config)?;
            Ok((family, unet_variant(&config)?, DiffusionConfig::Unet(config)))
        },
        stored: as_named,
    },
];

/// The modules of a network of this configuration.
pub(super) fn layout(config: &DiffusionConfig) -> Module {
    match config {
        DiffusionConfig::Unet(config) => unet::layout(config),
        DiffusionConfig::Mmdit(config) => mmdit::layout(config),
        DiffusionConfig::Flux(config) => flux::layout(config),
        DiffusionConfig::NextDit(config) => next_dit::layout(config),
        DiffusionConfig::Flux2(config) => flux2::layout(config),
        DiffusionConfig::Chroma(config) => chroma::layout(config),
        DiffusionConfig::Krea2(config) => krea2::layout(config),
        DiffusionConfig::QwenImage(config) => qwen_image::layout(config),
        DiffusionConfig::QwenImage21(config) => qwen_image21::layout(config),
    }
}

/// The keys of tensors that are in a file of such a network and in none of its layers.
pub(super) fn markers(config: &DiffusionConfig) -> &'static [&'static str] {
    match config {
        DiffusionConfig::QwenImage(config) if config.references_at_zero => {
            &[qwen_image::REFERENCES_AT_ZERO]
        }
        _ => &[],
    }
}

/// Under the layer's own name.
fn as_named(_: &Inventory<'_>, prefix: &str, layer: &LayerSpec, param: &ParamSpec) -> Stored {
    Stored::whole(plain_key(prefix, &layer.name, param), param)
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
    let (family, variant, config) = (architecture.infer)(inventory, Scope::new(inventory, prefix))?;
    let label = format!("{family} diffusion model");
    let part = Part { label: &label, root: "", use_start: 0 };
    let layers = layout(&config).layers();
    let layers = match_layers(inventory, &part, layers, |inventory, layer, param| {
        (architecture.stored)(inventory, prefix, layer, param)
    })?;
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

fn find(inventory: &Inventory<'_>) -> Option<(&'static Architecture, &'static str)> {
    PREFIXES.into_iter().find_map(|prefix| {
        let has = |name: &str| inventory.has(&format!("{prefix}{name}"));
        let fits = |architecture: &&Architecture| {
            has(architecture.anchor) && !architecture.without.is_some_and(has)
        };
        Some((ARCHITECTURES.iter().find(fits)?, prefix))
    })
}

/// What is left of a diffusion model that lacks the tensor it is known by.
fn find_incomplete(inventory: &Inventory<'_>) -> Option<(&'static Architecture, &'static str)> {
    PREFIXES.into_iter().find_map(|prefix| {
        let scope = Scope::new(inventory, prefix);
        let fits = |architecture: &&Architecture| scope.count(architecture.blocks) > 0;
        Some((ARCHITECTURES.iter().find(fits)?, prefix))
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

impl DiffusionModel {
    /// The model with a wider input layer; `None` where that is not its input layer, is not wider, or makes none of its
    /// family's variants.
    pub fn widened(&self, to: &Widened) -> Option<Self> {
        let DiffusionConfig::Flux(config) = &self.config else { return None };
        if to.layer != flux::INPUT || to.columns <= config.in_channels {
            return None;
        }
        let config = FluxConfig { in_channels: to.columns, ..config.clone() };
        let variant = flux_variant(&config).ok()?;
        Some(Self { variant, config: DiffusionConfig::Flux(config), ..self.clone() })
    }
}

fn chroma_variant(config: &ChromaConfig) -> Result<Variant, FamilyError> {
    match (config.in_channels, config.out_channels) {
        (input, output) if input == output => Ok(Variant::Base),
        (input, output) => Err(odd_input("a Chroma transformer", input, output)),
    }
}

fn flux2_variant(config: &Flux2Config) -> Result<Variant, FamilyError> {
    match (config.in_channels, config.out_channels) {
        (input, output) if input == output => Ok(Variant::Base),
        (input, output) => Err(odd_input("a Flux.2 transformer", input, output)),
    }
}

fn next_dit_variant(family: Family, config: &NextDitConfig) -> Result<Variant, FamilyError> {
    match (config.in_channels, config.out_channels) {
        (input, output) if input == output => Ok(Variant::Base),
        (input, output) => Err(odd_input(&format!("a {family} transformer"), input, output)),
    }
}

fn krea2_variant(config: &Krea2Config) -> Result<Variant, FamilyError> {
    match (config.in_channels, config.out_channels) {
        (input, output) if input == output => Ok(Variant::Base),
        (input, output) => Err(odd_input("a Krea 2 transformer", input, output)),
    }
}

fn qwen_image_variant(config: &QwenImageConfig) -> Result<Variant, FamilyError> {
    match (config.in_channels, config.out_channels) {
        (input, output) if input == output => Ok(Variant::Base),
        (input, output) => Err(odd_input("a Qwen-Image transformer", input, output)),
    }
}

fn qwen_image21_variant(config: &QwenImage21Config) -> Result<Variant, FamilyError> {
    match (config.in_channels, config.out_channels) {
        (input, output) if input == output => Ok(Variant::Base),
        (input, output) => Err(odd_input("a Qwen-Image 2.1 transformer", input, output)),
    }
}

fn odd_input(what: &str, input: usize, output: usize) -> FamilyError {
    FamilyError::Unsupported {
        what: format!("{what} with {input} input and {output} output channels"),
        reason: "what it takes beside the latent is not known".to_owned(),
    }
}
