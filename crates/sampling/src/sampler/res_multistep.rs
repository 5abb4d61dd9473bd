//! RES: refined exponential solver, its multistep form of second order (Zhang and others 2023, "The
//! refined exponential solver", as NVIDIA's Cosmos uses it).

use super::{FlatRun, SampleError, Values, steps};
use crate::process::NoiseProcess;

/// The clean latent, linear in `t = -log sigma` through the last two guesses, integrated exactly.
pub(super) fn res_multistep(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    sample(run, x, sigmas, 0.0, Along::Guided)
}

/// The same, going too far down and putting the noise back.
pub(super) fn res_multistep_ancestral(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    sample(run, x, sigmas, eta, Along::Guided)
}

/// Along the unconditional guesses, from the guided one, as CFG++ steps (Chung and others 2024).
pub(super) fn res_multistep_cfg_pp(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    sample(run, x, sigmas, 0.0, Along::Negative)
}

/// Both.
pub(super) fn res_multistep_ancestral_cfg_pp(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    sample(run, x, sigmas, eta, Along::Negative)
}

/// The guesses that a step is integrated over.
#[derive(Clone, Copy)]
enum Along {
    Guided,
    Negative,
}

/// A step that is behind: how far it went, less the noise put back, and its guess.
struct Past {
    length: f64,
    guess: Values,
}

fn sample(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
    eta: f64,
    along: Along,
) -> Result<Values, SampleError> {
    let mut last: Option<Past> = None;
    for (i, sigma, next) in steps(sigmas) {
        let (denoised, guess) = match along {
            Along::Guided => {
                let denoised = run.begin(i, &x, sigma)?;
                (denoised.clone(), denoised)
            }
            Along::Negative => run.begin_both(i, &x, sigma)?,
        };
        if next == 0.0 {
            return Ok(denoised);
        }
        // ComfyUI steps so on flows, too.
        let step = NoiseProcess::VarianceExploding.ancestral(sigma, next, eta);
        let h = (sigma / step.down).ln();
        x = match last {
            Some(past) if step.down > 0.0 => {
                let c = -past.length / h;
                let phi_1 = (-h).exp_m1() / -h;
                let phi_2 = (phi_1 - 1.0) / -h;
                // Steps of no length have no slope.
                let weight = Some(phi_2 / c).filter(|weight| weight.is_finite()).unwrap_or(0.0);
                let from = match along {
                    Along::Guided => x,
                    Along::Negative => x + denoised - guess.clone(),
                };
                from * (-h).exp()
                    + guess.clone() * (h * (phi_1 - weight))
                    + past.guess * (h * weight)
            }
            _ => denoised + (x - guess.clone()) * (step.down / sigma),
        };
        last = Some(Past { length: h, guess });
        if eta > 0.0 {
            x = run.renoise(x, step, next);
        }
    }
    Ok(x)
}
