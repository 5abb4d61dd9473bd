//! Euler's method as CFG++ steps it (Chung and others 2024): from the guided guess, along the noise of
//! the unconditional one.

use super::{FlatRun, SampleError, Values, steps};
use crate::process::ancestral;

/// Euler steps.
pub(super) fn euler_cfg_pp(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    sample(run, x, sigmas, 0.0)
}

/// Euler steps that go too far down and put the noise back.
pub(super) fn euler_ancestral_cfg_pp(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    sample(run, x, sigmas, eta)
}

fn sample(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
    eta: f64,
) -> Result<Values, SampleError> {
    let process = run.process();
    for (i, sigma, next) in steps(sigmas) {
        let sigma = process.bounded(sigma);
        let (denoised, negative) = run.begin_both(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        // In ratios of noise to latent, so that the formula holds for flows too.
        let alpha = process.alpha(next);
        let (down, up) = ancestral(process.ratio(sigma), process.ratio(next), eta);
        let noise = (x - negative * process.alpha(sigma)) * (1.0 / sigma);
        x = (denoised + noise * down) * alpha;
        if up > 0.0 {
            x = x.clone() + run.noise(&x) * (alpha * up);
        }
    }
    Ok(x)
}
