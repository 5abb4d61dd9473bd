//! Where the noise of a run comes from.

use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, cpu};
use distorch_sampling::noise::{batch_noise, latent_noise};

use crate::value::Latent;

/// Where the noise of a run comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseSource {
    /// The seed, also of what noise a sampler puts in.
    pub seed: u64,
    /// Whether the run starts with noise; else the latent has its noise already.
    pub add: bool,
}

impl NoiseSource {
    /// The noise of a seed.
    pub const fn seed(seed: u64) -> Self {
        Self { seed, add: true }
    }

    /// Noise of the latent's shape, on the CPU.
    pub fn noise(self, latent: &Latent) -> Tensor<4> {
        let shape = latent.samples.dims();
        match &latent.batch_index {
            _ if !self.add => Tensor::zeros(shape, (&cpu(), DType::F32)),
            None => latent_noise(shape, self.seed, &cpu()),
            Some(index) => batch_noise(shape, self.seed, index, &cpu()),
        }
    }
}
