//! Numbers computed from others.

use super::expression::{Names, Number, evaluate};
use crate::forecast::Known;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Growing, Input, Node, Output};
use crate::value::{Type, Value};

const VALUES: Growing =
    Growing { name: "values", one: "value", named: true, least: 1, optional: true };

macro_rules! letters {
    ($($name:literal),*) => {
        &[
            Input::string("expression", "a + b").multiline().tooltip("What is computed."),
            $(Input::link($name, Type::Number).one_of(&VALUES)),*
        ]
    };
}

/// An expression of numbers.
pub const EXPRESSION: Node = Node {
    class: "ComfyMathExpression",
    title: "Math Expression",
    category: "utilities",
    about: "Computes an expression of numbers, which are called a, b, … as their inputs, as Python would.",
    inputs: letters![
        "values.a", "values.b", "values.c", "values.d", "values.e", "values.f", "values.g",
        "values.h", "values.i", "values.j", "values.k", "values.l", "values.m", "values.n",
        "values.o", "values.p", "values.q", "values.r", "values.s", "values.t", "values.u",
        "values.v", "values.w", "values.x", "values.y", "values.z"
    ],
    outputs: &[
        Output::new(Type::Float),
        Output::new(Type::Int),
        Output::new(Type::Boolean).named("BOOL"),
    ],
    forecast: Some(|ahead| {
        let linked = ahead.is_linked_to_unknown();
        if linked {
            return Ok(Vec::new());
        }
        let values = computed(ahead.inputs())?;
        Ok(values.into_iter().map(|value| Known::Value(Box::new(value))).collect())
    }),
    run: |_, inputs| computed(inputs),
    ..Node::EMPTY
};

fn computed(inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    let text = inputs.text("expression")?;
    let wrong = |problem: String| NodeError::input("expression", problem);
    if text.trim().is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    let mut numbers: Vec<(&str, Number)> = Vec::new();
    for (name, value) in inputs.iter() {
        if let (Some(letter), Some(number)) = (name.strip_prefix("values."), number_of(value)) {
            numbers.push((letter, number));
        }
    }
    numbers.sort_by_key(|(letter, _)| *letter);
    let value =
        evaluate(text, &Names { numbers: &numbers }).map_err(|error| wrong(error.to_string()))?;
    let real = value.real();
    let whole = value.cut().filter(|_| real.is_finite());
    let whole =
        whole.ok_or_else(|| wrong(format!("`{text}` is {real}, which is no finite number")))?;
    Ok(vec![Value::Float(real), Value::Int(whole), Value::Boolean(value.is_true())])
}

fn number_of(value: &Value) -> Option<Number> {
    match value {
        Value::Int(number) => Some(Number::Int(*number)),
        Value::Float(number) => Some(Number::Float(*number)),
        Value::Boolean(yes) => Some(Number::Bool(*yes)),
        _ => None,
    }
}

/// A number as another kind of it.
pub const CONVERT: Node = Node {
    class: "ComfyNumberConvert",
    title: "Number Convert",
    category: "utilities",
    about: "Returns a number, a switch or a text with a number in it as a number and as a whole number.",
    inputs: &[Input::link("value", Type::Any).tooltip("The value.")],
    outputs: &[Output::new(Type::Float), Output::new(Type::Int)],
    run: |_, inputs| {
        let value = inputs.get("value");
        let number = match value {
            Some(Value::String(text)) => {
                let text = text.trim();
                text.parse().map(Number::Int).or_else(|_| text.parse().map(Number::Float)).ok()
            }
            other => other.and_then(number_of),
        };
        let pair = number.and_then(|number| Some((number.real(), number.cut()?)));
        let (real, whole) = pair.filter(|(real, _)| real.is_finite()).ok_or_else(|| {
            NodeError::input("value", "it is no finite number, and no text with one in it")
        })?;
        Ok(vec![Value::Float(real), Value::Int(whole)])
    },
    ..Node::EMPTY
};
