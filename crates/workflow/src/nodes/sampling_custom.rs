//! Sampling put together from its parts: a guided model, noise, a sampler and sigmas.

use std::sync::Arc;

use distorch_sampling::sampler::{Options, Sampler};

use super::sampling::{CFG, LATENT, MODEL, NEGATIVE, POSITIVE, SAMPLER, noise, sampled};
use crate::context::Context;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::diffusion::guider::Guider;
use distorch_pipeline::diffusion::noise::NoiseSource;
use distorch_pipeline::diffusion::sample::sample;
use distorch_pipeline::diffusion::sampler::SamplerChoice;

const CATEGORY: &str = "model/sampling/custom";

const OUTPUTS: &[Output] = &[
    Output::new(Type::Latent).named("output").tooltip("The latents, with what noise is left."),
    Output::new(Type::Latent)
        .named("denoised_output")
        .tooltip("The clean latents as the last step guessed them."),
];

const GUIDER: &[Output] = &[Output::new(Type::Guider).tooltip("The guided model.")];

const NOISE: &[Output] = &[Output::new(Type::Noise).tooltip("The noise.")];

const NOISE_SEED: Input = Input::seed("noise_seed")
    .tooltip("The seed of the noise: the same one gives the same picture.");

const SAMPLER_INPUT: Input = Input::link("sampler", Type::Sampler).tooltip("The way of sampling.");

const SIGMAS: Input =
    Input::link("sigmas", Type::Sigmas).tooltip("The noise levels to go through.");

/// Guidance, noise and all else in one.
pub const SAMPLER_CUSTOM: Node = Node {
    class: "SamplerCustom",
    title: "SamplerCustom",
    category: CATEGORY,
    about: "Denoises latents with a sampler and sigmas of the user's choice.",
    inputs: &[
        MODEL,
        Input::boolean("add_noise", true).tooltip("Whether noise is added before the first step."),
        NOISE_SEED,
        CFG,
        POSITIVE,
        NEGATIVE,
        SAMPLER_INPUT,
        SIGMAS,
        LATENT,
    ],
    outputs: OUTPUTS,
    forecast: Some(|ahead| Ok(sampled(ahead, "model"))),
    run: |context, inputs| {
        let guider = cfg_guider(inputs)?;
        let (seed, add) = (inputs.seed("noise_seed")?, inputs.boolean("add_noise")?);
        run(context, inputs, &guider, NoiseSource { seed, add })
    },
    fingerprint: Some(noise),
    ..Node::EMPTY
};

/// Each part from a node of its own.
pub const SAMPLER_CUSTOM_ADVANCED: Node = Node {
    class: "SamplerCustomAdvanced",
    title: "SamplerCustomAdvanced",
    category: CATEGORY,
    about: "Denoises latents with noise, a guided model, a sampler and sigmas of other nodes.",
    inputs: &[
        Input::link("noise", Type::Noise).tooltip("The noise to start from."),
        Input::link("guider", Type::Guider).tooltip("The guided model."),
        SAMPLER_INPUT,
        SIGMAS,
        LATENT,
    ],
    outputs: OUTPUTS,
    forecast: Some(|ahead| Ok(sampled(ahead, "guider"))),
    run: |context, inputs| run(context, inputs, &inputs.guider("guider")?, inputs.noise("noise")?),
    fingerprint: Some(noise),
    ..Node::EMPTY
};

/// A sampler by name.
pub const K_SAMPLER_SELECT: Node = Node {
    class: "KSamplerSelect",
    title: "KSamplerSelect",
    category: "model/sampling/samplers",
    about: "Chooses a sampler by its name.",
    inputs: &[SAMPLER],
    outputs: &[Output::new(Type::Sampler).tooltip("The sampler.")],
    run: |_, inputs| {
        let sampler = Sampler::by_name(inputs.text("sampler_name")?)
            .map_err(|error| NodeError::input("sampler_name", error))?;
        Ok(vec![Value::Sampler(SamplerChoice { sampler, options: Options::default() })])
    },
    ..Node::EMPTY
};

/// Noise of a seed.
pub const RANDOM_NOISE: Node = Node {
    class: "RandomNoise",
    title: "RandomNoise",
    category: "model/sampling/noise",
    about: "Gives the noise of a seed.",
    inputs: &[NOISE_SEED],
    outputs: NOISE,
    run: |_, inputs| Ok(vec![Value::Noise(NoiseSource::seed(inputs.seed("noise_seed")?))]),
    ..Node::EMPTY
};

/// No noise.
pub const DISABLE_NOISE: Node = Node {
    class: "DisableNoise",
    title: "DisableNoise",
    category: "model/sampling/noise",
    about: "Gives no noise, for latents that have theirs already.",
    inputs: &[],
    outputs: NOISE,
    run: |_, _| Ok(vec![Value::Noise(NoiseSource { seed: 0, add: false })]),
    ..Node::EMPTY
};

/// A model that follows one conditioning.
pub const BASIC_GUIDER: Node = Node {
    class: "BasicGuider",
    title: "BasicGuider",
    category: "model/sampling/guiders",
    about: "Lets a model follow one conditioning as it is.",
    inputs: &[
        MODEL,
        Input::link("conditioning", Type::Conditioning).tooltip("What the picture should have."),
    ],
    outputs: GUIDER,
    forecast: Some(|ahead| Ok(vec![ahead.guided(false)])),
    run: |_, inputs| {
        let (model, conditioning) = (inputs.model("model")?, inputs.conditioning("conditioning")?);
        Ok(vec![Value::Guider(Guider::basic(model, conditioning))])
    },
    ..Node::EMPTY
};

/// A model with classifier-free guidance.
pub const CFG_GUIDER: Node = Node {
    class: "CFGGuider",
    title: "CFG Guider",
    category: "model/sampling/guiders",
    about: "Lets a model follow the positive and avoid the negative conditioning.",
    inputs: &[MODEL, POSITIVE, NEGATIVE, CFG],
    outputs: GUIDER,
    forecast: Some(|ahead| Ok(vec![ahead.guided(true)])),
    run: |_, inputs| Ok(vec![Value::Guider(cfg_guider(inputs)?)]),
    ..Node::EMPTY
};

fn cfg_guider(inputs: &Inputs) -> Result<Guider, NodeError> {
    let (positive, negative) = (inputs.conditioning("positive")?, inputs.conditioning("negative")?);
    Ok(Guider::cfg(inputs.model("model")?, positive, negative, inputs.float("cfg")?))
}

fn run(
    context: &mut Context<'_>,
    inputs: &Inputs,
    guider: &Guider,
    noise: NoiseSource,
) -> Result<Vec<Value>, NodeError> {
    let (sampler, latent) = (inputs.sampler("sampler")?, inputs.latent("latent_image")?);
    let sigmas: Arc<[f64]> = inputs.sigmas("sigmas")?;
    let sampled = sample(context.run(), guider, noise, sampler, &sigmas, &latent)?;
    Ok(vec![Value::Latent(sampled.latent), Value::Latent(sampled.denoised)])
}
