//! SEEDS: exponential integrators of the diffusion SDE (Gonzalez and others 2023), of two and three
//! evaluations a step, and Heun's method of the same kind.

use super::exponential::{ExponentialStep, phi};
use super::{FlatRun, SampleError, Values, steps};

/// SEEDS-2: the guess is taken again half way down, and counts alone.
pub(super) fn seeds_2(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    two_stages(run, x, sigmas, eta, 0.5, |whole| (-whole).exp_m1())
}

/// Exponential Heun steps of the SDE: the guess is taken again at the end of the step, and its slope
/// integrated.
pub(super) fn exp_heun_2_x0_sde(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    let eta = run.eta(1.0);
    two_stages(run, x, sigmas, eta, 1.0, |whole| phi(-whole))
}

/// The same of the probability flow.
pub(super) fn exp_heun_2_x0(
    run: &mut FlatRun<'_>,
    x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    two_stages(run, x, sigmas, 0.0, 1.0, |whole| phi(-whole))
}

/// The second guess is taken at `part` of the way. `weigh` says what it counts for, over a step of
/// this length; the first counts for the rest.
fn two_stages(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
    eta: f64,
    part: f64,
    weigh: fn(f64) -> f64,
) -> Result<Values, SampleError> {
    let process = run.process();
    for (i, sigma, next) in steps(sigmas) {
        let sigma = process.bounded(sigma);
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let step = ExponentialStep::new(process, sigma, next, eta);
        let mut noise = Noise::none();
        let middle = step.sigma(part);
        let mut there = step.decayed(x.clone(), part)
            - denoised.clone() * (step.alpha(part) * (-step.pull(part)).exp_m1());
        there = noise.on(run, &step, there, part);
        let second = run.denoise(&there, middle)?;

        let whole = step.pull(1.0);
        let weight = weigh(whole);
        let gain = denoised * ((-whole).exp_m1() - weight) + second * weight;
        x = step.decayed(x, 1.0) - gain * step.alpha(1.0);
        // ComfyUI draws also where the first draw was over the whole step.
        x = noise.on(run, &step, x, 1.0);
    }
    Ok(x)
}

/// SEEDS-3: further guesses at a third and at two thirds of the way.
pub(super) fn seeds_3(
    run: &mut FlatRun<'_>,
    mut x: Values,
    sigmas: &[f64],
) -> Result<Values, SampleError> {
    const NEAR: f64 = 1.0 / 3.0;
    const FAR: f64 = 2.0 / 3.0;
    let (process, eta) = (run.process(), run.eta(1.0));
    for (i, sigma, next) in steps(sigmas) {
        let sigma = process.bounded(sigma);
        let denoised = run.begin(i, &x, sigma)?;
        if next == 0.0 {
            return Ok(denoised);
        }
        let step = ExponentialStep::new(process, sigma, next, eta);
        let mut noise = Noise::none();
        // A stage of the guess that is there from the start and, by its weight, of a later one.
        let stage = |part: f64, later: Option<(&Values, f64)>| {
            let all = (-step.pull(part)).exp_m1();
            let weight = later.map_or(0.0, |(_, weight)| weight);
            let mut gain = denoised.clone() * (all - weight);
            if let Some((guess, weight)) = later {
                gain = gain + guess.clone() * weight;
            }
            step.decayed(x.clone(), part) - gain * step.alpha(part)
        };
        let near = noise.on(run, &step, stage(NEAR, None), NEAR);
        let guess = run.denoise(&near, step.sigma(NEAR))?;
        let weight = FAR / NEAR * phi(-step.pull(FAR));
        let far = noise.on(run, &step, stage(FAR, Some((&guess, weight))), FAR);
        let guess = run.denoise(&far, step.sigma(FAR))?;
        let weight = phi(-step.pull(1.0)) / FAR;
        let end = stage(1.0, Some((&guess, weight)));
        x = noise.on(run, &step, end, 1.0);
    }
    Ok(x)
}

/// The noise of a step so far, in sigmas: each stage has that of the one before, and more.
struct Noise {
    so_far: Option<Values>,
    part: f64,
}

impl Noise {
    fn none() -> Self {
        Self { so_far: None, part: 0.0 }
    }

    /// Noise up to a part of the step, on what is there without it.
    fn on(
        &mut self,
        run: &mut FlatRun<'_>,
        step: &ExponentialStep,
        x: Values,
        part: f64,
    ) -> Values {
        if step.gained(0.0, 1.0) == 0.0 {
            return x;
        }
        let mut noise = run.noise(&x) * step.gained(self.part, part);
        if let Some(before) = self.so_far.take() {
            noise = noise + before * step.kept(self.part, part);
        }
        let x = x + noise.clone() * step.sigma(part);
        (self.so_far, self.part) = (Some(noise), part);
        x
    }
}
