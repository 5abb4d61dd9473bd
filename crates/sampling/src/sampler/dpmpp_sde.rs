//! DPM-Solver++ for the diffusion SDE (Lu and others 2022; k-diffusion), with Brownian noise.
//!
//! Steps are taken in `lambda`, the logarithm of the latent's share against sigma: `-log sigma`
//! where noise is only added.

use super::{FlatRun, SampleError, Values, steps};
use crate::noise::{BrownianNoise, NoiseDevice};
use crate::process::{NoiseProcess, ancestral};

/// What the slope through two guesses counts for over a step.
#[derive(Clone, Copy)]
enum SecondOrder {
    /// As if it acted from the middle of the step.
    Midpoint,
    /// Integrated over the step.
    Heun,
}

/// DPM-Solver++ (stochastic), with the CPU's noise.
pub(super) fn dpmpp_sde(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    singlestep(run, x, sigmas, NoiseDevice::Cpu)
}

/// The same with the noise of the run's device.
pub(super) fn dpmpp_sde_gpu(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    singlestep(run, x, sigmas, run.noise_device)
}

/// DPM-Solver++(2M) SDE with the midpoint rule and the CPU's noise.
pub(super) fn dpmpp_2m_sde(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    multistep_2(run, x, sigmas, NoiseDevice::Cpu, SecondOrder::Midpoint)
}

/// The same with the noise of the run's device.
pub(super) fn dpmpp_2m_sde_gpu(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    multistep_2(run, x, sigmas, run.noise_device, SecondOrder::Midpoint)
}

/// DPM-Solver++(2M) SDE with Heun's rule and the CPU's noise.
pub(super) fn dpmpp_2m_sde_heun(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    multistep_2(run, x, sigmas, NoiseDevice::Cpu, SecondOrder::Heun)
}

/// The same with the noise of the run's device.
pub(super) fn dpmpp_2m_sde_heun_gpu(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    multistep_2(run, x, sigmas, run.noise_device, SecondOrder::Heun)
}

/// DPM-Solver++(3M) SDE with the CPU's noise.
pub(super) fn dpmpp_3m_sde(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    multistep_3(run, x, sigmas, NoiseDevice::Cpu)
}

/// The same with the noise of the run's device.
pub(super) fn dpmpp_3m_sde_gpu(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    multistep_3(run, x, sigmas, run.noise_device)
}

/// DPM-Solver++ (stochastic): the guess is taken again half way down, with noise there too.
fn singlestep(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
    device: NoiseDevice,
) -> Result<Values, SampleError> {
    let sde = Sde::new(run, &x, sigmas, device);
    for (i, sigma, next) in steps(sigmas) {
        let sigma = sde.process.bounded(sigma);
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let middle = middle_sigma(sde.process, sigma, next);
        let there = sde.ancestral_step(x.clone(), denoised, sigma, middle);
        let guess = run.denoise(&there, middle)?;
        x = sde.ancestral_step(x, guess, sigma, next);
    }
    Ok(x)
}

/// The middle in `lambda`. Through float32 where noise is only added: Brownian noise is drawn for
/// times of 6 decimals, and the reference rounds before it gets there.
fn middle_sigma(process: NoiseProcess, sigma: f64, next: f64) -> f64 {
    if process != NoiseProcess::VarianceExploding {
        return process.sigma_of((process.ratio(sigma) * process.ratio(next)).sqrt());
    }
    let (t, t_next) = (-(sigma as f32).ln(), -(next as f32).ln());
    let middle = t + (t_next - t) * 0.5;
    f64::from((-middle).exp())
}

/// A past step's length in `lambda`, and its guess.
type Past = (f64, Values);

/// DPM-Solver++(2M) SDE.
fn multistep_2(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
    device: NoiseDevice,
    second: SecondOrder,
) -> Result<Values, SampleError> {
    let sde = Sde::new(run, &x, sigmas, device);
    let mut last: Option<Past> = None;
    for (i, sigma, next) in steps(sigmas) {
        let sigma = sde.process.bounded(sigma);
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let (h, pull) = (sde.length(sigma, next), sde.pull(sigma, next));
        let mut gain = denoised.clone() * pull;
        if let Some((h_last, old)) = last {
            let weight = match second {
                SecondOrder::Midpoint => 0.5 * pull,
                SecondOrder::Heun => 1.0 - pull / (h * (1.0 + sde.eta)),
            };
            gain = gain + (denoised.clone() - old) * (weight * h / h_last);
        }
        x = sde.first(x, sigma, next) + gain * sde.process.alpha(next);
        x = sde.add_noise(x, sigma, next);
        last = Some((h, denoised));
    }
    Ok(x)
}

