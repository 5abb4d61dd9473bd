//! Autoencoders, which turn pictures into latents and back: that of latent diffusion (`AutoencoderKL`: Kingma & Welling,
//! <https://arxiv.org/abs/1312.6114>; Esser et al., <https://arxiv.org/abs/2012.09841>), and those of `vae_causal` and
//! `vae_residual`.
//!
//! Pictures are `[batch, 3, height, width]` from -1 to 1, or of four channels where the last is opacity. [`crate::vae_tiled`] does large ones
//! piece by piece.

use distorch_checkpoint::config::{VaeArchitecture, VaeConfig};
use distorch_runtime::kernels::{self, Addend};
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::unet::nearest;
use crate::vae_causal::CausalVae;
use crate::vae_packing::Packing;
use crate::vae_residual::ResidualVae;

/// Groups of every group normalisation.
const GROUPS: usize = 32;

/// The ε of every group normalisation.
const EPSILON: f64 = 1e-6;

/// An autoencoder between pictures and latents.
pub struct Vae {
    config: VaeConfig,
    network: Network,
}

enum Network {
    Kl(Box<KlVae>),
    Causal(Box<CausalVae>),
    CausalResidual(Box<ResidualVae>),
}

impl Vae {
    /// Finds the layers that the configuration asks for. The encoder may be absent, as in
    /// checkpoints that only decode.
    ///
    /// # Errors
    /// When a layer is missing or the configuration contradicts itself.
    pub fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        let network = match config.architecture {
            VaeArchitecture::Kl => Network::Kl(Box::new(KlVae::load(scope, config)?)),
            VaeArchitecture::Causal => Network::Causal(Box::new(CausalVae::load(scope, config)?)),
            VaeArchitecture::CausalResidual => {
                Network::CausalResidual(Box::new(ResidualVae::load(scope, config)?))
            }
        };
        Ok(Self { network, config: config.clone() })
    }

    /// The configuration.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The distribution of latents of a picture `[batch, in_channels, height, width]`, not scaled.
    /// The latent's sides are the picture's divided by [`VaeConfig::downscale`], rounded down.
    ///
    /// # Errors
    /// When the picture has other channels or is smaller than one latent pixel, when the
    /// checkpoint has no encoder, or when weights cannot be fetched or do not fit.
    pub fn encode(&self, picture: Tensor<4>) -> Result<Posterior, ModelError> {
        let [_, channels, height, width] = picture.dims();
        let side = self.config.downscale();
        if channels != self.config.in_channels || height < side || width < side {
            return Err(ModelError::Input {
                model: "VAE",
                input: "picture",
                expected: format!(
                    "{} channels and at least {side}×{side} pixels",
                    self.config.in_channels
                ),
                found: format!("{channels} channels and {height}×{width} pixels"),
            });
        }
        let moments = match &self.network {
            Network::Kl(network) => network.encode(picture)?,
            Network::Causal(network) => network.encode(picture)?,
            Network::CausalResidual(network) => network.encode(picture)?,
        };
        let Some(moments) = moments else {
            let reason = "this checkpoint has no encoder, so it can only decode".to_owned();
            return Err(ModelError::Config { model: "VAE", reason });
        };
        let posterior = Posterior::from_moments(moments, self.config.unpacked_channels())?;
        let Some(packing) = self.packing() else { return Ok(posterior) };
        let [mean, log_variance] = packing.pack(posterior.mean, posterior.log_variance)?;
        Ok(Posterior { mean, log_variance })
    }

    /// The picture of a latent `[batch, latent_channels, height, width]`, not scaled.
    ///
    /// # Errors
    /// When the latent has other channels or no pixels, or weights cannot be fetched or do not fit.
    pub fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let [_, channels, height, width] = latent.dims();
        if channels != self.config.latent_channels || height * width == 0 {
            return Err(ModelError::Input {
                model: "VAE",
                input: "latent",
                expected: format!("{} channels and pixels", self.config.latent_channels),
                found: format!("{channels} channels and {height}×{width} pixels"),
            });
        }
        let latent = match self.packing() {
            Some(packing) => packing.unpack(latent)?,
            None => latent,
        };
        match &self.network {
            Network::Kl(network) => network.decode(latent),
            Network::Causal(network) => network.decode(latent),
            Network::CausalResidual(network) => network.decode(latent),
        }
    }

    fn packing(&self) -> Option<&Packing> {
        match &self.network {
            Network::Kl(network) => network.packing.as_ref(),
            Network::Causal(_) | Network::CausalResidual(_) => None,
        }
    }

    /// From the autoencoder's latent to the diffusion model's.
    pub fn scale(&self, latent: Tensor<4>) -> Tensor<4> {
        (latent - self.config.shift_factor) * self.config.scaling_factor
    }

    /// From the diffusion model's latent to the autoencoder's.
    pub fn unscale(&self, latent: Tensor<4>) -> Tensor<4> {
        latent / self.config.scaling_factor + self.config.shift_factor
    }
}

