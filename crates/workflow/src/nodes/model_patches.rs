//! Models used in another way than they come.

use distorch_models::freeu::{FreeU, Raise, Scales};
use distorch_sampling::guidance::Formula;
use distorch_sampling::model_sampling::{ModelSampling, Prediction};

use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// Levels of noise that latent consistency models know.
const LCM_LEVELS: usize = 50;

const MODEL: Input = Input::link("model", Type::Model).tooltip("The model.");

const OUTPUT: &[Output] = &[Output::new(Type::Model).tooltip("The changed model.")];

/// How a model sees noise.
pub const MODEL_SAMPLING_DISCRETE: Node = Node {
    class: "ModelSamplingDiscrete",
    title: "ModelSamplingDiscrete",
    category: "model/patch",
    about: "Sets what a model's output means and which noise levels it knows, where its file does \
            not tell or tells wrong.",
    inputs: &[
        MODEL,
        Input::choice(
            "sampling",
            &["eps", "v_prediction", "lcm", "x0", "img_to_img", "img_to_img_flow"],
        )
        .tooltip(
            "What the output is: noise, velocity, noise of a latent consistency model, the clean \
             latent, or the clean latent of a model from picture to picture; with `flow`, such a \
             model gets no noise and its result is turned over.",
        ),
        Input::boolean("zsnr", false)
            .advanced()
            .tooltip("Whether the model was trained with pure noise at the last timestep."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let sampling = discrete(inputs.text("sampling")?, inputs.boolean("zsnr")?)?;
        let model = inputs.model("model")?;
        Ok(vec![Value::Model(model.with_options(|options| options.sampling = Some(sampling)))])
    },
    ..Node::EMPTY
};

/// How far a flow model's noise levels are shifted.
pub const MODEL_SAMPLING_SD3: Node = Node {
    class: "ModelSamplingSD3",
    title: "ModelSamplingSD3",
    category: "model/patch/stable diffusion",
    about: "Sets how much of the way from noise to picture a model of SD3's kind spends at high noise.",
    inputs: &[
        MODEL,
        Input::float("shift", 3.0, 0.0, 100.0, 0.01).tooltip(
            "Noise levels t become shift·t / (1 + (shift - 1)·t): the larger, the more steps are \
             spent on what a picture is of, and fewer on its details.",
        ),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let sampling = ModelSampling::flow(inputs.float("shift")?, 1000.0);
        let model = inputs.model("model")?;
        Ok(vec![Value::Model(model.with_options(|options| options.sampling = Some(sampling)))])
    },
    ..Node::EMPTY
};

/// Guidance that keeps the contrast.
pub const RESCALE_CFG: Node = Node {
    class: "RescaleCFG",
    title: "RescaleCFG",
    category: "model/patch",
    about: "Brings the contrast of a guided picture back to that of the positive guess, in part.",
    inputs: &[
        MODEL,
        Input::float("multiplier", 0.7, 0.0, 1.0, 0.01)
            .tooltip("How much of the contrast is brought back."),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let part = inputs.float("multiplier")?;
        let model = inputs.model("model")?;
        let formula = Formula::Rescaled { part };
        Ok(vec![Value::Model(model.with_options(|options| options.formula = formula))])
    },
    ..Node::EMPTY
};

const fn factor(name: &'static str, default: f64) -> Input {
    Input::float(name, default, 0.0, 10.0, 0.01).advanced()
}

const B1: &str = "The backbone's factor in the widest stages.";
const B2: &str = "The backbone's factor in the stages of half their width.";
const S1: &str = "The factor of the low frequencies that skip into the widest stages.";
const S2: &str = "The factor of the low frequencies that skip into the stages of half their width.";

/// FreeU as first published.
pub const FREE_U: Node = Node {
    class: "FreeU",
    title: "FreeU",
    category: "model_patches/unet",
    about: "Lets a UNet's backbone count more and its skip connections less where both join.",
    inputs: &[
        MODEL,
        factor("b1", 1.1).tooltip(B1),
        factor("b2", 1.2).tooltip(B2),
        factor("s1", 0.9).tooltip(S1),
        factor("s2", 0.2).tooltip(S2),
    ],
    outputs: OUTPUT,
    run: |_, inputs| free_u(inputs, Raise::Evenly),
    ..Node::EMPTY
};

/// FreeU's second version.
pub const FREE_U_V2: Node = Node {
    class: "FreeU_V2",
    title: "FreeU_V2",
    category: "model_patches/unet",
    about: "Lets a UNet's backbone count more where its mean is high, and its skip connections \
            less, where both join.",
    inputs: &[
        MODEL,
        factor("b1", 1.3).tooltip(B1),
        factor("b2", 1.4).tooltip(B2),
        factor("s1", 0.9).tooltip(S1),
        factor("s2", 0.2).tooltip(S2),
    ],
    outputs: OUTPUT,
    run: |_, inputs| free_u(inputs, Raise::ByMean),
    ..Node::EMPTY
};

fn free_u(inputs: &Inputs, raise: Raise) -> Result<Vec<Value>, NodeError> {
    let scales = |backbone: &str, skip: &str| {
        Ok::<_, NodeError>(Scales { backbone: inputs.float(backbone)?, skip: inputs.float(skip)? })
    };
    let freeu = FreeU { raise, first: scales("b1", "s1")?, second: scales("b2", "s2")? };
    let model = inputs.model("model")?;
    Ok(vec![Value::Model(model.with_options(|options| options.patches.freeu.push(freeu)))])
}

/// The sampling of a name, on Stable Diffusion's table of noise levels.
fn discrete(name: &str, zero_terminal_snr: bool) -> Result<ModelSampling, NodeError> {
    let prediction = match name {
        "eps" => Prediction::Eps,
        "v_prediction" => Prediction::V,
        "lcm" => Prediction::Lcm,
        "x0" => Prediction::X0,
        "img_to_img" => Prediction::ImageToImage,
        "img_to_img_flow" => Prediction::ImageToImageFlow,
        _ => return Err(NodeError::input("sampling", format!("no sampling is named `{name}`"))),
    };
    let mut sampling = ModelSampling::stable_diffusion(prediction);
    if zero_terminal_snr {
        sampling = sampling.zero_terminal_snr();
    }
    Ok(if prediction == Prediction::Lcm { sampling.distilled(LCM_LEVELS) } else { sampling })
}
