//! Extended reverse-time SDE solver of third order (Cui and others 2023, "Elucidating the solution
//! space of extended reverse-time SDE").

use super::{FlatRun, SampleError, Values, steps};

/// The points that an integral is a sum over.
const POINTS: u32 = 200;

/// A guess, or its slope, with the ratio of noise to latent that it is of.
type At = (f64, Values);

/// ER-SDE-Solver-3, with the noise that the authors found best.
pub(super) fn er_sde(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let process = run.process();
    let (mut last, mut before): (Option<At>, Option<f64>) = (None, None);
    let mut last_slope: Option<Values> = None;
    for (i, sigma, next) in steps(sigmas) {
        let sigma = process.bounded(sigma);
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let (from, to) = (process.ratio(sigma), process.ratio(next));
        let (alpha_from, alpha) = (process.alpha(sigma), process.alpha(next));
        let kept = scale(to) / scale(from);
        let mut gain = denoised.clone() * (1.0 - kept);
        if let Some((from_last, old)) = last.take() {
            let step = to - from;
            let points = (0..POINTS).map(|k| to - f64::from(k) * step / f64::from(POINTS));
            let width = scale(to) * step / f64::from(POINTS);
            let slope = (denoised.clone() - old) * (1.0 / (from - from_last));
            let sum: f64 = points.clone().map(|at| 1.0 / scale(at)).sum();
            gain = gain + slope.clone() * (step - width * sum);
            if let (Some(before), Some(old)) = (before, last_slope.take()) {
                let bend = (slope.clone() - old) * (2.0 / (from - before));
                let sum: f64 = points.map(|at| (at - from) / scale(at)).sum();
                gain = gain + bend * (step * step / 2.0 - width * sum);
            }
            (before, last_slope) = (Some(from_last), Some(slope));
        }
        let deviation = (to * to - from * from * kept * kept).max(0.0).sqrt();
        x = x * (alpha / alpha_from * kept) + gain * alpha;
        x = x.clone() + run.noise(&x) * (alpha * deviation);
        last = Some((from, denoised));
    }
    Ok(x)
}

/// The authors' choice of noise: what is kept of `x` over a step is the quotient of two of these.
fn scale(ratio: f64) -> f64 {
    ratio * (ratio.powf(0.3).exp() + 10.0)
}
