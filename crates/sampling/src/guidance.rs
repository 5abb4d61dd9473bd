//! Classifier-free guidance.

use std::ops::RangeInclusive;

use distorch_runtime::Tensor;

use crate::process::NoiseProcess;
use crate::sampler::{Denoiser, ModelError};

/// Which guesses a step has use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The one that follows the positive conditioning.
    Positive,
    /// That, and the one that follows the negative conditioning.
    Both,
}

/// What a conditioned model guesses of one noisy latent.
#[derive(Clone, Debug)]
pub struct Guesses<const D: usize = 4> {
    /// The clean latent by the positive conditioning.
    pub positive: Tensor<D>,
    /// The clean latent by the negative conditioning, where it was wanted: zeros where the model has none.
    pub negative: Option<Tensor<D>>,
}

/// A model with a positive and a negative conditioning.
pub trait Conditioned<const D: usize = 4> {
    /// What can be taken out of the network for a further, worse guess: layers that are skipped, attention that is
    /// replaced. [`Infallible`](std::convert::Infallible) where nothing can.
    type Perturbation;

    /// The clean latents that `x`, noisy up to `sigma`, most likely comes from. Whether both guesses are made in one
    /// call of the network is the model's choice.
    ///
    /// # Errors
    /// When the model fails.
    fn denoise(
        &mut self,
        x: &Tensor<D>,
        sigma: f64,
        wanted: Wanted,
    ) -> Result<Guesses<D>, ModelError>;

    /// The guess of the positive conditioning by a perturbed network.
    ///
    /// # Errors
    /// When the model fails, or its network cannot be perturbed in this way.
    fn denoise_perturbed(
        &mut self,
        x: &Tensor<D>,
        sigma: f64,
        perturbation: &Self::Perturbation,
    ) -> Result<Tensor<D>, ModelError>;

    /// What noise does to a latent of this model.
    fn process(&self) -> NoiseProcess {
        NoiseProcess::VarianceExploding
    }
}

/// How a model's guesses become one: a formula for the positive and the negative guess, then corrections of the result
/// in their order.
///
/// In ComfyUI's terms: the `sampler_cfg_function`, of which a model has one, and its `sampler_post_cfg_function`s.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance<P> {
    /// How far to go from the negative guess towards the positive one and past it. At 1 the negative guess is computed
    /// only where a sampler asks for it.
    pub scale: f64,
    /// How the two guesses are put together.
    pub formula: Formula,
    /// What is done to the result, in this order, at every scale.
    pub corrections: Vec<Correction<P>>,
}

/// How the positive and the negative guess are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Formula {
    /// `negative + scale·(positive - negative)`.
    #[default]
    Plain,
    /// The same in velocity, with a part of the result brought back to the deviation of the positive guess (Lin and
    /// others 2023, section 3.4; ComfyUI's RescaleCFG): [`rescaled`].
    Rescaled {
        /// That part, from 0 to 1.
        part: f64,
    },
    /// `negative + scale·(positive - negative)`, picture by picture no longer than the positive guess (Lumina-Image 2.0;
    /// ComfyUI's RenormCFG): [`renormed`]. The positive guess alone at the sigmas from `until` on.
    Renormed {
        /// The sigma below which the negative guess counts.
        until: f64,
        /// How much longer than the positive guess the result may be; 0 for any length.
        longest: f64,
    },
}

/// A change of the guided guess.
#[derive(Clone, Debug, PartialEq)]
pub enum Correction<P> {
    /// Away from the guess of a perturbed network: [`away_from`] (skip-layer guidance, perturbed attention guidance).
    Perturbed {
        /// What is taken out of the network.
        perturbation: P,
        /// How far to go; 0 changes nothing.
        scale: f64,
        /// How much of the result's deviation is brought back to that of the positive guess, from 0 to 1.
        rescale: f64,
        /// The sigmas at which it acts.
        sigmas: RangeInclusive<f64>,
    },
    /// The negative guess counts as far as it points where the positive one does: [`zero_star`]
    /// (CFG-Zero★, <https://arxiv.org/abs/2503.18886>).
    ZeroStar,
    /// The result is no longer than the positive guess, pixel by pixel: [`normed`].
    Norm {
        /// What it is multiplied with at the end.
        strength: f64,
    },
}

