//! Sigma schedules: the noise levels that a run goes through, from the largest to 0.
//!
//! One function for each of ComfyUI's schedulers; [`Scheduler`] is the table of them. Values are
//! float32, as ComfyUI's are, kept in `f64`.

use statrs::function::beta::beta_reg;
use thiserror::Error;

use crate::model_sampling::ModelSampling;
use crate::names::UnknownName;

/// Why there is no schedule.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ScheduleError {
    /// No scheduler has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// A run of no steps.
    #[error("a run of 0 steps has no schedule: ask for 1 step or more")]
    NoSteps,
    /// More steps than any model has use for.
    #[error(
        "{steps} steps asked, {most} at most{}; ask for fewer steps{}",
        if *.denoise < 1.0 { format!(" (the steps of a whole run, at denoise {denoise})") } else { String::new() },
        if *.denoise < 1.0 { " or more denoise" } else { "" }
    )]
    TooManySteps {
        /// The steps of the whole schedule.
        steps: usize,
        /// The largest number that is taken.
        most: usize,
        /// The part of the schedule that was to be run.
        denoise: f64,
    },
    /// `denoise` is no number from 0 to 1.
    #[error("denoise is {0}: it must be from 0 (keep the latent) to 1 (start from noise)")]
    Denoise(f64),
}

/// The largest number of steps that is taken.
pub const MAX_STEPS: usize = 1_000_000;

/// A way to choose sigmas.
#[derive(Clone, Copy, Debug)]
pub struct Scheduler {
    name: &'static str,
    sigmas: fn(&ModelSampling, usize) -> Vec<f64>,
}

/// Every scheduler, in the order of ComfyUI's menu.
pub const SCHEDULERS: &[Scheduler] = &[
    Scheduler { name: "simple", sigmas: simple },
    Scheduler { name: "sgm_uniform", sigmas: sgm_uniform },
    Scheduler { name: "karras", sigmas: karras },
    Scheduler { name: "exponential", sigmas: exponential },
    Scheduler { name: "ddim_uniform", sigmas: ddim_uniform },
    Scheduler { name: "beta", sigmas: beta },
    Scheduler { name: "normal", sigmas: normal },
    Scheduler { name: "linear_quadratic", sigmas: linear_quadratic },
    Scheduler { name: "kl_optimal", sigmas: kl_optimal },
];

impl Scheduler {
    /// The scheduler of a name.
    pub fn by_name(name: &str) -> Result<Self, UnknownName> {
        SCHEDULERS.iter().find(|scheduler| scheduler.name == name).copied().ok_or_else(|| {
            UnknownName::new("scheduler", name, SCHEDULERS.iter().map(|known| known.name))
        })
    }

    /// The name, as ComfyUI has it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The sigmas of a run of `steps` steps, falling, the last 0: `steps + 1` of them, but for
    /// `ddim_uniform` and `beta`, whose count follows from the model's table.
    pub fn sigmas(&self, model: &ModelSampling, steps: usize) -> Result<Vec<f64>, ScheduleError> {
        match steps {
            0 => Err(ScheduleError::NoSteps),
            1..=MAX_STEPS => {
                Ok((self.sigmas)(model, steps).into_iter().map(|s| f64::from(s as f32)).collect())
            }
            _ => Err(ScheduleError::TooManySteps { steps, most: MAX_STEPS, denoise: 1.0 }),
        }
    }
}

/// Which part of a schedule a run goes through: the inputs of ComfyUI's KSamplers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Steps of the run, or of the whole schedule where `start` and `end` cut it.
    pub steps: usize,
    /// Below 1, only the last `steps` of `steps / denoise` are run. 0 runs none.
    pub denoise: f64,
    /// The first step to run.
    pub start: usize,
    /// The step to stop before.
    pub end: Option<usize>,
    /// Ends at sigma 0 even where `end` comes sooner; else what noise is left stays in.
    pub force_full_denoise: bool,
}

impl Span {
    /// All of a run of `steps` steps.
    pub fn whole(steps: usize) -> Self {
        Self { steps, denoise: 1.0, start: 0, end: None, force_full_denoise: false }
    }

