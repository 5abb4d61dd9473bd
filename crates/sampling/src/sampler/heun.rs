//! Heun's method and Heun++.

use super::euler::churn;
use super::{FlatRun, SampleError, Values, slope, steps};

/// Algorithm 2 of Karras and others (2022): the slope is the mean of those at both ends.
pub(super) fn heun(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    for (i, sigma, next) in steps(sigmas) {
        let (noisy, sigma) = churn(run, x, sigma);
        let denoised = run.begin(i, &noisy, sigma)?;
        let d = slope(&noisy, &denoised, sigma);
        let there = noisy.clone() + d.clone() * (next - sigma);
        x = if next == 0.0 {
            there
        } else {
            let d_next = slope(&there, &run.denoise(&there, next)?, next);
            noisy + (d + d_next) * (0.5 * (next - sigma))
        };
    }
    Ok(x)
}

/// Heun++ of order 2 (the sampler of that name in the "samplers-scheduler" extension): slopes at
/// this sigma, the next and the one after, weighted by their sigmas against the run's first; fewer
/// at the end of the run, where the last sigma's weight would be none.
pub(super) fn heunpp2(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let (Some(&first), Some(&end)) = (sigmas.first(), sigmas.last()) else { return Ok(x) };
    for (i, sigma, next) in steps(sigmas) {
        let (noisy, sigma) = churn(run, x, sigma);
        let denoised = run.begin(i, &noisy, sigma)?;
        let d = slope(&noisy, &denoised, sigma);
        let dt = next - sigma;
        let there = noisy.clone() + d.clone() * dt;
        let after = sigmas.get(i + 2).copied().filter(|_| next != end);
        let Some(after) = after else {
            x = there;
            continue;
        };
        let d_next = slope(&there, &run.denoise(&there, next)?, next);
        let mean = if after == end {
            let weight = next / (2.0 * first);
            d * (1.0 - weight) + d_next * weight
        } else {
            let further = there + d_next.clone() * (after - next);
            let d_after = slope(&further, &run.denoise(&further, after)?, after);
            let (w_next, w_after) = (next / (3.0 * first), after / (3.0 * first));
            d * (1.0 - w_next - w_after) + d_next * w_next + d_after * w_after
        };
        x = noisy + mean * dt;
    }
    Ok(x)
}
