//! Whether a value is one that an input takes.

use std::fmt;

use serde_json::Value as Json;

use super::problem::Problem;
use crate::environment::Environment;
use crate::graph::{InputValue, PromptNode, describe, join};
use crate::inputs::Inputs;
use crate::signature::{Input, Kind, Node, Options};
use crate::value::{Type, Value};

/// The literal inputs of a checked node.
pub(crate) fn literals(node: &PromptNode, class: &Node, environment: &Environment) -> Inputs {
    let value = |input: &Input| match node.inputs.get(input.name)? {
        InputValue::Literal(Json::Null) if input.optional => None,
        InputValue::Literal(value) => {
            Some((input.name.to_owned(), literal(input, value, environment).ok()?))
        }
        InputValue::Link { .. } => None,
    };
    class.inputs.iter().filter_map(value).collect()
}

/// The value of a literal, or what is wrong with it.
pub(crate) fn literal(
    input: &Input,
    value: &Json,
    environment: &Environment,
) -> Result<Value, Problem> {
    let name = input.name;
    let wrong_type = || {
        let kind = input.kind.value_type();
        let details = format!("{name}: {} is no {kind}", describe(value));
        Problem::new("invalid_input_type", format!("Not a {kind} value"), details)
    };
    match input.kind {
        Kind::Int { min, max, .. } => {
            let number = whole(value).ok_or_else(wrong_type)?;
            in_range(name, &number, &min, &max)?;
            Ok(Value::Int(number))
        }
        Kind::Float { min, max, .. } => {
            let number = real(value).ok_or_else(wrong_type)?;
            in_range(name, &number, &min, &max)?;
            Ok(Value::Float(number))
        }
        Kind::Boolean { .. } => truth(value).map(Value::Boolean).ok_or_else(wrong_type),
        Kind::String { .. } => match value {
            Json::String(text) => Ok(Value::String(text.as_str().into())),
            // As Python writes them, which is what ComfyUI goes on with.
            Json::Null => Ok(Value::String("None".into())),
            Json::Bool(true) => Ok(Value::String("True".into())),
            Json::Bool(false) => Ok(Value::String("False".into())),
            Json::Number(_) => Ok(Value::String(value.to_string().into())),
            _ => Err(wrong_type()),
        },
        Kind::Choice { options, .. } => {
            let given = match value {
                Json::String(text) => text.clone(),
                Json::Number(_) | Json::Bool(_) => value.to_string(),
                _ => return Err(wrong_type()),
            };
            if matches!(options, Options::Files { .. }) {
                return Ok(Value::String(given.into()));
            }
            choose(name, &given, &options.list(environment)).map(|name| Value::String(name.into()))
        }
        Kind::Data(kind) => match value {
            Json::Array(_) | Json::Object(_) => Ok(Value::Data(kind, value.clone().into())),
            Json::Null => Ok(Value::Data(kind, Json::Array(Vec::new()).into())),
            _ => Err(wrong_type()),
        },
        Kind::Link(Type::Any | Type::Number) if let Some(value) = as_it_is(value) => Ok(value),
        Kind::Link(kind) => {
            let details =
                format!("{name}: {} is no link to a node that gives {kind}", describe(value));
            Err(Problem::new("bad_linked_input", "A link is needed here", details))
        }
    }
}

/// What another node gives as the input takes it: a whole number is a number too. Known only when that node has run.
pub(crate) fn linked(input: &Input, value: &Value) -> Result<Value, Problem> {
    let value = match (input.kind, value) {
        (Kind::Float { .. }, Value::Int(number)) => Value::Float(*number as f64),
        _ => value.clone(),
    };
    match (input.kind, &value) {
        (Kind::Int { min, max, .. }, Value::Int(number)) => {
            in_range(input.name, number, &min, &max)?;
        }
        (Kind::Float { min, max, .. }, Value::Float(number)) => {
            in_range(input.name, number, &min, &max)?;
        }
        _ => {}
    }
    Ok(value)
}

/// A number, a text or a switch of JSON.
fn as_it_is(value: &Json) -> Option<Value> {
    Some(match value {
        Json::Bool(yes) => Value::Boolean(*yes),
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole.into()),
            None => Value::Float(number.as_f64()?),
        },
        _ => return None,
    })
}

fn in_range<T: PartialOrd + fmt::Display>(
    name: &str,
    value: &T,
    min: &T,
    max: &T,
) -> Result<(), Problem> {
    let (kind, word, bound) = if value < min {
        ("value_smaller_than_min", "smaller than min", min)
    } else if value > max {
        ("value_bigger_than_max", "bigger than max", max)
    } else {
        return Ok(());
    };
    Err(Problem::new(kind, format!("Value {value} {word} of {bound}"), name))
}

fn whole(value: &Json) -> Option<i128> {
    match value {
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Some(number.into()),
            (_, Some(number), _) => Some(number.into()),
            (_, _, Some(number)) if number.abs() < 1e30 => Some(number as i128),
            _ => None,
        },
        Json::String(text) => text.trim().parse().ok(),
        Json::Bool(yes) => Some((*yes).into()),
        _ => None,
    }
}

fn real(value: &Json) -> Option<f64> {
    let number = match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok(),
        Json::Bool(yes) => Some(f64::from(u8::from(*yes))),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

fn truth(value: &Json) -> Option<bool> {
    match value {
        Json::Bool(yes) => Some(*yes),
        Json::Number(number) => number.as_f64().map(|number| number != 0.0),
        Json::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" | "" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The name in the list that is meant; Windows' separators are taken for others.
fn choose(input: &str, given: &str, list: &[String]) -> Result<String, Problem> {
    let slashes = given.replace('\\', "/");
    if let Some(name) =
        list.iter().find(|name| *name == given || name.replace('\\', "/") == slashes)
    {
        return Ok(name.clone());
    }
    let message = "Value not in list";
    Err(Problem::new(
        "value_not_in_list",
        message,
        format!("{input}: '{given}' {}", known(given, list)),
    ))
}

/// Names near to the given one, or all of a short list.
fn known(given: &str, list: &[String]) -> String {
    const SHORT: usize = 20;
    if list.is_empty() {
        return "is not there: there is none to choose from".to_owned();
    }
    let mut near: Vec<(f64, &String)> = list
        .iter()
        .map(|name| (strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near = match near.is_empty() {
        true => String::new(),
        false => format!("; near: {}", join(near.iter().take(5).map(|(_, name)| name))),
    };
    match list.len() <= SHORT {
        true => format!("not in [{}]{near}", join(list.iter().map(|name| format!("'{name}'")))),
        false => format!("not in a list of {}{near}", list.len()),
    }
}
