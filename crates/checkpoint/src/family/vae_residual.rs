//! The autoencoder of Qwen-Image 2.1: Wan 2.2's for single frames, with a shortcut without weights around each level, and
//! with pictures of four channels, the last of which is opacity.
//!
//! Module names and their order are Wan's, as ComfyUI's files have them; [`Names`] says where diffusers'
//! `AutoencoderKLQwenImage21` keeps each. Its convolutions have the weights of one frame, which ComfyUI's files keep a
//! dimension for and diffusers' do not. Those between frames (`time_conv`) are left out: a picture is one frame.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{LayerSpec, Module, ParamSpec, conv, frame_conv};
use super::matching::{Stored, plain_key};
use super::vae_causal::{self, head, middle, res_block};
use crate::config::{VaeArchitecture, VaeConfig};

/// How a file names the modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// As Wan does, and ComfyUI.
    Wan,
    /// As diffusers does.
    Diffusers,
}

impl Names {
    /// The names of the autoencoder under a prefix, if there is one; not of Wan 2.2's own, whose convolutions run over three
    /// frames.
    pub fn detect(scope: Scope<'_>) -> Option<Self> {
        let has = |name| scope.has(name);
        if has("decoder.upsamples.0.upsamples.0.residual.2.weight") {
            let one_frame = scope.dim("decoder.head.2.weight", 2).is_ok_and(|frames| frames == 1);
            return one_frame.then_some(Names::Wan);
        }
        let two_dimensions = scope.rank("decoder.conv_out.weight") == Some(4);
        let is_diffusers = has("decoder.up_blocks.0.upsampler.resample.1.weight") && two_dimensions;
        is_diffusers.then_some(Names::Diffusers)
    }

    /// The file's name of a layer.
    fn of(self, layer: &str) -> String {
        match self {
            Names::Wan => layer.to_owned(),
            Names::Diffusers => diffusers(layer).unwrap_or_else(|| layer.to_owned()),
        }
    }
}

/// Diffusers' name of a layer; `None` where it is Wan's.
fn diffusers(layer: &str) -> Option<String> {
    let in_level = |half: &str, list: &str, blocks: &str, resampler: &str| {
        let rest = layer.strip_prefix(&format!("{half}.{list}."))?;
        let (level, rest) = rest.split_once('.')?;
        let rest = rest.strip_prefix(list)?.strip_prefix('.')?;
        let (at, module) = rest.split_once('.')?;
        let module = match module.starts_with("resample.") {
            true => format!("{resampler}.{module}"),
            false => format!("resnets.{at}.{}", vae_causal::in_block(module)),
        };
        Some(format!("{half}.{blocks}.{level}.{module}"))
    };
    in_level("encoder", "downsamples", "down_blocks", "downsampler")
        .or_else(|| in_level("decoder", "upsamples", "up_blocks", "upsampler"))
        .or_else(|| vae_causal::diffusers(layer, 0))
}

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>, names: Names) -> Result<VaeConfig, FamilyError> {
    let name = |layer: &str, param: &str| format!("{}.{param}", names.of(layer));
    let channels = scope.dim(&name("encoder.conv1", "weight"), 0)?;
    let (levels, blocks) = match names {
        Names::Wan => ("encoder.downsamples", "downsamples"),
        Names::Diffusers => ("encoder.down_blocks", "resnets"),
    };
    let count = scope.count(levels);
    let uneven = |reason: String| FamilyError::Unsupported {
        what: format!("a VAE for videos under `{}`", scope.prefix),
        reason,
    };
    let mut channel_mult = Vec::with_capacity(count);
    for level in 0..count {
        let first = format!("encoder.downsamples.{level}.downsamples.0.residual.2");
        let width = scope.dim(&name(&first, "weight"), 0)?;
        if !width.is_multiple_of(channels) {
            return Err(uneven(format!("a level's width, {width}, is no multiple of {channels}")));
        }
        channel_mult.push(width / channels);
    }
    // The last level does not change the resolution, so that its blocks are all there is.
    let last = count.saturating_sub(1);
    let num_res_blocks = scope.count(&format!("{levels}.{last}.{blocks}"));
    let halves_frames = |level: usize| {
        let resampler = format!("encoder.downsamples.{level}.downsamples.{num_res_blocks}");
        let resampler = name(&format!("{resampler}.resample.1"), "weight");
        scope.has(&resampler.replace(".resample.1.", ".time_conv."))
    };
    let found: Vec<bool> = (0..last).map(halves_frames).collect();
    let as_published = found.iter().enumerate().all(|(level, found)| *found == (level > 0));
    if found.contains(&true) && !as_published {
        return Err(uneven(format!("other levels than all but the first join frames: {found:?}")));
    }
    let of_decoder = scope.dim(&name("decoder.head.0", "gamma"), 0)?;
    let first = channel_mult.first().copied().unwrap_or(1).max(1);
    let decoder_channels = of_decoder / first;
    Ok(VaeConfig {
        architecture: VaeArchitecture::CausalResidual,
        in_channels: scope.dim(&name("encoder.conv1", "weight"), 1)?,
        latent_channels: scope.dim(&name("conv2", "weight"), 0)?,
        channels,
        decoder_channels: (decoder_channels != channels).then_some(decoder_channels),
        channel_mult,
        num_res_blocks,
        quant_conv: true,
        // The family normalises each channel by itself.
        scaling_factor: 1.0,
        shift_factor: 0.0,
        packed: false,
    })
}

