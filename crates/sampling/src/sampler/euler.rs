//! Euler's method and its ancestral form.

use super::{FlatRun, SampleError, Values, exponential_step, slope, steps};

/// Algorithm 2 of Karras and others (2022), Euler steps only.
pub(super) fn euler(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    for (i, sigma, next) in steps(sigmas) {
        let (noisy, sigma) = churn(run, x, sigma);
        let denoised = run.begin(i, &noisy, sigma)?;
        x = noisy.clone() + slope(&noisy, &denoised, sigma) * (next - sigma);
    }
    Ok(x)
}

/// Euler steps that go too far down and put the noise back.
pub(super) fn euler_ancestral(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        let step = run.process().ancestral(sigma, next, eta);
        x = exponential_step(x, denoised, sigma, step.down);
        x = run.renoise(x, step, next);
    }
    Ok(x)
}

/// Puts noise in before a step, as `s_churn` asks; returns the raised sigma too.
pub(super) fn churn(run: &mut FlatRun<'_>, x: Values, sigma: f64) -> (Values, f64) {
    let options = run.options;
    if options.s_churn <= 0.0 || sigma < options.s_tmin || sigma > options.s_tmax {
        return (x, sigma);
    }
    let steps = run.total.unwrap_or(1) as f64;
    let gamma = (options.s_churn / steps).min(std::f64::consts::SQRT_2 - 1.0);
    let raised = sigma * (gamma + 1.0);
    let noise = run.noise(&x);
    (x + noise * (raised * raised - sigma * sigma).sqrt(), raised)
}