    /// The sigmas to run through. Empty where there is nothing to do: the latent is the result then.
    ///
    /// `discard_penultimate` is for the samplers that go from the last but one sigma wrongly
    /// ([`Sampler::discards_penultimate`](crate::sampler::Sampler::discards_penultimate)): one step
    /// more is scheduled and the last sigma before 0 dropped.
    pub fn sigmas(
        &self,
        scheduler: Scheduler,
        model: &ModelSampling,
        discard_penultimate: bool,
    ) -> Result<Vec<f64>, ScheduleError> {
        let mut sigmas = self.denoised_part(scheduler, model, discard_penultimate)?;
        if let Some(end) = self.end
            && end + 1 < sigmas.len()
        {
            sigmas.truncate(end + 1);
            if self.force_full_denoise
                && let Some(last) = sigmas.last_mut()
            {
                *last = 0.0;
            }
        }
        if self.start + 1 >= sigmas.len() {
            return Ok(Vec::new());
        }
        Ok(sigmas.split_off(self.start))
    }

    fn denoised_part(
        &self,
        scheduler: Scheduler,
        model: &ModelSampling,
        discard_penultimate: bool,
    ) -> Result<Vec<f64>, ScheduleError> {
        // Where ComfyUI takes the whole of it.
        const WHOLE: f64 = 0.9999;
        if !(0.0..=1.0).contains(&self.denoise) {
            return Err(ScheduleError::Denoise(self.denoise));
        }
        if self.denoise == 0.0 {
            return Ok(Vec::new());
        }
        let total = match self.denoise {
            whole if whole > WHOLE => self.steps,
            part => (self.steps as f64 / part) as usize,
        };
        if total >= MAX_STEPS {
            let denoise = self.denoise;
            return Err(ScheduleError::TooManySteps { steps: total, most: MAX_STEPS, denoise });
        }
        if total == 0 {
            return Err(ScheduleError::NoSteps);
        }
        let mut sigmas = scheduler.sigmas(model, total + usize::from(discard_penultimate))?;
        if discard_penultimate && sigmas.len() >= 2 {
            sigmas.remove(sigmas.len() - 2);
        }
        if self.denoise <= WHOLE {
            let skipped = sigmas.len().saturating_sub(self.steps + 1);
            sigmas.drain(..skipped);
        }
        Ok(sigmas)
    }
}

/// `count` numbers from `first` to `last`, both among them, with the bits of `torch.linspace` in
/// float32: counted from the nearer end, with a fused multiply-add (as PyTorch does on processors that
/// have one).
fn linspace(first: f64, last: f64, count: usize) -> impl Iterator<Item = f32> {
    let (first, last) = (first as f32, last as f32);
    let stride = (last - first) / count.saturating_sub(1).max(1) as f32;
    (0..count).map(move |place| {
        if place < count / 2 || count == 1 {
            stride.mul_add(place as f32, first)
        } else {
            (-stride).mul_add((count - 1 - place) as f32, last)
        }
    })
}

/// A function in float64, rounded once: the nearest to what PyTorch's float32 ones approximate.
fn single(value: f32, function: impl Fn(f64) -> f64) -> f32 {
    function(f64::from(value)) as f32
}

fn with_zero(sigmas: impl Iterator<Item = f32>) -> Vec<f64> {
    sigmas.chain([0.0]).map(f64::from).collect()
}

/// Whether a model's lowest sigma is 0 already.
fn is_zero(sigma: f64) -> bool {
    sigma.abs() <= 1e-5
}

/// Timesteps evenly spaced from the model's last to its first, then 0.
fn normal(model: &ModelSampling, steps: usize) -> Vec<f64> {
    let (start, end) = (model.timestep(model.sigma_max()), model.timestep(model.sigma_min()));
    let sigma = |timestep: f32| model.sigma(timestep.into()) as f32;
    if is_zero(model.sigma(end)) {
        return linspace(start, end, steps + 1).map(sigma).map(f64::from).collect();
    }
    with_zero(linspace(start, end, steps).map(sigma))
}

/// As [`normal`], over one step more, whose last (at the first timestep) gives way to 0.
fn sgm_uniform(model: &ModelSampling, steps: usize) -> Vec<f64> {
    let (start, end) = (model.timestep(model.sigma_max()), model.timestep(model.sigma_min()));
    let sigma = |timestep: f32| model.sigma(timestep.into()) as f32;
    with_zero(linspace(start, end, steps + 1).take(steps).map(sigma))
}

/// Karras's over all of a model's sigmas.
fn karras(model: &ModelSampling, steps: usize) -> Vec<f64> {
    karras_between(steps, model.sigma_max(), model.sigma_min(), 7.0)
}

