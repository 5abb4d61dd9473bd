//! Latents turned, mirrored and cut.

use distorch_runtime::Tensor;

use crate::forecast::{Known, same};
use crate::inputs::NodeError;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "model/latent/transform";
const SAMPLES: Input = Input::link("samples", Type::Latent).tooltip("The latents.");
const OUTPUT: &[Output] = &[Output::new(Type::Latent).tooltip("The changed latents.")];

/// The least side, in latent pixels, that the place of a cut leaves.
const LEAST_SIDE: usize = 8;

/// Latents mirrored.
pub const LATENT_FLIP: Node = Node {
    class: "LatentFlip",
    title: "Flip Latent",
    category: CATEGORY,
    about: "Mirrors latents.",
    inputs: &[
        SAMPLES,
        Input::choice("flip_method", &["x-axis: vertically", "y-axis: horizontally"])
            .tooltip("Top to bottom, or left to right."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(same(ahead, "samples"))),
    run: |_, inputs| {
        let latent = inputs.latent("samples")?;
        let dim = if inputs.text("flip_method")?.starts_with('x') { 2 } else { 3 };
        let samples = latent.samples.clone().flip([dim]);
        Ok(vec![Value::Latent(latent.with_samples(samples))])
    },
    ..Node::EMPTY
};

/// Latents turned.
pub const LATENT_ROTATE: Node = Node {
    class: "LatentRotate",
    title: "Rotate Latent",
    category: CATEGORY,
    about: "Turns latents clockwise.",
    inputs: &[
        SAMPLES,
        Input::choice("rotation", &["none", "90 degrees", "180 degrees", "270 degrees"])
            .tooltip("How far, clockwise."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        let turned = ahead.extent("samples").and_then(|latent| {
            let [height, width] = latent.size();
            Some(match ahead.inputs().text("rotation").ok()? {
                "90 degrees" | "270 degrees" => latent.sized([width, height]),
                _ => latent,
            })
        });
        Ok(vec![Known::latent(turned)])
    }),
    run: |_, inputs| {
        let latent = inputs.latent("samples")?;
        let samples = turned(latent.samples.clone(), inputs.text("rotation")?);
        Ok(vec![Value::Latent(latent.with_samples(samples))])
    },
    ..Node::EMPTY
};

/// A part of latents.
pub const LATENT_CROP: Node = Node {
    class: "LatentCrop",
    title: "Crop Latent",
    category: CATEGORY,
    about: "Cuts a part out of latents.",
    inputs: &[
        SAMPLES,
        Input::side("width", 512, 64).tooltip("The width of the part in pixels."),
        Input::side("height", 512, 64).tooltip("The height of the part in pixels."),
        Input::int("x", 0, 0, MAX_SIDE).step(8).tooltip("Pixels from the left."),
        Input::int("y", 0, 0, MAX_SIDE).step(8).tooltip("Pixels from the top."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        // No larger than that, whatever is cut.
        let cut = ahead.extent("samples").and_then(|latent| {
            let side = |name: &str| ahead.inputs().count(name).ok().map(|side| side / 8);
            let (height, width) = (side("height")?, side("width")?);
            Some(latent.sized([latent.height.min(height), latent.width.min(width)]))
        });
        Ok(vec![Known::latent(cut)])
    }),
    run: |_, inputs| {
        let latent = inputs.latent("samples")?;
        let [_, _, rows, columns] = latent.samples.dims();
        let span = |start: &str, length: &str, whole: usize| {
            let start = (inputs.count(start)? / 8).min(whole.saturating_sub(LEAST_SIDE));
            Ok::<_, NodeError>((start, (inputs.count(length)? / 8).min(whole - start)))
        };
        let (x, width) = span("x", "width", columns)?;
        let (y, height) = span("y", "height", rows)?;
        let samples = latent.samples.clone().narrow(2, y, height).narrow(3, x, width);
        Ok(vec![Value::Latent(latent.with_samples(samples))])
    },
    ..Node::EMPTY
};

fn turned(samples: Tensor<4>, rotation: &str) -> Tensor<4> {
    match rotation {
        "90 degrees" => samples.flip([2]).swap_dims(2, 3),
        "180 degrees" => samples.flip([2, 3]),
        "270 degrees" => samples.flip([3]).swap_dims(2, 3),
        _ => samples,
    }
}
