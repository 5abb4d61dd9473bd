//! The two KSamplers.

use distorch_sampling::sampler::{Options, SAMPLERS, Sampler};
use distorch_sampling::schedule::{SCHEDULERS, Scheduler, Span};

use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::diffusion::guider::Guider;
use distorch_pipeline::diffusion::noise::NoiseSource;
use distorch_pipeline::diffusion::sample::sample;
use distorch_pipeline::diffusion::sampler::SamplerChoice;

const OUTPUT: &[Output] = &[Output::new(Type::Latent).tooltip("The denoised latents.")];

pub(super) const MODEL: Input =
    Input::link("model", Type::Model).tooltip("The model that denoises.");

pub(super) const STEPS: Input =
    Input::int("steps", 20, 1, 10000).tooltip("How many steps: more take longer.");

pub(super) const CFG: Input = Input::float("cfg", 8.0, 0.0, 100.0, 0.1).round(0.01).tooltip(
    "How closely to follow the prompt. At 1 the negative prompt is not used; high values harm the \
     picture.",
);

pub(super) const POSITIVE: Input =
    Input::link("positive", Type::Conditioning).tooltip("What the picture should have.");

pub(super) const NEGATIVE: Input =
    Input::link("negative", Type::Conditioning).tooltip("What the picture should not have.");

pub(super) const LATENT: Input =
    Input::link("latent_image", Type::Latent).tooltip("The latents to denoise.");

pub(super) const SAMPLER: Input = Input::found("sampler_name", samplers)
    .tooltip("The way of sampling: it decides speed, quality and structure.");

pub(super) const SCHEDULER: Input =
    Input::found("scheduler", schedulers).tooltip("How the noise leaves over the steps.");

/// What a sampled latent depends on besides the inputs.
pub(super) fn noise(environment: &Environment, _: &Inputs) -> String {
    format!("{:?}", environment.session.noise)
}

fn samplers(_: &Environment) -> Vec<String> {
    SAMPLERS.iter().map(|sampler| sampler.name().to_owned()).collect()
}

fn schedulers(_: &Environment) -> Vec<String> {
    SCHEDULERS.iter().map(|scheduler| scheduler.name().to_owned()).collect()
}

/// Text to picture, or picture to picture where `denoise` is below 1.
pub const K_SAMPLER: Node = Node {
    class: "KSampler",
    title: "KSampler",
    category: "model/sampling",
    about: "Denoises latents with a model, following the positive and avoiding the negative \
            conditioning.",
    inputs: &[
        MODEL,
        Input::seed("seed").tooltip("The seed of the noise: the same one gives the same picture."),
        STEPS,
        CFG,
        SAMPLER,
        SCHEDULER,
        POSITIVE,
        NEGATIVE,
        LATENT,
        Input::float("denoise", 1.0, 0.0, 1.0, 0.01)
            .tooltip("How much of the latent is replaced: below 1 keeps something of its picture."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(sampled(ahead, "model"))),
    run: |context, inputs| {
        let noise = NoiseSource::seed(inputs.seed("seed")?);
        let span =
            Span { denoise: inputs.float("denoise")?, ..Span::whole(inputs.count("steps")?) };
        run(context, inputs, noise, span)
    },
    fingerprint: Some(noise),
    ..Node::EMPTY
};

/// A part of a schedule.
pub const K_SAMPLER_ADVANCED: Node = Node {
    class: "KSamplerAdvanced",
    title: "KSampler (Advanced)",
    category: "model/sampling",
    about: "Denoises latents over a part of a schedule, with or without adding noise first, and \
            with or without leaving the rest of the noise in.",
    inputs: &[
        MODEL,
        Input::choice("add_noise", &["enable", "disable"])
            .advanced()
            .tooltip("Whether noise is added before the first step."),
        Input::seed("noise_seed")
            .tooltip("The seed of the noise: the same one gives the same picture."),
        STEPS,
        CFG,
        SAMPLER,
        SCHEDULER,
        POSITIVE,
        NEGATIVE,
        LATENT,
        Input::int("start_at_step", 0, 0, 10000).advanced().tooltip("The first step that is run."),
        Input::int("end_at_step", 10000, 0, 10000)
            .advanced()
            .tooltip("The step before which the run ends."),
        Input::choice("return_with_leftover_noise", &["disable", "enable"])
            .advanced()
            .tooltip("Whether the noise of the steps that are not run stays in."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(sampled(ahead, "model"))),
    run: |context, inputs| {
        let seed = inputs.seed("noise_seed")?;
        let noise = NoiseSource { seed, add: inputs.text("add_noise")? != "disable" };
        let span = Span {
            start: inputs.count("start_at_step")?,
            end: Some(inputs.count("end_at_step")?),
            force_full_denoise: inputs.text("return_with_leftover_noise")? != "enable",
            ..Span::whole(inputs.count("steps")?)
        };
        run(context, inputs, noise, span)
    },
    fingerprint: Some(noise),
    ..Node::EMPTY
};

fn run(
    context: &mut Context<'_>,
    inputs: &Inputs,
    noise: NoiseSource,
    span: Span,
) -> Result<Vec<Value>, NodeError> {
    let model = inputs.model("model")?;
    let sampler = Sampler::by_name(inputs.text("sampler_name")?)
        .map_err(|error| NodeError::input("sampler_name", error))?;
    let scheduler = Scheduler::by_name(inputs.text("scheduler")?)
        .map_err(|error| NodeError::input("scheduler", error))?;
    let sigmas = span
        .sigmas(scheduler, &model.sampling(), sampler.discards_penultimate())
        .map_err(NodeError::failed)?;
    let (positive, negative) = (inputs.conditioning("positive")?, inputs.conditioning("negative")?);
    let guider = Guider::cfg(model, positive, negative, inputs.float("cfg")?);
    let choice = SamplerChoice { sampler, options: Options::default() };
    let latent = inputs.latent("latent_image")?;
    let sampled = sample(context.run(), &guider, noise, choice, &sigmas, &latent)?;
    Ok(vec![Value::Latent(sampled.latent)])
}

/// What comes out of a sampler: latents of the size of those that go in.
pub(super) fn sampled(ahead: &Ahead<'_>, model: &str) -> Vec<Known> {
    let latent = ahead.samples(model, "latent_image");
    vec![Known::latent(latent), Known::latent(latent)]
}
