//! Recognising what a checkpoint is and splitting it into components.
//!
//! [`recognise`] looks at keys, shapes and metadata, never at file names. Each architecture reads
//! its configuration off the shapes, writes down the layers that a model of this configuration
//! must have, and these are matched with the file: what is missing or of another shape is an
//! error, what is left over is either known to be of no use or reported as unknown.
//!
//! | module | holds |
//! | --- | --- |
//! | `unet`, `mmdit`, `flux`, `flux2`, `chroma`, `next_dit`, `krea2`, `qwen_image`, `qwen_image21`, `clip`, `t5`, `decoder`, `vae`, `vae_causal`, `vae_residual` | one architecture each: its configuration and its layers |
//! | `diffusion`, `text` | where a file keeps them and what family and names that makes |
//! | `diffusers`, `join` | models that diffusers split or named; components of several files as one model |
//! | `tiny_vae` | tiny autoencoders, a half a file |
//! | `upscaler` | models that enlarge pictures, one file an architecture |
//! | `vae_names` | where diffusers keeps an autoencoder's layers |
//! | `layout`, `matching` | a tree of modules; matching its leaves with tensors |
//! | `blank` | the other way round: from configurations to the tensors of a file |
//! | `resolution` | the size of the pictures that a file was trained on, where it says so |
//! | `prediction`, `ignorable`, `foreign` | what the output means; leftovers; files that are something else |

mod blank;
mod chroma;
mod clip;
mod decoder;
mod diffusers;
mod diffusion;
mod error;
mod flux;
mod flux2;
mod foreign;
mod ignorable;
mod inventory;
mod join;
mod krea2;
mod layout;
mod matching;
mod mmdit;
mod model;
mod next_dit;
mod prediction;
mod qwen_image;
mod qwen_image21;
mod resolution;
#[cfg(test)]
mod round_trip;
mod t5;
mod text;
mod tiny_vae;
mod unet;
mod upscaler;
mod vae;
mod vae_causal;
mod vae_names;
mod vae_residual;
mod vision;

pub use blank::{Configs, blank};
pub use diffusers::{original, shards};
pub use error::FamilyError;
pub use join::{JoinError, Member, join};
pub use model::{
    DiffusionModel, Family, Ignored, Model, TextEncoder, Variant, Vocabulary, Widened,
};
pub use resolution::trained_resolution;

use crate::config::{DiffusionConfig, VaeArchitecture, VaeConfig};
use crate::file::Checkpoint;
use crate::layer::{Component, ComponentKind, Layer};
use inventory::{Inventory, Scope};
use matching::{Part, Stored, match_layers, plain_key};
use text::TextEncoders;
use vae_names::Names;

/// Recognises what a checkpoint is and splits it.
///
/// No tensor's data is read but one short tensor of an SD 2.x model, whose values tell its
/// prediction. A file with one component only (a diffusion model, text encoder or VAE of its own)
/// is recognised as a [`Model`] with that component.
///
/// # Errors
/// The file is nothing known, is something else or of an unsupported family, or lacks tensors that
/// the recognised model needs, or has them in other shapes than it needs.
pub fn recognise(checkpoint: &Checkpoint) -> Result<Model, FamilyError> {
    let mut inventory = Inventory::new(checkpoint);
    foreign::refuse_relatives(&inventory)?;
    match split(&mut inventory) {
        // Adapters name the modules that they change, and look like a model in ruins.
        Err(error @ FamilyError::NoConfig { .. }) => {
            Err(foreign::by_sight(&inventory).unwrap_or(error))
        }
        Err(error @ FamilyError::Unknown { .. }) => Err(unread(checkpoint).unwrap_or(error)),
        result => result,
    }
}

/// The error for a file of which nothing is known, where that may be because of tensors that are not read.
fn unread(checkpoint: &Checkpoint) -> Option<FamilyError> {
    let quantised = checkpoint.unread().iter().find(|(_, unread)| unread.quantisation.is_some());
    let (key, unread) = quantised?;
    Some(FamilyError::unread("model", key, unread))
}

fn split(inventory: &mut Inventory<'_>) -> Result<Model, FamilyError> {
    let mut notes = Vec::new();
    let mut components = Vec::new();
    let mut add = |kind, layers: Vec<Layer>| {
        if !layers.is_empty() {
            components.push(Component { kind, layers });
        }
    };

    let diffusion = diffusion::split(inventory)?.map(|(model, layers, note)| {
        add(ComponentKind::DiffusionModel, layers);
        notes.extend(note);
        model
    });
    let family = diffusion.as_ref().map(|model| model.family);
    let text = text::split(inventory, family)?;
    add(ComponentKind::TextEncoders, text.layers);
    let text = TextEncoders { layers: Vec::new(), ..text };
    let vae = split_vae(inventory, family)?.map(|(config, layers)| {
        add(ComponentKind::Vae, layers);
        config
    });
    let tiny_vae = match components.is_empty() {
        true => tiny_vae::split(inventory)?,
        false => None,
    };
    let tiny_vae = tiny_vae.map(|(config, layers)| {
        components.push(Component { kind: ComponentKind::Vae, layers });
        config
    });
    // Names of upscalers' layers are few and plain, so that other models are looked for first.
    let upscaler = match components.is_empty() {
        true => upscaler::split(inventory)?,
        false => None,
    };
    let upscaler = upscaler.map(|(config, layers)| {
        components.push(Component { kind: ComponentKind::Upscaler, layers });
        config
    });
    if components.is_empty() {
        return Err(foreign::name(inventory));
    }

    notes.extend(diffusion.as_ref().and_then(|model| conditioning_note(model, &text.encoders)));
    notes.extend(vae.as_ref().filter(|_| family.is_none()).and_then(scaling_note));
    let (ignored, unknown) = leftovers(inventory, &text.prefixes);
    if diffusion.is_none() && unknown.iter().any(|key| key.starts_with("model.diffusion_model.")) {
        return Err(foreign::name(inventory));
    }
    Ok(Model {
        diffusion,
        text_encoders: text.encoders,
        vae,
        tiny_vae,
        upscaler,
        components,
        ignored,
        unknown,
        notes,
    })
}

