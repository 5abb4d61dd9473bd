//! Linear multistep methods of the Adams–Bashforth kind: the slopes of past steps, as a polynomial,
//! integrated over the next.

use std::collections::VecDeque;

use super::polynomial::lagrange;
use super::{FlatRun, SampleError, Values, slope, steps};

/// How many slopes are kept: methods of order 4.
const ORDER: usize = 4;

/// Linear multistep over sigma: coefficients integrated exactly for the sigmas of the run.
pub(super) fn lms(run: &mut FlatRun<'_>, x: Values, sigmas: &[f64]) -> Result<Values, SampleError> {
    adams(run, x, sigmas, variable_coefficients)
}

/// Improved PNDM (Liu and others 2022; Zhang and Chen 2022): the coefficients of even steps, whatever
/// the sigmas.
pub(super) fn ipndm(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    adams(run, x, sigmas, |_, order| {
        match order {
            1 => &[1.0][..],
            2 => &[3.0 / 2.0, -1.0 / 2.0],
            3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        }
        .to_vec()
    })
}

/// Improved PNDM for uneven steps, as ComfyUI has it.
pub(super) fn ipndm_v(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    adams(run, x, sigmas, published_coefficients)
}

/// The loop of all three. `coefficients` are given the sigmas up to the next and an order, and
/// weigh the slopes, the newest first. The step to sigma 0 takes the guess itself.
fn adams(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
    coefficients: fn(&[f64], usize) -> Vec<f64>,
) -> Result<Values, SampleError> {
    let mut slopes = VecDeque::with_capacity(ORDER);
    for (i, sigma, next) in steps(sigmas) {
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        slopes.truncate(ORDER - 1);
        slopes.push_front(slope(&x, &denoised, sigma));
        let so_far = sigmas.get(..i + 2).unwrap_or(sigmas);
        for (slope, weight) in slopes.iter().zip(coefficients(so_far, slopes.len())) {
            x = x + slope.clone() * (weight * (next - sigma));
        }
    }
    Ok(x)
}

/// The mean of each Lagrange polynomial over the last interval of `sigmas`, of those through the
/// `order` sigmas before it, the newest first. Two Gauss–Legendre nodes are exact up to degree 3.
fn variable_coefficients(sigmas: &[f64], order: usize) -> Vec<f64> {
    let mut newest_first = sigmas.iter().rev().copied();
    let Some(next) = newest_first.next() else { return Vec::new() };
    let nodes: Vec<f64> = newest_first.take(order).collect();
    let Some(&sigma) = nodes.first() else { return Vec::new() };
    let (middle, half) = (0.5 * (next + sigma), 0.5 * (next - sigma));
    let places = [middle - half / 3f64.sqrt(), middle + half / 3f64.sqrt()];
    (0..nodes.len())
        .map(|j| 0.5 * places.iter().map(|at| lagrange(&nodes, j, *at)).sum::<f64>())
        .collect()
}

/// The coefficients of `ipndm_v` as ComfyUI has them, which are its authors': [`variable_coefficients`]
/// written out, but for a bracket of the third order that closes too early and a step's quotient of the
/// fourth that is another's. With uneven steps their sum is not quite 1.
fn published_coefficients(sigmas: &[f64], order: usize) -> Vec<f64> {
    let mut newest_first = sigmas.iter().rev().copied();
    let mut last = newest_first.next().unwrap_or(0.0);
    let mut length = || {
        let next = newest_first.next().unwrap_or(last);
        std::mem::replace(&mut last, next) - next
    };
    let (h, h1) = (length(), length());
    let mut weights = vec![1.0];
    if order >= 2 {
        let half = h / (2.0 * h1);
        weights = vec![1.0 + half, -half];
    }
    if order >= 3 {
        let h2 = length();
        let ratio = h * (h + h1) / (h1 * (h1 + h2));
        let bend = (1.0 - h / (3.0 * (h + h1)) * ratio) / 2.0;
        let back = h1 / h2;
        add(&mut weights, &[bend, -(1.0 + back) * bend, back * bend]);
        if order >= 4 {
            let h3 = length();
            let part = h / (h + h1);
            let bend = ((1.0 - part / 3.0) / 2.0 + (1.0 - part / 2.0) * h / (6.0 * (h + h1 + h2)))
                * ratio
                * ((h + h1 + h2) / (h1 + h2 + h3));
            let further = h1 * (h1 + h2) / (h2 * (h2 + h3));
            let weighted = [
                bend,
                -(1.0 + back + further) * bend,
                (back + further * (1.0 + h2 / h3)) * bend,
                -further * back * bend,
            ];
            add(&mut weights, &weighted);
        }
    }
    weights
}

/// Adds term by term; the sum is as long as what is added.
fn add(sum: &mut Vec<f64>, terms: &[f64]) {
    sum.resize(terms.len(), 0.0);
    sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}
