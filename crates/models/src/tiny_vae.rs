//! Tiny autoencoders (TAESD, <https://github.com/madebyollin/taesd>), which see latents as diffusion models do.
//!
//! Pictures are `[batch, 3, height, width]` from 0 to 1. A half knows one way alone.

use distorch_checkpoint::config::{TinyVaeConfig, TinyVaeHalf};
use distorch_runtime::kernels::{Addend, relu};
use distorch_runtime::{Scope, Tensor};

use crate::ModelError;
use crate::layers::Conv2d;
use crate::unet::nearest;
use crate::vae_tiled::{Tiling, decoded_in_tiles, encoded_in_tiles};

/// Pixels of a picture to one of the latent, along a side.
pub const DOWNSCALE: usize = 8;

/// What values of a latent are kept within, softly.
const LIMIT: f64 = 3.0;

/// A tiny encoder or decoder.
pub struct TinyVae {
    config: TinyVaeConfig,
    steps: Vec<Step>,
}

/// What is done in a row.
enum Step {
    Conv(Conv2d),
    Block([Conv2d; 3]),
    Relu,
    /// Twice the sides.
    Double,
}

impl TinyVae {
    /// Finds the layers of the half that the configuration says.
    ///
    /// # Errors
    /// When a layer is missing.
    pub fn load(scope: &Scope, config: &TinyVaeConfig) -> Result<Self, ModelError> {
        let conv = |place: usize, stride: usize| {
            Conv2d::load(scope, &place.to_string(), stride, 1).map(Step::Conv)
        };
        let block = |place: usize| {
            let block = scope.at(place).at("conv");
            let conv = |name: &str| Conv2d::load(&block, name, 1, 1);
            Ok::<_, ModelError>(Step::Block([conv("0")?, conv("2")?, conv("4")?]))
        };
        let mut steps = Vec::new();
        match config.half {
            TinyVaeHalf::Encoder => {
                steps.extend([conv(0, 1)?, block(1)?]);
                for first in [2, 6, 10] {
                    steps.push(conv(first, 2)?);
                    for place in first + 1..=first + 3 {
                        steps.push(block(place)?);
                    }
                }
                steps.push(conv(14, 1)?);
            }
            TinyVaeHalf::Decoder => {
                steps.extend([conv(1, 1)?, Step::Relu]);
                for (first, last) in [(3, 5), (8, 10), (13, 15)] {
                    for place in first..=last {
                        steps.push(block(place)?);
                    }
                    steps.extend([Step::Double, conv(last + 2, 1)?]);
                }
                steps.extend([block(18)?, conv(19, 1)?]);
            }
        }
        Ok(Self { config: config.clone(), steps })
    }

    fn run(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let mut h = x;
        for step in &self.steps {
            h = match step {
                Step::Conv(conv) => conv.forward(h)?,
                Step::Relu => relu(h),
                Step::Double => {
                    let [_, _, rows, columns] = h.dims();
                    nearest(h, [2 * rows, 2 * columns])
                }
                Step::Block([first, second, third]) => {
                    let inner = relu(first.forward(h.clone())?);
                    let inner = relu(second.forward(inner)?);
                    let sum = third.forward_plus(inner, || Ok(Addend::Picture(h)))?;
                    relu(sum)
                }
            };
        }
        Ok(h)
    }

    /// The picture of a latent as the diffusion model has it, from 0 to 1 but for what goes beyond.
    ///
    /// # Errors
    /// When this is an encoder, the latent has other channels or no pixels, or weights cannot be fetched or do not fit.
    pub fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.expect(TinyVaeHalf::Decoder, "latent", &latent, self.config.latent_channels, 1)?;
        self.run((latent / LIMIT).tanh() * LIMIT)
    }

    /// The latent of a picture from 0 to 1, as the diffusion model has it.
    ///
    /// # Errors
    /// When this is a decoder, the picture has other channels or is smaller than a latent pixel, or weights cannot be
    /// fetched or do not fit.
    pub fn encode(&self, picture: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        self.expect(TinyVaeHalf::Encoder, "picture", &picture, 3, DOWNSCALE)?;
        self.run(picture)
    }

    /// As [`decode`](Self::decode), tile by tile.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and as [`Tiling::check_decode`].
    pub fn decode_tiled(&self, latent: Tensor<4>, tiling: Tiling) -> Result<Tensor<4>, ModelError> {
        decoded_in_tiles(&latent, tiling, DOWNSCALE, &mut |tile| self.decode(tile))
    }

    /// As [`encode`](Self::encode), tile by tile.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and as [`Tiling::check_encode`].
    pub fn encode_tiled(
        &self,
        picture: Tensor<4>,
        tiling: Tiling,
    ) -> Result<Tensor<4>, ModelError> {
        encoded_in_tiles(&picture, tiling, DOWNSCALE, &mut |tile| self.encode(tile))
    }

    fn expect(
        &self,
        half: TinyVaeHalf,
        input: &'static str,
        x: &Tensor<4>,
        wanted: usize,
        least: usize,
    ) -> Result<(), ModelError> {
        let (model, [_, channels, height, width]) = ("tiny autoencoder", x.dims());
        if self.config.half != half {
            let reason = "it is the other half: encoders and decoders are files of their own";
            return Err(ModelError::Config { model, reason: reason.to_owned() });
        }
        if channels != wanted || height < least || width < least {
            return Err(ModelError::Input {
                model,
                input,
                expected: format!("{wanted} channels and at least {least}×{least} pixels"),
                found: format!("{channels} channels and {height}×{width} pixels"),
            });
        }
        Ok(())
    }
}
