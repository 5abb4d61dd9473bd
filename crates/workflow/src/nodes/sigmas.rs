//! Sigmas: the noise levels that a run goes through, from schedules and cut to measure.

use distorch_sampling::schedule::{
    Scheduler, beta_distributed, exponential_between, flux2, karras_between,
    polyexponential_between, turbo, variance_preserving,
};

use super::sampling::{MODEL, SCHEDULER, STEPS};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

const SCHEDULERS: &str = "model/sampling/schedulers";
const CATEGORY: &str = "model/sampling/sigmas";

const OUTPUT: &[Output] = &[Output::new(Type::Sigmas).tooltip("The noise levels.")];

const SIGMAS: Input = Input::link("sigmas", Type::Sigmas).tooltip("The noise levels.");

const DENOISE: Input = Input::float("denoise", 1.0, 0.0, 1.0, 0.01)
    .added_later()
    .tooltip("How much of the whole way is gone: below 1, only its last part.");

const SIGMA_MAX: Input = Input::float("sigma_max", 14.614642, 0.0, 5000.0, 0.01)
    .advanced()
    .unrounded()
    .tooltip("The largest noise level.");

const SIGMA_MIN: Input = Input::float("sigma_min", 0.0291675, 0.0, 5000.0, 0.01)
    .advanced()
    .unrounded()
    .tooltip("The smallest noise level above 0.");

/// A schedule by name.
pub const BASIC_SCHEDULER: Node = Node {
    class: "BasicScheduler",
    title: "BasicScheduler",
    category: SCHEDULERS,
    about: "Gives the noise levels of a schedule for a model.",
    inputs: &[MODEL, SCHEDULER, STEPS, DENOISE],
    outputs: OUTPUT,
    run: |_, inputs| {
        let scheduler = Scheduler::by_name(inputs.text("scheduler")?)
            .map_err(|error| NodeError::input("scheduler", error))?;
        let (steps, denoise) = (inputs.count("steps")?, inputs.float("denoise")?);
        if denoise <= 0.0 {
            return Ok(output(Vec::new()));
        }
        let total = if denoise < 1.0 { (steps as f64 / denoise) as usize } else { steps };
        let mut sigmas = scheduler
            .sigmas(&inputs.model("model")?.sampling(), total)
            .map_err(NodeError::failed)?;
        let skipped = sigmas.len().saturating_sub(steps + 1);
        sigmas.drain(..skipped);
        Ok(output(sigmas))
    },
    ..Node::EMPTY
};

