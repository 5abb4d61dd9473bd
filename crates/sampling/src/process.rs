//! How noise and latent make up what a model sees.

use distorch_runtime::Tensor;

/// The share of the latent and of unit noise in a noisy latent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NoiseProcess {
    /// The variance grows with sigma (Song and others 2021): `latent + sigma·noise`.
    VarianceExploding,
    /// Rectified flow: `(1 - sigma)·latent + sigma·noise`.
    RectifiedFlow {
        /// What stands in for sigma 1, which has no latent left, where a ratio of the two is needed.
        largest: f64,
    },
}

/// An ancestral step: how far down to step, and the noise put back after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ancestral {
    pub down: f64,
    /// What `x` at `down` is scaled by before the noise comes to it.
    pub scale: f64,
    /// The deviation of that noise.
    pub up: f64,
}

impl NoiseProcess {
    /// A latent with unit noise added up to `sigma`.
    pub fn add_noise<const D: usize>(
        self,
        latent: Tensor<D>,
        noise: Tensor<D>,
        sigma: f64,
    ) -> Tensor<D> {
        match self {
            Self::VarianceExploding => latent + noise * sigma,
            Self::RectifiedFlow { .. } => latent * (1.0 - sigma) + noise * sigma,
        }
    }

    /// The latent's share.
    pub(crate) fn alpha(self, sigma: f64) -> f64 {
        match self {
            Self::VarianceExploding => 1.0,
            Self::RectifiedFlow { .. } => 1.0 - sigma,
        }
    }

    /// A sigma whose signal-to-noise ratio is above 0.
    pub(crate) fn bounded(self, sigma: f64) -> f64 {
        match self {
            Self::RectifiedFlow { largest } if sigma >= 1.0 => largest,
            _ => sigma,
        }
    }

    /// Sigma against the latent's share: what it would be if noise were only added.
    pub(crate) fn ratio(self, sigma: f64) -> f64 {
        sigma / self.alpha(sigma)
    }

    /// The sigma of such a ratio.
    pub(crate) fn sigma_of(self, ratio: f64) -> f64 {
        match self {
            Self::VarianceExploding => ratio,
            Self::RectifiedFlow { .. } => ratio / (1.0 + ratio),
        }
    }

    /// The ancestral step between two sigmas; `eta` 0 puts no noise back.
    pub(crate) fn ancestral(self, from: f64, to: f64, eta: f64) -> Ancestral {
        match self {
            Self::VarianceExploding => {
                let (down, up) = ancestral(from, to, eta);
                Ancestral { down, scale: 1.0, up }
            }
            Self::RectifiedFlow { .. } => {
                let down = (to * (1.0 + (to / from - 1.0) * eta)).max(0.0);
                let scale = self.alpha(to) / self.alpha(down);
                let variance = to * to - (down * scale).powi(2);
                Ancestral { down, scale, up: variance.max(0.0).sqrt() }
            }
        }
    }
}

/// How far down to step, and how much noise to put back, where noise is only added:
/// `down² + up² = to²`.
pub(crate) fn ancestral(from: f64, to: f64, eta: f64) -> (f64, f64) {
    let up = eta * (to * to * (from * from - to * to) / (from * from)).max(0.0).sqrt();
    let up = up.min(to);
    ((to * to - up * up).max(0.0).sqrt(), up)
}
