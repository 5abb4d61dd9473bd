//! The autoencoder of Wan 2.1 and Qwen-Image, for pictures: its convolutions run over a frame and those before it.
//!
//! Module names and their order are those of Wan; [`Names`] says where diffusers' `AutoencoderKLQwenImage` and
//! `AutoencoderKLWan` keep each. The convolutions between frames (`time_conv`) are left out: a picture is one frame, which
//! they do not touch.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{LayerSpec, Leaf, Module, ParamSpec, causal_conv, channel_scale, conv};
use super::matching::{Stored, plain_key};
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
    /// The names of the autoencoder under a prefix, if there is one.
    pub fn detect(scope: Scope<'_>) -> Option<Self> {
        if scope.has("decoder.middle.0.residual.0.gamma") {
            return Some(Names::Wan);
        }
        scope.has("decoder.mid_block.resnets.0.norm1.gamma").then_some(Names::Diffusers)
    }

    /// The file's name of a layer of an autoencoder with so many residual blocks in a level.
    fn of(self, layer: &str, num_res_blocks: usize) -> String {
        match self {
            Names::Wan => layer.to_owned(),
            Names::Diffusers => {
                diffusers(layer, num_res_blocks).unwrap_or_else(|| layer.to_owned())
            }
        }
    }
}

