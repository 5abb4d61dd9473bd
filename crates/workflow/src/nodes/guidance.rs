//! Guidance corrected, and the sampling of a flow's noise levels.

use distorch_models::network::SkipLayers;
use distorch_sampling::guidance::Correction;
use distorch_sampling::model_sampling::ModelSampling;

use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const MODEL: Input = Input::link("model", Type::Model).tooltip("The model.");
const OUTPUT: &[Output] = &[Output::new(Type::Model).tooltip("The changed model.")];
const PATCHED: &[Output] =
    &[Output::new(Type::Model).named("patched_model").tooltip("The changed model.")];

/// How far AuraFlow's noise levels are shifted.
pub const MODEL_SAMPLING_AURA_FLOW: Node = Node {
    class: "ModelSamplingAuraFlow",
    title: "ModelSamplingAuraFlow",
    category: "model/patch",
    about: "Sets how much of the way from noise to picture a model that sees noise as parts of one, such as AuraFlow, \
            Z-Image or Qwen-Image, spends at high noise.",
    inputs: &[
        MODEL,
        Input::float("shift", 1.73, 0.0, 100.0, 0.01).tooltip(
            "Noise levels t become shift·t / (1 + (shift - 1)·t): the larger, the more steps are \
             spent on what a picture is of, and fewer on its details.",
        ),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let sampling = ModelSampling::flow(inputs.float("shift")?, 1.0);
        let model = inputs.model("model")?;
        Ok(vec![Value::Model(model.with_options(|options| options.sampling = Some(sampling)))])
    },
    ..Node::EMPTY
};

/// Which routine computes attention.
pub const MODEL_ATTENTION_BACKEND: Node = Node {
    class: "ModelAttentionBackend",
    title: "Model Attention Backend",
    category: "model/patch",
    about: "Chooses the routine of ComfyUI that computes attention. Here it is one for all models, as where ComfyUI has \
            not the one that is chosen.",
    inputs: &[
        MODEL,
        Input::choice("attention", &["pytorch attention", "comfy kitchen attention"])
            .tooltip("The routine."),
    ],
    outputs: &[Output::new(Type::Model).named("model").tooltip("The model.")],
    forecast: Some(|ahead| Ok(crate::forecast::same(ahead, "model"))),
    run: |_, inputs| Ok(vec![Value::Model(inputs.model("model")?)]),
    ..Node::EMPTY
};

/// CFG-Zero★.
pub const CFG_ZERO_STAR: Node = Node {
    class: "CFGZeroStar",
    title: "CFGZeroStar",
    category: "model/patch",
    about: "Takes of the negative guess only what points where the positive one does (CFG-Zero★).",
    inputs: &[MODEL],
    outputs: PATCHED,
    run: |_, inputs| corrected(inputs, Correction::ZeroStar),
    ..Node::EMPTY
};

/// Guidance that makes nothing longer.
pub const CFG_NORM: Node = Node {
    class: "CFGNorm",
    title: "CFGNorm",
    category: "model/patch",
    about: "Keeps the guided guess as short as the positive one, pixel by pixel.",
    inputs: &[
        MODEL,
        Input::float("strength", 1.0, 0.0, 100.0, 0.01)
            .tooltip("What the result is multiplied with."),
    ],
    outputs: PATCHED,
    is_experimental: true,
    run: |_, inputs| corrected(inputs, Correction::Norm { strength: inputs.float("strength")? }),
    ..Node::EMPTY
};

fn corrected(inputs: &Inputs, correction: Correction<SkipLayers>) -> Result<Vec<Value>, NodeError> {
    let model = inputs.model("model")?;
    let model = model.with_options(|options| options.corrections.push(correction));
    Ok(vec![Value::Model(model)])
}

/// A mask whose grey values say when.
pub const DIFFERENTIAL_DIFFUSION: Node = Node {
    class: "DifferentialDiffusion",
    title: "Differential Diffusion",
    category: "experimental",
    about: "Lets the grey of a noise mask say how late a pixel begins to change: the darker, the fewer steps.",
    inputs: &[
        MODEL,
        Input::float("strength", 1.0, 0.0, 1.0, 0.01)
            .optional()
            .tooltip("How much of that counts; the rest is the mask as it is."),
    ],
    outputs: OUTPUT,
    is_experimental: true,
    run: |_, inputs| {
        let strength = inputs.float("strength").unwrap_or(1.0);
        let model = inputs.model("model")?;
        let model = model.with_options(|options| options.differential = Some(strength));
        Ok(vec![Value::Model(model)])
    },
    ..Node::EMPTY
};
