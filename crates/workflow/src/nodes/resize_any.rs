//! Pictures or masks at another size, which is said in one of several ways.

use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::resize::{Method, PICTURE_METHODS, centre_crop, resize};

use super::latent_resize::in_ratio;
use crate::forecast::{Ahead, Extent, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

const BY: &str = "scale by multiplier";
const SIDES: &str = "scale dimensions";
const LONGER: &str = "scale longer dimension";
const SHORTER: &str = "scale shorter dimension";
const WIDTH: &str = "scale width";
const HEIGHT: &str = "scale height";
const PIXELS: &str = "scale total pixels";
const MATCH: &str = "match size";
const MULTIPLE: &str = "scale to multiple";

/// Pictures or masks at another size.
pub const RESIZE: Node = Node {
    class: "ResizeImageMaskNode",
    title: "Resize Image/Mask",
    category: "image/transform",
    about: "Brings pictures or masks to another size: to sides, by a factor, to a number of pixels, to the size of \
            others or to a multiple of a number.",
    inputs: &[
        Input::link("input", Type::ImageOrMask)
            .shared_type("input_type")
            .tooltip("The pictures or masks."),
        Input::choice(
            "resize_type",
            &[SIDES, BY, LONGER, SHORTER, WIDTH, HEIGHT, PIXELS, MATCH, MULTIPLE],
        )
        .tooltip("How the new size is said."),
        Input::int("resize_type.width", 512, 0, MAX_SIDE)
            .when("resize_type", &[SIDES, WIDTH])
            .tooltip("The width in pixels; 0 keeps the ratio."),
        Input::int("resize_type.height", 512, 0, MAX_SIDE)
            .when("resize_type", &[SIDES, HEIGHT])
            .tooltip("The height in pixels; 0 keeps the ratio."),
        Input::float("resize_type.multiplier", 1.0, 0.01, 8.0, 0.01)
            .when("resize_type", &[BY])
            .tooltip("The factor of both sides."),
        Input::int("resize_type.longer_size", 512, 0, MAX_SIDE)
            .when("resize_type", &[LONGER])
            .tooltip("The longer side in pixels."),
        Input::int("resize_type.shorter_size", 512, 0, MAX_SIDE)
            .when("resize_type", &[SHORTER])
            .tooltip("The shorter side in pixels."),
        Input::float("resize_type.megapixels", 1.0, 0.01, 16.0, 0.01)
            .when("resize_type", &[PIXELS])
            .tooltip("Millions of pixels, of 1024 × 1024."),
        Input::link("resize_type.match", Type::ImageOrMask)
            .when("resize_type", &[MATCH])
            .tooltip("Those whose size is taken."),
        Input::choice("resize_type.crop", &["disabled", "center"])
            .default_choice("center")
            .when("resize_type", &[SIDES, MATCH])
            .tooltip("Whether the middle is cut out first, so that nothing is stretched."),
        Input::int("resize_type.multiple", 8, 1, MAX_SIDE)
            .when("resize_type", &[MULTIPLE])
            .tooltip("What both sides become a multiple of."),
        Input::choice("scale_method", PICTURE_METHODS)
            .default_choice("area")
            .tooltip("How values between those of the picture are found."),
    ],
    outputs: &[Output::new(Type::Any).named("resized").tooltip("The same at the new size.")],
    forecast: Some(|ahead| Ok(vec![foreseen(ahead)])),
    run: |_, inputs| {
        let (pictures, is_mask) = pictures(inputs, "input")?;
        let [_, rows, columns, _] = pictures.shape();
        let other = match inputs.has("resize_type.match") {
            true => {
                let [_, rows, columns, _] = self::pictures(inputs, "resize_type.match")?.0.shape();
                Some([rows, columns])
            }
            false => None,
        };
        let resized = match plan(inputs, [rows, columns], other)? {
            None => pictures,
            Some(plan) => plan.resized(&pictures, inputs)?,
        };
        Ok(vec![if is_mask { Value::Mask(resized.channel(0)) } else { Value::Image(resized) }])
    },
    ..Node::EMPTY
};

/// Pictures, or masks as pictures of one channel, and whether they are masks.
fn pictures(inputs: &Inputs, name: &str) -> Result<(Pictures, bool), NodeError> {
    match inputs.get(name) {
        Some(Value::Mask(mask)) => Ok((mask.pictures(), true)),
        _ => Ok((inputs.image(name)?, false)),
    }
}

fn foreseen(ahead: &Ahead<'_>) -> Known {
    let Some(from) = ahead.extent("input") else { return Known::Nothing };
    let other = ahead.extent("resize_type.match").map(Extent::size);
    let to = match plan(ahead.inputs(), from.size(), other) {
        Ok(plan) => from.sized(plan.map_or(from.size(), |plan| plan.last())),
        Err(_) => return Known::Nothing,
    };
    match ahead.linked("input") {
        Known::Mask(_) => Known::Mask(to),
        Known::Image(_) => Known::Image(to),
        _ => Known::Nothing,
    }
}

/// What is done to reach a size.
#[derive(Clone, Copy)]
struct Plan {
    /// Whether the middle is cut to the ratio of the size first.
    is_cut: bool,
    /// Rows and columns.
    size: [usize; 2],
    /// The middle of the result that is kept.
    kept: Option<[usize; 2]>,
}

impl Plan {
    fn last(self) -> [usize; 2] {
        self.kept.unwrap_or(self.size)
    }

    fn resized(self, pictures: &Pictures, inputs: &Inputs) -> Result<Pictures, NodeError> {
        let name = inputs.text("scale_method")?;
        let method = Method::by_name(name)
            .ok_or_else(|| NodeError::input("scale_method", format!("`{name}` is no method")))?;
        if self.size.contains(&0) {
            return Err(NodeError::input("resize_type", "a picture of this size has no pixels"));
        }
        let cut = self.is_cut.then(|| centre_crop(pictures, self.size));
        let resized = resize(cut.as_ref().unwrap_or(pictures), method, self.size)
            .map_err(NodeError::failed)?;
        let Some([rows, columns]) = self.kept else { return Ok(resized) };
        let [height, width] = self.size;
        Ok(resized.crop([(height - rows) / 2, (width - columns) / 2], [rows, columns]))
    }
}

/// How `[rows, columns]` are brought to the size that the inputs ask for; `None` where they stay.
fn plan(
    inputs: &Inputs,
    [rows, columns]: [usize; 2],
    other: Option<[usize; 2]>,
) -> Result<Option<Plan>, NodeError> {
    if rows == 0 || columns == 0 {
        return Err(NodeError::input("input", "it has no pixels"));
    }
    let count = |name: &str, usual: usize| match inputs.has(name) {
        true => inputs.count(name),
        false => Ok(usual),
    };
    let number = |name: &str| match inputs.has(name) {
        true => inputs.float(name),
        false => Ok(1.0),
    };
    let is_cut = inputs.text("resize_type.crop").unwrap_or("center") == "center";
    let round = |side: f64| side.round_ties_even() as usize;
    let uncut = |size: [usize; 2]| Ok(Some(Plan { is_cut: false, size, kept: None }));
    let sides = |height: usize, width: usize, is_cut: bool| {
        Ok(match (height, width) {
            (0, 0) => None,
            (0, width) => {
                let size = [in_ratio(rows, width, columns).max(1), width];
                Some(Plan { is_cut, size, kept: None })
            }
            (height, 0) => {
                let size = [height, in_ratio(columns, height, rows).max(1)];
                Some(Plan { is_cut, size, kept: None })
            }
            (height, width) => Some(Plan { is_cut, size: [height, width], kept: None }),
        })
    };
    let (short, long) = (rows.min(columns) as f64, rows.max(columns) as f64);
    let is_tall = rows > columns;
    let turned = |long: usize, short: usize| if is_tall { [long, short] } else { [short, long] };
    match inputs.text("resize_type")? {
        SIDES => sides(count("resize_type.height", 512)?, count("resize_type.width", 512)?, is_cut),
        WIDTH => sides(0, count("resize_type.width", 512)?, false),
        HEIGHT => sides(count("resize_type.height", 512)?, 0, false),
        BY => {
            let factor = number("resize_type.multiplier")?;
            uncut([rows, columns].map(|side| round(side as f64 * factor)))
        }
        LONGER => {
            let most = count("resize_type.longer_size", 512)?;
            uncut(turned(most, round(short / long * most as f64)))
        }
        SHORTER => {
            let least = count("resize_type.shorter_size", 512)?;
            uncut(turned(round(long / short * least as f64), least))
        }
        PIXELS => {
            let total = (number("resize_type.megapixels")? * 1024.0 * 1024.0).trunc();
            let factor = (total / (columns as f64 * rows as f64)).sqrt();
            uncut([rows, columns].map(|side| round(side as f64 * factor)))
        }
        MATCH => match other {
            Some(size) => Ok(Some(Plan { is_cut, size, kept: None })),
            None => Err(NodeError::input("resize_type.match", "nothing is linked to it")),
        },
        MULTIPLE => {
            let multiple = count("resize_type.multiple", 8)?.max(1);
            let [height, width] = [rows, columns].map(|side| side / multiple * multiple);
            if [height, width] == [rows, columns] || height == 0 || width == 0 {
                return Ok(None);
            }
            let (down, across) = (height as f64 / rows as f64, width as f64 / columns as f64);
            let size = if across >= down {
                [((rows as f64 * across).ceil() as usize).max(height), width]
            } else {
                [height, ((columns as f64 * down).ceil() as usize).max(width)]
            };
            Ok(Some(Plan { is_cut: false, size, kept: Some([height, width]) }))
        }
        other => Err(NodeError::input("resize_type", format!("`{other}` is no way to say a size"))),
    }
}