/// Diffusers' name of a layer; `None` where it is Wan's.
pub(super) fn diffusers(layer: &str, num_res_blocks: usize) -> Option<String> {
    match layer {
        "conv1" => return Some("quant_conv".to_owned()),
        "conv2" => return Some("post_quant_conv".to_owned()),
        _ => {}
    }
    let (half, rest) = layer.split_once('.')?;
    let (list, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let name = match (list, rest) {
        ("conv1", _) => "conv_in".to_owned(),
        ("head", "0") => "norm_out".to_owned(),
        ("head", _) => "conv_out".to_owned(),
        ("middle", _) => {
            let (at, module) = rest.split_once('.')?;
            match at {
                "0" => format!("mid_block.resnets.0.{}", in_block(module)),
                "1" => format!("mid_block.attentions.0.{module}"),
                _ => format!("mid_block.resnets.1.{}", in_block(module)),
            }
        }
        ("downsamples", _) => {
            let (at, module) = rest.split_once('.')?;
            format!("down_blocks.{at}.{}", in_block(module))
        }
        ("upsamples", _) => {
            let (at, module) = rest.split_once('.')?;
            // A level's residual blocks, one more than in the encoder, then what doubles the resolution.
            let (at, level) = (at.parse::<usize>().ok()?, num_res_blocks.checked_add(2)?);
            let (block, at) = (at / level, at % level);
            match at > num_res_blocks {
                true => format!("up_blocks.{block}.upsamplers.0.{module}"),
                false => format!("up_blocks.{block}.resnets.{at}.{}", in_block(module)),
            }
        }
        _ => return None,
    };
    Some(format!("{half}.{name}"))
}

pub(super) fn in_block(module: &str) -> &str {
    match module {
        "residual.0" => "norm1",
        "residual.2" => "conv1",
        "residual.3" => "norm2",
        "residual.6" => "conv2",
        "shortcut" => "conv_shortcut",
        other => other,
    }
}

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>, names: Names) -> Result<VaeConfig, FamilyError> {
    // The list of the encoder's blocks is the same but for its name.
    let (list, first, weight, latent) = match names {
        Names::Wan => ("encoder.downsamples", "encoder.conv1", "residual.2", "conv2"),
        Names::Diffusers => ("encoder.down_blocks", "encoder.conv_in", "conv1", "post_quant_conv"),
    };
    let channels = scope.dim(&format!("{first}.weight"), 0)?;
    let mut levels = vec![Vec::new()];
    for at in 0..scope.count(list) {
        if scope.has(&format!("{list}.{at}.resample.1.weight")) {
            levels.push(Vec::new());
            continue;
        }
        let width = scope.dim(&format!("{list}.{at}.{weight}.weight"), 0)?;
        if let Some(level) = levels.last_mut() {
            level.push(width);
        }
    }
    let num_res_blocks = levels.first().map_or(0, Vec::len);
    let mut channel_mult = Vec::with_capacity(levels.len());
    for level in &levels {
        match level.first() {
            Some(width)
                if level.len() == num_res_blocks
                    && width.is_multiple_of(channels)
                    && level.iter().all(|other| other == width) =>
            {
                channel_mult.push(width / channels);
            }
            _ => {
                return Err(FamilyError::Unsupported {
                    what: format!("a VAE for videos under `{}`", scope.prefix),
                    reason: format!("the widths of its blocks, {levels:?}, are uneven"),
                });
            }
        }
    }
    Ok(VaeConfig {
        architecture: VaeArchitecture::Causal,
        in_channels: scope.dim(&format!("{first}.weight"), 1)?,
        latent_channels: scope.dim(&format!("{latent}.weight"), 0)?,
        channels,
        channel_mult,
        decoder_channels: None,
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
    (prefix, names): (&str, Names),
    num_res_blocks: usize,
    layer: &LayerSpec,
    param: &ParamSpec,
) -> Stored {
    let name = names.of(&layer.name, num_res_blocks);
    Stored::whole(plain_key(prefix, &name, param), param)
}

/// The modules of an autoencoder of this configuration.
pub(super) fn layout(config: &VaeConfig) -> Module {
    let latent = config.latent_channels;
    Module::new()
        .with("encoder", encoder(config))
        .with("conv1", causal_conv(2 * latent, 2 * latent, 1))
        .with("conv2", causal_conv(latent, latent, 1))
        .with("decoder", decoder(config))
}

fn encoder(config: &VaeConfig) -> Module {
    let mut channels = config.channels;
    let mut blocks = Vec::new();
    for (level, mult) in config.channel_mult.iter().enumerate() {
        let out = mult * config.channels;
        for _ in 0..config.num_res_blocks {
            blocks.push(res_block(causal_conv, channels, out));
            channels = out;
        }
        if level + 1 < config.channel_mult.len() {
            blocks.push(Module::new().with("resample.1", conv(out, out, 3)));
        }
    }
    Module::new()
        .with("conv1", causal_conv(config.channels, config.in_channels, 3))
        .with_each("downsamples", blocks)
        .with("middle", middle(causal_conv, channels))
        .with("head", head(causal_conv, channels, 2 * config.latent_channels))
}

fn decoder(config: &VaeConfig) -> Module {
    let top = config.channel_mult.last().copied().unwrap_or(1) * config.channels;
    let mut channels = top;
    let mut blocks = Vec::new();
    for (level, mult) in config.channel_mult.iter().enumerate().rev() {
        let out = mult * config.channels;
        for _ in 0..=config.num_res_blocks {
            blocks.push(res_block(causal_conv, channels, out));
            channels = out;
        }
        if level > 0 {
            // Half the channels go on.
            channels = out / 2;
            blocks.push(Module::new().with("resample.1", conv(channels, out, 3)));
        }
    }
    Module::new()
        .with("conv1", causal_conv(top, config.latent_channels, 3))
        .with("middle", middle(causal_conv, top))
        .with_each("upsamples", blocks)
        .with("head", head(causal_conv, channels, config.in_channels))
}

/// A convolution over frames: output and input channels, and the side of its kernel.
pub(super) type Conv = fn(usize, usize, usize) -> Leaf;

/// The two residual blocks of the lowest resolution with attention between them.
pub(super) fn middle(conv_of: Conv, channels: usize) -> Module {
    let attention = Module::new()
        .with("norm", channel_scale(&[channels, 1, 1]))
        .with("to_qkv", conv(3 * channels, channels, 1))
        .with("proj", conv(channels, channels, 1));
    Module::new()
        .with("0", res_block(conv_of, channels, channels))
        .with("1", attention)
        .with("2", res_block(conv_of, channels, channels))
}

/// A half's last norm and convolution.
pub(super) fn head(conv: Conv, channels: usize, out: usize) -> Module {
    Module::new().with("0", norm(channels)).with("2", conv(out, channels, 3))
}

/// A residual block.
pub(super) fn res_block(conv: Conv, input: usize, out: usize) -> Module {
    Module::new()
        .with("residual.0", norm(input))
        .with("residual.2", conv(out, input, 3))
        .with("residual.3", norm(out))
        .with("residual.6", conv(out, out, 3))
        .with_if(input != out, "shortcut", || conv(out, input, 1).into())
}

fn norm(channels: usize) -> Leaf {
    channel_scale(&[channels, 1, 1, 1])
}
