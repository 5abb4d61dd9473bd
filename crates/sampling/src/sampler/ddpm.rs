//! Ancestral sampling of denoising diffusion probabilistic models (Ho and others 2020).

use super::{FlatRun, SampleError, Values, slope, steps};
use crate::process::NoiseProcess;

/// Algorithm 2 of the paper, between the noise levels of the run.
pub(super) fn ddpm(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    if run.process() != NoiseProcess::VarianceExploding {
        return Err(SampleError::NoFlowForm { sampler: "ddpm", eta: 1.0 });
    }
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        let eps = slope(&x, &denoised, sigma);
        let (alpha_bar, alpha_bar_next) = (share(sigma), share(next));
        let alpha = alpha_bar / alpha_bar_next;
        // The latent of the paper has unit variance.
        let unit = x * alpha_bar.sqrt();
        let mean = (unit - eps * ((1.0 - alpha) / (1.0 - alpha_bar).sqrt())) * (1.0 / alpha.sqrt());
        x = if next > 0.0 {
            let variance = (1.0 - alpha) * (1.0 - alpha_bar_next) / (1.0 - alpha_bar);
            let noise = run.noise(&mean) * variance.max(0.0).sqrt();
            (mean + noise) * (1.0 / alpha_bar_next.sqrt())
        } else {
            mean
        };
    }
    Ok(x)
}

/// `ᾱ`, the latent's share of the variance.
fn share(sigma: f64) -> f64 {
    1.0 / (sigma * sigma + 1.0)
}
