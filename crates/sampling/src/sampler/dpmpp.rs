//! DPM-Solver++ (Lu and others 2022): exponential integrators of the clean latent over
//! `t = -log sigma`.

use super::{FlatRun, SampleError, Values, exponential_step, steps};
use crate::process::NoiseProcess;

/// DPM-Solver++(2M): two past guesses, extrapolated to the middle of the step.
pub(super) fn dpmpp_2m(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let mut last: Option<(f64, Values)> = None;
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        let guess = match &last {
            Some((before, old)) if next > 0.0 => {
                let ratio = (before / sigma).ln() / (sigma / next).ln();
                let further = 1.0 / (2.0 * ratio);
                denoised.clone() * (1.0 + further) - old.clone() * further
            }
            _ => denoised.clone(),
        };
        x = exponential_step(x, guess, sigma, next);
        last = Some((sigma, denoised));
    }
    Ok(x)
}

/// DPM-Solver++(2S) with ancestral steps: the guess is taken again in the middle of the step.
pub(super) fn dpmpp_2s_ancestral(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        let process = run.process();
        let step = process.ancestral(sigma, next, eta);
        let guess = if step.down == 0.0 {
            denoised
        } else {
            let middle = middle_sigma(process, sigma, step.down);
            run.denoise(&exponential_step(x.clone(), denoised, sigma, middle), middle)?
        };
        x = exponential_step(x, guess, sigma, step.down);
        x = run.renoise(x, step, next);
    }
    Ok(x)
}

/// Where the second guess of a step is taken: the middle in the logarithm of sigma against the latent's share. From pure
/// noise, where that is infinite, ComfyUI takes it just below.
fn middle_sigma(process: NoiseProcess, sigma: f64, next: f64) -> f64 {
    const BELOW_PURE_NOISE: f64 = 0.9999;
    match process {
        NoiseProcess::RectifiedFlow { .. } if sigma >= 1.0 => BELOW_PURE_NOISE,
        _ => {
            let next = process.bounded(next);
            process.sigma_of((process.ratio(sigma) * process.ratio(next)).sqrt())
        }
    }
}
