//! Latents on their way between an autoencoder and a diffusion model.

use std::sync::Arc;

use distorch_runtime::Tensor;

use crate::image::Mask;

/// Latents, as an autoencoder gives them, before a model's scaling.
#[derive(Clone, Debug)]
pub struct Latent {
    /// `[batch, channels, height, width]`, f32, on the CPU.
    pub samples: Tensor<4>,
    /// Where the latent is to change: 1, and 0 where it is kept. Of any size.
    pub noise_mask: Option<Mask>,
    /// Which pictures of a larger batch these are, for their noise.
    pub batch_index: Option<Arc<[usize]>>,
}

impl Latent {
    /// Samples with nothing else.
    pub fn new(samples: Tensor<4>) -> Self {
        Self { samples, noise_mask: None, batch_index: None }
    }

    /// The same but for the samples.
    pub fn with_samples(&self, samples: Tensor<4>) -> Self {
        Self { samples, ..self.clone() }
    }
}
