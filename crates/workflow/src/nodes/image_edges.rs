//! Edges of pictures.

use distorch_pipeline::image::canny::edges;

use crate::forecast::same;
use crate::inputs::NodeError;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// Edges by Canny's method.
pub const CANNY: Node = Node {
    class: "Canny",
    title: "Canny",
    category: "image/preprocessors",
    about: "Finds the edges of pictures: white lines on black.",
    inputs: &[
        Input::link("image", Type::Image).tooltip("The pictures."),
        Input::float("low_threshold", 0.4, 0.01, 0.99, 0.01)
            .tooltip("How steep a pixel has to be that touches an edge."),
        Input::float("high_threshold", 0.8, 0.01, 0.99, 0.01)
            .tooltip("How steep a pixel has to be that begins an edge."),
    ],
    outputs: &[Output::new(Type::Image).tooltip("The edges.")],
    forecast: Some(|ahead| Ok(same(ahead, "image"))),
    run: |_, inputs| {
        let (low, high) = (inputs.float("low_threshold")?, inputs.float("high_threshold")?);
        if low > high {
            let problem = format!("{low} is more than the high threshold, {high}");
            return Err(NodeError::input("low_threshold", problem));
        }
        let found = edges(&inputs.image("image")?, low as f32, high as f32);
        let problem = "it has no 3 rows and columns";
        Ok(vec![Value::Image(found.ok_or_else(|| NodeError::input("image", problem))?)])
    },
    ..Node::EMPTY
};