/// DPM-Solver++(3M) SDE: as many as three guesses, as a polynomial.
fn multistep_3(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
    device: NoiseDevice,
) -> Result<Values, SampleError> {
    let sde = Sde::new(run, &x, sigmas, device);
    let (mut last, mut before): (Option<Past>, Option<Past>) = (None, None);
    for (i, sigma, next) in steps(sigmas) {
        let sigma = sde.process.bounded(sigma);
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let (h, pull) = (sde.length(sigma, next), sde.pull(sigma, next));
        let h_eta = h * (1.0 + sde.eta);
        let phi_2 = 1.0 - pull / h_eta;
        let mut gain = denoised.clone() * pull;
        if let Some((h_1, guess_1)) = &last {
            let r0 = h_1 / h;
            let d1_0 = (denoised.clone() - guess_1.clone()) * (1.0 / r0);
            if let Some((h_2, guess_2)) = &before {
                let r1 = h_2 / h;
                let d1_1 = (guess_1.clone() - guess_2.clone()) * (1.0 / r1);
                let bend = (d1_0.clone() - d1_1) * (1.0 / (r0 + r1));
                let phi_3 = phi_2 / h_eta - 0.5;
                gain = gain + (d1_0 + bend.clone() * r0) * phi_2 - bend * phi_3;
            } else {
                gain = gain + d1_0 * phi_2;
            }
        }
        x = sde.first(x, sigma, next) + gain * sde.process.alpha(next);
        x = sde.add_noise(x, sigma, next);
        before = last.replace((h, denoised));
    }
    Ok(x)
}

/// The SDE of a run: what its exact solution does to `x`, and the noise that it gains.
struct Sde {
    process: NoiseProcess,
    brownian: BrownianNoise,
    eta: f64,
    s_noise: f64,
}

impl Sde {
    fn new(run: &FlatRun<'_>, x: &Values, sigmas: &[f64], device: NoiseDevice) -> Self {
        let process = run.process();
        // Over the schedule as it is, though steps from pure noise start just below.
        let brownian = run.brownian(x, sigmas, device);
        Self { process, brownian, eta: run.eta(1.0), s_noise: run.options.s_noise }
    }

    /// The length of a step in `lambda`.
    fn length(&self, sigma: f64, next: f64) -> f64 {
        (self.process.ratio(sigma) / self.process.ratio(next)).ln()
    }

    /// The part of the way to the guess.
    fn pull(&self, sigma: f64, next: f64) -> f64 {
        -(-self.length(sigma, next) * (1.0 + self.eta)).exp_m1()
    }

    /// What is left of `x`.
    fn first(&self, x: Values, sigma: f64, next: f64) -> Values {
        x * (next / sigma * (-self.length(sigma, next) * self.eta).exp())
    }

    fn add_noise(&self, x: Values, sigma: f64, next: f64) -> Values {
        if self.eta == 0.0 {
            return x;
        }
        let h = self.length(sigma, next);
        let deviation = next * (-(-2.0 * self.eta * h).exp_m1()).max(0.0).sqrt();
        let noise = self.brownian.between(sigma, next, &x);
        x + noise * (deviation * self.s_noise)
    }

    /// A first-order step that goes too far down and puts the noise back.
    fn ancestral_step(&self, x: Values, guess: Values, sigma: f64, next: f64) -> Values {
        let process = self.process;
        let (from, alpha) = (process.ratio(sigma), process.alpha(next));
        let (down, up) = ancestral(from, process.ratio(next), self.eta);
        let noise = self.brownian.between(sigma, next, &x) * (alpha * up * self.s_noise);
        x * (alpha / process.alpha(sigma) * (down / from))
            + guess * (alpha * (1.0 - down / from))
            + noise
    }
}