/// Evenly spaced in `sigma^(1/rho)` (Karras and others 2022, equation 5), then 0.
pub fn karras_between(steps: usize, max: f64, min: f64, rho: f64) -> Vec<f64> {
    let root = |sigma: f64| sigma.powf(1.0 / rho);
    let (max, min) = (root(max), root(min));
    let sigma = |ramp| single(max as f32 + ramp * (min - max) as f32, |root| root.powf(rho));
    with_zero(linspace(0.0, 1.0, steps).map(sigma))
}

/// The exponential one over all of a model's sigmas.
fn exponential(model: &ModelSampling, steps: usize) -> Vec<f64> {
    exponential_between(steps, model.sigma_max(), model.sigma_min())
}

/// Evenly spaced in the logarithm of sigma, then 0. Both sigmas are above 0.
pub fn exponential_between(steps: usize, max: f64, min: f64) -> Vec<f64> {
    with_zero(linspace(max.ln(), min.ln(), steps).map(|log| single(log, f64::exp)))
}

/// Logarithms that fall with the power `rho` of what is left of the way, then 0. Both sigmas are
/// above 0.
pub fn polyexponential_between(steps: usize, max: f64, min: f64, rho: f64) -> Vec<f64> {
    let (way, end) = ((max.ln() - min.ln()) as f32, min.ln() as f32);
    let sigma = |left| single(single(left, |left| left.powf(rho)) * way + end, f64::exp);
    with_zero(linspace(1.0, 0.0, steps).map(sigma))
}

/// Evenly spaced times, from 1 down to `first`, of the continuous process that keeps the variance
/// (Song and others 2021): its rate of noise is `rate + growth·time`. Then 0.
pub fn variance_preserving(steps: usize, growth: f64, rate: f64, first: f64) -> Vec<f64> {
    let (growth, rate) = (growth as f32, rate as f32);
    let sigma = |time: f32| single(growth * (time * time) / 2.0 + rate * time, f64::exp_m1).sqrt();
    with_zero(linspace(1.0, first, steps).map(sigma))
}

/// Steps from the ten timesteps that turbo models are distilled to (99, 199, …, 999), falling, then
/// 0. `denoise` is the part of the ten that is left to be run.
pub fn turbo(model: &ModelSampling, steps: usize, denoise: f64) -> Vec<f64> {
    let left = (10.0 * denoise.clamp(0.0, 1.0)) as usize;
    let timesteps = (1..=10).rev().skip(10 - left).take(steps);
    with_zero(timesteps.map(|tenth| model.sigma(f64::from(tenth * 100 - 1)) as f32))
}

/// Entries of the table at even strides from its end, rounded down.
fn simple(model: &ModelSampling, steps: usize) -> Vec<f64> {
    let table = model.sigmas();
    let stride = table.len() as f64 / steps as f64;
    let from_end =
        |step| table.iter().rev().nth((step as f64 * stride) as usize).map(|sigma| *sigma as f32);
    with_zero((0..steps).filter_map(from_end))
}

/// Entries of the table at a whole stride from its second. Where the stride does not divide the
/// table this is more than `steps`; above the table's length, fewer.
fn ddim_uniform(model: &ModelSampling, steps: usize) -> Vec<f64> {
    let table = model.sigmas();
    let ends_at_zero = table.get(1).copied().is_some_and(is_zero);
    let stride = (table.len() / (steps + usize::from(ends_at_zero))).max(1);
    let mut sigmas: Vec<_> = table.iter().skip(1).step_by(stride).copied().collect();
    sigmas.reverse();
    if !ends_at_zero {
        sigmas.push(0.0);
    }
    sigmas
}

/// Entries of the table at the quantiles of a beta distribution (Lee and others 2024, "Beta
/// sampling is all you need"), both of whose parameters are 0.6. An entry is taken once, so many
/// steps give fewer.
fn beta(model: &ModelSampling, steps: usize) -> Vec<f64> {
    let table = model.sigmas();
    let last = (table.len() - 1) as f64;
    let mut places: Vec<_> = (0..steps)
        .map(|step| 1.0 - step as f64 * (1.0 / steps as f64))
        .map(|part| (beta_quantile(part, 0.6) * last).round_ties_even() as usize)
        .collect();
    places.dedup();
    with_zero(places.into_iter().filter_map(|place| table.get(place).map(|sigma| *sigma as f32)))
}

