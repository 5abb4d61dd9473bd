//! Masks put together, grown, shrunk, feathered and made hard.

use distorch_pipeline::image::Mask;

use crate::forecast::same;
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "image/mask";
const MASK: Input = Input::link("mask", Type::Mask).tooltip("The mask.");
const OUTPUT: &[Output] = &[Output::new(Type::Mask).tooltip("The changed mask.")];

/// A mask on another.
pub const COMPOSITE: Node = Node {
    class: "MaskComposite",
    title: "Combine Masks",
    category: CATEGORY,
    about: "Computes a mask of two, at a place.",
    inputs: &[
        Input::link("destination", Type::Mask).tooltip("The mask below."),
        Input::link("source", Type::Mask).tooltip("The mask that is put on it."),
        Input::int("x", 0, 0, MAX_SIDE).tooltip("Pixels from the left."),
        Input::int("y", 0, 0, MAX_SIDE).tooltip("Pixels from the top."),
        Input::choice("operation", &["multiply", "add", "subtract", "and", "or", "xor"])
            .tooltip("What is computed."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(same(ahead, "destination"))),
    run: |_, inputs| {
        let (below, above) = (inputs.mask("destination")?, inputs.mask("source")?);
        let (left, top) = (inputs.count("x")?, inputs.count("y")?);
        let [count, height, width] = above.shape();
        let operation = inputs.text("operation")?;
        let both = |a: f32, b: f32| (a.round_ties_even() != 0.0, b.round_ties_even() != 0.0);
        let made = Mask::from_fn(below.shape(), |mask, y, x| {
            let old = below.at(mask, y, x);
            let new = match (y.checked_sub(top), x.checked_sub(left)) {
                (Some(y), Some(x)) if y < height && x < width => {
                    above.at(mask % count.max(1), y, x)
                }
                _ => return old.clamp(0.0, 1.0),
            };
            let (a, b) = both(old, new);
            let value = match operation {
                "multiply" => old * new,
                "add" => old + new,
                "subtract" => old - new,
                "and" => f32::from(u8::from(a && b)),
                "or" => f32::from(u8::from(a || b)),
                _ => f32::from(u8::from(a != b)),
            };
            value.clamp(0.0, 1.0)
        });
        Ok(vec![Value::Mask(made)])
    },
    ..Node::EMPTY
};

/// A mask grown or shrunk.
pub const GROW: Node = Node {
    class: "GrowMask",
    title: "Grow Mask",
    category: CATEGORY,
    about: "Grows a mask by pixels on all sides, or shrinks it.",
    inputs: &[
        MASK,
        Input::int("expand", 0, -MAX_SIDE, MAX_SIDE).tooltip("The pixels; fewer than 0 shrink it."),
        Input::boolean("tapered_corners", true).tooltip("Whether corners are cut off."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(same(ahead, "mask"))),
    run: |_, inputs| {
        let mut mask = inputs.mask("mask")?;
        let expand = inputs.int("expand")?;
        let tapered = inputs.boolean("tapered_corners")?;
        let [_, height, width] = mask.shape();
        // Beyond the sides nothing changes any more.
        let most = (height + width) as i128;
        for _ in 0..expand.abs().min(most) {
            mask = grown(&mask, expand > 0, tapered);
        }
        Ok(vec![Value::Mask(mask)])
    },
    ..Node::EMPTY
};

/// Each value as the largest (or least) of its neighbours', with or without those at its corners. What is outside is as
/// what is inside, mirrored at the edge, so that it counts for nothing.
fn grown(mask: &Mask, grows: bool, tapered: bool) -> Mask {
    let [_, height, width] = mask.shape();
    let around = |place: usize, length: usize| {
        place.saturating_sub(1)..=(place + 1).min(length.saturating_sub(1))
    };
    Mask::from_fn(mask.shape(), |at, y, x| {
        let mut best = mask.at(at, y, x);
        for row in around(y, height) {
            for column in around(x, width) {
                if tapered && row != y && column != x {
                    continue;
                }
                let value = mask.at(at, row, column);
                best = if grows { best.max(value) } else { best.min(value) };
            }
        }
        best
    })
}

/// A mask that fades at its edges.
pub const FEATHER: Node = Node {
    class: "FeatherMask",
    title: "Feather Mask",
    category: CATEGORY,
    about: "Lets a mask fade towards the edges of the picture.",
    inputs: &[
        MASK,
        Input::int("left", 0, 0, MAX_SIDE).tooltip("Pixels over which it fades on the left."),
        Input::int("top", 0, 0, MAX_SIDE).tooltip("Pixels over which it fades at the top."),
        Input::int("right", 0, 0, MAX_SIDE).tooltip("Pixels over which it fades on the right."),
        Input::int("bottom", 0, 0, MAX_SIDE).tooltip("Pixels over which it fades at the bottom."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(same(ahead, "mask"))),
    run: |_, inputs| {
        let mask = inputs.mask("mask")?;
        let [_, height, width] = mask.shape();
        let side =
            |name: &str, most: usize| Ok::<_, crate::NodeError>(inputs.count(name)?.min(most));
        let (left, right) = (side("left", width)?, side("right", width)?);
        let (top, bottom) = (side("top", height)?, side("bottom", height)?);
        let across: Vec<f32> = (0..width).map(|x| fade(x, width, left, right)).collect();
        let down: Vec<f32> = (0..height).map(|y| fade(y, height, top, bottom)).collect();
        let made = Mask::from_fn(mask.shape(), |at, y, x| {
            let share = across.get(x).copied().unwrap_or(1.0) * down.get(y).copied().unwrap_or(1.0);
            mask.at(at, y, x) * share
        });
        Ok(vec![Value::Mask(made)])
    },
    ..Node::EMPTY
};

/// How much is left at a place. From the end, ComfyUI counts places as Python counts backwards: its first step, the
/// least share, falls on the place 0.
fn fade(place: usize, length: usize, start: usize, end: usize) -> f32 {
    let at_start = if place < start { (place + 1) as f32 / start as f32 } else { 1.0 };
    let from_end = (length - place) % length;
    let at_end = if from_end < end { (from_end + 1) as f32 / end as f32 } else { 1.0 };
    at_start * at_end
}

/// A mask of 0 and 1.
pub const THRESHOLD: Node = Node {
    class: "ThresholdMask",
    title: "Threshold Mask",
    category: CATEGORY,
    about: "Makes a mask 1 where it is above a value, and 0 elsewhere.",
    inputs: &[MASK, Input::float("value", 0.5, 0.0, 1.0, 0.01).tooltip("The value.")],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(same(ahead, "mask"))),
    run: |_, inputs| {
        let value = inputs.float("value")? as f32;
        let hard = inputs.mask("mask")?.map(|own| f32::from(u8::from(own > value)));
        Ok(vec![Value::Mask(hard)])
    },
    ..Node::EMPTY
};
