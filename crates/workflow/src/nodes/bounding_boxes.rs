//! Rectangles that a user draws, as pixels, as elements of a layout and as a picture.

use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::resize::{Method, resize};
use serde_json::{Map, Value as Json, json};

use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};

/// The longer side of a preview in pixels, at most.
const PREVIEW_SIDE: usize = 1024;
/// How bright a preview's background is.
const DIMMED: f32 = 0.25;
/// Colours of a box, at most.
const MOST_COLOURS: usize = 5;

/// Drawn rectangles.
pub const CREATE_BOUNDING_BOXES: Node = Node {
    class: "CreateBoundingBoxes",
    title: "Create Bounding Boxes",
    category: "utilities",
    about: "Returns rectangles that a client draws: a picture of them, without their texts, their pixels, and what they \
            hold as elements of a layout.",
    inputs: &[
        Input::link("background", Type::Image).optional().tooltip("What the preview shows behind."),
        Input::link("bboxes", Type::AnyBoxes)
            .optional()
            .tooltip("Rectangles, elements or JSON of them, to begin with."),
        Input::int("width", 1024, 64, MAX_SIDE).step(16).tooltip("The width in pixels."),
        Input::int("height", 1024, 64, MAX_SIDE).step(16).tooltip("The height in pixels."),
        Input::data("editor_state", Type::BoundingBoxes)
            .tooltip("The rectangles as they were drawn, from the background to the front."),
        Input::data("last_incoming", Type::BoundingBoxes)
            .optional()
            .tooltip("What `bboxes` was when they were drawn."),
    ],
    outputs: &[
        Output::new(Type::Image).named("preview"),
        Output::new(Type::BoundingBox).named("bboxes"),
        Output::new(Type::Array).named("elements"),
    ],
    is_output: true,
    is_experimental: true,
    run: |context, inputs| {
        let size = [inputs.count("height")?, inputs.count("width")?];
        let incoming = incoming(inputs, size)?;
        let last = inputs.data("last_incoming").ok().and_then(Json::as_array);
        let is_new = !incoming.is_empty() && last != Some(&incoming);
        let drawn = inputs.data("editor_state").ok().and_then(Json::as_array);
        let source = if is_new { Some(&incoming) } else { drawn };
        let regions: Vec<Region> =
            source.into_iter().flatten().filter_map(|json| Region::read(json, size)).collect();
        let background =
            inputs.has("background").then(|| inputs.image("background")).transpose()?;
        let preview = preview(&regions, size, background.as_ref())?;
        context.show("dims", vec![json!(size[1]), json!(size[0])]);
        if !incoming.is_empty() {
            context.show("input_bboxes", incoming.clone());
        }
        let boxes: Vec<Json> = regions.iter().map(|region| region.pixels(size)).collect();
        let boxes = if boxes.is_empty() { json!([]) } else { json!([boxes]) };
        let elements: Vec<Json> = regions.iter().map(Region::element).collect();
        Ok(vec![
            Value::Image(preview),
            Value::Data(Type::BoundingBox, boxes.into()),
            Value::Data(Type::Array, json!(elements).into()),
        ])
    },
    ..Node::EMPTY
};

/// A rectangle and what it holds. Places and sizes are parts of the picture's.
struct Region {
    place: [f64; 2],
    size: [f64; 2],
    is_text: bool,
    text: Json,
    about: Json,
    palette: Vec<String>,
}

fn real(json: Option<&Json>) -> f64 {
    json.and_then(Json::as_f64).unwrap_or(0.0)
}

impl Region {
    fn read(json: &Json, [height, width]: [usize; 2]) -> Option<Self> {
        let record = json.as_object()?;
        let part = |name: &str, whole: usize| real(record.get(name)) / whole.max(1) as f64;
        let held = record.get("metadata").and_then(Json::as_object);
        let of = |name: &str| held.and_then(|held| held.get(name));
        let text = |name: &str| of(name).cloned().unwrap_or_else(|| json!(""));
        let palette = of("palette").and_then(Json::as_array).into_iter().flatten();
        Some(Self {
            place: [part("x", width), part("y", height)],
            size: [part("width", width), part("height", height)],
            is_text: of("type").and_then(Json::as_str) == Some("text"),
            text: text("text"),
            about: text("desc"),
            palette: palette.filter_map(|colour| colour.as_str().map(str::to_owned)).collect(),
        })
    }

