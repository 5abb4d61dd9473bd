//! Models that enlarge pictures.
//!
//! Pictures are `[batch, channels, height, width]` from 0 to 1, in and out; what comes out may lie beyond. Each
//! architecture is a file and a row in [`Upscaler::load`].

mod compact;
mod rrdb;
mod span;

use distorch_checkpoint::config::UpscalerConfig;
use distorch_runtime::{Scope, Tensor, kernels};

use crate::ModelError;
use crate::vae_tiled::one_pass;

/// A network that enlarges pictures, with its layers.
pub struct Upscaler {
    config: UpscalerConfig,
    network: Box<dyn Network>,
}

/// What an architecture does.
trait Network: Send + Sync {
    /// The enlarged picture; its channels are checked before.
    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>, ModelError>;
}

impl Upscaler {
    /// Finds the layers that the configuration asks for.
    ///
    /// # Errors
    /// When a layer is missing.
    pub fn load(scope: &Scope, config: &UpscalerConfig) -> Result<Self, ModelError> {
        let network: Box<dyn Network> = match config {
            UpscalerConfig::Rrdb(config) => Box::new(rrdb::Rrdb::load(scope, config)?),
            UpscalerConfig::Compact(config) => Box::new(compact::Compact::load(scope, config)?),
            UpscalerConfig::Span(config) => Box::new(span::Span::load(scope, config)?),
        };
        Ok(Self { config: config.clone(), network })
    }

    /// The configuration.
    pub fn config(&self) -> &UpscalerConfig {
        &self.config
    }

    /// The picture, enlarged at once.
    ///
    /// # Errors
    /// When the picture has other channels or no pixels, or weights cannot be fetched or do not fit.
    pub fn forward(&self, picture: Tensor<4>) -> Result<Tensor<4>, ModelError> {
        let [_, channels, height, width] = picture.dims();
        let wanted = self.config.in_channels();
        if channels != wanted || height * width == 0 {
            return Err(ModelError::Input {
                model: "upscaler",
                input: "picture",
                expected: format!("{wanted} channels and pixels"),
                found: format!("{channels} channels and {height}×{width} pixels"),
            });
        }
        self.network.forward(picture)
    }

    /// As [`forward`](Self::forward), in square tiles of `tile` pixels that share `overlap` and fade into each other.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and when a tile is no longer than its overlap.
    pub fn forward_tiled(
        &self,
        picture: &Tensor<4>,
        tile: usize,
        overlap: usize,
    ) -> Result<Tensor<4>, ModelError> {
        one_pass(picture, tile, overlap, self.config.scale(), &mut |tile| self.forward(tile))
    }
}

/// `max(x, slope · x)` for slopes below 1.
fn leaky(x: Tensor<4>, slope: f64) -> Tensor<4> {
    kernels::each_pixel(x, |x| x.clone().clamp_min(0.0) + x.clamp_max(0.0) * slope)
}

/// `[batch, channels · scale², height, width]` to `[batch, channels, height · scale, width · scale]`: PyTorch's
/// `pixel_shuffle`.
fn shuffle(x: Tensor<4>, scale: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let out = channels / (scale * scale).max(1);
    x.reshape([batch, out, scale, scale, height, width]).permute([0, 1, 4, 2, 5, 3]).reshape([
        batch,
        out,
        height * scale,
        width * scale,
    ])
}

/// The other way: PyTorch's `pixel_unshuffle`. The sides are multiples of `scale`.
fn unshuffle(x: Tensor<4>, scale: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / scale.max(1), width / scale.max(1));
    x.reshape([batch, channels, rows, scale, columns, scale]).permute([0, 1, 3, 5, 2, 4]).reshape([
        batch,
        channels * scale * scale,
        rows,
        columns,
    ])
}
