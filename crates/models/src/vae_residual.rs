//! The autoencoder of Qwen-Image 2.1 for pictures: that of Wan 2.2 (<https://arxiv.org/abs/2503.20314>) with the weights of
//! one frame. Around each level goes a shortcut without weights: means of pixels on the way down, copies on the way up.
//!
//! All levels but the first and the last also join two frames in a video. A picture is the second of such two: the first is
//! zeros on the way down, and left out on the way up.

use distorch_checkpoint::config::VaeConfig;
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::layers::Conv2d;
use crate::unet::nearest;
use crate::vae_causal::{CausalConv, Head, Middle, ResBlock};

const MODEL: &str = "VAE";

/// The network between pictures and the moments of latents, and back.
pub(crate) struct ResidualVae {
    encoder: Option<(Encoder, CausalConv)>,
    post_quant: CausalConv,
    decoder: Decoder,
}

impl ResidualVae {
    pub fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        if config.channel_mult.is_empty() {
            let reason = "it has no levels".to_owned();
            return Err(ModelError::Config { model: MODEL, reason });
        }
        let encoder = match scope.has("encoder") {
            true => {
                let quant = CausalConv::load(scope, "conv1", 0)?;
                Some((Encoder::load(&scope.at("encoder"), config)?, quant))
            }
            false => None,
        };
        Ok(Self {
            encoder,
            post_quant: CausalConv::load(scope, "conv2", 0)?,
            decoder: Decoder::load(&scope.at("decoder"), config)?,
        })
    }

    /// The means and the logarithms of the variances, `[batch, 2 × latent channels, height / 16, width / 16]` of a picture
    /// whose sides are multiples of 16, else of its first such rows and columns; `None` without an encoder.
    pub fn encode(&self, picture: Tensor<4>) -> Result<Option<Tensor<4>>, ModelError> {
        let Some((encoder, quant)) = &self.encoder else { return Ok(None) };
        Ok(Some(quant.forward(encoder.forward(picture)?)?))
    }

    pub fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.decoder.forward(self.post_quant.forward(latent)?)
    }
}

/// What a level does to its pictures besides its residual blocks.
#[derive(Clone, Copy)]
struct Change {
    /// Channels that come out.
    channels: usize,
    /// Whether the resolution is another.
    space: bool,
    /// Whether there are two frames to one.
    frames: bool,
}

impl Change {
    /// Frames and pixels along a side that are one at the smaller resolution.
    fn factors(self) -> [usize; 2] {
        [self.frames, self.space].map(|two| if two { 2 } else { 1 })
    }
}

/// Residual blocks and what changes the resolution behind them.
struct Level {
    blocks: Vec<ResBlock>,
    resample: Option<Conv2d>,
    change: Change,
}

impl Level {
    /// With so many residual blocks in the list; `resample` says stride and padding.
    fn load(
        list: &Scope,
        count: usize,
        change: Change,
        [stride, padding]: [usize; 2],
    ) -> Result<Self, ModelError> {
        let blocks = (0..count).map(|at| ResBlock::load(&list.at(at)));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let resample = || Conv2d::load(&list.at(count), "resample.1", stride, padding);
        let resample = change.space.then(resample).transpose()?;
        Ok(Self { blocks, resample, change })
    }

    fn blocks(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.blocks.iter().try_fold(x, |x, block| block.forward(x))
    }
}

/// Levels down to the lowest resolution, then the middle.
struct Encoder {
    conv_in: CausalConv,
    levels: Vec<Level>,
    middle: Middle,
    head: Head,
}

impl Encoder {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        let count = config.channel_mult.len();
        let list = scope.at("downsamples");
        let mut levels = Vec::with_capacity(count);
        for (level, mult) in config.channel_mult.iter().enumerate() {
            let space = level + 1 < count;
            let change =
                Change { channels: mult * config.channels, space, frames: space && level > 0 };
            let blocks = list.at(level).at("downsamples");
            // Padded by hand: see `forward`.
            levels.push(Level::load(&blocks, config.num_res_blocks, change, [2, 0])?);
        }
        Ok(Self {
            conv_in: CausalConv::load(scope, "conv1", 1)?,
            levels,
            middle: Middle::load(&scope.at("middle"))?,
            head: Head::load(&scope.at("head"))?,
        })
    }

    fn forward(&self, picture: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let side = 1 << self.levels.len().saturating_sub(1);
        let [_, _, height, width] = picture.dims();
        let picture = picture.narrow(2, 0, height / side * side);
        let picture = picture.narrow(3, 0, width / side * side);
        let mut h = self.conv_in.forward(picture)?;
        for level in &self.levels {
            let around = means(h.clone(), level.change)?;
            h = level.blocks(h)?;
            if let Some(conv) = &level.resample {
                // One row below and one column to the right, none above and to the left.
                h = conv.forward(h.pad((0, 1, 0, 1), 0.0))?;
            }
            ModelError::expect(MODEL, "shortcut", &h.dims(), &around.dims())?;
            h = h + around;
        }
        self.head.forward(self.middle.forward(h)?)
    }
}