/// The quantile of the beta distribution whose parameters are both `shape`, by bisection.
fn beta_quantile(probability: f64, shape: f64) -> f64 {
    // Symmetric: the upper half mirrors the lower, and the middle is exact.
    if probability > 0.5 {
        return 1.0 - beta_quantile(1.0 - probability, shape);
    }
    if probability <= 0.0 {
        return 0.0;
    }
    if probability == 0.5 {
        return 0.5;
    }
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if beta_reg(shape, shape, middle) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Linear in the first half of the steps down to 2.5 % off the top, quadratic in the second (Genmo
/// Mochi's schedule), times the largest sigma.
fn linear_quadratic(model: &ModelSampling, steps: usize) -> Vec<f64> {
    const THRESHOLD: f64 = 0.025;
    let max = model.sigma_max();
    if steps == 1 {
        return vec![max, 0.0];
    }
    let (all, linear) = (steps as f64, (steps / 2) as f64);
    let (quadratic, left) = (all - linear, linear - THRESHOLD * all);
    let square = left / (linear * quadratic * quadratic);
    let slope = THRESHOLD / linear - 2.0 * left / (quadratic * quadratic);
    let noise_gone = |step: usize| {
        let step = step as f64;
        if step < linear {
            step * THRESHOLD / linear
        } else {
            square * step * step + slope * step + square * linear * linear
        }
    };
    with_zero((0..steps).map(|step| (1.0 - noise_gone(step)) as f32 * max as f32))
}

/// Entries of the table at the quantiles of a beta distribution of these parameters, which are above 0. As
/// [`Scheduler`] `beta`, whose parameters are 0.6 both.
///
/// # Errors
/// When there are no steps or too many.
pub fn beta_distributed(
    model: &ModelSampling,
    steps: usize,
    [alpha, beta]: [f64; 2],
) -> Result<Vec<f64>, ScheduleError> {
    match steps {
        0 => return Err(ScheduleError::NoSteps),
        1..=MAX_STEPS => {}
        _ => return Err(ScheduleError::TooManySteps { steps, most: MAX_STEPS, denoise: 1.0 }),
    }
    let table = model.sigmas();
    let last = table.len().saturating_sub(1) as f64;
    let quantile = |part: f64| match alpha == beta {
        true => beta_quantile(part, alpha),
        false => skewed_quantile(part, alpha, beta),
    };
    let mut places: Vec<_> = (0..steps)
        .map(|step| 1.0 - step as f64 * (1.0 / steps as f64))
        .map(|part| (quantile(part) * last).round_ties_even() as usize)
        .collect();
    places.dedup();
    let sigmas = places.into_iter().filter_map(|place| table.get(place).map(|sigma| *sigma as f32));
    Ok(with_zero(sigmas))
}

/// The quantile of a beta distribution by bisection.
fn skewed_quantile(probability: f64, alpha: f64, beta: f64) -> f64 {
    if probability <= 0.0 || probability >= 1.0 {
        return probability.clamp(0.0, 1.0);
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if beta_reg(alpha, beta, middle) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Flux.2's noise levels: even parts of the way, shifted by a `mu` that was fitted to the tokens of a picture and to the
/// number of steps (Black Forest Labs' flux2, `get_schedule`). `tokens` is the picture's.
pub fn flux2(steps: usize, tokens: usize) -> Vec<f64> {
    // Lines through what was found best at 10 and at 200 steps, by tokens.
    const AT_10: [f64; 2] = [8.738_095_24e-5, 1.898_333_33];
    const AT_200: [f64; 2] = [0.000_169_27, 0.456_666_66];
    const MANY_TOKENS: usize = 4300;
    let line = |[slope, start]: [f64; 2]| slope * tokens as f64 + start;
    let (few, many) = (line(AT_10), line(AT_200));
    let mu = match tokens > MANY_TOKENS {
        true => many,
        false => {
            let slope = (many - few) / 190.0;
            slope * steps as f64 + (many - 200.0 * slope)
        }
    };
    let shift = mu.exp();
    let steps = steps.max(1);
    (0..=steps)
        .map(|step| 1.0 - step as f64 / steps as f64)
        .map(|time| if time > 0.0 { shift / (shift + (1.0 / time - 1.0)) } else { 0.0 })
        .map(|sigma| f64::from(sigma as f32))
        .collect()
}

/// Evenly spaced in the arctangent of sigma (Sabour and others 2024, "Align your steps", theorem
/// 3.1).
fn kl_optimal(model: &ModelSampling, steps: usize) -> Vec<f64> {
    let (max, min) = (model.sigma_max().atan() as f32, model.sigma_min().atan() as f32);
    let last = steps.saturating_sub(1).max(1) as f32;
    let parts = (0..steps).map(|step| step as f32 / last);
    with_zero(parts.map(|part| single(part * min + (1.0 - part) * max, f64::tan)))
}
