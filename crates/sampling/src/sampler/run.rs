//! One run of a sampler: its model, its noise, and its callback.

use std::ops::{ControlFlow, RangeInclusive};

use distorch_runtime::Tensor;

use super::{Denoiser, SampleError};
use crate::noise::{BrownianNoise, NoiseDevice, StepNoise};
use crate::process::{Ancestral, NoiseProcess};

/// What the callback of a run sees after each evaluation that begins a step.
#[derive(Debug)]
pub struct Step<'a> {
    /// The step, from 0.
    pub index: usize,
    /// The steps of the run. `dpm_adaptive` does not know them before its end.
    pub total: Option<usize>,
    /// The noise level of `x`.
    pub sigma: f64,
    /// The noisy latent.
    pub x: &'a Tensor<4>,
    /// The clean latent as guessed now: what a preview shows.
    pub denoised: &'a Tensor<4>,
}

/// What is called at each step; `Break` stops the run.
pub type Callback<'a> = dyn FnMut(&Step<'_>) -> ControlFlow<()> + 'a;

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
pub struct Run<'a> {
    model: &'a mut dyn Denoiser,
    seed: u64,
    pub(super) options: Options,
    callback: &'a mut Callback<'a>,
    noise: StepNoise,
    pub(super) noise_device: NoiseDevice,
    pub(super) stochastic: RangeInclusive<f64>,
    pub(super) total: Option<usize>,
}

impl<'a> Run<'a> {
    /// A run of `model`. `seed` is that of the picture.
    pub fn new(model: &'a mut dyn Denoiser, seed: u64, callback: &'a mut Callback<'a>) -> Self {
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

    pub(super) fn denoise(&mut self, x: &Tensor<4>, sigma: f64) -> Result<Tensor<4>, SampleError> {
        self.model.denoise(x.clone(), sigma).map_err(|source| SampleError::Model { sigma, source })
    }

    /// Evaluates the model at the start of a step and calls back.
    pub(super) fn begin(
        &mut self,
        index: usize,
        x: &Tensor<4>,
        sigma: f64,
    ) -> Result<Tensor<4>, SampleError> {
        let denoised = self.denoise(x, sigma)?;
        self.report(index, sigma, x, &denoised)?;
        Ok(denoised)
    }

    /// As [`begin`](Self::begin), with the guess that follows the negative conditioning alone.
    pub(super) fn begin_both(
        &mut self,
        index: usize,
        x: &Tensor<4>,
        sigma: f64,
    ) -> Result<(Tensor<4>, Tensor<4>), SampleError> {
        let (denoised, negative) = self.denoise_both(x, sigma)?;
        self.report(index, sigma, x, &denoised)?;
        Ok((denoised, negative))
    }

    pub(super) fn denoise_both(
        &mut self,
        x: &Tensor<4>,
        sigma: f64,
    ) -> Result<(Tensor<4>, Tensor<4>), SampleError> {
        let guesses = self.model.denoise_both(x.clone(), sigma);
        guesses.map_err(|source| SampleError::Model { sigma, source })
    }

    pub(super) fn report(
        &mut self,
        index: usize,
        sigma: f64,
        x: &Tensor<4>,
        denoised: &Tensor<4>,
    ) -> Result<(), SampleError> {
        let total = self.total;
        match (self.callback)(&Step { index, total, sigma, x, denoised }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(SampleError::Stopped { step: index, total }),
        }
    }

    /// The next noise of the run, as [`StepNoise`] gives it, times `s_noise`.
    pub(super) fn noise(&mut self, x: &Tensor<4>) -> Tensor<4> {
        self.noise.like(x) * self.options.s_noise
    }

    /// Noise for an SDE over these sigmas.
    pub(super) fn brownian(
        &self,
        x: &Tensor<4>,
        sigmas: &[f64],
        device: NoiseDevice,
    ) -> BrownianNoise {
        BrownianNoise::new(x, sigmas, self.seed, device)
    }

    pub(super) fn process(&self) -> NoiseProcess {
        self.model.process()
    }

    /// Ends an ancestral step: noise for the next sigma, where that is not 0.
    pub(super) fn renoise(&mut self, x: Tensor<4>, step: Ancestral, next: f64) -> Tensor<4> {
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
