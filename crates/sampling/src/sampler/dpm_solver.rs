//! DPM-Solver (Lu and others 2022, arXiv 2206.00927): exponential integrators of the noise over
//! `t = -log sigma`, at fixed and at adaptive steps.

use super::{FlatRun, SampleError, Values, slope};
use crate::process::{NoiseProcess, ancestral};

/// DPM-Solver-Fast: as many third-order steps as the evaluations allow, even in `t`.
///
/// The run has as many evaluations as the schedule has steps; its last sigma is the last above 0.
pub(super) fn dpm_fast(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let Some((start, end)) = ends(sigmas) else { return Ok(x) };
    let eta = added_noise(run, "dpm_fast")?;
    let orders = orders(sigmas.len().saturating_sub(1));
    run.total = Some(orders.len());
    let stride = (end - start) / orders.len().max(1) as f64;
    for (i, order) in orders.iter().enumerate() {
        let t = start + stride * i as f64;
        let next = if i + 1 == orders.len() { end } else { start + stride * (i + 1) as f64 };
        let noisy = Noisy::new(t, next, end, eta);
        let step = SolverStep::begin(run, i, x, t)?;
        x = match order {
            1 => step.first(noisy.down),
            2 => step.second(run, noisy.down, 0.5)?,
            _ => step.third(run, noisy.down)?,
        };
        if noisy.up > 0.0 {
            x = x.clone() + run.noise(&x) * noisy.up;
        }
    }
    Ok(x)
}

/// `eta`, where the model's noise is the kind that these put back.
fn added_noise(run: &FlatRun<'_>, sampler: &'static str) -> Result<f64, SampleError> {
    match run.eta(0.0) {
        eta if eta != 0.0 && run.process() != NoiseProcess::VarianceExploding => {
            Err(SampleError::NoFlowForm { sampler, eta })
        }
        eta => Ok(eta),
    }
}

/// The orders of the steps of `evaluations` in all: threes, and what is left at the end.
fn orders(evaluations: usize) -> Vec<u8> {
    let threes = evaluations / 3;
    match evaluations % 3 {
        0 => [vec![3; threes.saturating_sub(1)], vec![2, 1]].concat(),
        1 => [vec![3; threes], vec![1]].concat(),
        _ => [vec![3; threes], vec![2]].concat(),
    }
}

/// DPM-Solver-23: third-order steps as long as their difference from second-order ones allows. The
/// steps reported are those tried, also the ones that are rejected.
pub(super) fn dpm_adaptive(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    const RELATIVE: f64 = 0.05;
    const ABSOLUTE: f64 = 0.0078;
    const SHORTEST: f64 = 1e-9;
    let Some((start, end)) = ends(sigmas) else { return Ok(x) };
    let eta = added_noise(run, "dpm_adaptive")?;
    let direction = if end > start { 1.0 } else { -1.0 };
    let mut size = StepSize::new(if eta > 0.0 { 1.5 } else { 3.0 });
    let (mut t, mut before, mut tried) = (start, x.clone(), 0);
    run.total = None;
    while (end - t) * direction > 1e-5 {
        let next = t + direction * size.h.min((end - t).abs());
        let noisy = Noisy::new(t, next, end, eta);
        let step = SolverStep::begin(run, tried, x.clone(), t)?;
        tried += 1;
        let low = step.clone().second(run, noisy.down, 1.0 / 3.0)?;
        let high = step.third(run, noisy.down)?;

        let scale = low.clone().abs().max_pair(before.clone().abs()) * RELATIVE;
        let off = (low.clone() - high.clone()) / scale.clamp_min(ABSOLUTE);
        let error = mean_square(off)?.sqrt();
        if size.accepts(error) {
            t = next;
            before = low;
            x = high;
            if noisy.up > 0.0 {
                x = x.clone() + run.noise(&x) * noisy.up;
            }
        }
        if !error.is_finite() || size.h < SHORTEST {
            return Err(SampleError::Diverged { sigma: (-t).exp(), error });
        }
    }
    Ok(x)
}

