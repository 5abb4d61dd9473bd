//! Steps in `lambda`, the logarithm of the latent's share against sigma, as exponential integrators
//! take them: `-log sigma` where noise is only added.

use super::Values;
use crate::process::NoiseProcess;

/// A step between two sigmas above 0.
#[derive(Clone, Copy)]
pub(super) struct ExponentialStep {
    process: NoiseProcess,
    from: f64,
    to: f64,
    /// The length in `lambda`.
    pub h: f64,
    /// How much noise comes in on the way; 0 is the probability flow.
    eta: f64,
}

impl ExponentialStep {
    pub(super) fn new(process: NoiseProcess, from: f64, to: f64, eta: f64) -> Self {
        let h = (process.ratio(from) / process.ratio(to)).ln();
        Self { process, from, to, h, eta }
    }

    /// The sigma at a part of the way.
    pub(super) fn sigma(&self, part: f64) -> f64 {
        if part >= 1.0 {
            return self.to;
        }
        self.process.sigma_of(self.process.ratio(self.from) * (-part * self.h).exp())
    }

    /// The length that the guess is integrated over, up to a part of the way.
    pub(super) fn pull(&self, part: f64) -> f64 {
        part * self.h * (1.0 + self.eta)
    }

    /// What is left of `x` at a part of the way, without guess or noise.
    pub(super) fn decayed(&self, x: Values, part: f64) -> Values {
        x * (self.sigma(part) / self.from * (-part * self.h * self.eta).exp())
    }

    /// The latent's share at a part of the way.
    pub(super) fn alpha(&self, part: f64) -> f64 {
        self.process.alpha(self.sigma(part))
    }

    /// What unit noise up to a part of the way counts for at a later one.
    pub(super) fn kept(&self, part: f64, later: f64) -> f64 {
        (-(later - part) * self.h * self.eta).exp()
    }

    /// The deviation of the noise, in sigmas, that comes in between two parts of the way.
    pub(super) fn gained(&self, part: f64, later: f64) -> f64 {
        (-(-2.0 * (later - part) * self.h * self.eta).exp_m1()).max(0.0).sqrt()
    }
}

/// `(e^v - 1 - v) / v`: what the slope of a guess counts for.
pub(super) fn phi(v: f64) -> f64 {
    if v == 0.0 { 0.0 } else { v.exp_m1() / v - 1.0 }
}
