//! Choices between values, and what is true of them.

use crate::forecast::Known;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Growing, Input, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "utilities/logic";

/// One of two values; only what is behind the chosen one runs.
pub const SWITCH: Node = Node {
    class: "ComfySwitchNode",
    title: "If/Else Switch",
    category: CATEGORY,
    about: "Passes one of two values on. Nodes that only the other one needs do not run.",
    inputs: &[
        Input::boolean("switch", false).tooltip("Which value is passed on."),
        Input::link("on_false", Type::Any)
            .lazy()
            .shared_type("switch")
            .tooltip("Passed on if not."),
        Input::link("on_true", Type::Any).lazy().shared_type("switch").tooltip("Passed on if so."),
    ],
    outputs: &[Output::new(Type::Any).named("output")],
    is_experimental: true,
    lazy: Some(|inputs| chosen(inputs).map(|name| vec![name])),
    forecast: Some(|ahead| {
        let Some(name) = chosen(ahead.inputs()) else { return Ok(Vec::new()) };
        Ok(vec![match ahead.inputs().get(name) {
            Some(value) => Known::Value(Box::new(value.clone())),
            None => ahead.linked(name),
        }])
    }),
    run: |_, inputs| {
        let name = chosen(inputs).ok_or_else(|| NodeError::input("switch", "it is not given"))?;
        Ok(vec![inputs.get(name).cloned().unwrap_or_else(|| {
            Value::Absent(
                format!("nothing is linked to `{name}` of the switch that chose it").into(),
            )
        })])
    },
    ..Node::EMPTY
};

fn chosen(inputs: &Inputs) -> Option<&'static str> {
    inputs.boolean("switch").ok().map(|yes| if yes { "on_true" } else { "on_false" })
}

/// The opposite.
pub const NOT: Node = Node {
    class: "ComfyNotNode",
    title: "Not",
    category: CATEGORY,
    about: "Returns whether a value counts as false: by Python's rules 0, an empty text, or nothing.",
    inputs: &[Input::link("value", Type::Any).tooltip("The value.")],
    outputs: &[Output::new(Type::Boolean)],
    forecast: Some(|ahead| {
        Ok(vec![known(ahead.inputs().get("value").map(|value| !is_true(value)))])
    }),
    run: |_, inputs| Ok(vec![Value::Boolean(!inputs.get("value").is_some_and(is_true))]),
    ..Node::EMPTY
};

const VALUES: Growing =
    Growing { name: "values", one: "value", named: false, least: 1, optional: false };

macro_rules! values {
    ($($name:literal),*) => { &[$(Input::link($name, Type::Any).one_of(&VALUES)),*] };
}

/// As many as anyone links by hand; ComfyUI's list ends at 100.
const ALL: &[Input] = values![
    "values.value0",
    "values.value1",
    "values.value2",
    "values.value3",
    "values.value4",
    "values.value5",
    "values.value6",
    "values.value7",
    "values.value8",
    "values.value9",
    "values.value10",
    "values.value11",
    "values.value12",
    "values.value13",
    "values.value14",
    "values.value15",
    "values.value16",
    "values.value17",
    "values.value18",
    "values.value19"
];

/// Whether all values count as true.
pub const AND: Node = Node {
    class: "ComfyAndNode",
    title: "And",
    category: CATEGORY,
    about: "Returns whether all values count as true, by Python's rules.",
    inputs: ALL,
    outputs: &[Output::new(Type::Boolean)],
    run: |_, inputs| Ok(vec![Value::Boolean(inputs.iter().all(|(_, value)| is_true(value)))]),
    ..Node::EMPTY
};

/// Whether any value counts as true.
pub const OR: Node = Node {
    class: "ComfyOrNode",
    title: "Or",
    category: CATEGORY,
    about: "Returns whether any of the values counts as true, by Python's rules.",
    inputs: ALL,
    outputs: &[Output::new(Type::Boolean)],
    run: |_, inputs| Ok(vec![Value::Boolean(inputs.iter().any(|(_, value)| is_true(value)))]),
    ..Node::EMPTY
};

fn known(value: Option<bool>) -> Known {
    value.map_or(Known::Nothing, |yes| Known::Value(Box::new(Value::Boolean(yes))))
}

/// Whether Python takes a value for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::Boolean(yes) => *yes,
        Value::String(text) => !text.is_empty(),
        Value::List(values) => !values.is_empty(),
        Value::Absent(_) => false,
        _ => true,
    }
}
