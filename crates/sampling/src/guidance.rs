//! Classifier-free guidance.

use distorch_runtime::Tensor;

use crate::process::NoiseProcess;
use crate::sampler::{Denoiser, ModelError};

/// Which conditioning a model is asked to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// The positive one, for the whole batch.
    Positive,
    /// The negative one, for the whole batch.
    Negative,
    /// The positive one for the first half of the batch, the negative one for the second: the same
    /// latents twice.
    Both,
}

/// A model with a positive and a negative conditioning.
pub trait Conditioned {
    /// The clean latents that `x`, noisy up to `sigma`, most likely come from.
    fn denoise(
        &mut self,
        x: Tensor<4>,
        sigma: f64,
        halves: Halves,
    ) -> Result<Tensor<4>, ModelError>;

    /// Whether both halves may go through the model at once, for latents of this shape: faster, for
    /// twice the activations.
    fn batches_halves(&self, latent: [usize; 4]) -> bool {
        let _ = latent;
        true
    }

    /// What noise does to a latent of this model.
    fn process(&self) -> NoiseProcess {
        NoiseProcess::Add
    }
}

/// A conditioned model, guided: `negative + scale·(positive - negative)`.
#[derive(Clone, Debug)]
pub struct Guided<M> {
    /// The model.
    pub model: M,
    /// How far to go from the negative guess towards the positive one and past it. At 1 the
    /// negative half is computed only where a sampler asks for both.
    pub scale: f64,
    /// The part of the guess whose deviation is brought back to that of the positive guess (Lin and
    /// others 2023, section 3.4; ComfyUI's RescaleCFG), from 0 to 1. `None` leaves it.
    pub rescale: Option<f64>,
}

impl<M: Conditioned> Guided<M> {
    /// Plain guidance.
    pub fn new(model: M, scale: f64) -> Self {
        Self { model, scale, rescale: None }
    }

    fn halves(&mut self, x: Tensor<4>, sigma: f64) -> Result<(Tensor<4>, Tensor<4>), ModelError> {
        let shape = x.dims();
        let batch = shape[0];
        if self.model.batches_halves(shape) {
            let twice = Tensor::cat(vec![x.clone(), x], 0);
            let both = self.model.denoise(twice, sigma, Halves::Both)?;
            let found = both.dims()[0];
            if found != 2 * batch {
                return Err(format!("{found} guesses for a batch of {}", 2 * batch).into());
            }
            return Ok((both.clone().narrow(0, 0, batch), both.narrow(0, batch, batch)));
        }
        let positive = self.model.denoise(x.clone(), sigma, Halves::Positive)?;
        Ok((positive, self.model.denoise(x, sigma, Halves::Negative)?))
    }
}

impl<M: Conditioned> Denoiser for Guided<M> {
    fn denoise(&mut self, x: Tensor<4>, sigma: f64) -> Result<Tensor<4>, ModelError> {
        if (self.scale - 1.0).abs() <= 1e-9 {
            return self.model.denoise(x, sigma, Halves::Positive);
        }
        Ok(self.denoise_both(x, sigma)?.0)
    }

    /// The second guess is the negative one. It is computed at every scale, and 0 where there is no
    /// negative conditioning, as in ComfyUI.
    fn denoise_both(
        &mut self,
        x: Tensor<4>,
        sigma: f64,
    ) -> Result<(Tensor<4>, Tensor<4>), ModelError> {
        let (positive, negative) = self.halves(x.clone(), sigma)?;
        let guided = match self.rescale {
            None => combine(positive, negative.clone(), self.scale),
            Some(part) => rescaled(x, positive, negative.clone(), sigma, self.scale, part),
        };
        Ok((guided, negative))
    }

    fn process(&self) -> NoiseProcess {
        self.model.process()
    }
}

/// `negative + scale·(positive - negative)`.
pub fn combine(positive: Tensor<4>, negative: Tensor<4>, scale: f64) -> Tensor<4> {
    negative.clone() + (positive - negative) * scale
}

/// Guidance in velocity, a `part` of which is scaled, picture by picture, to the deviation of the
/// positive velocity. `x` is the noisy latent of both guesses.
pub fn rescaled(
    x: Tensor<4>,
    positive: Tensor<4>,
    negative: Tensor<4>,
    sigma: f64,
    scale: f64,
    part: f64,
) -> Tensor<4> {
    let variance = sigma * sigma + 1.0;
    let to_velocity = variance.sqrt() / sigma;
    let unit = x * (1.0 / variance);
    let velocity = |guess: Tensor<4>| (unit.clone() - guess) * to_velocity;
    let positive = velocity(positive);
    let guided = combine(positive.clone(), velocity(negative), scale);
    let factor = deviation(positive) / deviation(guided.clone());
    let velocity = guided.clone() * (factor * part) + guided * (1.0 - part);
    unit - velocity * (1.0 / to_velocity)
}

/// The deviation of each picture, of shape `[batch, 1, 1, 1]`.
fn deviation(x: Tensor<4>) -> Tensor<4> {
    let batch = x.dims()[0];
    x.flatten::<2>(1, 3).var(1).sqrt().reshape([batch, 1, 1, 1])
}
