//! Pictures at another size.

use super::latent_resize::{in_ratio, scaled};
use crate::forecast::Known;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::resize::{Method, PICTURE_METHODS, centre_crop, resize};

const CATEGORY: &str = "image/upscaling";
pub(super) const IMAGE: Input = Input::link("image", Type::Image).tooltip("The pictures.");
pub(super) const METHOD: Input = Input::choice("upscale_method", PICTURE_METHODS)
    .tooltip("How values between those of the picture are found.");
pub(super) const OUTPUT: &[Output] =
    &[Output::new(Type::Image).tooltip("The pictures at the new size.")];

/// Pictures at a size in pixels.
pub const IMAGE_SCALE: Node = Node {
    class: "ImageScale",
    title: "Upscale Image",
    category: CATEGORY,
    about: "Brings pictures to another size, with or without cutting them to its ratio first. A \
            side of 0 follows from the other one.",
    inputs: &[
        IMAGE,
        METHOD,
        Input::int("width", 512, 0, MAX_SIDE).tooltip("The width; 0 keeps the ratio."),
        Input::int("height", 512, 0, MAX_SIDE).tooltip("The height; 0 keeps the ratio."),
        Input::choice("crop", &["disabled", "center"])
            .tooltip("Whether the middle is cut out first, so that nothing is stretched."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        let resized = ahead.extent("image").and_then(|pictures| {
            let size = size(ahead.inputs(), pictures.size()).ok()?;
            Some(size.map_or(pictures, |size| pictures.sized(size)))
        });
        Ok(vec![Known::image(resized)])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [_, rows, columns, _] = pictures.shape();
        match size(inputs, [rows, columns])? {
            None => Ok(vec![Value::Image(pictures)]),
            Some(size) => resized(inputs, &pictures, size, inputs.text("crop")? == "center"),
        }
    },
    ..Node::EMPTY
};

/// Pictures times a factor.
pub const IMAGE_SCALE_BY: Node = Node {
    class: "ImageScaleBy",
    title: "Upscale Image By",
    category: CATEGORY,
    about: "Makes pictures larger or smaller by a factor.",
    inputs: &[
        IMAGE,
        METHOD,
        Input::float("scale_by", 1.0, 0.01, 8.0, 0.01).tooltip("The factor of both sides."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        let resized = ahead.extent("image").and_then(|pictures| {
            let factor = ahead.inputs().float("scale_by").ok()?;
            Some(pictures.sized(scaled(pictures.size(), factor).ok()?))
        });
        Ok(vec![Known::image(resized)])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [_, rows, columns, _] = pictures.shape();
        let size = scaled([rows, columns], inputs.float("scale_by")?)?;
        resized(inputs, &pictures, size, false)
    },
    ..Node::EMPTY
};

/// The size that the inputs ask for; `None` where it stays as it is.
fn size(inputs: &Inputs, [rows, columns]: [usize; 2]) -> Result<Option<[usize; 2]>, NodeError> {
    Ok(match (inputs.count("height")?, inputs.count("width")?) {
        (0, 0) => None,
        (0, width) => Some([in_ratio(rows, width, columns).max(1), width]),
        (height, 0) => Some([height, in_ratio(columns, height, rows).max(1)]),
        (height, width) => Some([height, width]),
    })
}

pub(super) fn resized(
    inputs: &Inputs,
    pictures: &Pictures,
    size: [usize; 2],
    crop: bool,
) -> Result<Vec<Value>, NodeError> {
    let name = inputs.text("upscale_method")?;
    let method = Method::by_name(name)
        .ok_or_else(|| NodeError::input("upscale_method", format!("`{name}` is no method")))?;
    let cropped = crop.then(|| centre_crop(pictures, size));
    let pictures = cropped.as_ref().unwrap_or(pictures);
    Ok(vec![Value::Image(resize(pictures, method, size).map_err(NodeError::failed)?)])
}
