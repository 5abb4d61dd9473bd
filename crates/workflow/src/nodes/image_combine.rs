//! Pictures beside each other, on each other and mixed; their transparency as masks; batches taken apart and joined.

use distorch_pipeline::image::resize::{Method, centre_crop, resize, resize_mask};
use distorch_pipeline::image::{Mask, Pictures, room};

use super::image_edit::{joined, with_channels};
use crate::forecast::{Extent, Known, same};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Growing, Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

const IMAGE: Input = Input::link("image", Type::Image).tooltip("The pictures.");
const PICTURES: &[Output] = &[Output::new(Type::Image).tooltip("The pictures.")];

/// Pictures beside each other.
pub const STITCH: Node = Node {
    class: "ImageStitch",
    title: "Stitch Images",
    category: "image/transform",
    about: "Puts pictures beside others, with a strip of a colour between if asked. Without others, the pictures stay \
            as they are.",
    inputs: &[
        Input::link("image1", Type::Image).tooltip("The pictures."),
        Input::choice("direction", &["right", "down", "left", "up"])
            .default_choice("right")
            .tooltip("Where the others go."),
        Input::boolean("match_image_size", true)
            .tooltip("Whether the others are brought to the same height or width."),
        Input::int("spacing_width", 0, 0, 1024).step(2).advanced().tooltip("The strip's pixels."),
        Input::choice("spacing_color", &["white", "black", "red", "green", "blue"])
            .default_choice("white")
            .advanced()
            .tooltip("The strip's colour."),
        Input::link("image2", Type::Image).optional().tooltip("The others."),
    ],
    outputs: PICTURES,
    run: |_, inputs| Ok(vec![Value::Image(stitched(inputs)?)]),
    ..Node::EMPTY
};

fn stitched(inputs: &Inputs) -> Result<Pictures, NodeError> {
    let first = inputs.image("image1")?;
    let Ok(second) = inputs.image("image2") else { return Ok(first) };
    let direction = inputs.text("direction")?;
    let across = matches!(direction, "left" | "right");
    let colour = match inputs.text("spacing_color")? {
        "white" => [1.0; 3],
        "black" => [0.0; 3],
        "red" => [1.0, 0.0, 0.0],
        "green" => [0.0, 1.0, 0.0],
        _ => [0.0, 0.0, 1.0],
    };
    let count = first.shape()[0].max(second.shape()[0]);
    let (mut first, mut second) = (filled_up(&first, count), filled_up(&second, count));
    let ([_, h1, w1, _], [_, h2, w2, _]) = (first.shape(), second.shape());
    if inputs.boolean("match_image_size")? {
        let ratio = w2 as f64 / h2.max(1) as f64;
        let size = match across {
            true => [h1, (h1 as f64 * ratio) as usize],
            false => [(w1 as f64 / ratio) as usize, w1],
        };
        let size = size.map(|side| side.max(1));
        second = resize(&second, Method::Lanczos, size)
            .map_err(|error| NodeError::input("image2", error))?;
    } else {
        // Between the pictures' edges and the others' there is white or black.
        let grey = if colour == [1.0; 3] { 1.0 } else { 0.0 };
        let size = if across { [h1.max(h2), 0] } else { [0, w1.max(w2)] };
        first = padded(&first, size, grey);
        second = padded(&second, size, grey);
    }
    let channels = first.shape()[3].max(second.shape()[3]);
    let (first, second) = (with_channels(&first, channels), with_channels(&second, channels));
    let spacing = inputs.count("spacing_width")?.next_multiple_of(2);
    let (before, after) = match direction {
        "left" | "up" => (second, first),
        _ => (first, second),
    };
    let ([_, h1, w1, _], [_, h2, w2, _]) = (before.shape(), after.shape());
    let (height, width) = match across {
        true => (h1.min(h2), w1 + spacing + w2),
        false => (h1 + spacing + h2, w1.min(w2)),
    };
    let shape = [count, height, width, channels];
    room(shape).map_err(NodeError::failed)?;
    let length = if across { w1 } else { h1 };
    Ok(Pictures::from_fn(shape, |picture, y, x, channel| {
        let along = if across { x } else { y };
        let place = |along: usize| if across { (y, along) } else { (along, x) };
        if along < length {
            before.at(picture, y, x, channel)
        } else if along < length + spacing {
            colour.get(channel).copied().unwrap_or(1.0)
        } else {
            let (y, x) = place(along - length - spacing);
            after.at(picture, y, x, channel)
        }
    }))
}

