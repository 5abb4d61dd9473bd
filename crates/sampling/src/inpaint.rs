//! Sampling a part of a latent.

use distorch_runtime::tensor::TensorData;
use distorch_runtime::{Device, Tensor};
use thiserror::Error;

use crate::model_sampling::ModelSampling;
use crate::process::NoiseProcess;
use crate::sampler::{Denoiser, ModelError};

/// A denoiser that changes a latent only where a mask is 1.
///
/// What is kept is noised to the sigma of each step, so that the model sees it as it sees the rest,
/// and put back into the guess.
pub struct Inpaint<'a, const D: usize = 4> {
    /// What is asked for the part that changes.
    pub model: &'a mut dyn Denoiser<D>,
    /// How the model sees noise.
    pub sampling: &'a ModelSampling,
    /// 1 where the latent changes, 0 where it is kept; of its shape.
    pub mask: Tensor<D>,
    /// The latent, without noise.
    pub latent: Tensor<D>,
    /// Unit noise for the part that is kept.
    pub noise: Tensor<D>,
    /// Whether the mask says when a pixel begins to change.
    pub fading: Option<Fading>,
}

/// A mask that says when: a pixel changes from that part of the way on that is left where the mask has its value (Levin
/// and Fried 2023, <https://arxiv.org/abs/2306.00950>). The way goes from the model's timestep of the first sigma to that
/// of the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fading {
    /// How much of that counts, from 0 to 1; the rest is the mask as it is. 0 is as 1.
    pub strength: f64,
    /// The first sigma of the run.
    pub first: f64,
    /// The last one.
    pub last: f64,
}

impl Fading {
    /// The mask at a sigma.
    fn at<const D: usize>(
        self,
        mask: &Tensor<D>,
        sampling: &ModelSampling,
        sigma: f64,
    ) -> Tensor<D> {
        let least = sampling.sigma_min();
        let to = sampling.timestep(if self.last > least { self.last } else { least });
        let from = sampling.timestep(self.first);
        let threshold = (sampling.timestep(sigma) - to) / (from - to);
        let hard = mask.clone().greater_equal_elem(threshold as f32).float().cast(mask.dtype());
        match self.strength > 0.0 && self.strength < 1.0 {
            true => hard * self.strength + mask.clone() * (1.0 - self.strength),
            false => hard,
        }
    }
}

impl<const D: usize> Denoiser<D> for Inpaint<'_, D> {
    fn denoise(&mut self, x: Tensor<D>, sigma: f64) -> Result<Tensor<D>, ModelError> {
        let mask = self.mask_at(sigma);
        let guess = self.model.denoise(self.seen(x, sigma, &mask), sigma)?;
        Ok(blend(guess, self.latent.clone(), &mask))
    }

    /// The negative guess is left as the model gives it, as in ComfyUI.
    fn denoise_both(
        &mut self,
        x: Tensor<D>,
        sigma: f64,
    ) -> Result<(Tensor<D>, Tensor<D>), ModelError> {
        let mask = self.mask_at(sigma);
        let (guess, negative) = self.model.denoise_both(self.seen(x, sigma, &mask), sigma)?;
        Ok((blend(guess, self.latent.clone(), &mask), negative))
    }

    fn process(&self) -> NoiseProcess {
        self.model.process()
    }
}

impl<const D: usize> Inpaint<'_, D> {
    /// What the model sees of `x`: the kept part with its noise.
    fn seen(&self, x: Tensor<D>, sigma: f64, mask: &Tensor<D>) -> Tensor<D> {
        let kept = self.sampling.add_noise(self.latent.clone(), self.noise.clone(), sigma);
        blend(x, kept, mask)
    }

    fn mask_at(&self, sigma: f64) -> Tensor<D> {
        match self.fading {
            None => self.mask.clone(),
            Some(fading) => fading.at(&self.mask, self.sampling, sigma),
        }
    }
}

/// `new·mask + old·(1 - mask)`.
fn blend<const D: usize>(new: Tensor<D>, old: Tensor<D>, mask: &Tensor<D>) -> Tensor<D> {
    let keep = mask.clone().neg() + 1.0;
    new * mask.clone() + old * keep
}