/// The middle, then levels up to the picture's resolution.
struct Decoder {
    conv_in: CausalConv,
    middle: Middle,
    levels: Vec<Level>,
    head: Head,
}

impl Decoder {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        let base = config.decoder_channels();
        let list = scope.at("upsamples");
        let mut levels = Vec::with_capacity(config.channel_mult.len());
        for (at, mult) in config.channel_mult.iter().rev().enumerate() {
            // As the encoder's level that goes the other way.
            let level = config.channel_mult.len() - 1 - at;
            let change = Change { channels: mult * base, space: level > 0, frames: level > 1 };
            let blocks = list.at(at).at("upsamples");
            levels.push(Level::load(&blocks, config.num_res_blocks + 1, change, [1, 1])?);
        }
        Ok(Self {
            conv_in: CausalConv::load(scope, "conv1", 1)?,
            middle: Middle::load(&scope.at("middle"))?,
            levels,
            head: Head::load(&scope.at("head"))?,
        })
    }

    fn forward(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let mut h = self.middle.forward(self.conv_in.forward(latent)?)?;
        for level in &self.levels {
            let x = h.clone();
            h = level.blocks(h)?;
            let Some(conv) = &level.resample else { continue };
            let [_, _, height, width] = h.dims();
            h = conv.forward(nearest(h, [2 * height, 2 * width]))?;
            let around = copies(x, level.change)?;
            ModelError::expect(MODEL, "shortcut", &h.dims(), &around.dims())?;
            h = h + around;
        }
        self.head.forward(h)
    }
}

/// Down: each 2×2 pixels and, where frames are joined, a frame of zeros before this one become channels; of these and those
/// there were, runs of equal length become one channel of their mean.
fn means(x: Tensor<4>, change: Change) -> Result<Tensor<4>, ModelError> {
    let [frames, side] = change.factors();
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / side, width / side);
    let all = channels * frames * side * side;
    if change.channels == 0 || !all.is_multiple_of(change.channels) {
        return Err(uneven(channels, change));
    }
    let x = x.reshape([batch, channels, rows, side, columns, side]).permute([0, 1, 3, 5, 2, 4]);
    let x = x.reshape([batch, channels, side * side, rows, columns]);
    let x = if frames == 1 { x } else { Tensor::cat(vec![x.zeros_like(), x], 2) };
    let x = x.reshape([batch, change.channels, all / change.channels, rows, columns]);
    Ok(x.mean_dim(2).reshape([batch, change.channels, rows, columns]))
}

/// Up: the other way round, each channel as often as makes what is needed, and the second of two frames is kept.
fn copies(x: Tensor<4>, change: Change) -> Result<Tensor<4>, ModelError> {
    let [frames, side] = change.factors();
    let [batch, channels, height, width] = x.dims();
    let (area, all) = (side * side, change.channels * frames * side * side);
    if channels == 0 || !all.is_multiple_of(channels) {
        return Err(uneven(channels, change));
    }
    let x = x.reshape([batch, channels, 1, height, width]);
    let x = x.expand([batch, channels, all / channels, height, width]);
    let x = x.reshape([batch, change.channels, frames, area, height * width]);
    let x = x.narrow(2, frames - 1, 1);
    let x = x.reshape([batch, change.channels, side, side, height, width]);
    let x = x.permute([0, 1, 4, 2, 5, 3]);
    Ok(x.reshape([batch, change.channels, height * side, width * side]))
}

fn uneven(channels: usize, change: Change) -> ModelError {
    let reason = format!("a shortcut from {channels} to {} channels is uneven", change.channels);
    ModelError::Config { model: MODEL, reason }
}
