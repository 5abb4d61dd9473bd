//! Latents at another size.

use crate::forecast::Known;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;
use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::resize::{LATENT_METHODS, Method, centre_crop, resize};

const SAMPLES: Input = Input::link("samples", Type::Latent).tooltip("The latents.");
const METHOD: Input = Input::choice("upscale_method", LATENT_METHODS)
    .tooltip("How values between those of the latent are found.");
const OUTPUT: &[Output] = &[Output::new(Type::Latent).tooltip("The latents at the new size.")];

/// The least side, in pixels, that a latent is resized to.
const LEAST_SIDE: usize = 64;

/// Latents at a size in pixels.
pub const LATENT_UPSCALE: Node = Node {
    class: "LatentUpscale",
    title: "Upscale Latent",
    category: "model/latent",
    about: "Brings latents to another size, with or without cutting them to its ratio first. A \
            side of 0 follows from the other one.",
    inputs: &[
        SAMPLES,
        METHOD,
        Input::side("width", 512, 0)
            .tooltip("The width of the pictures in pixels; 0 keeps the ratio."),
        Input::side("height", 512, 0)
            .tooltip("The height of the pictures in pixels; 0 keeps the ratio."),
        Input::choice("crop", &["disabled", "center"])
            .tooltip("Whether the middle is cut out first, so that nothing is stretched."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        let resized = ahead.extent("samples").and_then(|latent| {
            let size = size(ahead.inputs(), latent.size()).ok()?;
            Some(size.map_or(latent, |size| latent.sized(size)))
        });
        Ok(vec![Known::latent(resized)])
    }),
    run: |_, inputs| {
        let latent = inputs.latent("samples")?;
        let [_, _, rows, columns] = latent.samples.dims();
        match size(inputs, [rows, columns])? {
            None => Ok(vec![Value::Latent(latent)]),
            Some(size) => resized(inputs, &latent, size, inputs.text("crop")? == "center"),
        }
    },
    ..Node::EMPTY
};

/// Latents times a factor.
pub const LATENT_UPSCALE_BY: Node = Node {
    class: "LatentUpscaleBy",
    title: "Upscale Latent By",
    category: "model/latent",
    about: "Makes latents larger or smaller by a factor.",
    inputs: &[
        SAMPLES,
        METHOD,
        Input::float("scale_by", 1.5, 0.01, 8.0, 0.01).tooltip("The factor of both sides."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        let resized = ahead.extent("samples").and_then(|latent| {
            let factor = ahead.inputs().float("scale_by").ok()?;
            Some(latent.sized(scaled(latent.size(), factor).ok()?))
        });
        Ok(vec![Known::latent(resized)])
    }),
    run: |_, inputs| {
        let latent = inputs.latent("samples")?;
        let [_, _, rows, columns] = latent.samples.dims();
        let size = scaled([rows, columns], inputs.float("scale_by")?)?;
        resized(inputs, &latent, size, false)
    },
    ..Node::EMPTY
};

/// The size in latent pixels that the inputs ask for; `None` where it stays as it is.
fn size(inputs: &Inputs, [rows, columns]: [usize; 2]) -> Result<Option<[usize; 2]>, NodeError> {
    let least = |side: usize| side.max(LEAST_SIDE);
    let size = match (inputs.count("height")?, inputs.count("width")?) {
        (0, 0) => return Ok(None),
        (0, width) => [least(in_ratio(rows, least(width), columns)), least(width)],
        (height, 0) => [least(height), least(in_ratio(columns, least(height), rows))],
        (height, width) => [least(height), least(width)],
    };
    Ok(Some(size.map(|side| side / 8)))
}

/// `side · other ÷ whole`: the side that keeps the ratio.
pub(super) fn in_ratio(side: usize, other: usize, whole: usize) -> usize {
    (side as f64 * other as f64 / whole as f64).round_ties_even() as usize
}

/// Both sides times a factor.
pub(super) fn scaled(size: [usize; 2], factor: f64) -> Result<[usize; 2], NodeError> {
    let [height, width] = size.map(|side| (side as f64 * factor).round_ties_even() as usize);
    match height.min(width) {
        0 => Err(NodeError::input(
            "scale_by",
            format!("{factor} leaves nothing of {}×{}: take a larger factor", size[1], size[0]),
        )),
        _ => Ok([height, width]),
    }
}

/// The latents at a size in their own pixels, by the method that the inputs name.
fn resized(
    inputs: &Inputs,
    latent: &Latent,
    size: [usize; 2],
    crop: bool,
) -> Result<Vec<Value>, NodeError> {
    let name = inputs.text("upscale_method")?;
    let method = Method::by_name(name)
        .ok_or_else(|| NodeError::input("upscale_method", format!("`{name}` is no method")))?;
    let mut values =
        Pictures::from_channels_first(latent.samples.clone()).map_err(NodeError::failed)?;
    if crop {
        values = centre_crop(&values, size);
    }
    let values = resize(&values, method, size).map_err(NodeError::failed)?;
    Ok(vec![Value::Latent(latent.with_samples(values.channels_first()))])
}