impl<P> Guidance<P> {
    /// Classifier-free guidance with nothing else.
    pub fn plain(scale: f64) -> Self {
        Self { scale, formula: Formula::Plain, corrections: Vec::new() }
    }
}

/// A conditioned model, guided.
#[derive(Clone, Debug)]
pub struct Guided<M, P> {
    /// The model.
    pub model: M,
    /// How it is guided.
    pub guidance: Guidance<P>,
}

impl<M, P> Guided<M, P> {
    /// Plain guidance.
    pub fn new(model: M, scale: f64) -> Self {
        Self { model, guidance: Guidance::plain(scale) }
    }

    fn guide<const D: usize>(
        &mut self,
        x: &Tensor<D>,
        sigma: f64,
        wanted: Wanted,
    ) -> Result<(Tensor<D>, Option<Tensor<D>>), ModelError>
    where
        M: Conditioned<D, Perturbation = P>,
    {
        let Guesses { positive, negative } = self.model.denoise(x, sigma, wanted)?;
        let scale = self.guidance.scale;
        let mut guided = match (&negative, self.guidance.formula) {
            (_, Formula::Renormed { until, longest }) => match &negative {
                Some(negative) if sigma < until => {
                    let guided = combine(positive.clone(), negative.clone(), scale);
                    renormed(guided, positive.clone(), longest)
                }
                None if sigma < until => renormed(positive.clone(), positive.clone(), longest),
                _ => positive.clone(),
            },
            (None, _) => positive.clone(),
            (Some(negative), Formula::Plain) => combine(positive.clone(), negative.clone(), scale),
            (Some(negative), Formula::Rescaled { part }) => {
                rescaled(x.clone(), positive.clone(), negative.clone(), sigma, scale, part)
            }
        };
        for correction in &self.guidance.corrections {
            guided = match (correction, &negative) {
                (Correction::Perturbed { perturbation, scale: away, rescale, sigmas }, _)
                    if *away > 0.0 && sigmas.contains(&sigma) =>
                {
                    let other = self.model.denoise_perturbed(x, sigma, perturbation)?;
                    away_from(guided, positive.clone(), other, *away, *rescale)
                }
                (Correction::ZeroStar, Some(negative)) => {
                    zero_star(guided, x.clone(), positive.clone(), negative.clone(), scale)
                }
                (Correction::Norm { strength }, _) => normed(guided, positive.clone(), *strength),
                // Without a negative guess there is nothing to take less of.
                (Correction::Perturbed { .. } | Correction::ZeroStar, _) => guided,
            };
        }
        Ok((guided, negative))
    }
}

impl<const D: usize, M, P> Denoiser<D> for Guided<M, P>
where
    M: Conditioned<D, Perturbation = P>,
{
    fn denoise(&mut self, x: Tensor<D>, sigma: f64) -> Result<Tensor<D>, ModelError> {
        let unguided = (self.guidance.scale - 1.0).abs() <= 1e-9;
        let wanted = if unguided { Wanted::Positive } else { Wanted::Both };
        Ok(self.guide(&x, sigma, wanted)?.0)
    }

    /// The second guess is the negative one. It is computed at every scale, and 0 where there is no
    /// negative conditioning, as in ComfyUI.
    fn denoise_both(
        &mut self,
        x: Tensor<D>,
        sigma: f64,
    ) -> Result<(Tensor<D>, Tensor<D>), ModelError> {
        let (guided, negative) = self.guide(&x, sigma, Wanted::Both)?;
        let negative =
            negative.ok_or("the model made no negative guess, though it was asked for")?;
        Ok((guided, negative))
    }

    fn process(&self) -> NoiseProcess {
        self.model.process()
    }
}

/// `negative + scale·(positive - negative)`.
pub fn combine<const D: usize>(positive: Tensor<D>, negative: Tensor<D>, scale: f64) -> Tensor<D> {
    negative.clone() + (positive - negative) * scale
}

