//! DEIS: exponential integrator with past slopes as a polynomial in time (Zhang and Chen 2022,
//! tAB-DEIS of order 3).

use std::collections::VecDeque;

use super::polynomial::lagrange;
use super::{FlatRun, SampleError, Values, slope, steps};

const ORDER: usize = 3;

/// Slopes are integrated over sigma as in `lms`, but interpolated in the time of a VP process.
pub(super) fn deis(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let process = VpProcess::default();
    let mut slopes = VecDeque::with_capacity(ORDER);
    let mut times = VecDeque::with_capacity(ORDER);
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        slopes.truncate(ORDER - 1);
        slopes.push_front(slope(&x, &denoised, sigma));
        times.truncate(ORDER - 1);
        times.push_front(process.time(sigma));
        let weights =
            process.coefficients(times.make_contiguous(), next - sigma, process.time(next));
        for (slope, weight) in slopes.iter().zip(weights) {
            x = x + slope.clone() * weight;
        }
    }
    Ok(x)
}

/// A variance preserving process whose `beta` is linear in time: `log ᾱ = -rate·t²/2 - start·t`.
struct VpProcess {
    start: f64,
    rate: f64,
}

impl Default for VpProcess {
    /// From sigma 0.002 at time 0.001 to sigma 80 at time 1, as Karras and others' models.
    fn default() -> Self {
        const FIRST_TIME: f64 = 1e-3;
        let (low, high) = ((0.002f64 * 0.002).ln_1p(), (80.0f64 * 80.0).ln_1p());
        let rate = 2.0 * (low / FIRST_TIME - high) / (FIRST_TIME - 1.0);
        Self { rate, start: high - 0.5 * rate }
    }
}

impl VpProcess {
    fn time(&self, sigma: f64) -> f64 {
        let log = (sigma * sigma).ln_1p();
        ((self.start * self.start + 2.0 * self.rate * log).sqrt() - self.start) / self.rate
    }

    /// `dsigma/dt`.
    fn speed(&self, time: f64) -> f64 {
        let log_alpha = -0.5 * time * time * self.rate - time * self.start;
        let alpha = log_alpha.exp();
        0.5 * (time * self.rate + self.start) / (alpha * (1.0 - alpha)).sqrt()
    }

    /// The integrals of the Lagrange polynomials through `times` (the newest first, where the step
    /// starts), against `dsigma`.
    ///
    /// A sum over 10000 points, both ends among them, as the implementation that ComfyUI follows
    /// takes it. The first order is exact.
    fn coefficients(&self, times: &[f64], sigma_step: f64, next: f64) -> Vec<f64> {
        const POINTS: usize = 10_000;
        let [start, _, ..] = times else { return vec![sigma_step] };
        let stride = (next - start) / (POINTS - 1) as f64;
        let mut weights = vec![0.0; times.len()];
        for point in 0..POINTS {
            let at = start + stride * point as f64;
            let speed = self.speed(at);
            for (j, weight) in weights.iter_mut().enumerate() {
                *weight += speed * lagrange(times, j, at);
            }
        }
        weights.iter_mut().for_each(|weight| *weight *= (next - start) / POINTS as f64);
        weights
    }
}
