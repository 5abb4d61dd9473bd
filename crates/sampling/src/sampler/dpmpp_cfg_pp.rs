//! DPM-Solver++ as CFG++ steps it (Chung and others 2024), in ComfyUI's form: what is kept of `x` is
//! that which the unconditional guess leaves.

use super::{FlatRun, SampleError, Values, exponential_step, steps};
use crate::process::NoiseProcess;

/// DPM-Solver++(2M): the guess is extrapolated along the slope of the unconditional ones.
pub(super) fn dpmpp_2m_cfg_pp(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let mut last: Option<(f64, Values)> = None;
    for (i, sigma, next) in steps(sigmas) {
        let (denoised, negative) = run.begin_both(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let kept = next / sigma;
        let mut guess = denoised.clone();
        if let Some((before, old)) = last {
            let ratio = (before / sigma).ln() / (sigma / next).ln();
            guess = guess + (denoised - old) * ((1.0 - kept) / (2.0 * ratio));
        }
        x = guess + (x - negative.clone()) * kept;
        last = Some((sigma, negative));
    }
    Ok(x)
}

/// DPM-Solver++(2S) with ancestral steps. The second half of a step starts from the first guess and
/// leaves the second unconditional one.
pub(super) fn dpmpp_2s_ancestral_cfg_pp(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    for (i, sigma, next) in steps(sigmas) {
        let (denoised, negative) = run.begin_both(i, &x, sigma)?;
        // ComfyUI steps so on flows, too.
        let step = NoiseProcess::VarianceExploding.ancestral(sigma, next, eta);
        if step.down == 0.0 {
            x = denoised;
        } else {
            let middle = (sigma * step.down).sqrt();
            let from = x + denoised.clone();
            let there = exponential_step(from.clone() - negative, denoised, sigma, middle);
            let (guess, negative) = run.denoise_both(&there, middle)?;
            x = exponential_step(from - negative, guess, sigma, step.down);
        }
        x = run.renoise(x, step, next);
    }
    Ok(x)
}
