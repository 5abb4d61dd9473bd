//! Lumina-Image 2.0: prompts with what the model is told before them, and its guidance.

use distorch_models::text::{Prompt, TextOptions};
use distorch_sampling::guidance::Formula;

use super::text_encode::{CLIP, output};
use crate::inputs::NodeError;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// What the model was trained to be told before a prompt, by ComfyUI's names
/// (<https://github.com/Alpha-VLLM/Lumina-Image-2.0>).
const SYSTEM_PROMPTS: [(&str, &str); 2] = [
    (
        "superior",
        "You are an assistant designed to generate superior images with the superior degree of image-text alignment based \
         on textual prompts or user prompts.",
    ),
    (
        "alignment",
        "You are an assistant designed to generate high-quality images with the highest degree of image-text alignment \
         based on textual prompts.",
    ),
];

/// What stands between that and the prompt.
const PROMPT_START: &str = "<Prompt Start>";

/// A prompt with what the model is told before it.
pub const CLIP_TEXT_ENCODE_LUMINA2: Node = Node {
    class: "CLIPTextEncodeLumina2",
    title: "CLIP Text Encode (Lumina 2)",
    category: "model/conditioning/lumina",
    about: "Encodes a prompt behind one of the instructions that Lumina 2 was trained with, as what a diffusion model is to \
            follow.",
    inputs: &[
        Input::choice("system_prompt", &["superior", "alignment"]).tooltip(
            "The instruction: for superior pictures, or for pictures that keep to the prompt most closely.",
        ),
        Input::prompt("user_prompt").tooltip("The text to be encoded."),
        CLIP,
    ],
    outputs: &[Output::new(Type::Conditioning)
        .tooltip("The encoded text, which guides the model.")],
    forecast: Some(|ahead| {
        ahead.encodes_text("clip");
        Ok(Vec::new())
    }),
    run: |context, inputs| {
        let name = inputs.text("system_prompt")?;
        let system = SYSTEM_PROMPTS.iter().find(|(known, _)| *known == name);
        let (_, system) = system.ok_or_else(|| {
            let known: Vec<_> = SYSTEM_PROMPTS.iter().map(|(known, _)| *known).collect();
            let problem = format!("no instruction is named `{name}`; there are: {}", known.join(", "));
            NodeError::input("system_prompt", problem)
        })?;
        let text = format!("{system} {PROMPT_START} {}", inputs.text("user_prompt")?);
        let clip = inputs.clip("clip")?;
        let prompt = Prompt::Same(text.into());
        Ok(output(clip.encode(context.run(), &prompt, &TextOptions::default())?))
    },
    ..Node::EMPTY
};

/// Guidance that makes pictures no longer, and ends before the picture is done.
pub const RENORM_CFG: Node = Node {
    class: "RenormCFG",
    title: "RenormCFG",
    category: "model/patch",
    about: "Keeps the guided guess as short as the positive one, picture by picture, and leaves the negative one out at high \
            noise.",
    inputs: &[
        Input::link("model", Type::Model).tooltip("The model."),
        Input::float("cfg_trunc", 100.0, 0.0, 100.0, 0.01)
            .advanced()
            .tooltip("The noise level from which on the positive guess counts alone."),
        Input::float("renorm_cfg", 1.0, 0.0, 100.0, 0.01).advanced().tooltip(
            "How many times the length of the positive guess the guided one has at most; 0 for any length.",
        ),
    ],
    outputs: &[Output::new(Type::Model).tooltip("The changed model.")],
    run: |_, inputs| {
        let (until, longest) = (inputs.float("cfg_trunc")?, inputs.float("renorm_cfg")?);
        let formula = Formula::Renormed { until, longest };
        let model = inputs.model("model")?;
        Ok(vec![Value::Model(model.with_options(|options| options.formula = formula))])
    },
    ..Node::EMPTY
};