/// `AutoencoderKL`.
struct KlVae {
    encoder: Option<Encoder>,
    quant: Option<Conv2d>,
    post_quant: Option<Conv2d>,
    decoder: Decoder,
    packing: Option<Packing>,
}

impl KlVae {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        let halves = [config.channels, config.decoder_channels()];
        let widths = config.channel_mult.iter().flat_map(|mult| halves.map(|base| mult * base));
        if let Some(width) = widths.clone().find(|w| *w == 0 || !w.is_multiple_of(GROUPS)) {
            let reason = format!("{width} channels do not divide into {GROUPS} groups");
            return Err(ModelError::Config { model: "VAE", reason });
        }
        if config.channel_mult.is_empty() {
            let reason = "it has no levels".to_owned();
            return Err(ModelError::Config { model: "VAE", reason });
        }
        let quant = |name| match config.quant_conv && scope.has(name) {
            true => Conv2d::load(scope, name, 1, 0).map(Some),
            false => Ok(None),
        };
        let encoder = match scope.has("encoder") {
            true => Some(Encoder::load(&scope.at("encoder"), config)?),
            false => None,
        };
        Ok(Self {
            encoder,
            quant: quant("quant_conv")?,
            post_quant: quant("post_quant_conv")?,
            decoder: Decoder::load(&scope.at("decoder"), config)?,
            packing: match config.packed {
                true => Some(Packing::load(scope)?),
                false => None,
            },
        })
    }

    /// The moments of latents; `None` without an encoder.
    fn encode(&self, picture: Tensor<4>) -> Result<Option<Tensor<4>>, ModelError> {
        let Some(encoder) = &self.encoder else { return Ok(None) };
        let moments = encoder.forward(picture)?;
        Ok(Some(match &self.quant {
            Some(conv) => conv.forward(moments)?,
            None => moments,
        }))
    }

    fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let latent = match &self.post_quant {
            Some(conv) => conv.forward(latent)?,
            None => latent,
        };
        self.decoder.forward(latent)
    }
}

/// A normal distribution for each value of a latent.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// The means `[batch, latent_channels, height, width]`.
    pub mean: Tensor<4>,
    /// The logarithms of the variances, of the same shape, from -30 to 20.
    pub log_variance: Tensor<4>,
}

impl Posterior {
    pub(crate) fn from_moments(moments: Tensor<4>, latent: usize) -> Result<Self, ModelError> {
        let channels = moments.dims()[1];
        if channels != 2 * latent {
            let reason = format!(
                "a latent of {latent} channels has {} moments, but the encoder gives {channels}",
                2 * latent
            );
            return Err(ModelError::Config { model: "VAE", reason });
        }
        Ok(Self {
            mean: moments.clone().narrow(1, 0, latent),
            log_variance: moments.narrow(1, latent, latent).clamp(-30.0, 20.0),
        })
    }

    /// The likeliest latent.
    pub fn mode(self) -> Tensor<4> {
        self.mean
    }

    /// The latent that standard normal `noise` of the same shape picks.
    pub fn sample(self, noise: Tensor<4>) -> Tensor<4> {
        self.mean + (self.log_variance * 0.5).exp() * noise
    }
}

/// Per level residual blocks and a halving of the resolution, then the middle.
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        let down = scope.at("down");
        let last = config.channel_mult.len() - 1;
        let level = |i| {
            let scope = down.at(i);
            let resize = match i < last {
                // Padded by hand: see `forward`.
                true => Some(Conv2d::load(&scope, "downsample.conv", 2, 0)?),
                false => None,
            };
            Ok(Level { blocks: res_blocks(&scope, config.num_res_blocks)?, resize })
        };
        Ok(Self {
            conv_in: Conv2d::load(scope, "conv_in", 1, 1)?,
            levels: (0..=last).map(level).collect::<Result<_, ModelError>>()?,
            middle: Middle::load(&scope.at("mid"))?,
            norm_out: GroupNorm::load(scope, "norm_out", GROUPS, EPSILON)?,
            conv_out: Conv2d::load(scope, "conv_out", 1, 1)?,
        })
    }

    fn forward(&self, picture: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let mut h = self.conv_in.forward(picture)?;
        for level in &self.levels {
            for block in &level.blocks {
                h = block.forward(h)?;
            }
            if let Some(conv) = &level.resize {
                // One row below and one column to the right, none above and to the left.
                h = conv.forward(h.pad((0, 1, 0, 1), 0.0))?;
            }
        }
        let h = self.middle.forward(h)?;
        self.conv_out.forward(self.norm_out.forward_silu(h)?)
    }
}

