//! Guidance away from what a model guesses without some of its blocks.

use distorch_models::network::SkipLayers;
use distorch_sampling::guidance::Correction;

use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "advanced/guidance";

const MODEL: Input = Input::link("model", Type::Model).tooltip("The model.");

const OUTPUT: &[Output] = &[Output::new(Type::Model).tooltip("The changed model.")];

const SCALE: Input = Input::float("scale", 3.0, 0.0, 10.0, 0.1)
    .tooltip("How far to go away from the guess without these blocks; 0 changes nothing.");

const START: Input = Input::float("start_percent", 0.01, 0.0, 1.0, 0.001)
    .advanced()
    .tooltip("Where it begins: a part of the way from noise (0) to picture (1).");

const END: Input =
    Input::float("end_percent", 0.15, 0.0, 1.0, 0.001).advanced().tooltip("Where it ends.");

/// Skip-layer guidance for SD3.5.
pub const SKIP_LAYER_GUIDANCE_SD3: Node = Node {
    class: "SkipLayerGuidanceSD3",
    title: "SkipLayerGuidanceSD3",
    category: CATEGORY,
    about: "Steps away from what a model of SD3's kind guesses without some of its joint blocks, for \
            sounder shapes in SD3.5 medium.",
    inputs: &[
        MODEL,
        Input::string("layers", "7, 8, 9")
            .advanced()
            .tooltip("The joint blocks that are left out, by their numbers from 0 on."),
        SCALE,
        START,
        END,
    ],
    outputs: OUTPUT,
    is_experimental: true,
    run: |_, inputs| guided(inputs, numbers(inputs.text("layers")?), Vec::new(), 0.0),
    ..Node::EMPTY
};

/// Skip-layer guidance for any diffusion transformer.
pub const SKIP_LAYER_GUIDANCE_DIT: Node = Node {
    class: "SkipLayerGuidanceDiT",
    title: "SkipLayerGuidanceDiT",
    category: CATEGORY,
    about: "Steps away from what a diffusion transformer guesses without some of its blocks.",
    inputs: &[
        MODEL,
        Input::string("double_layers", "7, 8, 9").advanced().tooltip(
            "The blocks with a stream each for picture and text that are left out, by their numbers \
             from 0 on.",
        ),
        Input::string("single_layers", "7, 8, 9")
            .advanced()
            .tooltip("The blocks with one stream that are left out."),
        SCALE,
        START,
        END,
        Input::float("rescaling_scale", 0.0, 0.0, 10.0, 0.01)
            .tooltip("How much of the contrast is brought back to that of the positive guess."),
    ],
    outputs: OUTPUT,
    is_experimental: true,
    run: |_, inputs| {
        let double = numbers(inputs.text("double_layers")?);
        let single = numbers(inputs.text("single_layers")?);
        guided(inputs, double, single, inputs.float("rescaling_scale")?)
    },
    ..Node::EMPTY
};

/// The negative guess without some blocks.
pub const SKIP_LAYER_GUIDANCE_DIT_SIMPLE: Node = Node {
    class: "SkipLayerGuidanceDiTSimple",
    title: "SkipLayerGuidanceDiTSimple",
    category: CATEGORY,
    about: "Makes the negative guess of a diffusion transformer without some of its blocks, which costs nothing.",
    inputs: &[
        MODEL,
        Input::string("double_layers", "7, 8, 9")
            .advanced()
            .tooltip("The blocks with a stream each for picture and text that are left out."),
        Input::string("single_layers", "7, 8, 9")
            .advanced()
            .tooltip("The blocks with one stream that are left out."),
        Input::float("start_percent", 0.0, 0.0, 1.0, 0.001).advanced().tooltip("Where it begins."),
        Input::float("end_percent", 1.0, 0.0, 1.0, 0.001).advanced().tooltip("Where it ends."),
    ],
    outputs: OUTPUT,
    is_experimental: true,
    run: |_, inputs| {
        let double = numbers(inputs.text("double_layers")?);
        let single = numbers(inputs.text("single_layers")?);
        let model = inputs.model("model")?;
        if double.is_empty() && single.is_empty() {
            return Ok(vec![Value::Model(model)]);
        }
        let sampling = model.sampling();
        let sigma = |name: &str| Ok::<_, NodeError>(sampling.percent_to_sigma(inputs.float(name)?));
        let sigmas = sigma("end_percent")?..=sigma("start_percent")?;
        let layers = SkipLayers { double, single };
        let model = model.with_options(|options| options.negative_without = Some((layers, sigmas)));
        Ok(vec![Value::Model(model)])
    },
    ..Node::EMPTY
};

/// The whole numbers in a text, whatever is between them. One too large to count blocks is none.
fn numbers(text: &str) -> Vec<usize> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The model with one correction more, from the sigma of `start_percent` down to before that of `end_percent`, both as
/// the model has them here.
fn guided(
    inputs: &Inputs,
    double: Vec<usize>,
    single: Vec<usize>,
    rescale: f64,
) -> Result<Vec<Value>, NodeError> {
    let model = inputs.model("model")?;
    if double.is_empty() && single.is_empty() {
        return Ok(vec![Value::Model(model)]);
    }
    let sampling = model.sampling();
    let sigma = |name: &str| Ok::<_, NodeError>(sampling.percent_to_sigma(inputs.float(name)?));
    let correction = Correction::Perturbed {
        perturbation: SkipLayers { double, single },
        scale: inputs.float("scale")?,
        rescale,
        sigmas: sigma("end_percent")?.next_up()..=sigma("start_percent")?,
    };
    let model = model.with_options(|options| options.corrections.push(correction));
    Ok(vec![Value::Model(model)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_numbers_in_a_text() {
        assert_eq!(numbers("7, 8, 9"), [7, 8, 9]);
        assert_eq!(numbers("blocks 0-2;31"), [0, 2, 31]);
        assert_eq!(numbers(" none "), [0; 0]);
        assert_eq!(numbers("-3 99999999999999999999999"), [3]);
    }
}
