//! UniPC (Zhao and others 2023): a predictor and a corrector of one form, of third order.
//!
//! Written for a latent of unit variance, as published: `x = alpha·latent + std·noise` where `std /
//! alpha` is sigma, over half the logarithm of the signal-to-noise ratio, `lambda = -log sigma`.

use std::collections::VecDeque;

use super::polynomial::lagrange_coefficients;
use super::{FlatRun, SampleError, Values};

/// The highest order, where the run has the steps for it.
const ORDER: usize = 3;

/// What a run that ends at sigma 0, where `lambda` is infinite, ends at instead.
const LAST_SIGMA: f64 = 0.001;

/// The published choices of `B(h)`.
#[derive(Clone, Copy)]
enum Variant {
    /// `h`.
    Bh1,
    /// `e^h - 1`.
    Bh2,
}

/// UniPC with `B(h) = h`.
pub(super) fn uni_pc(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    multistep(run, x, sigmas, Variant::Bh1)
}

/// UniPC with `B(h) = e^h - 1`.
pub(super) fn uni_pc_bh2(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    multistep(run, x, sigmas, Variant::Bh2)
}

/// A past guess and its `lambda`.
struct Past {
    lambda: f64,
    denoised: Values,
}

/// The run: order rises at its start and falls at its end; each step but the last is corrected with
/// the guess that the next one needs anyway. A run of one step is one of first order.
fn multistep(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
    variant: Variant,
) -> Result<Values, SampleError> {
    let (Some(&first), last) = (sigmas.first(), sigmas.len() - 1) else { return Ok(x) };
    let most = ORDER.min(last.saturating_sub(1)).max(1);
    let mut past = VecDeque::with_capacity(ORDER);
    let denoised = run.begin(0, &x, first)?;
    past.push_front(Past { lambda: -first.ln(), denoised });
    let mut x = x * alpha(first);
    for (place, &sigma) in sigmas.iter().enumerate().skip(1) {
        let sigma = if sigma == 0.0 { LAST_SIGMA } else { sigma };
        let order = most.min(place).min(last + 1 - place);
        let step = UniStep::new(&x, past.make_contiguous(), sigma, order, variant);
        let Some(step) = step else { return Ok(x) };
        let predicted = step.predict();
        if place == last {
            return Ok(predicted * (1.0 / alpha(sigma)));
        }
        let latent = predicted * (1.0 / alpha(sigma));
        let denoised = run.denoise(&latent, sigma)?;
        x = step.correct(&denoised);
        run.report(place, sigma, &latent, &denoised)?;
        past.truncate(ORDER - 1);
        past.push_front(Past { lambda: -sigma.ln(), denoised });
    }
    Ok(x)
}

/// The latent's share of the amplitude.
fn alpha(sigma: f64) -> f64 {
    1.0 / (sigma * sigma + 1.0).sqrt()
}

/// A step to a sigma.
struct UniStep {
    /// What both the predictor and the corrector start from: the first-order solution.
    base: Values,
    /// The guess at the start of the step.
    newest: Values,
    /// Past guesses against the newest, per distance in steps.
    differences: Vec<Values>,
    /// The distances of those guesses, and of the step's end (1), in steps.
    distances: Vec<f64>,
    /// The right hand side of the order conditions.
    conditions: Vec<f64>,
    /// The scale of the correction: `-alpha·B(h)`.
    scale: f64,
}

impl UniStep {
    fn new(x: &Values, past: &[Past], sigma: f64, order: usize, variant: Variant) -> Option<Self> {
        let (newest, older) = past.split_first()?;
        let sigma_from = (-newest.lambda).exp();
        let (alpha_to, alpha_from) = (alpha(sigma), alpha(sigma_from));
        let h = -sigma.ln() - newest.lambda;
        let phi = (-h).exp_m1();
        let b = match variant {
            Variant::Bh1 => -h,
            Variant::Bh2 => phi,
        };
        let older = older.iter().take(order - 1);
        let mut distances: Vec<f64> =
            older.clone().map(|past| (past.lambda - newest.lambda) / h).collect();
        let differences = older
            .zip(&distances)
            .map(|(past, r)| (past.denoised.clone() - newest.denoised.clone()) * (1.0 / r))
            .collect();
        distances.push(1.0);
        let base = x.clone() * (sigma * alpha_to / (sigma_from * alpha_from))
            - newest.denoised.clone() * (alpha_to * phi);
        Some(Self {
            base,
            newest: newest.denoised.clone(),
            differences,
            conditions: conditions(-h, b, distances.len()),
            distances,
            scale: -alpha_to * b,
        })
    }

    fn predict(&self) -> Values {
        let order = self.differences.len();
        let weights = match order {
            // The weight that the paper gives to the second order, for both variants.
            1 => vec![0.5],
            _ => solve_vandermonde(&self.distances[..order], &self.conditions[..order]),
        };
        self.corrected(&weights)
    }

    fn correct(&self, denoised: &Values) -> Values {
        let weights = match self.distances.len() {
            1 => vec![0.5],
            _ => solve_vandermonde(&self.distances, &self.conditions),
        };
        let own = weights.last().copied().unwrap_or(0.0) * self.scale;
        self.corrected(&weights) + (denoised.clone() - self.newest.clone()) * own
    }

    fn corrected(&self, weights: &[f64]) -> Values {
        self.differences.iter().zip(weights).fold(self.base.clone(), |x, (difference, weight)| {
            x + difference.clone() * (weight * self.scale)
        })
    }
}

/// `phi_k(h)·k! / B(h)` for `k` from 1 to `order`, where `phi_k` are those of exponential
/// integrators shifted by one (equation 9 of the paper).
fn conditions(h: f64, b: f64, order: usize) -> Vec<f64> {
    let mut phi = h.exp_m1() / h - 1.0;
    let mut factorial = 1.0;
    (1..=order)
        .map(|k| {
            let condition = phi * factorial / b;
            factorial *= (k + 1) as f64;
            phi = phi / h - 1.0 / factorial;
            condition
        })
        .collect()
}

/// Weights `w` with `Σ w_j · nodes_j^k = right_k` for each `k` from 0, by the dual basis of Lagrange
/// polynomials.
fn solve_vandermonde(nodes: &[f64], right: &[f64]) -> Vec<f64> {
    (0..nodes.len())
        .map(|j| {
            let coefficients = lagrange_coefficients(nodes, j);
            coefficients.iter().zip(right).map(|(c, r)| c * r).sum()
        })
        .collect()
}