    fn pixels(&self, [height, width]: [usize; 2]) -> Json {
        let side = |axis: usize, whole: usize| {
            let [mut place, mut size] =
                [self.place, self.size].map(|pair| pair.get(axis).copied().unwrap_or(0.0));
            if size < 0.0 {
                (place, size) = (place + size, -size);
            }
            [place, size].map(|part| (part * whole as f64).round_ties_even() as i64)
        };
        let ([x, w], [y, h]) = (side(0, width), side(1, height));
        json!({ "x": x, "y": y, "width": w, "height": h })
    }

    /// Corners in thousandths, rows first.
    fn element(&self) -> Json {
        let ([x, y], [w, h]) = (self.place, self.size);
        let grid = |part: f64| ((part * 1000.0).round_ties_even()).clamp(0.0, 1000.0) as i64;
        let ordered = |a: i64, b: i64| if a > b { (b, a) } else { (a, b) };
        let ((top, bottom), (left, right)) =
            (ordered(grid(y), grid(y + h)), ordered(grid(x), grid(x + w)));
        let mut element = Map::new();
        element.insert("type".to_owned(), json!(if self.is_text { "text" } else { "obj" }));
        element.insert("bbox".to_owned(), json!([top, left, bottom, right]));
        if self.is_text {
            element.insert("text".to_owned(), self.text.clone());
        }
        element.insert("desc".to_owned(), self.about.clone());
        let palette: Vec<String> = self.palette.iter().filter_map(|colour| hex(colour)).collect();
        if !palette.is_empty() {
            let most = palette.get(..MOST_COLOURS).unwrap_or(&palette);
            element.insert("color_palette".to_owned(), json!(most));
        }
        Json::Object(element)
    }
}

/// `#RRGGBB` in capitals, of three or six digits with or without the sign.
fn hex(colour: &str) -> Option<String> {
    let digits = colour.trim().trim_start_matches('#');
    if !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let digits = match digits.len() {
        3 => digits.chars().flat_map(|digit| [digit, digit]).collect(),
        6 => digits.to_owned(),
        _ => return None,
    };
    Some(format!("#{}", digits.to_uppercase()))
}

/// What is linked to `bboxes`, as rectangles in pixels.
fn incoming(inputs: &Inputs, size: [usize; 2]) -> Result<Vec<Json>, NodeError> {
    let wrong = |problem: &str| NodeError::input("bboxes", problem);
    let json = match inputs.get("bboxes") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| wrong(&format!("the text is no JSON: {error}")))?,
        Some(_) => inputs.data("bboxes")?.clone(),
    };
    let list = match json {
        Json::Array(list) => list,
        one @ Json::Object(_) => vec![one],
        _ => return Err(wrong("it is no list of rectangles or elements")),
    };
    let Some(first) = list.first() else { return Ok(Vec::new()) };
    let is_element = first.get("bbox").and_then(Json::as_array).is_some_and(|bbox| bbox.len() == 4);
    let is_box = ["x", "y", "width", "height"].iter().all(|name| first.get(name).is_some());
    match first {
        Json::Array(frame) => Ok(frame.iter().filter_map(plain_box).collect()),
        Json::Object(_) if is_element => list
            .iter()
            .filter(|element| element.is_object())
            .map(|element| {
                box_of(element, size)
                    .ok_or_else(|| wrong("an element has no `bbox` of four numbers"))
            })
            .collect(),
        Json::Object(_) if is_box => Ok(list.iter().filter_map(plain_box).collect()),
        _ => {
            Err(wrong("its items are neither rectangles (x, y, width, height) nor elements (bbox)"))
        }
    }
}

fn plain_box(json: &Json) -> Option<Json> {
    let record = json.as_object()?;
    let mut plain = Map::new();
    for name in ["x", "y", "width", "height"] {
        plain.insert(name.to_owned(), record.get(name).cloned().unwrap_or(json!(0)));
    }
    if let Some(held) = record.get("metadata").filter(|held| held.is_object()) {
        plain.insert("metadata".to_owned(), held.clone());
    }
    Some(Json::Object(plain))
}

