//! What a forward pass needs besides weights, before anything is loaded.
//!
//! Each estimate counts the largest set of activations that is alive at once: the tensors of the
//! widest layer, and for a UNet the skip connections. Attention scores are not in it, since attention
//! runs in chunks of bounded size. The planner adds the estimate to the weights on the compute device.

use distorch_checkpoint::config::{
    ClipConfig, DiffusionConfig, FluxConfig, MmditConfig, T5Config, TextEncoderConfig, UnetConfig,
    VaeConfig,
};
use distorch_checkpoint::family::{Family, Model};
use distorch_checkpoint::{Component, ComponentKind};

/// The picture to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pictures at once.
    pub batch: u32,
}

impl Picture {
    /// One picture of the size that the model was trained on.
    pub fn native(model: &Model) -> Picture {
        let side = match model.family() {
            None | Some(Family::Sd1) => 512,
            Some(Family::Sd2) => 768,
            Some(Family::SdxlBase | Family::SdxlRefiner | Family::Sd3 | Family::Flux) => 1024,
        };
        Picture { width: side, height: side, batch: 1 }
    }

    /// Positions of a grid with cells of `cell` pixels, rounded up along each side.
    fn positions(self, cell: u64) -> u64 {
        u64::from(self.width).div_ceil(cell) * u64::from(self.height).div_ceil(cell)
    }
}

/// Attention keeps no more than this many scores at once, in any model.
const ATTENTION_CHUNK_BYTES: u64 = 256 << 20;

/// Text chunks that are encoded together: the prompt and the empty one that weights are
/// interpolated against.
const TEXT_CHUNKS: u64 = 2;

/// Bytes of activations at the peak of a forward pass of this component, in a compute dtype of
/// `element` bytes. A diffusion model runs both halves of the guidance at once.
pub fn activation_bytes(
    model: &Model,
    component: &Component,
    picture: Picture,
    element: u64,
) -> u64 {
    let elements = match component.kind {
        ComponentKind::DiffusionModel => {
            let per_picture = model.diffusion.as_ref().map_or(0, |m| diffusion(&m.config, picture));
            let guided = !matches!(model.family(), Some(Family::Flux));
            per_picture * u64::from(picture.batch) * if guided { 2 } else { 1 }
        }
        ComponentKind::TextEncoders => {
            model.text_encoders.iter().map(|encoder| text(&encoder.config)).max().unwrap_or(0)
        }
        // Latents are decoded one by one.
        ComponentKind::Vae => model.vae.as_ref().map_or(0, |config| vae(config, picture)),
    };
    let attention =
        if component.kind == ComponentKind::TextEncoders { 0 } else { ATTENTION_CHUNK_BYTES };
    elements.saturating_mul(element).saturating_add(attention)
}

fn diffusion(config: &DiffusionConfig, picture: Picture) -> u64 {
    match config {
        DiffusionConfig::Unet(config) => unet(config, picture),
        DiffusionConfig::Mmdit(config) => mmdit(config, picture),
        DiffusionConfig::Flux(config) => flux(config, picture),
    }
}

/// The skip connections, and at the widest level the feed-forward layer: its input, the 8-fold
/// gated projection and the 4-fold product; or a residual block on a concatenated skip.
fn unet(config: &UnetConfig, picture: Picture) -> u64 {
    let levels: Vec<(u64, u64)> = config
        .channel_mult
        .iter()
        .enumerate()
        .map(|(level, &mult)| {
            let cell = 8_u64 << level.min(32);
            ((config.model_channels * mult) as u64, picture.positions(cell))
        })
        .collect();
    let skips: u64 = levels
        .iter()
        .zip(&config.num_res_blocks)
        .map(|((channels, positions), &blocks)| channels * positions * (blocks as u64 + 1))
        .sum();
    let widest = levels.iter().map(|(channels, positions)| 16 * channels * positions).max();
    skips + widest.unwrap_or(0)
}

/// Both streams of a joint block: queries, keys, values, the 4-fold feed-forward layer and the
/// modulated inputs.
fn mmdit(config: &MmditConfig, picture: Picture) -> u64 {
    const TEXT_TOKENS: u64 = 77 + 77 + 256;
    let tokens = picture.positions(8 * config.patch_size.max(1) as u64) + TEXT_TOKENS;
    tokens * config.width as u64 * 14
}

/// A single-stream block: the fused projection of queries, keys, values and feed-forward, its
/// activation and the joined result.
fn flux(config: &FluxConfig, picture: Picture) -> u64 {
    const TEXT_TOKENS: u64 = 512;
    let tokens = picture.positions(16) + TEXT_TOKENS;
    tokens * (8 * config.width + 3 * config.mlp_width) as u64
}

/// The decoder's last level: a residual block at full resolution on twice its channels.
fn vae(config: &VaeConfig, picture: Picture) -> u64 {
    let widest = config.channel_mult.get(1).or(config.channel_mult.first()).copied().unwrap_or(1);
    picture.positions(1) * (config.channels * widest) as u64 * 4
}

fn text(config: &TextEncoderConfig) -> u64 {
    match config {
        TextEncoderConfig::Clip(ClipConfig {
            max_positions, width, intermediate, heads, ..
        }) => {
            let scores = heads * max_positions;
            TEXT_CHUNKS * (max_positions * (6 * width + 2 * intermediate + scores)) as u64
        }
        TextEncoderConfig::T5(T5Config { width, intermediate, heads, .. }) => {
            const TOKENS: usize = 512;
            (TOKENS * (6 * width + 3 * intermediate + heads * TOKENS)) as u64
        }
    }
}
