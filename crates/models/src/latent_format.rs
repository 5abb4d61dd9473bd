//! What a family's latents look like.

use distorch_runtime::Tensor;

/// What a family's latents look like: how they come from an autoencoder's, and what colours they have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentFormat {
    /// Channels of a latent.
    pub channels: usize,
    /// Pixels of the picture to one of the latent, along a side.
    pub downscale: usize,
    /// What an autoencoder's latent is multiplied with for the model, after `shift` was taken off.
    pub scale: f64,
    /// What is taken off an autoencoder's latent before scaling.
    pub shift: f64,
    /// The red, green and blue from -1 to 1 that each channel of the scaled latent adds to a preview, channel by channel;
    /// empty where no such table is known.
    pub rgb_factors: &'static [[f32; 3]],
    /// What is added to each colour of a preview.
    pub rgb_bias: [f32; 3],
}

impl LatentFormat {
    /// An autoencoder's latents as the model has them: `(latents - shift) · scale`.
    pub fn to_model<const D: usize>(&self, latents: Tensor<D>) -> Tensor<D> {
        match self.shift == 0.0 {
            true => latents * self.scale,
            false => (latents - self.shift) * self.scale,
        }
    }

    /// A model's latents as its autoencoder has them: `latents / scale + shift`.
    pub fn to_autoencoder<const D: usize>(&self, latents: Tensor<D>) -> Tensor<D> {
        match self.shift == 0.0 {
            true => latents / self.scale,
            false => latents / self.scale + self.shift,
        }
    }
}
