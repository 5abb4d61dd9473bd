//! SA-Solver: a stochastic Adams method with a predictor and a corrector (Xue and others 2023).

use std::collections::VecDeque;

use super::polynomial::lagrange_coefficients;
use super::{FlatRun, SampleError, Values, steps};
use crate::process::NoiseProcess;

/// Guesses that the predictor is a polynomial through, at most.
const PREDICTOR: usize = 3;

/// The same of the corrector.
const CORRECTOR: usize = 4;

/// Predict, evaluate, correct.
pub(super) fn sa_solver(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    sample(run, x, sigmas, false)
}

/// Predict, evaluate, correct, evaluate again.
pub(super) fn sa_solver_pece(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    sample(run, x, sigmas, true)
}

/// A guess and its `lambda`, the negative logarithm of noise against latent.
struct Guess {
    lambda: f64,
    denoised: Values,
}

fn sample(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
    evaluates_again: bool,
) -> Result<Values, SampleError> {
    let (process, eta) = (run.process(), run.eta(1.0));
    // A run that ends in 0 falls to lower orders on its last steps.
    let most = |order: usize, left: usize| match sigmas.last() {
        Some(&0.0) => order.min(left),
        _ => order,
    };
    let count = sigmas.len().saturating_sub(1);
    let mut guesses: VecDeque<Guess> = VecDeque::with_capacity(CORRECTOR);
    let mut last: Option<SaStep> = None;
    let mut predicted = x;
    for (i, sigma, next) in steps(sigmas) {
        let sigma = process.bounded(sigma);
        let mut denoised = run.begin(i, &predicted, sigma)?;
        let lambda = -process.ratio(sigma).ln();
        guesses.truncate(CORRECTOR - 1);
        guesses.push_front(Guess { lambda, denoised: denoised.clone() });
        let x = match last.take() {
            Some(step) if next > 0.0 || evaluates_again => {
                let order = most(CORRECTOR, count - i).min(guesses.len());
                let corrected = step.take(guesses.iter().take(order));
                if evaluates_again {
                    denoised = run.denoise(&corrected, sigma)?;
                    if let Some(newest) = guesses.front_mut() {
                        newest.denoised = denoised.clone();
                    }
                }
                corrected
            }
            _ => predicted,
        };
        if next == 0.0 {
            return Ok(denoised);
        }
        let tau = if run.stochastic.contains(&next) { eta } else { 0.0 };
        let step = SaStep::new(run, process, x, [sigma, next], tau);
        let order = most(PREDICTOR, count - 1 - i);
        predicted = step.take(guesses.iter().take(order));
        last = Some(step);
    }
    Ok(predicted)
}

/// A step that is made once with the guesses up to its start and once with that of its end too.
struct SaStep {
    x: Values,
    /// What comes in on the way, at the scale of the end.
    noise: Option<Values>,
    /// What is left of `x`.
    kept: f64,
    /// The latent's share at the end.
    alpha: f64,
    /// `lambda` at the end.
    lambda: f64,
    /// The length in `lambda`.
    h: f64,
    /// How fast the past is forgotten: `1 + tau²`.
    speed: f64,
}

impl SaStep {
    fn new(
        run: &mut FlatRun<'_>,
        process: NoiseProcess,
        x: Values,
        [sigma, next]: [f64; 2],
        tau: f64,
    ) -> Self {
        let (lambda_from, lambda) = (-process.ratio(sigma).ln(), -process.ratio(next).ln());
        let h = lambda - lambda_from;
        let square = tau * tau;
        let noise = (tau > 0.0).then(|| {
            let deviation = (-(-2.0 * square * h).exp_m1()).max(0.0).sqrt();
            run.noise(&x) * (next * deviation)
        });
        let kept = next / sigma * (-square * h).exp();
        Self { x, noise, kept, alpha: process.alpha(next), lambda, h, speed: 1.0 + square }
    }

    /// The end of the step, where the clean latent is the polynomial through these guesses.
    fn take<'g>(&self, guesses: impl Iterator<Item = &'g Guess> + Clone) -> Values {
        // How far before the end each guess is.
        let distances: Vec<f64> = guesses.clone().map(|g| self.lambda - g.lambda).collect();
        let moments = (0..).map(|power| moment(power, self.h, self.speed));
        let moments: Vec<f64> = moments.take(distances.len()).collect();
        let mut x = self.x.clone() * self.kept;
        for (j, guess) in guesses.enumerate() {
            let coefficients = lagrange_coefficients(&distances, j);
            let weight: f64 = coefficients.iter().zip(&moments).map(|(c, m)| c * m).sum();
            x = x + guess.denoised.clone() * (self.alpha * weight);
        }
        match &self.noise {
            Some(noise) => x + noise.clone(),
            None => x,
        }
    }
}

/// `speed · ∫ e^(-speed·u) u^power du` from 0 to `h`, as a series whose terms have one sign. With
/// `z = speed·h`, where the run goes down, `h^power · e^(-z) · Σ z^n / ((power + 1) … (power + n))`
/// for `n` from 1; where it goes up, `h^power · z · Σ (-z)^n / (n! (power + 1 + n))` for `n` from 0.
fn moment(power: u8, h: f64, speed: f64) -> f64 {
    let z = speed * h;
    if z == 0.0 || !z.is_finite() {
        return 0.0;
    }
    let first = f64::from(power);
    let scale = h.powi(power.into());
    // The terms rise while `n` is below `|z|`, then fall faster and faster.
    let goes_on = |n: f64, term: f64, sum: f64| n < z.abs() || term > sum * f64::EPSILON / 4.0;
    let (mut n, mut term, mut sum) = (0.0, 1.0, 0.0);
    if z > 0.0 {
        while goes_on(first + n, term, sum) {
            n += 1.0;
            term *= z / (first + n);
            sum += term;
        }
        return scale * (-z).exp() * sum;
    }
    while goes_on(n, term, sum) {
        sum += term / (first + 1.0 + n);
        n += 1.0;
        term *= -z / n;
    }
    scale * z * sum
}

#[cfg(test)]
mod tests {
    use super::moment;

    /// Against Simpson's rule over 20,000 pieces.
    #[test]
    fn moments_are_the_integrals() {
        for (h, speed) in
            [(0.01, 1.0), (0.7, 2.0), (6.0, 2.0), (11.0, 1.0), (-0.3, 1.0), (-5.0, 2.0)]
        {
            for power in 0..4u8 {
                let value = |u: f64| speed * (-speed * u).exp() * u.powi(power.into());
                let pieces = 20_000;
                let at = |k: i32| value(h * f64::from(k) / f64::from(pieces));
                let inner: f64 =
                    (1..pieces).map(|k| at(k) * if k % 2 == 0 { 2.0 } else { 4.0 }).sum();
                let expected = (at(0) + inner + at(pieces)) * h / f64::from(pieces) / 3.0;
                let found = moment(power, h, speed);
                assert!((found - expected).abs() < 1e-10 * expected.abs(), "{h} {power}: {found}");
            }
        }
        assert_eq!(moment(2, 0.0, 1.0), 0.0);
    }
}