fn split_vae(
    inventory: &mut Inventory<'_>,
    family: Option<Family>,
) -> Result<Option<(VaeConfig, Vec<Layer>)>, FamilyError> {
    if let Some(found) = split_residual_vae(inventory)? {
        return Ok(Some(found));
    }
    if let Some(found) = split_causal_vae(inventory)? {
        return Ok(Some(found));
    }
    let found = vae::PREFIXES
        .into_iter()
        .find_map(|prefix| Some((prefix, Names::detect(Scope::new(inventory, prefix))?)));
    let Some((prefix, names)) = found else { return Ok(None) };
    foreign::refuse_other_vaes(inventory)?;
    let config = vae::infer(Scope::new(inventory, prefix), names, family)?;
    let part = Part { label: "VAE", root: "", use_start: 0 };
    let (layout, levels) = (vae::layout(&config).layers(), config.channel_mult.len());
    let layers = match_layers(inventory, &part, layout, |inventory, layer, param| {
        let name = names.of(Scope::new(inventory, prefix), &layer.name, levels);
        Stored::whole(plain_key(prefix, &name, param), param)
    })?;
    Ok(Some((config, layers)))
}

fn split_causal_vae(
    inventory: &mut Inventory<'_>,
) -> Result<Option<(VaeConfig, Vec<Layer>)>, FamilyError> {
    let detect = |prefix| vae_causal::Names::detect(Scope::new(inventory, prefix));
    let found = vae::PREFIXES.into_iter().find_map(|prefix| Some((prefix, detect(prefix)?)));
    let Some((prefix, names)) = found else { return Ok(None) };
    foreign::refuse_other_vaes(inventory)?;
    let config = vae_causal::infer(Scope::new(inventory, prefix), names)?;
    let part = Part { label: "VAE", root: "", use_start: 0 };
    let layout = vae_causal::layout(&config).layers();
    let layers = match_layers(inventory, &part, layout, |_, layer, param| {
        vae_causal::stored((prefix, names), config.num_res_blocks, layer, param)
    })?;
    Ok(Some((config, layers)))
}

fn split_residual_vae(
    inventory: &mut Inventory<'_>,
) -> Result<Option<(VaeConfig, Vec<Layer>)>, FamilyError> {
    let detect = |prefix| vae_residual::Names::detect(Scope::new(inventory, prefix));
    let found = vae::PREFIXES.into_iter().find_map(|prefix| Some((prefix, detect(prefix)?)));
    let Some((prefix, names)) = found else { return Ok(None) };
    let config = vae_residual::infer(Scope::new(inventory, prefix), names)?;
    let part = Part { label: "VAE", root: "", use_start: 0 };
    let layout = vae_residual::layout(&config).layers();
    let layers = match_layers(inventory, &part, layout, |inventory, layer, param| {
        vae_residual::stored(inventory, (prefix, names), layer, param)
    })?;
    Ok(Some((config, layers)))
}

/// Warns of text encoders whose output does not fit the diffusion model of the same file.
fn conditioning_note(model: &DiffusionModel, encoders: &[TextEncoder]) -> Option<String> {
    let DiffusionConfig::Unet(config) = &model.config else { return None };
    let width = encoders.iter().map(|encoder| encoder.config.width()).sum::<usize>();
    (!encoders.is_empty() && width != config.context_dim).then(|| {
        format!(
            "the text encoders give {width} values per token where the diffusion model reads {}",
            config.context_dim
        )
    })
}

fn scaling_note(config: &VaeConfig) -> Option<String> {
    if config.packed || config.architecture != VaeArchitecture::Kl {
        return None;
    }
    let others = match config.latent_channels {
        16 => "Flux's; SD3's are 1.5305 and 0.0609",
        _ => "those of SD 1.x and SD 2.x; SDXL's are 0.13025 and 0",
    };
    Some(format!(
        "a VAE does not tell how its latents are scaled: {} and {} are {others}",
        config.scaling_factor, config.shift_factor
    ))
}

/// Sorts the tensors that no component uses into known-ignorable and unknown.
fn leftovers(inventory: &Inventory<'_>, text_prefixes: &[&str]) -> (Vec<Ignored>, Vec<String>) {
    let beside_text_encoder = |key: &str| {
        text_prefixes
            .iter()
            .filter_map(|prefix| key.strip_prefix(prefix))
            .find_map(ignorable::reason_beside_text_encoder)
    };
    let mut ignored = Vec::new();
    let mut unknown = Vec::new();
    for key in inventory.leftovers() {
        match ignorable::reason(key).or_else(|| beside_text_encoder(key)) {
            Some(reason) => ignored.push(Ignored { key: key.to_owned(), reason }),
            None => unknown.push(key.to_owned()),
        }
    }
    let reason = "in a dtype that is not read, and not needed";
    ignored.extend(inventory.unread_keys().map(|key| Ignored { key: key.to_owned(), reason }));
    (ignored, unknown)
}
