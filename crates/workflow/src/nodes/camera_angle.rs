//! Where a camera stands around a subject, for nodes of three dimensions and in words.

use serde_json::json;

use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// The middle of the subject, a cube of side 1 on the ground.
const SUBJECT: [f64; 3] = [0.0, 0.5, 0.0];
/// Degrees that the camera sees from top to bottom.
const FIELD_OF_VIEW: f64 = 35.0;
/// How far the camera stands off.
const DISTANCE: f64 = 6.0;
/// How much of its focal length the largest zoom adds.
const MOST_ZOOM: f64 = 0.875;

/// What each eighth of the circle is called, from the front over the right.
const AROUND: [&str; 8] = [
    "front view",
    "front-right quarter view",
    "right side view",
    "back-right quarter view",
    "back view",
    "back-left quarter view",
    "left side view",
    "front-left quarter view",
];

/// A camera's place, and what a photographer would call it.
pub const CAMERA_ANGLE: Node = Node {
    class: "CameraAngle",
    title: "Compose Camera Angle Prompt",
    category: "3d",
    about: "Says where a camera stands around a subject: as data for nodes of three dimensions, and in the words of a \
            prompt.",
    inputs: &[
        Input::int("horizontal_angle", 0, 0, 360).tooltip(
            "Degrees around the subject: 0 is in front of it, 90 to its right, 180 behind.",
        ),
        Input::int("vertical_angle", 0, -30, 60)
            .tooltip("Degrees above the subject's middle; below 0 the camera looks up."),
        Input::float("zoom", 5.0, 0.0, 10.0, 0.1).tooltip("From 0, all of it, to 10, close."),
        Input::link("image", Type::Image).optional().tooltip("A picture for a client to show."),
        Input::string("view", "").optional().tooltip("What a client shows."),
    ],
    outputs: &[
        Output::new(Type::Camera).named("camera_info"),
        Output::new(Type::String).named("prompt"),
    ],
    run: |_, inputs| placed(inputs),
    ..Node::EMPTY
};

fn placed(inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    let (around, above) = (inputs.count("horizontal_angle")?, inputs.int("vertical_angle")?);
    let zoom = inputs.float("zoom")?;
    // Eighths begin 22.5 degrees before their middle.
    let eighth = (2 * (around % 360) + 45) / 90 % AROUND.len();
    let view = AROUND.get(eighth).copied().unwrap_or_default();
    let height = match above {
        ..-15 => "low-angle shot",
        -15..15 => "eye-level shot",
        15..45 => "elevated shot",
        _ => "high-angle shot",
    };
    let distance = match zoom {
        zoom if zoom < 2.0 => "wide shot",
        zoom if zoom < 6.0 => "medium shot",
        _ => "close-up",
    };
    let (yaw, pitch) = ((around as f64).to_radians(), (above as f64).to_radians());
    let [x, y, z] = SUBJECT;
    let camera = json!({
        "position": {
            "x": x + DISTANCE * pitch.cos() * yaw.sin(),
            "y": y + DISTANCE * pitch.sin(),
            "z": z + DISTANCE * pitch.cos() * yaw.cos(),
        },
        "target": {"x": x, "y": y, "z": z},
        "zoom": 1.0 + MOST_ZOOM * zoom / 10.0,
        "cameraType": "perspective",
        "fov": FIELD_OF_VIEW,
    });
    Ok(vec![
        Value::Data(Type::Camera, camera.into()),
        Value::String(format!("{view} {height} {distance}").into()),
    ])
}