/// Where the parameter of a layer is under `prefix`.
pub(super) fn stored(
    inventory: &Inventory<'_>,
    (prefix, names): (&str, Names),
    layer: &LayerSpec,
    param: &ParamSpec,
) -> Stored {
    let key = plain_key(prefix, &names.of(&layer.name), param);
    let mut stored = Stored::whole(key, param);
    let rank = inventory.get(&stored.key).map(|tensor| tensor.shape.len());
    if param.shape.len() == 5 && rank == Some(4) {
        // Without the dimension of the one frame.
        stored.shape.remove(2);
    }
    stored
}

/// The modules of an autoencoder of this configuration.
pub(super) fn layout(config: &VaeConfig) -> Module {
    let latent = config.latent_channels;
    Module::new()
        .with("encoder", encoder(config))
        .with("conv1", frame_conv(2 * latent, 2 * latent, 1))
        .with("conv2", frame_conv(latent, latent, 1))
        .with("decoder", decoder(config))
}

fn encoder(config: &VaeConfig) -> Module {
    let mut channels = config.channels;
    let mut levels = Vec::with_capacity(config.channel_mult.len());
    for (level, mult) in config.channel_mult.iter().enumerate() {
        let out = mult * config.channels;
        let resample = level + 1 < config.channel_mult.len();
        let blocks = blocks(channels, out, config.num_res_blocks, resample);
        levels.push(Module::new().with_each("downsamples", blocks));
        channels = out;
    }
    Module::new()
        .with("conv1", frame_conv(config.channels, config.in_channels, 3))
        .with_each("downsamples", levels)
        .with("middle", middle(frame_conv, channels))
        .with("head", head(frame_conv, channels, 2 * config.latent_channels))
}

fn decoder(config: &VaeConfig) -> Module {
    let base = config.decoder_channels();
    let top = config.channel_mult.last().copied().unwrap_or(1) * base;
    let mut channels = top;
    let mut levels = Vec::with_capacity(config.channel_mult.len());
    for (level, mult) in config.channel_mult.iter().enumerate().rev() {
        let out = mult * base;
        let blocks = blocks(channels, out, config.num_res_blocks + 1, level > 0);
        levels.push(Module::new().with_each("upsamples", blocks));
        channels = out;
    }
    Module::new()
        .with("conv1", frame_conv(top, config.latent_channels, 3))
        .with("middle", middle(frame_conv, top))
        .with_each("upsamples", levels)
        .with("head", head(frame_conv, channels, config.in_channels))
}

/// A level's residual blocks, and what changes the resolution behind them.
fn blocks(channels: usize, out: usize, count: usize, resample: bool) -> Vec<Module> {
    let input = |at: usize| if at == 0 { channels } else { out };
    let mut blocks: Vec<_> = (0..count).map(|at| res_block(frame_conv, input(at), out)).collect();
    if resample {
        blocks.push(Module::new().with("resample.1", conv(out, out, 3)));
    }
    blocks
}