/// The middle, then per level residual blocks and a doubling of the resolution.
struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        let up = scope.at("up");
        let level = |i| {
            let scope = up.at(i);
            let resize = match i > 0 {
                true => Some(Conv2d::load(&scope, "upsample.conv", 1, 1)?),
                false => None,
            };
            Ok(Level { blocks: res_blocks(&scope, config.num_res_blocks + 1)?, resize })
        };
        let levels = (0..config.channel_mult.len()).rev();
        Ok(Self {
            conv_in: Conv2d::load(scope, "conv_in", 1, 1)?,
            middle: Middle::load(&scope.at("mid"))?,
            levels: levels.map(level).collect::<Result<_, ModelError>>()?,
            norm_out: GroupNorm::load(scope, "norm_out", GROUPS, EPSILON)?,
            conv_out: Conv2d::load(scope, "conv_out", 1, 1)?,
        })
    }

    fn forward(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let mut h = self.middle.forward(self.conv_in.forward(latent)?)?;
        for level in &self.levels {
            for block in &level.blocks {
                h = block.forward(h)?;
            }
            if let Some(conv) = &level.resize {
                let [_, _, height, width] = h.dims();
                h = conv.forward(nearest(h, [2 * height, 2 * width]))?;
            }
        }
        self.conv_out.forward(self.norm_out.forward_silu(h)?)
    }
}

/// The residual blocks of one resolution, and the way to the next.
struct Level {
    blocks: Vec<ResBlock>,
    resize: Option<Conv2d>,
}

fn res_blocks(scope: &Scope, count: usize) -> Result<Vec<ResBlock>, ModelError> {
    let blocks = scope.at("block");
    (0..count).map(|i| ResBlock::load(&blocks.at(i))).collect()
}

struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResBlock {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        let shortcut = match scope.has("nin_shortcut") {
            true => Some(Conv2d::load(scope, "nin_shortcut", 1, 0)?),
            false => None,
        };
        Ok(Self {
            norm1: GroupNorm::load(scope, "norm1", GROUPS, EPSILON)?,
            conv1: Conv2d::load(scope, "conv1", 1, 1)?,
            norm2: GroupNorm::load(scope, "norm2", GROUPS, EPSILON)?,
            conv2: Conv2d::load(scope, "conv2", 1, 1)?,
            shortcut,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let h = self.conv1.forward(self.norm1.forward_silu(x.clone())?)?;
        let h = self.norm2.forward_silu(h)?;
        match &self.shortcut {
            Some(conv) => {
                let h = self.conv2.forward(h)?;
                conv.forward_plus(x, || Ok(Addend::Picture(h)))
            }
            None => self.conv2.forward_plus(h, || Ok(Addend::Picture(x))),
        }
    }
}

/// Two residual blocks with attention of all pixels to all between.
struct Middle {
    block_1: ResBlock,
    attention: PixelAttention,
    block_2: ResBlock,
}

impl Middle {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self {
            block_1: ResBlock::load(&scope.at("block_1"))?,
            attention: PixelAttention::load(&scope.at("attn_1"))?,
            block_2: ResBlock::load(&scope.at("block_2"))?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let x = self.block_1.forward(x)?;
        let x = self.attention.forward(x)?;
        self.block_2.forward(x)
    }
}

/// Attention with one head. The projections are stored as 1×1 convolutions or linear layers.
struct PixelAttention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    proj_out: Linear,
}

impl PixelAttention {
    fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self {
            norm: GroupNorm::load(scope, "norm", GROUPS, EPSILON)?,
            q: Linear::load(scope, "q")?,
            k: Linear::load(scope, "k")?,
            v: Linear::load(scope, "v")?,
            proj_out: Linear::load(scope, "proj_out")?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let [_, _, height, width] = x.dims();
        let normed = self.norm.forward(x.clone())?;
        let q = self.q.from_pixels(normed.clone())?;
        let k = self.k.from_pixels(normed.clone())?;
        let v = self.v.from_pixels(normed)?;
        let h = attention(q, k, v, 1, Mask::None, self.q.precision());
        Ok(kernels::add(self.proj_out.to_pixels(h, height, width)?, x))
    }
}
