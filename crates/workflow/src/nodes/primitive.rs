//! Values that several nodes share.

use crate::forecast::{Ahead, Known};
use crate::inputs::NodeError;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "utils/primitive";
const ABOUT: &str = "Gives its value to as many nodes as are linked to it.";

/// The largest whole number of 64 bits with a sign.
const MOST: i128 = i64::MAX as i128;

/// A whole number.
pub const INT: Node = Node {
    class: "PrimitiveInt",
    title: "Int",
    category: CATEGORY,
    about: ABOUT,
    inputs: &[Input::int("value", 0, -MOST, MOST).control_after_generate()],
    outputs: &[Output::new(Type::Int)],
    forecast: Some(given),
    run: |_, inputs| Ok(vec![Value::Int(inputs.int("value")?)]),
    ..Node::EMPTY
};

/// A number.
pub const FLOAT: Node = Node {
    class: "PrimitiveFloat",
    title: "Float",
    category: CATEGORY,
    about: ABOUT,
    inputs: &[Input::float("value", 0.0, -(MOST as f64), MOST as f64, 0.1)],
    outputs: &[Output::new(Type::Float)],
    forecast: Some(given),
    run: |_, inputs| Ok(vec![Value::Float(inputs.float("value")?)]),
    ..Node::EMPTY
};

/// A text of one line.
pub const STRING: Node = Node {
    class: "PrimitiveString",
    title: "String",
    category: CATEGORY,
    about: ABOUT,
    inputs: &[Input::string("value", "")],
    outputs: &[Output::new(Type::String)],
    forecast: Some(given),
    run: |_, inputs| Ok(vec![Value::String(inputs.text("value")?.into())]),
    ..Node::EMPTY
};

/// A text of several lines.
pub const STRING_MULTILINE: Node = Node {
    class: "PrimitiveStringMultiline",
    title: "String (Multiline)",
    category: CATEGORY,
    about: ABOUT,
    inputs: &[Input::string("value", "").multiline()],
    outputs: &[Output::new(Type::String)],
    forecast: Some(given),
    run: |_, inputs| Ok(vec![Value::String(inputs.text("value")?.into())]),
    ..Node::EMPTY
};

/// Yes or no.
pub const BOOLEAN: Node = Node {
    class: "PrimitiveBoolean",
    title: "Boolean",
    category: CATEGORY,
    about: ABOUT,
    inputs: &[Input::boolean("value", false)],
    outputs: &[Output::new(Type::Boolean)],
    forecast: Some(given),
    run: |_, inputs| Ok(vec![Value::Boolean(inputs.boolean("value")?)]),
    ..Node::EMPTY
};

/// The value itself is known before a run.
fn given(ahead: &Ahead<'_>) -> Result<Vec<Known>, NodeError> {
    let value = ahead.inputs().get("value").cloned().map(Box::new);
    Ok(value.map(Known::Value).into_iter().collect())
}
