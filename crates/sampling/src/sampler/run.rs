//! One run of a sampler: its model, its noise, and its callback.
//!
//! Samplers compute value by value, so they see a latent as one row of values, whatever its shape is.

use std::ops::{ControlFlow, RangeInclusive};

use distorch_runtime::Tensor;

use super::{Denoiser, ModelError, SampleError};
use crate::noise::{BrownianNoise, NoiseDevice, StepNoise};
use crate::process::{Ancestral, NoiseProcess};

/// What the callback of a run sees after each evaluation that begins a step.
#[derive(Debug)]
pub struct Step<'a, const D: usize = 4> {
    /// The step, from 0.
    pub index: usize,
    /// The steps of the run. `dpm_adaptive` does not know them before its end.
    pub total: Option<usize>,
    /// The noise level of `x`.
    pub sigma: f64,
    /// The noisy latent.
    pub x: &'a Tensor<D>,
    /// The clean latent as guessed now: what a preview shows.
    pub denoised: &'a Tensor<D>,
}

/// What is called at each step; `Break` stops the run.
pub type Callback<'a, const D: usize = 4> = dyn FnMut(&Step<'_, D>) -> ControlFlow<()> + 'a;

/// The values of a latent in a row.
pub(super) type Values = Tensor<1>;

/// A run as its sampler sees it.
pub(super) type FlatRun<'a> = Run<'a, 1>;

/// The numbers that some samplers can be tuned by. The default is ComfyUI's KSampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How much noise ancestral and SDE samplers put back. Their default is 1, that of `dpm_fast`
    /// and `dpm_adaptive` 0.
    pub eta: Option<f64>,
    /// Scale of the noise put in.
    pub s_noise: f64,
    /// Noise put in before each step of `euler`, `heun`, `heunpp2` and `dpm_2` (Karras and others
    /// 2022, algorithm 2).
    pub s_churn: f64,
    /// The smallest sigma at which `s_churn` acts.
    pub s_tmin: f64,
    /// The largest sigma at which `s_churn` acts.
    pub s_tmax: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { eta: None, s_noise: 1.0, s_churn: 0.0, s_tmin: 0.0, s_tmax: f64::INFINITY }
    }
}

/// One run of a sampler: the model, the seed of what noise is put in, and its callback.
pub struct Run<'a, const D: usize = 4> {
    model: &'a mut dyn Denoiser<D>,
    seed: u64,
    pub(super) options: Options,
    callback: &'a mut Callback<'a, D>,
    noise: StepNoise,
    pub(super) noise_device: NoiseDevice,
    pub(super) stochastic: RangeInclusive<f64>,
    pub(super) total: Option<usize>,
}

impl<'a, const D: usize> Run<'a, D> {
    /// A run of `model`. `seed` is that of the picture.
    pub fn new(
        model: &'a mut dyn Denoiser<D>,
        seed: u64,
        callback: &'a mut Callback<'a, D>,
    ) -> Self {
        Self {
            model,
            seed,
            options: Options::default(),
            callback,
            noise: StepNoise::new(seed, NoiseDevice::Cpu),
            noise_device: NoiseDevice::Cpu,
            stochastic: 0.0..=f64::INFINITY,
            total: None,
        }
    }

    /// The same run with other options.
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The same run with the noise of another device's generator. The CPU's is the default.
    pub fn with_noise_device(mut self, device: NoiseDevice) -> Self {
        self.noise = StepNoise::new(self.seed, device);
        self.noise_device = device;
        self
    }

    /// The same run where SA-Solver puts noise in on steps that lead to these sigmas, instead of on
    /// all: in ComfyUI those from 20 % to 80 % of the way from noise to picture.
    pub fn with_stochastic_sigmas(mut self, sigmas: RangeInclusive<f64>) -> Self {
        self.stochastic = sigmas;
        self
    }

    /// Has a sampler go through the sigmas, on the latent's values in a row.
    pub(super) fn sample(
        self,
        x: Tensor<D>,
        sigmas: &[f64],
        sample: fn(&mut FlatRun<'_>, Values, &[f64]) -> Result<Values, SampleError>,
    ) -> Result<Tensor<D>, SampleError> {
        let Self { model, seed, options, callback, noise, noise_device, stochastic, .. } = self;
        let shape = x.dims();
        let mut model = Flattened { model, shape };
        let mut callback = |step: &Step<'_, 1>| {
            let &Step { index, total, sigma, x, denoised } = step;
            let (x, denoised) = (x.clone().reshape(shape), denoised.clone().reshape(shape));
            callback(&Step { index, total, sigma, x: &x, denoised: &denoised })
        };
        let mut run = FlatRun {
            model: &mut model,
            seed,
            options,
            callback: &mut callback,
            noise,
            noise_device,
            stochastic,
            total: Some(sigmas.len().saturating_sub(1)),
        };
        Ok(sample(&mut run, flat(x), sigmas)?.reshape(shape))
    }
}

