//! Midpoint steps in the logarithm of sigma, inspired by DPM-Solver-2 and algorithm 2 of Karras and
//! others (2022).

use super::euler::churn;
use super::{FlatRun, SampleError, Values, slope, steps};

/// The slope at the geometric middle of both sigmas, taken over the whole step.
pub(super) fn dpm_2(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    for (i, sigma, next) in steps(sigmas) {
        let (noisy, sigma) = churn(run, x, sigma);
        let denoised = run.begin(i, &noisy, sigma)?;
        x = midpoint_step(run, noisy, denoised, sigma, next)?;
    }
    Ok(x)
}

/// The same, going too far down and putting the noise back.
pub(super) fn dpm_2_ancestral(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        let step = run.process().ancestral(sigma, next, eta);
        x = midpoint_step(run, x, denoised, sigma, step.down)?;
        x = run.renoise(x, step, step.down);
    }
    Ok(x)
}

fn midpoint_step(
    run: &mut FlatRun<'_>,
    x: Values,
    denoised: Values,
    sigma: f64,
    next: f64,
) -> Result<Values, SampleError> {
    let d = slope(&x, &denoised, sigma);
    if next == 0.0 {
        return Ok(x + d * (next - sigma));
    }
    let middle = (sigma * next).sqrt();
    let there = x.clone() + d * (middle - sigma);
    let d_middle = slope(&there, &run.denoise(&there, middle)?, middle);
    Ok(x + d_middle * (next - sigma))
}