/// Karras and others' schedule.
pub const KARRAS_SCHEDULER: Node = Node {
    class: "KarrasScheduler",
    title: "KarrasScheduler",
    category: SCHEDULERS,
    about: "Gives noise levels that are evenly spaced in their root of degree rho.",
    inputs: &[
        STEPS,
        SIGMA_MAX,
        SIGMA_MIN,
        Input::float("rho", 7.0, 0.0, 100.0, 0.01)
            .advanced()
            .unrounded()
            .tooltip("The degree of the root: more of it is more steps at low noise."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let rho = inputs.float("rho")?;
        if rho <= 0.0 {
            return Err(NodeError::input("rho", "there is no root of degree 0: give more"));
        }
        let (max, min) = (inputs.float("sigma_max")?, inputs.float("sigma_min")?);
        Ok(output(karras_between(inputs.count("steps")?, max, min, rho)))
    },
    ..Node::EMPTY
};

/// Evenly in the logarithm.
pub const EXPONENTIAL_SCHEDULER: Node = Node {
    class: "ExponentialScheduler",
    title: "ExponentialScheduler",
    category: SCHEDULERS,
    about: "Gives noise levels that are evenly spaced in their logarithm.",
    inputs: &[STEPS, SIGMA_MAX, SIGMA_MIN],
    outputs: OUTPUT,
    run: |_, inputs| {
        let (max, min) = above_zero(inputs)?;
        Ok(output(exponential_between(inputs.count("steps")?, max, min)))
    },
    ..Node::EMPTY
};

/// By a power in the logarithm.
pub const POLYEXPONENTIAL_SCHEDULER: Node = Node {
    class: "PolyexponentialScheduler",
    title: "PolyexponentialScheduler",
    category: SCHEDULERS,
    about: "Gives noise levels whose logarithms fall by a power of the steps.",
    inputs: &[
        STEPS,
        SIGMA_MAX,
        SIGMA_MIN,
        Input::float("rho", 1.0, 0.0, 100.0, 0.01)
            .advanced()
            .unrounded()
            .tooltip("The power: 1 spaces the logarithms evenly."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let (max, min) = above_zero(inputs)?;
        let (steps, rho) = (inputs.count("steps")?, inputs.float("rho")?);
        Ok(output(polyexponential_between(steps, max, min, rho)))
    },
    ..Node::EMPTY
};

/// The continuous process that keeps variance.
pub const VP_SCHEDULER: Node = Node {
    class: "VPScheduler",
    title: "VPScheduler",
    category: SCHEDULERS,
    about: "Gives the noise levels of a continuous process that keeps the variance.",
    inputs: &[
        STEPS,
        Input::float("beta_d", 19.9, 0.0, 5000.0, 0.01)
            .advanced()
            .unrounded()
            .tooltip("How fast the rate of noise grows."),
        Input::float("beta_min", 0.1, 0.0, 5000.0, 0.01)
            .advanced()
            .unrounded()
            .tooltip("The rate of noise at the beginning."),
        Input::float("eps_s", 0.001, 0.0, 1.0, 0.0001)
            .advanced()
            .unrounded()
            .tooltip("The earliest time of the process that is used."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let (growth, rate) = (inputs.float("beta_d")?, inputs.float("beta_min")?);
        let (steps, first) = (inputs.count("steps")?, inputs.float("eps_s")?);
        Ok(output(variance_preserving(steps, growth, rate, first)))
    },
    ..Node::EMPTY
};

/// A few steps for distilled models.
pub const SD_TURBO_SCHEDULER: Node = Node {
    class: "SDTurboScheduler",
    title: "SDTurboScheduler",
    category: SCHEDULERS,
    about: "Gives the noise levels of the few steps that turbo models are distilled to.",
    inputs: &[MODEL, Input::int("steps", 1, 1, 10).tooltip("How many steps."), DENOISE],
    outputs: OUTPUT,
    run: |_, inputs| {
        let (steps, denoise) = (inputs.count("steps")?, inputs.float("denoise")?);
        Ok(output(turbo(&inputs.model("model")?.sampling(), steps, denoise)))
    },
    ..Node::EMPTY
};

const SPLIT: &[Output] = &[
    Output::new(Type::Sigmas).named("high_sigmas").tooltip("The noise levels up to the cut."),
    Output::new(Type::Sigmas).named("low_sigmas").tooltip("Those from the cut on."),
];

/// Two parts, cut at a step.
pub const SPLIT_SIGMAS: Node = Node {
    class: "SplitSigmas",
    title: "SplitSigmas",
    category: CATEGORY,
    about: "Cuts a schedule in two at a step, for two samplers one after the other.",
    inputs: &[SIGMAS, Input::int("step", 0, 0, 10000).tooltip("The step to cut at.")],
    outputs: SPLIT,
    run: |_, inputs| {
        let (sigmas, step) = (inputs.sigmas("sigmas")?, inputs.count("step")?);
        let low = sigmas.get(step..).unwrap_or_default();
        let high = sigmas.get(..=step).unwrap_or(&sigmas);
        Ok(vec![Value::Sigmas(high.into()), Value::Sigmas(low.into())])
    },
    ..Node::EMPTY
};

/// Two parts, the second of which is a part of the steps.
pub const SPLIT_SIGMAS_DENOISE: Node = Node {
    class: "SplitSigmasDenoise",
    title: "SplitSigmasDenoise",
    category: CATEGORY,
    about: "Cuts a schedule in two so that the second has a part of its steps.",
    inputs: &[
        SIGMAS,
        Input::float("denoise", 1.0, 0.0, 1.0, 0.01).tooltip("The second part's share of steps."),
    ],
    outputs: SPLIT,
    run: |_, inputs| {
        let (sigmas, denoise) = (inputs.sigmas("sigmas")?, inputs.float("denoise")?);
        let (high, low) = split_by_share(&sigmas, denoise);
        Ok(vec![Value::Sigmas(high.into()), Value::Sigmas(low.into())])
    },
    ..Node::EMPTY
};

/// From low to high, for going from picture to noise.
pub const FLIP_SIGMAS: Node = Node {
    class: "FlipSigmas",
    title: "FlipSigmas",
    category: CATEGORY,
    about: "Turns a schedule round, for going from a picture back to noise.",
    inputs: &[SIGMAS],
    outputs: OUTPUT,
    run: |_, inputs| {
        // No sampler can start at 0.
        const LEAST: f64 = 0.0001;
        let mut sigmas: Vec<f64> = inputs.sigmas("sigmas")?.iter().rev().copied().collect();
        if let Some(first) = sigmas.first_mut().filter(|first| **first == 0.0) {
            *first = f64::from(LEAST as f32);
        }
        Ok(output(sigmas))
    },
    ..Node::EMPTY
};

/// Another first level.
pub const SET_FIRST_SIGMA: Node = Node {
    class: "SetFirstSigma",
    title: "SetFirstSigma",
    category: CATEGORY,
    about: "Replaces the first noise level of a schedule.",
    inputs: &[
        SIGMAS,
        Input::float("sigma", 136.0, 0.0, 20000.0, 0.001)
            .unrounded()
            .tooltip("The noise level to start from."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let mut sigmas = inputs.sigmas("sigmas")?.to_vec();
        let sigma = inputs.float("sigma")?;
        if let Some(first) = sigmas.first_mut() {
            *first = f64::from(sigma as f32);
        }
        Ok(output(sigmas))
    },
    ..Node::EMPTY
};

/// A beta distribution's quantiles.
pub const BETA_SAMPLING_SCHEDULER: Node = Node {
    class: "BetaSamplingScheduler",
    title: "BetaSamplingScheduler",
    category: SCHEDULERS,
    about: "Gives the noise levels of a model at the quantiles of a beta distribution.",
    inputs: &[
        MODEL,
        STEPS,
        Input::float("alpha", 0.6, 0.0, 50.0, 0.01)
            .advanced()
            .unrounded()
            .tooltip("The first parameter: the less, the more steps at low noise."),
        Input::float("beta", 0.6, 0.0, 50.0, 0.01)
            .advanced()
            .unrounded()
            .tooltip("The second parameter: the less, the more steps at high noise."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let parameter = |name: &str| match inputs.float(name)? {
            value if value > 0.0 => Ok(value),
            _ => Err(NodeError::input(name, "there is no such distribution: give more than 0")),
        };
        let shape = [parameter("alpha")?, parameter("beta")?];
        let sampling = inputs.model("model")?.sampling();
        let sigmas = beta_distributed(&sampling, inputs.count("steps")?, shape);
        Ok(output(sigmas.map_err(NodeError::failed)?))
    },
    ..Node::EMPTY
};

/// Flux.2's.
pub const FLUX2_SCHEDULER: Node = Node {
    class: "Flux2Scheduler",
    title: "Flux2Scheduler",
    category: SCHEDULERS,
    about: "Gives Flux.2's noise levels for a picture's size and a number of steps.",
    inputs: &[
        Input::int("steps", 20, 1, 4096).tooltip("How many steps."),
        Input::int("width", 1024, 16, MAX_SIDE).tooltip("The picture's width in pixels."),
        Input::int("height", 1024, 16, MAX_SIDE).tooltip("The picture's height in pixels."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let pixels = inputs.count("width")?.saturating_mul(inputs.count("height")?);
        let tokens = (pixels as f64 / 256.0).round_ties_even() as usize;
        Ok(output(flux2(inputs.count("steps")?, tokens)))
    },
    ..Node::EMPTY
};

/// Numbers as they are written.
pub const MANUAL_SIGMAS: Node = Node {
    class: "ManualSigmas",
    title: "ManualSigmas",
    category: CATEGORY,
    about: "Gives the noise levels that are written in a text.",
    inputs: &[
        Input::string("sigmas", "1, 0.5").tooltip("The noise levels, with anything between them.")
    ],
    outputs: OUTPUT,
    is_experimental: true,
    run: |_, inputs| {
        let text = inputs.text("sigmas")?;
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
        let numbers = text.split(|c: char| !is_part(c)).filter_map(|part| part.parse().ok());
        Ok(output(numbers.collect()))
    },
    ..Node::EMPTY
};

/// Sigmas in float32, as ComfyUI keeps them.
fn output(sigmas: Vec<f64>) -> Vec<Value> {
    let single = sigmas.into_iter().map(|sigma| f64::from(sigma as f32));
    vec![Value::Sigmas(single.collect())]
}

fn above_zero(inputs: &Inputs) -> Result<(f64, f64), NodeError> {
    let sigma = |name: &str| match inputs.float(name)? {
        sigma if sigma > 0.0 => Ok(sigma),
        _ => Err(NodeError::input(name, "0 has no logarithm: give more")),
    };
    Ok((sigma("sigma_max")?, sigma("sigma_min")?))
}

/// The part before the last steps and these steps, `denoise` of all. As in ComfyUI, a share of no
/// step leaves the first part empty.
fn split_by_share(sigmas: &[f64], denoise: f64) -> (&[f64], &[f64]) {
    let steps = sigmas.len().saturating_sub(1);
    let share = (steps as f64 * denoise).round_ties_even() as usize;
    let cut = sigmas.len().saturating_sub(share);
    let high = if share == 0 { &[][..] } else { sigmas.get(..cut).unwrap_or_default() };
    (high, sigmas.get(cut.saturating_sub(1)..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_steps_is_the_last_of_them() {
        let sigmas = [9.0, 7.0, 5.0, 3.0, 0.0];
        let split = |denoise| split_by_share(&sigmas, denoise);
        assert_eq!(split(0.5), (&sigmas[..3], &sigmas[2..]));
        assert_eq!(split(1.0), (&sigmas[..1], &sigmas[..]));
        assert_eq!(split(0.25), (&sigmas[..4], &sigmas[3..]));
        assert_eq!(split(0.0), (&[][..], &sigmas[4..]));
        // Halves go to the even number, as Python rounds.
        assert_eq!(split(0.625), split(0.5));
        assert_eq!(split_by_share(&[], 0.5), (&[][..], &[][..]));
    }
}
