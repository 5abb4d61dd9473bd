//! Euler's method and its ancestral form.

use distorch_runtime::Tensor;

use super::{Run, SampleError, exponential_step, slope, steps};

/// Algorithm 2 of Karras and others (2022), Euler steps only.
pub(super) fn euler(
    run: &mut Run<'_>,
    mut x: Tensor<4>,
    sigmas: &[f64],
) -> Result<Tensor<4>, SampleError> {
    for (i, sigma, next) in steps(sigmas) {
        let (noisy, sigma) = churn(run, x, sigma);
        let denoised = run.begin(i, &noisy, sigma)?;
        x = noisy.clone() + slope(&noisy, &denoised, sigma) * (next - sigma);
    }
    Ok(x)
}

/// Euler steps that go too far down and put the noise back.
pub(super) fn euler_ancestral(
    run: &mut Run<'_>,
    mut x: Tensor<4>,
    sigmas: &[f64],
) -> Result<Tensor<4>, SampleError> {
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
pub(super) fn churn(run: &mut Run<'_>, x: Tensor<4>, sigma: f64) -> (Tensor<4>, f64) {
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
