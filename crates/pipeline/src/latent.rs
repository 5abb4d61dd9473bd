//! Latents on their way between an autoencoder and a diffusion model.

use std::sync::Arc;

use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, cpu};

use crate::image::{Mask, TooLarge, room};

/// Latents, as an autoencoder gives them, before a model's scaling.
#[derive(Clone, Debug)]
pub struct Latent {
    /// `[batch, channels, height, width]`, f32, on the CPU.
    pub samples: Tensor<4>,
    /// Where the latent is to change: 1, and 0 where it is kept. Of any size.
    pub noise_mask: Option<Mask>,
    /// Which pictures of a larger batch these are, for their noise.
    pub batch_index: Option<Arc<[usize]>>,
    /// Pixels of a picture to one of these along a side, of empty latents that were made without knowing a model: where it
    /// has another number, samplers bring them to it.
    pub downscale: Option<usize>,
}

impl Latent {
    /// Samples with nothing else.
    pub fn new(samples: Tensor<4>) -> Self {
        Self { samples, noise_mask: None, batch_index: None, downscale: None }
    }

    /// Zeros, which stand for no picture: of these channels, `[height, width]` in the latent's own pixels.
    pub fn empty(batch: usize, channels: usize, [height, width]: [usize; 2]) -> Self {
        Self::new(Tensor::zeros([batch, channels, height, width], (&cpu(), DType::F32)))
    }

    /// The batch so many times, each time with other noise.
    ///
    /// # Errors
    /// When no memory holds it.
    pub fn repeated(&self, amount: usize) -> Result<Self, TooLarge> {
        let [batch, channels, height, width] = self.samples.dims();
        room([batch.saturating_mul(amount), height, width, channels])?;
        let noise_mask = self.noise_mask.as_ref().map(|mask| match mask.shape()[0] {
            1 => mask.clone(),
            _ => mask.select((0..batch * amount).map(|place| place % batch)),
        });
        let batch_index = self.batch_index.as_ref().map(|index| {
            let highest = index.iter().max().copied().unwrap_or(0);
            let lowest = index.iter().min().copied().unwrap_or(0);
            let span = highest - lowest + 1;
            let repeated = (0..amount).flat_map(|time| index.iter().map(move |i| i + time * span));
            repeated.collect::<Arc<[usize]>>()
        });
        let samples = self.samples.clone().repeat_dim(0, amount);
        Ok(Self { samples, noise_mask, batch_index, downscale: self.downscale })
    }

    /// The side of an empty latent of so many pixels to one where a model has so many others.
    pub fn rescaled(side: usize, from: usize, to: usize) -> usize {
        let side = (side as f64 * (from as f64 / to.max(1) as f64)).round_ties_even() as usize;
        side.max(1)
    }

    /// The same but for the samples.
    pub fn with_samples(&self, samples: Tensor<4>) -> Self {
        Self { samples, ..self.clone() }
    }
}
