//! Pictures from files.

use super::file_state::{input_is_there, input_state};
use crate::context::Context;
use crate::environment::Environment;
use crate::files::input_file;
use crate::forecast::{Ahead, Extent, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::image::decode::{ENDINGS, Loaded, load};
use distorch_pipeline::image::size;

const IMAGE: Input = Input::uploaded("image", pictures).tooltip(
    "A file of the input folder, or of a folder below it. At the end of its name, [output] or \
     [temp] are for the other folders.",
);

/// A picture and its mask.
pub const LOAD_IMAGE: Node = Node {
    class: "LoadImage",
    title: "Load Image",
    category: "image",
    about: "Loads a picture, and as a mask where it is transparent. The frames of an animation \
            become a batch.",
    inputs: &[IMAGE],
    outputs: &[
        Output::new(Type::Image).tooltip("The picture."),
        Output::new(Type::Mask).tooltip(
            "1 where the picture is transparent; 64 by 64 zeros if it has no alpha. One a frame.",
        ),
    ],
    fingerprint: Some(fingerprint),
    check: Some(check),
    forecast: Some(|ahead| Ok(vec![Known::image(extent(ahead))])),
    run: |context, inputs| {
        let loaded = read(context, inputs)?;
        let mask = loaded.mask();
        Ok(vec![Value::Image(loaded.colours), Value::Mask(mask)])
    },
    ..Node::EMPTY
};

/// A channel of a picture.
pub const LOAD_IMAGE_MASK: Node = Node {
    class: "LoadImageMask",
    title: "Load Image (as Mask)",
    category: "image",
    about: "Loads one channel of a picture as a mask. Alpha is turned round: transparent is 1.",
    inputs: &[
        IMAGE,
        Input::choice("channel", &["alpha", "red", "green", "blue"]).tooltip("The channel."),
    ],
    outputs: &[Output::new(Type::Mask).tooltip("The channel's values.")],
    fingerprint: Some(fingerprint),
    check: Some(check),
    forecast: Some(|ahead| Ok(vec![Known::mask(extent(ahead))])),
    run: |context, inputs| {
        let loaded = read(context, inputs)?;
        let mask = match inputs.text("channel")? {
            "red" => loaded.colours.channel(0),
            "green" => loaded.colours.channel(1),
            "blue" => loaded.colours.channel(2),
            _ => loaded.mask(),
        };
        Ok(vec![Value::Mask(mask)])
    },
    ..Node::EMPTY
};

fn pictures(environment: &Environment) -> Vec<String> {
    input_file::list(environment, ENDINGS)
}

fn fingerprint(environment: &Environment, inputs: &Inputs) -> String {
    input_state(environment, inputs, "image")
}

fn check(environment: &Environment, inputs: &Inputs) -> Result<(), String> {
    input_is_there(environment, inputs, "image")
}

fn read(context: &Context<'_>, inputs: &Inputs) -> Result<Loaded, NodeError> {
    let wrong = |problem: String| NodeError::input("image", problem);
    let path = input_file::find(context.environment(), inputs.text("image")?)
        .map_err(|error| wrong(error.to_string()))?;
    load(&path).map_err(|error| wrong(error.to_string()))
}

/// The size of the picture that an input names, without decoding it.
fn extent(ahead: &Ahead<'_>) -> Option<Extent> {
    let path = input_file::find(ahead.environment(), ahead.inputs().text("image").ok()?).ok()?;
    size::of_still(&path).map(|size| Extent::new(1, size))
}