impl FlatRun<'_> {
    pub(super) fn denoise(&mut self, x: &Values, sigma: f64) -> Result<Values, SampleError> {
        self.model.denoise(x.clone(), sigma).map_err(|source| SampleError::Model { sigma, source })
    }

    /// Evaluates the model at the start of a step and calls back.
    pub(super) fn begin(
        &mut self,
        index: usize,
        x: &Values,
        sigma: f64,
    ) -> Result<Values, SampleError> {
        let denoised = self.denoise(x, sigma)?;
        self.report(index, sigma, x, &denoised)?;
        Ok(denoised)
    }

    /// As [`begin`](Self::begin), with the guess that follows the negative conditioning alone.
    pub(super) fn begin_both(
        &mut self,
        index: usize,
        x: &Values,
        sigma: f64,
    ) -> Result<(Values, Values), SampleError> {
        let (denoised, negative) = self.denoise_both(x, sigma)?;
        self.report(index, sigma, x, &denoised)?;
        Ok((denoised, negative))
    }

    pub(super) fn denoise_both(
        &mut self,
        x: &Values,
        sigma: f64,
    ) -> Result<(Values, Values), SampleError> {
        let guesses = self.model.denoise_both(x.clone(), sigma);
        guesses.map_err(|source| SampleError::Model { sigma, source })
    }

    pub(super) fn report(
        &mut self,
        index: usize,
        sigma: f64,
        x: &Values,
        denoised: &Values,
    ) -> Result<(), SampleError> {
        let total = self.total;
        match (self.callback)(&Step { index, total, sigma, x, denoised }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(SampleError::Stopped { step: index, total }),
        }
    }

    /// The next noise of the run, as [`StepNoise`] gives it, times `s_noise`.
    pub(super) fn noise(&mut self, x: &Values) -> Values {
        self.noise.like(x) * self.options.s_noise
    }

    /// Noise for an SDE over these sigmas.
    pub(super) fn brownian(
        &self,
        x: &Values,
        sigmas: &[f64],
        device: NoiseDevice,
    ) -> BrownianNoise {
        BrownianNoise::new(x, sigmas, self.seed, device)
    }

    pub(super) fn process(&self) -> NoiseProcess {
        self.model.process()
    }

    /// Ends an ancestral step: noise for the next sigma, where that is not 0.
    pub(super) fn renoise(&mut self, x: Values, step: Ancestral, next: f64) -> Values {
        if next == 0.0 {
            return x;
        }
        let noise = self.noise(&x) * step.up;
        if step.scale == 1.0 { x + noise } else { x * step.scale + noise }
    }

    pub(super) fn eta(&self, default: f64) -> f64 {
        self.options.eta.unwrap_or(default)
    }
}

/// A model of latents of this shape, for latents in a row.
struct Flattened<'a, const D: usize> {
    model: &'a mut dyn Denoiser<D>,
    shape: [usize; D],
}

impl<const D: usize> Flattened<'_, D> {
    fn flat(&self, guess: Tensor<D>) -> Result<Values, ModelError> {
        if guess.dims() != self.shape {
            let (found, expected) = (guess.dims(), self.shape);
            return Err(format!("a guess of shape {found:?} for a latent of {expected:?}").into());
        }
        Ok(flat(guess))
    }
}

impl<const D: usize> Denoiser<1> for Flattened<'_, D> {
    fn denoise(&mut self, x: Values, sigma: f64) -> Result<Values, ModelError> {
        let guess = self.model.denoise(x.reshape(self.shape), sigma)?;
        self.flat(guess)
    }

    fn denoise_both(&mut self, x: Values, sigma: f64) -> Result<(Values, Values), ModelError> {
        let (guess, negative) = self.model.denoise_both(x.reshape(self.shape), sigma)?;
        Ok((self.flat(guess)?, self.flat(negative)?))
    }

    fn process(&self) -> NoiseProcess {
        self.model.process()
    }
}

fn flat<const D: usize>(x: Tensor<D>) -> Values {
    let values = x.shape().num_elements();
    x.reshape([values])
}
