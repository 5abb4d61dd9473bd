//! Gradient estimation (Permenter and Yuan 2023, "Interpreting and improving diffusion models from an
//! optimization perspective", algorithm 2).

use super::{FlatRun, SampleError, Values, slope, steps};

/// How far along the newest slope, where 1 is Euler's method.
const GAMMA: f64 = 2.0;

/// Euler steps along `GAMMA·d + (1 - GAMMA)·d_old`.
pub(super) fn gradient_estimation(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let mut last: Option<Values> = None;
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let d = slope(&x, &denoised, sigma);
        let along = match last {
            Some(old) => d.clone() * GAMMA + old * (1.0 - GAMMA),
            None => d.clone(),
        };
        x = x + along * (next - sigma);
        last = Some(d);
    }
    Ok(x)
}

/// The same as CFG++ steps it (Chung and others 2024): from the guided guess, along slopes to the
/// unconditional one.
pub(super) fn gradient_estimation_cfg_pp(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let mut last: Option<Values> = None;
    for (i, sigma, next) in steps(sigmas) {
        let (denoised, negative) = run.begin_both(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let d = slope(&x, &negative, sigma);
        x = denoised + d.clone() * next;
        if let Some(old) = last {
            x = x + (d.clone() - old) * ((GAMMA - 1.0) * (next - sigma));
        }
        last = Some(d);
    }
    Ok(x)
}
