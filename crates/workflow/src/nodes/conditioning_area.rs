//! Conditionings that count for a part of the picture.

use super::conditioning::{CONDITIONING, OUTPUT, output};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, MAX_SIDE, Node};
use crate::value::{Type, Value};
use distorch_pipeline::diffusion::conditioning::{Area, Cond, CondMask, Place};

/// Pixels of the picture to one of the latent.
const LATENT_PIXEL: usize = 8;

const STRENGTH: Input =
    Input::float("strength", 1.0, 0.0, 10.0, 0.01).tooltip("How much it counts beside others.");

const fn part(name: &'static str, default: f64) -> Input {
    Input::float(name, default, 0.0, 1.0, 0.01)
}

/// A rectangle in pixels.
pub const SET_AREA: Node = Node {
    class: "ConditioningSetArea",
    title: "Conditioning (Set Area)",
    category: "model/conditioning/transform",
    about: "Lets a conditioning count for a rectangle of the picture only.",
    inputs: &[
        CONDITIONING,
        Input::side("width", 64, 64).tooltip("The rectangle's width in pixels."),
        Input::side("height", 64, 64).tooltip("The rectangle's height in pixels."),
        Input::int("x", 0, 0, MAX_SIDE).step(8).tooltip("Pixels to its left."),
        Input::int("y", 0, 0, MAX_SIDE).step(8).tooltip("Pixels above it."),
        STRENGTH,
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let pixels = |name: &str| inputs.count(name).map(|pixels| pixels / LATENT_PIXEL);
        let (height, width) = (pixels("height")?, pixels("width")?);
        let (y, x) = (pixels("y")?, pixels("x")?);
        set_area(inputs, Place::Pixels(Area { height, width, y, x }))
    },
    ..Node::EMPTY
};

/// A rectangle in parts of the picture.
pub const SET_AREA_PERCENTAGE: Node = Node {
    class: "ConditioningSetAreaPercentage",
    title: "Conditioning (Set Area with Percentage)",
    category: "model/conditioning/transform",
    about: "Lets a conditioning count for a rectangle only, given in parts of the picture.",
    inputs: &[
        CONDITIONING,
        part("width", 1.0).tooltip("The rectangle's part of the picture's width."),
        part("height", 1.0).tooltip("The rectangle's part of the picture's height."),
        part("x", 0.0).tooltip("The part of the width to its left."),
        part("y", 0.0).tooltip("The part of the height above it."),
        STRENGTH,
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let (height, width) = (inputs.float("height")?, inputs.float("width")?);
        let (y, x) = (inputs.float("y")?, inputs.float("x")?);
        set_area(inputs, Place::Parts { height, width, y, x })
    },
    ..Node::EMPTY
};

/// How much a conditioning counts.
pub const SET_AREA_STRENGTH: Node = Node {
    class: "ConditioningSetAreaStrength",
    title: "Conditioning (Set Area Strength)",
    category: "model/conditioning/transform",
    about: "Sets how much a conditioning counts beside others.",
    inputs: &[CONDITIONING, STRENGTH],
    outputs: OUTPUT,
    run: |_, inputs| {
        let strength = inputs.float("strength")?;
        let conditioning = inputs.conditioning("conditioning")?;
        Ok(output(conditioning.map(|cond| Cond { strength, ..cond.clone() })))
    },
    ..Node::EMPTY
};

const MASK_BOUNDS: &str = "mask bounds";

/// A mask.
pub const SET_MASK: Node = Node {
    class: "ConditioningSetMask",
    title: "Conditioning (Set Mask)",
    category: "model/conditioning/transform",
    about: "Lets a conditioning count where a mask says.",
    inputs: &[
        CONDITIONING,
        Input::link("mask", Type::Mask).tooltip("Where it counts: 1 for wholly, 0 for not at all."),
        Input::float("strength", 1.0, 0.0, 10.0, 0.01).tooltip("What the mask is multiplied with."),
        Input::choice("set_cond_area", &["default", MASK_BOUNDS]).tooltip(
            "Whether the model is asked for the whole picture, or for the rectangle around the \
             mask only.",
        ),
    ],
    outputs: OUTPUT,
    run: |_, inputs| {
        let mask = CondMask {
            mask: inputs.mask("mask")?,
            strength: inputs.float("strength")?,
            to_bounds: inputs.text("set_cond_area")? == MASK_BOUNDS,
        };
        let masked = |cond: &Cond| Cond { mask: Some(mask.clone()), ..cond.clone() };
        Ok(output(inputs.conditioning("conditioning")?.map(masked)))
    },
    ..Node::EMPTY
};

fn set_area(inputs: &Inputs, area: Place) -> Result<Vec<Value>, NodeError> {
    let strength = inputs.float("strength")?;
    let placed = |cond: &Cond| Cond { area: Some(area), strength, ..cond.clone() };
    Ok(output(inputs.conditioning("conditioning")?.map(placed)))
}