/// The rectangle of an element.
fn box_of(element: &Json, [height, width]: [usize; 2]) -> Option<Json> {
    let corners = element.get("bbox")?.as_array()?;
    let [top, left, bottom, right] = corners.as_slice() else { return None };
    let part = |corner: &Json| Some(corner.as_f64()? / 1000.0);
    let (top, left, bottom, right) = (part(top)?, part(left)?, part(bottom)?, part(right)?);
    let pixels = |part: f64, whole: usize| (part * whole as f64).round_ties_even() as i64;
    let is_text = element.get("type").and_then(Json::as_str) == Some("text");
    let of = |name: &str| element.get(name).cloned();
    Some(json!({
        "x": pixels(left.min(right), width),
        "y": pixels(top.min(bottom), height),
        "width": pixels((right - left).abs(), width),
        "height": pixels((bottom - top).abs(), height),
        "metadata": {
            "type": if is_text { "text" } else { "obj" },
            "text": of("text").filter(|_| is_text).unwrap_or_else(|| json!("")),
            "desc": of("desc").unwrap_or_else(|| json!("")),
            "palette": of("color_palette").filter(Json::is_array).unwrap_or_else(|| json!([])),
        },
    }))
}

/// The rectangles' edges and colours on a dark ground.
fn preview(
    regions: &[Region],
    size: [usize; 2],
    background: Option<&Pictures>,
) -> Result<Pictures, NodeError> {
    let [rows, columns] = match background {
        Some(pictures) => [pictures.shape()[1], pictures.shape()[2]],
        None => size,
    };
    let scale = (PREVIEW_SIDE as f64 / rows.max(columns).max(1) as f64).min(1.0);
    let side = |side: usize| ((side as f64 * scale).round_ties_even() as usize).max(1);
    let [rows, columns] = [side(rows), side(columns)];
    let ground = match background {
        Some(pictures) => Some(
            resize(&pictures.colours(), Method::Lanczos, [rows, columns])
                .map_err(NodeError::failed)?,
        ),
        None => None,
    };
    let grey = DIMMED * 128.0 / 255.0;
    let mut values: Vec<f32> = Vec::with_capacity(rows.saturating_mul(columns).saturating_mul(3));
    for place in 0..rows * columns {
        for channel in 0..3 {
            values.push(match &ground {
                Some(ground) => ground.at(0, place / columns, place % columns, channel) * DIMMED,
                None => grey,
            });
        }
    }
    let mut fill = |[top, left]: [i64; 2], [bottom, right]: [i64; 2], colour: [f32; 3]| {
        let rows = top.clamp(0, rows as i64) as usize..(bottom + 1).clamp(0, rows as i64) as usize;
        let (left, right) =
            (left.clamp(0, columns as i64) as usize, (right + 1).clamp(0, columns as i64) as usize);
        for row in rows {
            for column in left..right {
                let at = (row * columns + column) * 3;
                if let Some(pixel) = values.get_mut(at..at + 3) {
                    pixel.copy_from_slice(&colour);
                }
            }
        }
    };
    let thickness = (rows as f64 / 64.0).round_ties_even().max(10.0) as i64;
    for region in regions {
        let colours: Vec<[f32; 3]> =
            region.palette.iter().filter_map(|colour| rgb(&hex(colour)?)).collect();
        let edge = colours.first().copied().unwrap_or([140.0 / 255.0; 3]);
        let ([x, y], [w, h]) = (region.place, region.size);
        let pixel = |part: f64, whole: usize| {
            ((part * whole as f64).round_ties_even()).clamp(0.0, whole as f64) as i64
        };
        let ordered = |a: i64, b: i64| if a > b { (b, a) } else { (a, b) };
        let (left, right) = ordered(pixel(x, columns), pixel(x + w, columns));
        let (top, bottom) = ordered(pixel(y, rows), pixel(y + h, rows));
        fill([top, left], [(top + 1).min(bottom), right], edge);
        fill([(bottom - 1).max(top), left], [bottom, right], edge);
        fill([top, left], [bottom, (left + 1).min(right)], edge);
        fill([top, (right - 1).max(left)], [bottom, right], edge);
        if right - left > 2 {
            let shown = colours.get(..MOST_COLOURS).unwrap_or(&colours);
            let part = (right - left) as f64 / shown.len().max(1) as f64;
            for (place, colour) in shown.iter().enumerate() {
                let from = left + (place as f64 * part).round_ties_even() as i64;
                let to = left + ((place + 1) as f64 * part).round_ties_even() as i64;
                fill([top, from], [top + (thickness / 2).max(5), to], *colour);
            }
        }
    }
    Pictures::new([1, rows, columns, 3], values)
        .ok_or_else(|| NodeError::failed("the preview has not the pixels of its size"))
}

fn rgb(hex: &str) -> Option<[f32; 3]> {
    let part = |from: usize| {
        Some(f32::from(u8::from_str_radix(hex.get(from..from + 2)?, 16).ok()?) / 255.0)
    };
    Some([part(1)?, part(3)?, part(5)?])
}
