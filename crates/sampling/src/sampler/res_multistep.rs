//! RES: refined exponential solver, its multistep form of second order (Zhang and others 2023, "The
//! refined exponential solver", as NVIDIA's Cosmos uses it).

use distorch_runtime::Tensor;

use super::{Run, SampleError, carry, steps};

/// The clean latent, linear in `t = -log sigma` through the last two guesses, integrated exactly.
pub(super) fn res_multistep(
    run: &mut Run<'_>,
    mut x: Tensor<4>,
    sigmas: &[f64],
) -> Result<Tensor<4>, SampleError> {
    let mut last: Option<(f64, Tensor<4>)> = None;
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        x = match last {
            Some((before, old)) if next > 0.0 => {
                let h = (sigma / next).ln();
                let c = (sigma / before).ln() / h;
                let phi_1 = (-h).exp_m1() / -h;
                let phi_2 = (phi_1 - 1.0) / -h;
                // Steps of no length have no slope.
                let old_weight = Some(phi_2 / c).filter(|weight| weight.is_finite()).unwrap_or(0.0);
                x * (-h).exp()
                    + denoised.clone() * (h * (phi_1 - old_weight))
                    + old * (h * old_weight)
            }
            _ => carry(x, denoised.clone(), sigma, next),
        };
        last = Some((sigma, denoised));
    }
    Ok(x)
}
