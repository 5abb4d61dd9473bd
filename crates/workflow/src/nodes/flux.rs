//! What Flux is told besides the prompt, and how it sees noise.

use distorch_models::text::{Prompt, TextOptions};
use distorch_pipeline::diffusion::conditioning::{Cond, Guidance};
use distorch_sampling::model_sampling::{ModelSampling, flux_shift};

use super::conditioning::{CONDITIONING, OUTPUT, output};
use super::text_encode;
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "model/conditioning/flux";

const GUIDANCE: Input = Input::float("guidance", 3.5, 0.0, 100.0, 0.1)
    .tooltip("How closely the prompt is followed, in one pass of the model.");

/// A prompt for each of Flux's text encoders, with the guidance.
pub const CLIP_TEXT_ENCODE_FLUX: Node = Node {
    class: "CLIPTextEncodeFlux",
    title: "CLIPTextEncodeFlux",
    category: CATEGORY,
    about: "Encodes a prompt for each of Flux's two text encoders, and sets the guidance.",
    inputs: &[
        text_encode::CLIP,
        Input::prompt("clip_l").tooltip("The text for CLIP-L, which sums up the picture."),
        Input::prompt("t5xxl").tooltip("The text for T5, which reads the details."),
        GUIDANCE,
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        ahead.encodes_text("clip");
        Ok(Vec::new())
    }),
    run: |context, inputs| {
        let clip = inputs.clip("clip")?;
        let texts = ["clip_l", "t5xxl"].map(|name| Ok((name, inputs.text(name)?.into())));
        let texts = texts.into_iter().collect::<Result<Vec<_>, NodeError>>()?;
        let cond = clip.encode(context.run(), &Prompt::Each(texts), &TextOptions::default())?;
        let guidance = Guidance::Strength(inputs.float("guidance")?);
        Ok(text_encode::output(Cond { guidance, ..cond }))
    },
    ..Node::EMPTY
};

/// The strength of a distilled guidance.
pub const FLUX_GUIDANCE: Node = Node {
    class: "FluxGuidance",
    title: "FluxGuidance",
    category: CATEGORY,
    about: "Sets how strong the guidance is that Flux dev was distilled with. Other models do not read it.",
    inputs: &[CONDITIONING, GUIDANCE],
    outputs: OUTPUT,
    run: |_, inputs| {
        let guidance = Guidance::Strength(inputs.float("guidance")?);
        let conditioning = inputs.conditioning("conditioning")?;
        Ok(output(conditioning.map(|cond| Cond { guidance, ..cond.clone() })))
    },
    ..Node::EMPTY
};

/// No distilled guidance.
pub const FLUX_DISABLE_GUIDANCE: Node = Node {
    class: "FluxDisableGuidance",
    title: "FluxDisableGuidance",
    category: CATEGORY,
    about: "Leaves the guidance that Flux dev was distilled with out of the model's input.",
    inputs: &[CONDITIONING],
    outputs: OUTPUT,
    run: |_, inputs| {
        let conditioning = inputs.conditioning("conditioning")?;
        let off = |cond: &Cond| Cond { guidance: Guidance::Off, ..cond.clone() };
        Ok(output(conditioning.map(off)))
    },
    ..Node::EMPTY
};

/// Flux's noise levels for a picture's size.
pub const MODEL_SAMPLING_FLUX: Node = Node {
    class: "ModelSamplingFlux",
    title: "ModelSamplingFlux",
    category: "model/patch/flux",
    about: "Sets how far a flow model's noise levels are shifted towards noise, which larger pictures need more of.",
    inputs: &[
        Input::link("model", Type::Model).tooltip("The model."),
        Input::float("max_shift", 1.15, 0.0, 100.0, 0.01)
            .tooltip("The shift for pictures of 1024×1024 pixels."),
        Input::float("base_shift", 0.5, 0.0, 100.0, 0.01)
            .tooltip("The shift for pictures of 256×256 pixels."),
        Input::int("width", 1024, 16, MAX_SIDE).step(8).tooltip("The width of the picture."),
        Input::int("height", 1024, 16, MAX_SIDE).step(8).tooltip("The height of the picture."),
    ],
    outputs: &[Output::new(Type::Model).tooltip("The changed model.")],
    run: |_, inputs| {
        let side = |name: &str| {
            let side = inputs.count(name)?;
            u32::try_from(side).map_err(|_| NodeError::input(name, "it is too large"))
        };
        let (max, base) = (inputs.float("max_shift")?, inputs.float("base_shift")?);
        let sampling = ModelSampling::flux(flux_shift(max, base, side("width")?, side("height")?));
        let model = inputs.model("model")?;
        Ok(vec![Value::Model(model.with_options(|options| options.sampling = Some(sampling)))])
    },
    ..Node::EMPTY
};
