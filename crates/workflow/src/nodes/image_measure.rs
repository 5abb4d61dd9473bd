//! Pictures brought to a number of pixels or a longest side, sizes by their ratio, and the size of pictures.

use serde_json::json;

use super::image_resize::{IMAGE, METHOD, OUTPUT, resized};
use crate::forecast::Known;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

/// Pictures of so many pixels.
pub const SCALE_TO_TOTAL_PIXELS: Node = Node {
    class: "ImageScaleToTotalPixels",
    title: "Scale Image to Total Pixels",
    category: "image/upscaling",
    about: "Brings pictures to a number of pixels, in their ratio.",
    inputs: &[
        IMAGE,
        METHOD,
        Input::float("megapixels", 1.0, 0.01, 16.0, 0.01)
            .tooltip("Millions of pixels, of 1024 × 1024."),
        Input::int("resolution_steps", 1, 1, 256)
            .advanced()
            .added_later()
            .tooltip("What both sides are a multiple of."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        let resized = ahead.extent("image").and_then(|pictures| {
            Some(pictures.sized(total_pixels(ahead.inputs(), pictures.size()).ok()?))
        });
        Ok(vec![Known::image(resized)])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [_, rows, columns, _] = pictures.shape();
        resized(inputs, &pictures, total_pixels(inputs, [rows, columns])?, false)
    },
    ..Node::EMPTY
};

/// Rows and columns of so many pixels, each side rounded to whole steps.
fn total_pixels(inputs: &Inputs, [rows, columns]: [usize; 2]) -> Result<[usize; 2], NodeError> {
    let total = (inputs.float("megapixels")? * 1024.0 * 1024.0).trunc();
    let step = inputs.count("resolution_steps").unwrap_or(1).max(1);
    if rows == 0 || columns == 0 {
        return Err(NodeError::input("image", "it has no pixels"));
    }
    let factor = (total / (rows as f64 * columns as f64)).sqrt();
    let side = |side: usize| {
        let steps = (side as f64 * factor / step as f64).round_ties_even() as usize;
        steps.saturating_mul(step)
    };
    Ok([side(rows), side(columns)].map(|side| side.max(1)))
}

/// Pictures with this longest side.
pub const SCALE_TO_MAX_DIMENSION: Node = Node {
    class: "ImageScaleToMaxDimension",
    title: "Scale Image to Max Dimension",
    category: "image/upscaling",
    about: "Brings the longer side of pictures to a length, in their ratio.",
    inputs: &[
        IMAGE,
        Input::choice(
            "upscale_method",
            &["area", "lanczos", "bilinear", "nearest-exact", "bicubic"],
        )
        .tooltip("How values between those of the picture are found."),
        Input::int("largest_size", 512, 0, MAX_SIDE).tooltip("The longer side in pixels."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        let resized = ahead.extent("image").and_then(|pictures| {
            let most = ahead.inputs().count("largest_size").ok()?;
            Some(pictures.sized(longest(pictures.size(), most)))
        });
        Ok(vec![Known::image(resized)])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [_, rows, columns, _] = pictures.shape();
        let size = longest([rows, columns], inputs.count("largest_size")?);
        if size.contains(&0) {
            return Err(NodeError::input("largest_size", "a picture of this size has no pixels"));
        }
        resized(inputs, &pictures, size, false)
    },
    ..Node::EMPTY
};

fn longest([rows, columns]: [usize; 2], most: usize) -> [usize; 2] {
    let shorter = |short: usize, long: usize| {
        (short as f64 / long.max(1) as f64 * most as f64).round_ties_even() as usize
    };
    match rows.cmp(&columns) {
        std::cmp::Ordering::Greater => [most, shorter(columns, rows)],
        std::cmp::Ordering::Less => [shorter(rows, columns), most],
        std::cmp::Ordering::Equal => [most, most],
    }
}

const RATIOS: [(&str, [f64; 2]); 8] = [
    ("1:1 (Square)", [1.0, 1.0]),
    ("2:3 (Portrait Photo)", [2.0, 3.0]),
    ("3:2 (Photo)", [3.0, 2.0]),
    ("3:4 (Portrait Standard)", [3.0, 4.0]),
    ("4:3 (Standard)", [4.0, 3.0]),
    ("9:16 (Portrait Widescreen)", [9.0, 16.0]),
    ("16:9 (Widescreen)", [16.0, 9.0]),
    ("21:9 (Ultrawide)", [21.0, 9.0]),
];

const NAMES: [&str; 8] = {
    let mut names = [""; 8];
    let mut at = 0;
    while at < names.len() {
        names[at] = RATIOS[at].0;
        at += 1;
    }
    names
};

/// A width and a height by their ratio.
pub const RESOLUTION_SELECTOR: Node = Node {
    class: "ResolutionSelector",
    title: "Resolution Selector",
    category: "utilities",
    about: "Returns a width and a height of a ratio, with so many pixels.",
    inputs: &[
        Input::choice("aspect_ratio", &NAMES).tooltip("The ratio of width to height."),
        Input::float("megapixels", 1.0, 0.1, 16.0, 0.1)
            .tooltip("Millions of pixels, of 1024 × 1024."),
        Input::int("multiple", 8, 8, 128)
            .step(4)
            .added_later()
            .tooltip("What both sides are a multiple of."),
    ],
    outputs: &[
        Output::new(Type::Int).named("width").tooltip("The width in pixels."),
        Output::new(Type::Int).named("height").tooltip("The height in pixels."),
    ],
    forecast: Some(|ahead| {
        let known = |value: Value| Known::Value(Box::new(value));
        let size = selected(ahead.inputs()).unwrap_or_default();
        Ok(size.into_iter().map(known).collect())
    }),
    run: |_, inputs| selected(inputs),
    ..Node::EMPTY
};

fn selected(inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    let name = inputs.text("aspect_ratio")?;
    let ratio = RATIOS.iter().find(|(known, _)| *known == name);
    let (_, [width, height]) = ratio.ok_or_else(|| NodeError::input("aspect_ratio", name))?;
    let total = inputs.float("megapixels")? * 1024.0 * 1024.0;
    let step = inputs.int("multiple").unwrap_or(8).max(1);
    let scale = (total / (width * height)).sqrt();
    let side = |part: f64| (part * scale / step as f64).round_ties_even() as i128 * step;
    Ok(vec![Value::Int(side(*width)), Value::Int(side(*height))])
}

/// The size of pictures.
pub const GET_IMAGE_SIZE: Node = Node {
    class: "GetImageSize",
    title: "Get Image Size",
    category: "image",
    about: "Returns the width, the height and the number of pictures.",
    inputs: &[IMAGE],
    outputs: &[
        Output::new(Type::Int).named("width").tooltip("The width in pixels."),
        Output::new(Type::Int).named("height").tooltip("The height in pixels."),
        Output::new(Type::Int).named("batch_size").tooltip("How many pictures there are."),
    ],
    forecast: Some(|ahead| {
        let Some(pictures) = ahead.extent("image") else { return Ok(Vec::new()) };
        let numbers = [pictures.width, pictures.height, pictures.batch];
        let known = |number: usize| Known::Value(Box::new(Value::Int(number as i128)));
        Ok(numbers.map(known).into())
    }),
    run: |context, inputs| {
        let [batch, height, width, _] = inputs.image("image")?.shape();
        let text = format!("width: {width}, height: {height}\n batch size: {batch}");
        context.show("text", vec![json!(text)]);
        Ok([width, height, batch].map(|number| Value::Int(number as i128)).into())
    },
    ..Node::EMPTY
};
