//! The autoencoder (`AutoencoderKL`) of latent diffusion, SD3 and Flux.
//!
//! Module names and their order are those of CompVis' latent-diffusion; [`Names`] says where diffusers
//! keeps each.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{Module, conv, norm, statistics};
use super::model::Family;
use super::vae_causal;
use super::vae_names::Names;
use super::vae_residual;
use crate::config::{VaeArchitecture, VaeConfig};

/// Where autoencoders are found in checkpoints and in files of their own.
pub(super) const PREFIXES: [&str; 3] = ["first_stage_model.", "vae.", ""];

/// A tensor that only autoencoders have whose latents are packed.
const PACKED: &str = "bn.running_mean";

/// What a latent is multiplied with after the shift is taken off it: (scale, shift).
///
/// From the published configurations of each family.
pub(super) fn latent_scaling(family: Option<Family>, latent_channels: usize) -> (f64, f64) {
    match family {
        Some(Family::Sd1 | Family::Sd2) => (0.18215, 0.0),
        Some(Family::SdxlBase | Family::SdxlRefiner) => (0.13025, 0.0),
        Some(Family::Sd3) => (1.5305, 0.0609),
        Some(Family::Flux | Family::ZImage | Family::Lumina2 | Family::Chroma) => (0.3611, 0.1159),
        Some(Family::Flux2 | Family::Krea2 | Family::QwenImage | Family::QwenImage21) => (1.0, 0.0),
        None if latent_channels == 16 => (0.3611, 0.1159),
        None => (0.18215, 0.0),
    }
}

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(
    scope: Scope<'_>,
    names: Names,
    family: Option<Family>,
) -> Result<VaeConfig, FamilyError> {
    for convolution in ["encoder.conv_in.weight", "decoder.conv_in.weight"] {
        if scope.rank(convolution) == Some(5) {
            return Err(FamilyError::Unsupported {
                what: "a VAE for videos".to_owned(),
                reason: "its convolutions run over frames too".to_owned(),
            });
        }
    }
    let (levels, blocks) = (names.levels(), names.blocks());
    let channels = scope.dim("encoder.conv_in.weight", 0)?;
    let mut channel_mult = Vec::new();
    for level in 0..scope.count(levels) {
        let weight = format!("{levels}.{level}.{blocks}.0.conv1.weight");
        let width = scope.dim(&weight, 0)?;
        if !width.is_multiple_of(channels) {
            return Err(FamilyError::Unsupported {
                what: format!(
                    "an autoencoder under `{}` with levels of uneven width",
                    scope.prefix
                ),
                reason: format!("{width} is no multiple of {channels} channels"),
            });
        }
        channel_mult.push(width / channels);
    }
    let decoder = scope.dim("decoder.conv_out.weight", 1)?;
    let first = channel_mult.first().copied().unwrap_or(1).max(1);
    let decoder_channels = (decoder != first * channels).then_some(decoder / first);
    let packed = scope.has(PACKED);
    let unpacked = scope.dim("decoder.conv_in.weight", 1)?;
    let latent_channels = if packed { 4 * unpacked } else { unpacked };
    let family = if packed { Some(Family::Flux2) } else { family };
    let (scaling_factor, shift_factor) = latent_scaling(family, latent_channels);
    Ok(VaeConfig {
        architecture: VaeArchitecture::Kl,
        in_channels: scope.dim("encoder.conv_in.weight", 1)?,
        latent_channels,
        channels,
        channel_mult,
        decoder_channels,
        num_res_blocks: scope.count(&format!("{levels}.0.{blocks}")),
        quant_conv: scope.has("quant_conv.weight")
            || scope.has("post_quant_conv.weight")
            || scope.has("decoder.post_quant_conv.weight"),
        scaling_factor,
        shift_factor,
        packed,
    })
}

/// The modules of an autoencoder of this configuration.
pub(super) fn layout(config: &VaeConfig) -> Module {
    match config.architecture {
        VaeArchitecture::Kl => {}
        VaeArchitecture::Causal => return vae_causal::layout(config),
        VaeArchitecture::CausalResidual => return vae_residual::layout(config),
    }
    let latent = config.unpacked_channels();
    Module::new()
        .with("encoder", encoder(config))
        .with("decoder", decoder(config))
        .with_if(config.quant_conv, "quant_conv", || conv(2 * latent, 2 * latent, 1).into())
        .with_if(config.quant_conv, "post_quant_conv", || conv(latent, latent, 1).into())
        .with_if(config.packed, "bn", || statistics(config.latent_channels).into())
        .used_as(&["encoder", "quant_conv", "bn", "post_quant_conv", "decoder"])
}

fn encoder(config: &VaeConfig) -> Module {
    let mut channels = config.channels;
    let mut encoder = Module::new().with("conv_in", conv(channels, config.in_channels, 3));
    for (level, mult) in config.channel_mult.iter().enumerate() {
        let out = mult * config.channels;
        let mut down = Module::new();
        for at in 0..config.num_res_blocks {
            down = down.with(format!("block.{at}"), res_block(channels, out));
            channels = out;
        }
        let last = level + 1 == config.channel_mult.len();
        down = down.with_if(!last, "downsample.conv", || conv(out, out, 3).into());
        encoder = encoder.with(format!("down.{level}"), down);
    }
    encoder
        .with("mid", middle(channels))
        .with("norm_out", norm(channels))
        .with("conv_out", conv(2 * config.unpacked_channels(), channels, 3))
}

fn decoder(config: &VaeConfig) -> Module {
    let base = config.decoder_channels();
    let top = config.channel_mult.last().copied().unwrap_or(1) * base;
    let mut channels = top;
    let mut levels = Vec::with_capacity(config.channel_mult.len());
    for (level, mult) in config.channel_mult.iter().enumerate().rev() {
        let out = mult * base;
        let mut up = Module::new();
        for at in 0..=config.num_res_blocks {
            up = up.with(format!("block.{at}"), res_block(channels, out));
            channels = out;
        }
        levels.push((level, up.with_if(level > 0, "upsample.conv", || conv(out, out, 3).into())));
    }
    Module::new()
        .with("conv_in", conv(top, config.unpacked_channels(), 3))
        .with("mid", middle(top))
        .with("up", ascending(levels))
        .with("norm_out", norm(channels))
        .with("conv_out", conv(config.in_channels, channels, 3))
}

/// The decoder's levels, which are defined from the highest resolution on and used from the
/// lowest on.
fn ascending(lowest_first: Vec<(usize, Module)>) -> Module {
    lowest_first
        .into_iter()
        .rev()
        .fold(Module::new(), |up, (level, module)| up.with(level.to_string(), module))
        .used_from_last()
}

fn middle(channels: usize) -> Module {
    let attention = ["q", "k", "v", "proj_out"]
        .into_iter()
        .fold(Module::new().with("norm", norm(channels)), |attention, name| {
            attention.with(name, conv(channels, channels, 1))
        });
    Module::new()
        .with("block_1", res_block(channels, channels))
        .with("attn_1", attention)
        .with("block_2", res_block(channels, channels))
}

fn res_block(input: usize, out: usize) -> Module {
    Module::new()
        .with("norm1", norm(input))
        .with("conv1", conv(out, input, 3))
        .with("norm2", norm(out))
        .with("conv2", conv(out, out, 3))
        .with_if(input != out, "nin_shortcut", || conv(out, input, 1).into())
}