/// The batch with its last picture repeated up to so many.
fn filled_up(pictures: &Pictures, count: usize) -> Pictures {
    let [batch, height, width, channels] = pictures.shape();
    if batch >= count {
        return pictures.clone();
    }
    Pictures::from_fn([count, height, width, channels], |picture, y, x, channel| {
        pictures.at(picture.min(batch.saturating_sub(1)), y, x, channel)
    })
}

/// The pictures in the middle of at least `[height, width]` pixels, the rest of one value.
fn padded(pictures: &Pictures, size: [usize; 2], value: f32) -> Pictures {
    let [batch, rows, columns, channels] = pictures.shape();
    let [height, width] = [size[0].max(rows), size[1].max(columns)];
    let (top, left) = ((height - rows) / 2, (width - columns) / 2);
    Pictures::from_fn([batch, height, width, channels], |picture, y, x, channel| {
        match (y.checked_sub(top), x.checked_sub(left)) {
            (Some(y), Some(x)) if y < rows && x < columns => pictures.at(picture, y, x, channel),
            _ => value,
        }
    })
}

/// Some of a batch.
pub const FROM_BATCH: Node = Node {
    class: "ImageFromBatch",
    title: "Get Image from Batch",
    category: "image/batch",
    about: "Takes pictures out of a batch.",
    inputs: &[
        IMAGE,
        Input::int("batch_index", 0, 0, 4095).tooltip("The first, counted from 0."),
        Input::int("length", 1, 1, 4096).tooltip("How many."),
    ],
    outputs: PICTURES,
    forecast: Some(|ahead| {
        let taken = ahead.extent("image").and_then(|pictures| {
            let first =
                ahead.inputs().count("batch_index").ok()?.min(pictures.batch.saturating_sub(1));
            let batch = ahead.inputs().count("length").ok()?.min(pictures.batch - first);
            Some(Extent { batch, ..pictures })
        });
        Ok(vec![Known::image(taken)])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [batch, height, width, channels] = pictures.shape();
        let first = inputs.count("batch_index")?.min(batch.saturating_sub(1));
        let length = inputs.count("length")?.min(batch - first);
        let taken =
            Pictures::from_fn([length, height, width, channels], |picture, y, x, channel| {
                pictures.at(first + picture, y, x, channel)
            });
        Ok(vec![Value::Image(taken)])
    },
    ..Node::EMPTY
};

const IMAGES: Growing =
    Growing { name: "images", one: "image", named: false, least: 2, optional: false };

macro_rules! images {
    ($($name:literal),*) => { &[$(Input::link($name, Type::Image).one_of(&IMAGES)),*] };
}

/// Several batches in one.
pub const BATCH: Node = Node {
    class: "BatchImagesNode",
    title: "Batch Images",
    category: "image",
    about: "Joins batches of pictures. All get the size of the first: their middle is cut out and resized.",
    inputs: images![
        "images.image0",
        "images.image1",
        "images.image2",
        "images.image3",
        "images.image4",
        "images.image5",
        "images.image6",
        "images.image7",
        "images.image8",
        "images.image9",
        "images.image10",
        "images.image11",
        "images.image12",
        "images.image13",
        "images.image14",
        "images.image15",
        "images.image16",
        "images.image17",
        "images.image18",
        "images.image19"
    ],
    outputs: PICTURES,
    run: |_, inputs| {
        let mut all: Option<Pictures> = None;
        for (name, value) in inputs.iter() {
            let Value::Image(pictures) = value else { continue };
            all = Some(match all {
                None => pictures.clone(),
                Some(before) => {
                    joined(&before, pictures).map_err(|error| NodeError::input(name, error))?
                }
            });
        }
        let all = all.ok_or_else(|| NodeError::input("images.image0", "there are no pictures"))?;
        Ok(vec![Value::Image(all)])
    },
    ..Node::EMPTY
};

/// Pictures on others.
pub const COMPOSITE_MASKED: Node = Node {
    class: "ImageCompositeMasked",
    title: "Image Composite Masked",
    category: "image",
    about: "Puts pictures on others at a place, where a mask is set.",
    inputs: &[
        Input::link("destination", Type::Image).tooltip("The pictures below."),
        Input::link("source", Type::Image).tooltip("The pictures that are put on them."),
        Input::int("x", 0, 0, MAX_SIDE).tooltip("Pixels from the left."),
        Input::int("y", 0, 0, MAX_SIDE).tooltip("Pixels from the top."),
        Input::boolean("resize_source", false).tooltip("Whether they get the size of those below."),
        Input::link("mask", Type::Mask)
            .optional()
            .tooltip("Where they are put; everywhere without one."),
    ],
    outputs: PICTURES,
    forecast: Some(|ahead| Ok(same(ahead, "destination"))),
    run: |_, inputs| {
        let (below, above) = (inputs.image("destination")?, inputs.image("source")?);
        let channels = below.shape()[3];
        let above = with_channels(&above, channels.max(above.shape()[3]));
        let place = [inputs.count("y")?, inputs.count("x")?];
        let mask = inputs.mask("mask").ok();
        let resized = inputs.boolean("resize_source")?;
        Ok(vec![Value::Image(composite(&below, &above, mask.as_ref(), place, resized)?)])
    },
    ..Node::EMPTY
};

/// `above` on `below` from `[y, x]` on, as far as a mask of its size says.
fn composite(
    below: &Pictures,
    above: &Pictures,
    mask: Option<&Mask>,
    [top, left]: [usize; 2],
    resized: bool,
) -> Result<Pictures, NodeError> {
    let wrong = |error| NodeError::input("source", error);
    let [_, rows, columns, _] = below.shape();
    let above = match resized {
        true => resize(above, Method::Bilinear, [rows, columns]).map_err(wrong)?,
        false => above.clone(),
    };
    let [count, height, width, _] = above.shape();
    let mask = mask.map(|mask| resize_mask(mask, Method::Bilinear, [height, width]));
    let mask = mask.transpose().map_err(|error| NodeError::input("mask", error))?;
    let masks = mask.as_ref().map_or(1, |mask| mask.shape()[0]).max(1);
    Ok(Pictures::from_fn(below.shape(), |picture, y, x, channel| {
        let old = below.at(picture, y, x, channel);
        let (Some(y), Some(x)) = (y.checked_sub(top), x.checked_sub(left)) else { return old };
        if y >= height || x >= width {
            return old;
        }
        let of = picture % count.max(1);
        let share = mask.as_ref().map_or(1.0, |mask| mask.at(of % masks, y, x));
        share * above.at(of, y, x, channel) + (1.0 - share) * old
    }))
}

/// Pictures and their transparency.
pub const SPLIT_ALPHA: Node = Node {
    class: "SplitImageWithAlpha",
    title: "Split Image with Alpha",
    category: "image/compositing",
    about: "Returns the colours of pictures, and how transparent they are as a mask.",
    inputs: &[IMAGE],
    outputs: &[
        Output::new(Type::Image).tooltip("The colours."),
        Output::new(Type::Mask).tooltip("1 where nothing is to be seen."),
    ],
    forecast: Some(|ahead| {
        Ok(vec![Known::image(ahead.extent("image")), Known::mask(ahead.extent("image"))])
    }),
    run: |_, inputs| {
        let pictures = inputs.image("image")?;
        let [batch, height, width, channels] = pictures.shape();
        let alpha = match channels > 3 {
            true => pictures.channel(3).map(|alpha| 1.0 - alpha),
            false => Mask::from_fn([batch, height, width], |_, _, _| 0.0),
        };
        let colours =
            Pictures::from_fn([batch, height, width, channels.min(3)], |p, y, x, channel| {
                pictures.at(p, y, x, channel)
            });
        Ok(vec![Value::Image(colours), Value::Mask(alpha)])
    },
    ..Node::EMPTY
};

/// Pictures made transparent.
pub const JOIN_ALPHA: Node = Node {
    class: "JoinImageWithAlpha",
    title: "Join Image with Alpha",
    category: "image/compositing",
    about: "Makes pictures transparent where a mask is set.",
    inputs: &[IMAGE, Input::link("alpha", Type::Mask).tooltip("1 where nothing is to be seen.")],
    outputs: PICTURES,
    run: |_, inputs| {
        let (pictures, alpha) = (inputs.image("image")?, inputs.mask("alpha")?);
        let [batch, height, width, channels] = pictures.shape();
        let alpha = resize_mask(&alpha, Method::Bilinear, [height, width])
            .map_err(|error| NodeError::input("alpha", error))?;
        let batch = batch.min(alpha.shape()[0]);
        let colours = channels.min(3);
        let made =
            Pictures::from_fn([batch, height, width, colours + 1], |picture, y, x, channel| {
                match channel < colours {
                    true => pictures.at(picture, y, x, channel),
                    false => 1.0 - alpha.at(picture, y, x),
                }
            });
        Ok(vec![Value::Image(made)])
    },
    ..Node::EMPTY
};

/// Two pictures mixed.
pub const BLEND: Node = Node {
    class: "ImageBlend",
    title: "Blend Images",
    category: "image/postprocessing",
    about: "Mixes pictures with others, which get their size.",
    inputs: &[
        Input::link("image1", Type::Image).tooltip("The pictures."),
        Input::link("image2", Type::Image).tooltip("The others."),
        Input::float("blend_factor", 0.5, 0.0, 1.0, 0.01).tooltip("How much of the mix counts."),
        Input::choice(
            "blend_mode",
            &["normal", "multiply", "screen", "overlay", "soft_light", "difference"],
        )
        .tooltip("How they are mixed."),
    ],
    outputs: PICTURES,
    forecast: Some(|ahead| Ok(same(ahead, "image1"))),
    run: |_, inputs| {
        let (first, second) = (inputs.image("image1")?, inputs.image("image2")?);
        // The first ones say how many channels there are.
        let [batch, height, width, channels] = first.shape();
        let second = with_channels(&second, channels.max(second.shape()[3]));
        let size = [height, width];
        let second = match second.shape()[1..3] == size {
            true => second,
            false => resize(&centre_crop(&second, size), Method::Bicubic, size)
                .map_err(|error| NodeError::input("image2", error))?,
        };
        let others = second.shape()[0];
        if others != batch && others != 1 {
            let problem = format!("{others} pictures do not go with {batch}: give 1 or as many");
            return Err(NodeError::input("image2", problem));
        }
        let factor = inputs.float("blend_factor")? as f32;
        let mode = mode(inputs.text("blend_mode")?);
        let mixed = Pictures::from_fn(first.shape(), |picture, y, x, channel| {
            let a = first.at(picture, y, x, channel);
            let b = second.at(picture % others.max(1), y, x, channel);
            (a * (1.0 - factor) + mode(a, b) * factor).clamp(0.0, 1.0)
        });
        Ok(vec![Value::Image(mixed)])
    },
    ..Node::EMPTY
};

/// What a value becomes under another: the blend modes of the W3C's compositing, but for the difference, which is not
/// its amount, as in ComfyUI.
fn mode(name: &str) -> fn(f32, f32) -> f32 {
    match name {
        "multiply" => |a, b| a * b,
        "screen" => |a, b| 1.0 - (1.0 - a) * (1.0 - b),
        "overlay" => |a, b| match a <= 0.5 {
            true => 2.0 * a * b,
            false => 1.0 - 2.0 * (1.0 - a) * (1.0 - b),
        },
        "soft_light" => |a, b| match b <= 0.5 {
            true => a - (1.0 - 2.0 * b) * a * (1.0 - a),
            false => {
                let raised = if a <= 0.25 { ((16.0 * a - 12.0) * a + 4.0) * a } else { a.sqrt() };
                a + (2.0 * b - 1.0) * (raised - a)
            }
        },
        "difference" => |a, b| a - b,
        _ => |_, b| b,
    }
}