/// The step size of `dpm_adaptive`, from the error of the last step tried.
struct StepSize {
    h: f64,
    order: f64,
}

impl StepSize {
    fn new(order: f64) -> Self {
        Self { h: 0.05, order }
    }

    /// Takes the error of a step, in tolerances; says whether it stands, and sets the next size.
    fn accepts(&mut self, error: f64) -> bool {
        const SAFETY: f64 = 0.81;
        let factor = (1.0 / (error + 1e-8)).powf(1.0 / self.order);
        let factor = 1.0 + (factor - 1.0).atan();
        self.h *= factor;
        factor >= SAFETY
    }
}

/// The first `t` and the last, whose sigma is the last above 0. `None` where there is none other.
fn ends(sigmas: &[f64]) -> Option<(f64, f64)> {
    let first = sigmas.first()?;
    let last = sigmas.iter().rev().find(|sigma| **sigma > 0.0)?;
    Some((-first.ln(), -last.ln()))
}

/// Where an ancestral step goes, and the deviation of the noise put back after.
struct Noisy {
    down: f64,
    up: f64,
}

impl Noisy {
    fn new(t: f64, next: f64, end: f64, eta: f64) -> Self {
        if eta == 0.0 {
            return Self { down: next, up: 0.0 };
        }
        let (sigma, sigma_next) = ((-t).exp(), (-next).exp());
        let (down, _) = ancestral(sigma, sigma_next, eta);
        let down = (-down.ln()).min(end);
        let variance = sigma_next * sigma_next - (-2.0 * down).exp();
        Self { down, up: variance.max(0.0).sqrt() }
    }
}

/// A step begun: the latent at `t`, and the noise in it.
#[derive(Clone)]
struct SolverStep {
    x: Values,
    t: f64,
    eps: Values,
}

impl SolverStep {
    fn begin(run: &mut FlatRun<'_>, i: usize, x: Values, t: f64) -> Result<Self, SampleError> {
        let sigma = (-t).exp();
        let denoised = run.begin(i, &x, sigma)?;
        let eps = slope(&x, &denoised, sigma);
        Ok(Self { x, t, eps })
    }

    /// How much the noise at a time differs from that at the start of the step.
    fn change(&self, run: &mut FlatRun<'_>, x: &Values, t: f64) -> Result<Values, SampleError> {
        let sigma = (-t).exp();
        let denoised = run.denoise(x, sigma)?;
        Ok(slope(x, &denoised, sigma) - self.eps.clone())
    }

    /// The first-order solution at a time.
    fn first(&self, to: f64) -> Values {
        self.x.clone() - self.eps.clone() * ((-to).exp() * (to - self.t).exp_m1())
    }

    fn second(self, run: &mut FlatRun<'_>, to: f64, r: f64) -> Result<Values, SampleError> {
        let h = to - self.t;
        let middle = self.t + r * h;
        let change = self.change(run, &self.first(middle), middle)?;
        Ok(self.first(to) - change * ((-to).exp() / (2.0 * r) * h.exp_m1()))
    }

    fn third(self, run: &mut FlatRun<'_>, to: f64) -> Result<Values, SampleError> {
        const R1: f64 = 1.0 / 3.0;
        const R2: f64 = 2.0 / 3.0;
        let h = to - self.t;
        let (near, far) = (self.t + R1 * h, self.t + R2 * h);
        let bend = |t: f64, h: f64| (-t).exp() * (h.exp_m1() / h - 1.0);
        let change = self.change(run, &self.first(near), near)?;
        let there = self.first(far) - change * (R2 / R1 * bend(far, R2 * h));
        let change = self.change(run, &there, far)?;
        Ok(self.first(to) - change * (bend(to, h) / R2))
    }
}

/// Waits for the device.
fn mean_square(x: Values) -> Result<f64, SampleError> {
    let data = x
        .square()
        .mean()
        .try_into_data()
        .map_err(|error| SampleError::Read(format!("{error:?}")))?;
    data.iter::<f64>().next().ok_or_else(|| SampleError::Read("it has no value".into()))
}
