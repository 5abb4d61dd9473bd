//! Pictures repeated, and fitted into a size with a border.

use distorch_pipeline::image::resize::{Method, resize};
use distorch_pipeline::image::{Pictures, room};

use crate::forecast::{Extent, Known};
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

const IMAGE: Input = Input::link("image", Type::Image).tooltip("The pictures.");
const PICTURES: &[Output] = &[Output::new(Type::Image).tooltip("The pictures.")];

/// A batch several times.
pub const REPEAT: Node = Node {
    class: "RepeatImageBatch",
    title: "Repeat Image Batch",
    category: "image/batch",
    about: "Repeats a batch of pictures.",
    inputs: &[IMAGE, Input::int("amount", 1, 1, 4096).tooltip("How many times.")],
    outputs: PICTURES,
    forecast: Some(|ahead| {
        let repeated = ahead.extent("image").and_then(|pictures| {
            let batch = pictures.batch.checked_mul(ahead.inputs().count("amount").ok()?)?;
            Some(Extent { batch, ..pictures })
        });
        Ok(vec![Known::image(repeated)])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [batch, height, width, channels] = pictures.shape();
        let shape = [batch.saturating_mul(inputs.count("amount")?), height, width, channels];
        room(shape).map_err(NodeError::failed)?;
        Ok(vec![Value::Image(Pictures::from_fn(shape, |picture, y, x, channel| {
            pictures.at(picture % batch.max(1), y, x, channel)
        }))])
    },
    ..Node::EMPTY
};

/// Pictures inside a size, the rest of one colour.
pub const RESIZE_AND_PAD: Node = Node {
    class: "ResizeAndPadImage",
    title: "Resize And Pad Image",
    category: "image/transform",
    about: "Brings pictures inside a size in their ratio and fills the rest around them with a colour.",
    inputs: &[
        IMAGE,
        Input::int("target_width", 512, 1, MAX_SIDE).tooltip("The width in pixels."),
        Input::int("target_height", 512, 1, MAX_SIDE).tooltip("The height in pixels."),
        Input::choice("padding_color", &["white", "black"]).advanced().tooltip("The colour."),
        Input::choice(
            "interpolation",
            &["area", "bicubic", "nearest-exact", "bilinear", "lanczos"],
        )
        .advanced()
        .tooltip("How values between those of the picture are found."),
    ],
    outputs: PICTURES,
    forecast: Some(|ahead| {
        let padded = ahead.extent("image").and_then(|pictures| {
            let side = |name: &str| ahead.inputs().count(name).ok();
            Some(pictures.sized([side("target_height")?, side("target_width")?]))
        });
        Ok(vec![Known::image(padded)])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [batch, rows, columns, channels] = pictures.shape();
        if rows == 0 || columns == 0 {
            return Err(NodeError::input("image", "it has no pixels"));
        }
        let (height, width) = (inputs.count("target_height")?, inputs.count("target_width")?);
        let scale = (width as f64 / columns as f64).min(height as f64 / rows as f64);
        let size = [rows, columns].map(|side| ((side as f64 * scale) as usize).max(1));
        let name = inputs.text("interpolation")?;
        let method = Method::by_name(name)
            .ok_or_else(|| NodeError::input("interpolation", format!("`{name}` is no method")))?;
        let resized = resize(&pictures, method, size).map_err(NodeError::failed)?;
        let shape = [batch, height, width, channels];
        room(shape).map_err(NodeError::failed)?;
        let border = if inputs.text("padding_color")? == "white" { 1.0 } else { 0.0 };
        let [inner_rows, inner_columns] = size;
        let top = height.saturating_sub(inner_rows) / 2;
        let left = width.saturating_sub(inner_columns) / 2;
        Ok(vec![Value::Image(Pictures::from_fn(shape, |picture, y, x, channel| {
            match (y.checked_sub(top), x.checked_sub(left)) {
                (Some(y), Some(x)) if y < inner_rows && x < inner_columns => {
                    resized.at(picture, y, x, channel)
                }
                _ => border,
            }
        }))])
    },
    ..Node::EMPTY
};
