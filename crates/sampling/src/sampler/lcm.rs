//! Latent consistency models (Luo and others 2023).

use super::{FlatRun, SampleError, Values, steps};

/// Each step takes the guess whole and noises it anew down to the next sigma.
pub(super) fn lcm(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    for (i, sigma, next) in steps(sigmas) {
        x = run.begin(i, &x, sigma)?;
        if next > 0.0 {
            let noise = run.noise(&x);
            x = run.process().add_noise(x, noise, next);
        }
    }
    Ok(x)
}