/// Guidance in velocity, a `part` of which is scaled, picture by picture, to the deviation of the
/// positive velocity. `x` is the noisy latent of both guesses.
pub fn rescaled<const D: usize>(
    x: Tensor<D>,
    positive: Tensor<D>,
    negative: Tensor<D>,
    sigma: f64,
    scale: f64,
    part: f64,
) -> Tensor<D> {
    let variance = sigma * sigma + 1.0;
    let to_velocity = variance.sqrt() / sigma;
    let unit = x * (1.0 / variance);
    let velocity = |guess: Tensor<D>| (unit.clone() - guess) * to_velocity;
    let positive = velocity(positive);
    let guided = combine(positive.clone(), velocity(negative), scale);
    let factor = deviation(positive) / deviation(guided.clone());
    let velocity = guided.clone() * (factor * part) + guided * (1.0 - part);
    unit - velocity * (1.0 / to_velocity)
}

/// The guided guess, picture by picture shortened to `longest` times the length of the positive one where it is longer than
/// that; as it is where `longest` is 0.
pub fn renormed<const D: usize>(guided: Tensor<D>, positive: Tensor<D>, longest: f64) -> Tensor<D> {
    if longest <= 0.0 {
        return guided;
    }
    let most = length(positive) * longest;
    let found = length(guided.clone());
    // A guess of zeros is no longer than any.
    let is_longer = found.clone().greater(most.clone());
    let factor = most.clone() / found;
    guided * factor.ones_like().mask_where(is_longer, factor)
}

/// `guided + scale·(positive - other)`. Where `rescale` is above 0, that part of the result is then scaled, over the
/// whole batch, to the deviation of the positive guess.
pub fn away_from<const D: usize>(
    guided: Tensor<D>,
    positive: Tensor<D>,
    other: Tensor<D>,
    scale: f64,
    rescale: f64,
) -> Tensor<D> {
    let guided = guided + (positive.clone() - other) * scale;
    if rescale == 0.0 {
        return guided;
    }
    let all = |x: Tensor<D>| x.flatten::<1>(0, D - 1).var(0).sqrt().reshape([1; D]);
    let factor = all(positive) / all(guided.clone());
    guided * (factor * rescale + (1.0 - rescale))
}

/// `guided + negative·(α - 1) + scale·negative·(1 - α)`, where α is, picture by picture, the factor with which the
/// negative noise `x - negative` comes closest to the positive one.
pub fn zero_star<const D: usize>(
    guided: Tensor<D>,
    x: Tensor<D>,
    positive: Tensor<D>,
    negative: Tensor<D>,
    scale: f64,
) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = x.dims()[0];
    let noise = |guess: Tensor<D>| (x.clone() - guess).flatten::<2>(1, D - 1);
    let (along, own) = (noise(positive), noise(negative.clone()));
    let product = (along * own.clone()).sum_dim(1);
    let square = (own.clone() * own).sum_dim(1) + 1e-8;
    let alpha = (product / square).reshape(shape);
    guided + negative * ((alpha - 1.0) * (1.0 - scale))
}

/// The guided guess, no longer along the channels than the positive one at any pixel, times `strength`.
pub fn normed<const D: usize>(guided: Tensor<D>, positive: Tensor<D>, strength: f64) -> Tensor<D> {
    let length = |x: Tensor<D>| (x.clone() * x).sum_dim(1).sqrt();
    let factor = (length(positive) / (length(guided.clone()) + 1e-8)).clamp(0.0, 1.0);
    guided * factor * strength
}

/// The length of each picture, of shape `[batch, 1, 1, …]`.
fn length<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = x.dims()[0];
    let x = x.flatten::<2>(1, D - 1);
    (x.clone() * x).sum_dim(1).sqrt().reshape(shape)
}

/// The deviation of each picture, of shape `[batch, 1, 1, …]`.
fn deviation<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = x.dims()[0];
    x.flatten::<2>(1, D - 1).var(1).sqrt().reshape(shape)
}