/// A mask that cannot be brought to a latent's shape.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "a mask of {values} values for {masks} pictures of {height}x{width}: pass one value a pixel, at least one picture"
)]
pub struct MaskError {
    /// How many values there are.
    pub values: usize,
    /// How many masks they should be.
    pub masks: usize,
    /// The height of each.
    pub height: usize,
    /// The width of each.
    pub width: usize,
}

/// Brings masks, `[masks, height, width]` in rows, to the shape of a latent: of pictures, `[batch, channels, height,
/// width]`, or of a video, whose masks are those of its frames, `[batch, channels, frames, height, width]`.
///
/// Linear along each side as `torch.nn.functional.interpolate` does it (corners not aligned); the same for all
/// channels. Masks of pictures are repeated over the batch in turn, or cut to it; those of a video are the same for the
/// whole batch.
///
/// # Errors
/// When there are more or fewer values than the masks have pixels, or none.
pub fn latent_mask<const D: usize>(
    values: &[f32],
    [masks, height, width]: [usize; 3],
    latent: [usize; D],
    device: &Device,
) -> Result<Tensor<D>, MaskError> {
    const { assert!(D == 4 || D == 5, "masks are for pictures and videos") };
    let error = MaskError { values: values.len(), masks, height, width };
    let picture = height.checked_mul(width).filter(|size| *size > 0).ok_or(error.clone())?;
    if values.len() != masks.checked_mul(picture).ok_or(error.clone())? || masks == 0 {
        return Err(error);
    }
    let &[batch, channels, ref frames @ .., rows, columns] = latent.as_slice() else {
        return Err(error);
    };
    let used = if frames.is_empty() { batch.max(1) } else { masks };
    let fitted: Vec<Vec<f32>> = values
        .chunks_exact(picture)
        .take(used)
        .map(|mask| bilinear(mask, [height, width], [rows, columns]))
        .collect();
    let data: Vec<f32> = match frames {
        [] => (0..batch)
            .zip(fitted.iter().cycle())
            .flat_map(|(_, mask)| std::iter::repeat_n(mask, channels).flatten().copied())
            .collect(),
        frames => {
            let video = between(&fitted, frames.iter().product());
            std::iter::repeat_n(&video, batch * channels).flatten().copied().collect()
        }
    };
    Ok(Tensor::from_data(TensorData::new(data, latent), device))
}

/// Frames in a row, each between two of these.
fn between(masks: &[Vec<f32>], frames: usize) -> Vec<f32> {
    let frame = |&(before, after, share): &(usize, usize, f32)| {
        let pair = masks.get(before).zip(masks.get(after));
        pair.map(|(before, after)| {
            let pixels = before.iter().zip(after);
            pixels.map(move |(before, after)| before * (1.0 - share) + after * share)
        })
    };
    weights(masks.len(), frames).iter().filter_map(frame).flatten().collect()
}

fn bilinear(from: &[f32], [height, width]: [usize; 2], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let (vertical, horizontal) = (weights(height, rows), weights(width, columns));
    let at = |row: usize, column: usize| from.get(row * width + column).copied().unwrap_or(0.0);
    let mut to = Vec::with_capacity(rows * columns);
    for &(top, bottom, down) in &vertical {
        for &(left, right, across) in &horizontal {
            let above = at(top, left) * (1.0 - across) + at(top, right) * across;
            let below = at(bottom, left) * (1.0 - across) + at(bottom, right) * across;
            to.push(above * (1.0 - down) + below * down);
        }
    }
    to
}

/// For each place of a resized line: the two places it lies between, and the share of the second.
fn weights(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f32 / to as f32;
    let last = from.saturating_sub(1);
    (0..to)
        .map(|place| {
            let at = ((place as f32 + 0.5) * scale - 0.5).max(0.0);
            let low = (at as usize).min(last);
            (low, (low + 1).min(last), at - low as f32)
        })
        .collect()
}
