//! Prompts.

use crate::diffusion::conditioning::Conditioning;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// A prompt as conditioning.
pub const CLIP_TEXT_ENCODE: Node = Node {
    class: "CLIPTextEncode",
    title: "CLIP Text Encode (Prompt)",
    category: "conditioning",
    about: "Encodes a prompt with text encoders, as what a diffusion model is to follow.",
    inputs: &[
        Input::prompt("text").tooltip("The text to be encoded."),
        Input::link("clip", Type::Clip).tooltip("The text encoders."),
    ],
    outputs: &[Output::new(Type::Conditioning).tooltip("The encoded text, which guides the model.")],
    run: |context, inputs| {
        let cond = inputs.clip("clip")?.encode(context, inputs.text("text")?)?;
        Ok(vec![Value::Conditioning(Conditioning::new(vec![cond]))])
    },
    ..Node::EMPTY
};
