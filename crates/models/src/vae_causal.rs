//! The autoencoder of Wan 2.1 and Qwen-Image (<https://arxiv.org/abs/2503.20314>) for pictures.
//!
//! Its convolutions run over a frame and those before it, in whose place are zeros for the first frame. A picture is one
//! frame, so that only the last of a filter's matrices counts, and what joins frames is not used.

use distorch_checkpoint::config::VaeConfig;
use distorch_runtime::kernels::{self, Addend, Convolved};
use distorch_runtime::{LayerHandle, Scope, Tensor};

use crate::ModelError;
use crate::attention::{Mask, attention};
use crate::layers::{Conv2d, Linear};
use crate::unet::nearest;

const MODEL: &str = "VAE";

/// The network between pictures and the moments of latents, and back.
pub(crate) struct CausalVae {
    encoder: Option<Encoder>,
    quant: Option<CausalConv>,
    post_quant: CausalConv,
    decoder: Decoder,
}

impl CausalVae {
    pub fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        if config.channel_mult.is_empty() {
            let reason = "it has no levels".to_owned();
            return Err(ModelError::Config { model: MODEL, reason });
        }
        let has_encoder = scope.has("encoder");
        let encoder = || Encoder::load(&scope.at("encoder"), config);
        Ok(Self {
            encoder: has_encoder.then(encoder).transpose()?,
            quant: has_encoder.then(|| CausalConv::load(scope, "conv1", 0)).transpose()?,
            post_quant: CausalConv::load(scope, "conv2", 0)?,
            decoder: Decoder::load(&scope.at("decoder"), config)?,
        })
    }

    /// The means and the logarithms of the variances, `[batch, 2 × latent channels, height / 8, width / 8]`; `None` without
    /// an encoder.
    pub fn encode(&self, picture: Tensor<4>) -> Result<Option<Tensor<4>>, ModelError> {
        match (&self.encoder, &self.quant) {
            (Some(encoder), Some(quant)) => Ok(Some(quant.forward(encoder.forward(picture)?)?)),
            _ => Ok(None),
        }
    }

    pub fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.decoder.forward(self.post_quant.forward(latent)?)
    }
}

/// Residual blocks, between levels a halving of the resolution, then the middle.
struct Encoder {
    conv_in: CausalConv,
    blocks: Vec<Block>,
    middle: Middle,
    head: Head,
}

/// One of a list of blocks.
enum Block {
    Residual(ResBlock),
    /// To half the resolution, or to twice it.
    Resize(Conv2d),
}

impl Encoder {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        // Padded by hand: see `forward`.
        let resize = |scope: &Scope| Conv2d::load(scope, "resample.1", 2, 0);
        let residual = config.num_res_blocks;
        let blocks = blocks(&scope.at("downsamples"), config.channel_mult.len(), residual, resize)?;
        Ok(Self {
            conv_in: CausalConv::load(scope, "conv1", 1)?,
            blocks,
            middle: Middle::load(&scope.at("middle"))?,
            head: Head::load(&scope.at("head"))?,
        })
    }

    fn forward(&self, picture: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let mut h = self.conv_in.forward(picture)?;
        for block in &self.blocks {
            h = match block {
                Block::Residual(block) => block.forward(h)?,
                // One row below and one column to the right, none above and to the left.
                Block::Resize(conv) => conv.forward(h.pad((0, 1, 0, 1), 0.0))?,
            };
        }
        self.head.forward(self.middle.forward(h)?)
    }
}

/// The middle, then residual blocks, between levels a doubling of the resolution.
struct Decoder {
    conv_in: CausalConv,
    middle: Middle,
    blocks: Vec<Block>,
    head: Head,
}

impl Decoder {
    fn load(scope: &Scope, config: &VaeConfig) -> Result<Self, ModelError> {
        let resize = |scope: &Scope| Conv2d::load(scope, "resample.1", 1, 1);
        let residual = config.num_res_blocks + 1;
        let blocks = blocks(&scope.at("upsamples"), config.channel_mult.len(), residual, resize)?;
        Ok(Self {
            conv_in: CausalConv::load(scope, "conv1", 1)?,
            middle: Middle::load(&scope.at("middle"))?,
            blocks,
            head: Head::load(&scope.at("head"))?,
        })
    }

    fn forward(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let mut h = self.middle.forward(self.conv_in.forward(latent)?)?;
        for block in &self.blocks {
            h = match block {
                Block::Residual(block) => block.forward(h)?,
                Block::Resize(conv) => {
                    let [_, _, height, width] = h.dims();
                    conv.forward(nearest(h, [2 * height, 2 * width]))?
                }
            };
        }
        self.head.forward(h)
    }
}

/// Blocks of so many levels: so many residual ones each, and a change of resolution between levels.
fn blocks(
    list: &Scope,
    levels: usize,
    residual: usize,
    resize: impl Fn(&Scope) -> Result<Conv2d, ModelError>,
) -> Result<Vec<Block>, ModelError> {
    let mut blocks = Vec::new();
    for level in 0..levels {
        for _ in 0..residual {
            blocks.push(Block::Residual(ResBlock::load(&list.at(blocks.len()))?));
        }
        if level + 1 < levels {
            blocks.push(Block::Resize(resize(&list.at(blocks.len()))?));
        }
    }
    Ok(blocks)
}

pub(crate) struct ResBlock {
    norm1: ChannelNorm,
    conv1: CausalConv,
    norm2: ChannelNorm,
    conv2: CausalConv,
    shortcut: Option<CausalConv>,
}

