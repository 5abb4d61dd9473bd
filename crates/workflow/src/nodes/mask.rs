//! Masks made, inverted, and to and from pictures.

use crate::forecast::{Extent, Known, same};
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::image::{Mask, Pictures, room};

const CATEGORY: &str = "image/mask";
const MASK: Input = Input::link("mask", Type::Mask).tooltip("The mask.");

/// A mask of one value.
pub const SOLID_MASK: Node = Node {
    class: "SolidMask",
    title: "Create Solid Mask",
    category: CATEGORY,
    about: "Makes a mask of one value.",
    inputs: &[
        Input::float("value", 1.0, 0.0, 1.0, 0.01).tooltip("The value."),
        Input::int("width", 512, 1, MAX_SIDE).tooltip("The width in pixels."),
        Input::int("height", 512, 1, MAX_SIDE).tooltip("The height in pixels."),
    ],
    outputs: &[Output::new(Type::Mask).tooltip("The mask.")],
    forecast: Some(|ahead| {
        let count = |name: &str| ahead.inputs().count(name).ok();
        let made =
            count("height").and_then(|height| Some(Extent::new(1, [height, count("width")?])));
        Ok(vec![Known::mask(made)])
    }),
    run: |_, inputs| {
        let (height, width) = (inputs.count("height")?, inputs.count("width")?);
        let value = inputs.float("value")? as f32;
        Ok(vec![Value::Mask(Mask::from_fn([1, height, width], |_, _, _| value))])
    },
    ..Node::EMPTY
};

/// The other part.
pub const INVERT_MASK: Node = Node {
    class: "InvertMask",
    title: "Invert Mask",
    category: CATEGORY,
    about: "Inverts a mask.",
    inputs: &[MASK],
    outputs: &[Output::new(Type::Mask).tooltip("The inverted mask.")],
    forecast: Some(|ahead| Ok(same(ahead, "mask"))),
    run: |_, inputs| Ok(vec![Value::Mask(inputs.mask("mask")?.map(|value| 1.0 - value))]),
    ..Node::EMPTY
};

/// A mask to be looked at.
pub const MASK_TO_IMAGE: Node = Node {
    class: "MaskToImage",
    title: "Convert Mask to Image",
    category: CATEGORY,
    about: "Makes grey pictures of masks.",
    inputs: &[MASK],
    outputs: &[Output::new(Type::Image).tooltip("The grey pictures.")],
    forecast: Some(|ahead| Ok(vec![Known::image(ahead.extent("mask"))])),
    run: |_, inputs| {
        let mask = inputs.mask("mask")?;
        let [batch, height, width] = mask.shape();
        let shape = [batch, height, width, 3];
        room(shape).map_err(NodeError::failed)?;
        let pictures = Pictures::from_fn(shape, |picture, y, x, _| mask.at(picture, y, x));
        Ok(vec![Value::Image(pictures)])
    },
    ..Node::EMPTY
};

/// A channel as a mask.
pub const IMAGE_TO_MASK: Node = Node {
    class: "ImageToMask",
    title: "Convert Image to Mask",
    category: CATEGORY,
    about: "Makes masks of one channel of pictures.",
    inputs: &[
        Input::link("image", Type::Image).tooltip("The pictures."),
        Input::choice("channel", &["red", "green", "blue", "alpha"]).tooltip("The channel."),
    ],
    outputs: &[Output::new(Type::Mask).tooltip("The channel's values.")],
    forecast: Some(|ahead| Ok(vec![Known::mask(ahead.extent("image"))])),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let name = inputs.text("channel")?;
        let channel = ["red", "green", "blue", "alpha"].iter().position(|one| *one == name);
        let has = pictures.shape()[3];
        match channel.filter(|channel| *channel < has) {
            Some(channel) => Ok(vec![Value::Mask(pictures.channel(channel))]),
            None => {
                let problem = format!("the pictures have {has} channels, and none of `{name}`");
                Err(NodeError::input("channel", problem))
            }
        }
    },
    ..Node::EMPTY
};
