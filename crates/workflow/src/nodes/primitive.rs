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

/// One of the texts that a user wrote for a client's list.
pub const CUSTOM_COMBO: Node = Node {
    class: "CustomCombo",
    title: "Custom Combo",
    category: "utilities",
    about: "Returns a text that was chosen from a list of the user's own, and its place in the list.",
    inputs: &[
        Input::file("choice", |_| Vec::new()).tooltip("The text."),
        Input::int("index", 0, 0, MOST).optional().tooltip("Its place, from 0."),
    ],
    outputs: &[Output::new(Type::String), Output::new(Type::Int).named("INDEX")],
    is_experimental: true,
    forecast: Some(|ahead| {
        let known = |value: Option<Value>| {
            value.map_or(Known::Nothing, |value| Known::Value(Box::new(value)))
        };
        let choice = ahead.inputs().get("choice").cloned();
        let index = ahead.inputs().get("index").cloned();
        Ok(vec![known(choice), known(index)])
    }),
    run: |_, inputs| {
        let index = if inputs.has("index") { inputs.int("index")? } else { 0 };
        Ok(vec![Value::String(inputs.text("choice")?.into()), Value::Int(index)])
    },
    ..Node::EMPTY
};

/// The value itself is known before a run.
fn given(ahead: &Ahead<'_>) -> Result<Vec<Known>, NodeError> {
    let value = ahead.inputs().get("value").cloned().map(Box::new);
    Ok(value.map(Known::Value).into_iter().collect())
}