impl ResBlock {
    pub(crate) fn load(scope: &Scope) -> Result<Self, ModelError> {
        let has_shortcut = scope.has("shortcut");
        let residual = scope.at("residual");
        Ok(Self {
            norm1: ChannelNorm::load(&residual, "0")?,
            conv1: CausalConv::load(&residual, "2", 1)?,
            norm2: ChannelNorm::load(&residual, "3")?,
            conv2: CausalConv::load(&residual, "6", 1)?,
            shortcut: has_shortcut.then(|| CausalConv::load(scope, "shortcut", 0)).transpose()?,
        })
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let h = self.conv1.forward(self.norm1.forward_silu(x.clone())?)?;
        let h = self.norm2.forward_silu(h)?;
        match &self.shortcut {
            Some(conv) => conv.forward_plus(x, self.conv2.forward(h)?),
            None => self.conv2.forward_plus(h, x),
        }
    }
}

/// Two residual blocks with attention of all pixels to all between.
pub(crate) struct Middle {
    first: ResBlock,
    norm: ChannelNorm,
    qkv: Linear,
    proj: Linear,
    second: ResBlock,
}

impl Middle {
    pub(crate) fn load(scope: &Scope) -> Result<Self, ModelError> {
        let attention = scope.at(1);
        Ok(Self {
            first: ResBlock::load(&scope.at(0))?,
            norm: ChannelNorm::load(&attention, "norm")?,
            qkv: Linear::load(&attention, "to_qkv")?,
            proj: Linear::load(&attention, "proj")?,
            second: ResBlock::load(&scope.at(2))?,
        })
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let x = self.first.forward(x)?;
        let [batch, channels, height, width] = x.dims();
        let qkv = self.qkv.from_pixels(self.norm.forward(x.clone())?)?;
        ModelError::expect(
            MODEL,
            "query, key and value",
            &[batch, height * width, 3 * channels],
            &qkv.dims(),
        )?;
        let part = |at: usize| qkv.clone().narrow(2, at * channels, channels);
        let h = attention(part(0), part(1), part(2), 1, Mask::None, self.qkv.precision());
        self.second.forward(kernels::add(self.proj.to_pixels(h, height, width)?, x))
    }
}

/// From the last features to channels.
pub(crate) struct Head {
    norm: ChannelNorm,
    conv: CausalConv,
}

impl Head {
    pub(crate) fn load(scope: &Scope) -> Result<Self, ModelError> {
        Ok(Self { norm: ChannelNorm::load(scope, "0")?, conv: CausalConv::load(scope, "2", 1)? })
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.conv.forward(self.norm.forward_silu(x)?)
    }
}

/// A convolution over frames and pixels of one frame; `weight` `[out, in, frames, kernel, kernel]`, `bias` `[out]`.
pub(crate) struct CausalConv {
    handle: LayerHandle,
    padding: usize,
}

impl CausalConv {
    pub(crate) fn load(scope: &Scope, name: &str, padding: usize) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)?, padding })
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        Ok(self.convolve(x)?.finish())
    }

    /// With a picture of the result's size added.
    fn forward_plus(&self, x: Tensor<4>, picture: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        Ok(self.convolve(x)?.plus(Addend::Picture(picture)))
    }

    fn convolve(&self, x: Tensor<4>) -> Result<Convolved, ModelError> {
        let params = self.handle.fetch()?;
        let weight = params.weight::<5>()?;
        let [outputs, inputs, frames, height, width] = weight.dims();
        let [_, channels, rows, columns] = x.dims();
        let fits = inputs == channels
            && frames > 0
            && rows + 2 * self.padding >= height
            && columns + 2 * self.padding >= width;
        if !fits {
            return Err(ModelError::Layer {
                layer: params.layer().to_owned(),
                expected: format!("{inputs} channels of at least {height}×{width} pixels"),
                found: format!("{channels} of {rows}×{columns} with {} of padding", self.padding),
            });
        }
        let weight = weight.narrow(2, frames - 1, 1).reshape([outputs, inputs, height, width]);
        let (bias, precision) = (params.bias()?, params.precision());
        Ok(Convolved::new(x, weight, bias, 1, self.padding, precision))
    }
}

/// Normalisation of each pixel over its channels; `gamma` `[channels]` with further dimensions of 1.
struct ChannelNorm {
    handle: LayerHandle,
}

impl ChannelNorm {
    fn load(scope: &Scope, name: &str) -> Result<Self, ModelError> {
        Ok(Self { handle: scope.layer(name)? })
    }

    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.normalise(x, false)
    }

    /// With SiLU behind.
    fn forward_silu(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.normalise(x, true)
    }

    fn normalise(&self, x: Tensor<4>, silu: bool) -> Result<Tensor<4>, ModelError> {
        let params = self.handle.fetch()?;
        let channels = x.dims()[1];
        let gamma: Tensor<1> = match params.get::<4>("gamma") {
            Ok(gamma) => gamma.flatten(0, 3),
            Err(_) => params.get::<3>("gamma")?.flatten(0, 2),
        };
        if gamma.dims() != [channels] {
            return Err(ModelError::Layer {
                layer: params.layer().to_owned(),
                expected: format!("{} channels", gamma.dims()[0]),
                found: channels.to_string(),
            });
        }
        Ok(kernels::channel_rms_norm(x, gamma, silu))
    }
}
