//! Prompts with a layout, for models that read one.
//!
//! The tables that these models read are not built: prompts without elements pass as they are.

use super::text::{TEXT, foreseen, string};
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node};
use crate::value::{Type, Value};

const PROMPT: Input = Input::prompt("prompt").tooltip("The prompt.");
const ELEMENT: Input = Input::link("element", Type::Array)
    .tooltip("What is placed, as `Create Bounding Boxes` has it.");

/// A prompt for FLUX 3 Image.
pub const FLUX3: Node = Node {
    class: "Flux3LayoutPrompt",
    title: "FLUX 3 Image Layout Prompt",
    category: "model/conditioning/flux",
    about: "Adds boxes and what they hold to a prompt for FLUX 3 Image. A prompt without boxes passes as it is; the \
            table of boxes is not built.",
    inputs: &[PROMPT, ELEMENT],
    outputs: TEXT,
    forecast: foreseen!(passed),
    run: |_, inputs| Ok(vec![passed(inputs)?]),
    ..Node::EMPTY
};

/// A prompt for MOSS-Image.
pub const MOSS: Node = Node {
    class: "MOSSImageLayoutPrompt",
    title: "MOSS-Image Layout Prompt",
    category: "model/conditioning/moss",
    about: "Writes a prompt, boxes and what they hold as the layout that MOSS-Image reads. A prompt without boxes \
            passes as it is; the layout is not built.",
    inputs: &[
        PROMPT,
        ELEMENT,
        Input::int("width", 1024, 16, crate::signature::MAX_SIDE)
            .step(16)
            .tooltip("The width of the picture in pixels."),
        Input::int("height", 1024, 16, crate::signature::MAX_SIDE)
            .step(16)
            .tooltip("The height of the picture in pixels."),
        Input::string("character_boxes", "")
            .tooltip("The numbers of the boxes that hold somebody."),
    ],
    outputs: TEXT,
    forecast: foreseen!(passed),
    run: |_, inputs| Ok(vec![passed(inputs)?]),
    ..Node::EMPTY
};

fn passed(inputs: &Inputs) -> Result<Value, NodeError> {
    let elements = inputs.data("element")?.as_array().map_or(0, Vec::len);
    match elements {
        0 => Ok(string(inputs.text("prompt")?)),
        count => Err(NodeError::input(
            "element",
            format!(
                "the layout of {count} boxes is not built here: take the boxes out, and say in the prompt what is \
                 where"
            ),
        )),
    }
}
