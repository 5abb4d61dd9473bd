//! Pictures made, cut, joined and inverted.

use crate::forecast::{Extent, Known, same};
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::image::resize::{Method, centre_crop, resize};
use distorch_pipeline::image::{Pictures, room};

const IMAGE: Input = Input::link("image", Type::Image).tooltip("The pictures.");

/// Negatives.
pub const IMAGE_INVERT: Node = Node {
    class: "ImageInvert",
    title: "Invert Image Colors",
    category: "image/color",
    about: "Inverts the colours of pictures.",
    inputs: &[IMAGE],
    outputs: &[Output::new(Type::Image).tooltip("The inverted pictures.")],
    forecast: Some(|ahead| Ok(same(ahead, "image"))),
    run: |_, inputs| Ok(vec![Value::Image(inputs.image("image")?.map(|value| 1.0 - value))]),
    ..Node::EMPTY
};

/// Two batches in one.
pub const IMAGE_BATCH: Node = Node {
    class: "ImageBatch",
    title: "Batch Images (DEPRECATED)",
    category: "image/batch",
    about: "Joins two batches of pictures. The second gets the size of the first: its middle is \
            cut out and resized.",
    inputs: &[
        Input::link("image1", Type::Image).tooltip("The first pictures."),
        Input::link("image2", Type::Image).tooltip("The pictures after them."),
    ],
    outputs: &[Output::new(Type::Image).tooltip("All of the pictures.")],
    forecast: Some(|ahead| {
        let joined = ahead.extent("image1").and_then(|first| {
            let batch = first.batch.saturating_add(ahead.extent("image2")?.batch);
            Some(Extent { batch, ..first })
        });
        Ok(vec![Known::image(joined)])
    }),
    run: |_, inputs| {
        let joined = joined(&inputs.image("image1")?, &inputs.image("image2")?)?;
        Ok(vec![Value::Image(joined)])
    },
    is_deprecated: true,
    ..Node::EMPTY
};

/// A part of pictures.
pub const IMAGE_CROP: Node = Node {
    class: "ImageCrop",
    title: "Crop Image (DEPRECATED)",
    category: "image/transform",
    about: "Cuts a part out of pictures, as far as they reach.",
    inputs: &[
        IMAGE,
        Input::int("width", 512, 1, MAX_SIDE).tooltip("The width of the part in pixels."),
        Input::int("height", 512, 1, MAX_SIDE).tooltip("The height of the part in pixels."),
        Input::int("x", 0, 0, MAX_SIDE).tooltip("Pixels from the left."),
        Input::int("y", 0, 0, MAX_SIDE).tooltip("Pixels from the top."),
    ],
    outputs: &[Output::new(Type::Image).tooltip("The part.")],
    forecast: Some(|ahead| {
        // No larger than that, whatever is cut.
        let cut = ahead.extent("image").and_then(|pictures| {
            let side = |name: &str| ahead.inputs().count(name).ok();
            let (height, width) = (side("height")?, side("width")?);
            Some(pictures.sized([pictures.height.min(height), pictures.width.min(width)]))
        });
        Ok(vec![Known::image(cut)])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [_, rows, columns, _] = pictures.shape();
        let x = inputs.count("x")?.min(columns.saturating_sub(1));
        let y = inputs.count("y")?.min(rows.saturating_sub(1));
        let size = [inputs.count("height")?, inputs.count("width")?];
        Ok(vec![Value::Image(pictures.crop([y, x], size))])
    },
    is_deprecated: true,
    ..Node::EMPTY
};

/// Pictures of one colour.
pub const EMPTY_IMAGE: Node = Node {
    class: "EmptyImage",
    title: "Empty Image",
    category: "image",
    about: "Makes pictures of one colour.",
    inputs: &[
        Input::int("width", 512, 1, MAX_SIDE).tooltip("The width in pixels."),
        Input::int("height", 512, 1, MAX_SIDE).tooltip("The height in pixels."),
        Input::int("batch_size", 1, 1, 4096).tooltip("How many pictures."),
        Input::int("color", 0, 0, 0x00ff_ffff)
            .added_later()
            .tooltip("The colour: red times 65536, green times 256 and blue, each up to 255."),
    ],
    outputs: &[Output::new(Type::Image).tooltip("The pictures.")],
    forecast: Some(|ahead| {
        let count = |name: &str| ahead.inputs().count(name).ok();
        let made = count("batch_size")
            .and_then(|batch| Some(Extent::new(batch, [count("height")?, count("width")?])));
        Ok(vec![Known::image(made)])
    }),
    run: |_, inputs| {
        let [batch, height, width] =
            [inputs.count("batch_size")?, inputs.count("height")?, inputs.count("width")?];
        let shape = [batch, height, width, 3];
        room(shape).map_err(NodeError::failed)?;
        let colour = inputs.count("color")?;
        let part = |channel: usize| (colour >> (16 - 8 * channel) & 0xff) as f32 / 255.0;
        let pixel = [part(0), part(1), part(2)];
        let pictures = Pictures::from_fn(shape, |_, _, _, channel| pixel[channel]);
        Ok(vec![Value::Image(pictures)])
    },
    ..Node::EMPTY
};

pub(super) fn joined(first: &Pictures, second: &Pictures) -> Result<Pictures, NodeError> {
    let channels = first.shape()[3].max(second.shape()[3]);
    let (first, second) = (with_channels(first, channels), with_channels(second, channels));
    let [batch, height, width, _] = first.shape();
    let size = [height, width];
    let second = match second.shape()[1..3] == size {
        true => second,
        false => resize(&centre_crop(&second, size), Method::Bilinear, size)
            .map_err(|error| NodeError::input("image2", error))?,
    };
    let shape = [batch + second.shape()[0], height, width, channels];
    let count = room(shape).map_err(NodeError::failed)?;
    let mut values = Vec::with_capacity(count);
    values.extend_from_slice(first.values());
    values.extend_from_slice(second.values());
    Pictures::new(shape, values).ok_or_else(|| NodeError::failed("the pictures do not fit"))
}

/// The pictures with further channels of 1: alpha where they have none.
pub(super) fn with_channels(pictures: &Pictures, channels: usize) -> Pictures {
    let [batch, height, width, own] = pictures.shape();
    if own == channels {
        return pictures.clone();
    }
    Pictures::from_fn([batch, height, width, channels], |picture, y, x, channel| {
        if channel < own { pictures.at(picture, y, x, channel) } else { 1.0 }
    })
}
