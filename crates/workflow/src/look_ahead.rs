//! Looking ahead at a run, node by node: what comes out of each by its [`Rule`](crate::forecast::Rule), and
//! which of them will fail.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::environment::Environment;
use crate::forecast::{Ahead, Forecast, Known};
use crate::graph::{InputValue, Prompt};
use crate::inputs::NodeError;
use crate::registry::Registry;
use crate::signature::Node;
use crate::validate::literals;
use crate::value::Type;

/// A node that will fail, and how.
pub struct Failing {
    /// The node's id.
    pub node: String,
    /// What will go wrong.
    pub error: NodeError,
}

/// Looks ahead at nodes, each of which comes after those that it needs; of those that `runs` does not
/// name the results are there already.
///
/// # Errors
/// The first node that will fail.
pub(crate) fn look_ahead(
    prompt: &Prompt,
    order: &[String],
    registry: &Registry,
    environment: &Environment,
    runs: impl Fn(&str) -> bool,
) -> Result<Forecast, Box<Failing>> {
    let forecast = RefCell::new(Forecast::default());
    let mut known: HashMap<&str, Vec<Known>> = HashMap::new();
    for id in order {
        let Some((node, class)) =
            prompt.nodes.get(id).and_then(|node| Some((node, registry.find(&node.class)?)))
        else {
            continue;
        };
        let mut inputs = literals(node, class, environment);
        let mut links = HashMap::new();
        for input in class.inputs {
            let Some(InputValue::Link { node: from, slot }) = node.inputs.get(input.name) else {
                continue;
            };
            let value = known.get(from.as_str()).and_then(|outputs| outputs.get(*slot));
            match value.cloned().unwrap_or_default() {
                Known::Value(value) => {
                    inputs = inputs.with(input.name, *value);
                }
                Known::Absent(why) if runs(id) && !input.optional => {
                    let error = NodeError::input(input.name, why);
                    return Err(Box::new(Failing { node: id.clone(), error }));
                }
                other => drop(links.insert(input.name, other)),
            }
        }
        if let Some(chosen) = class.lazy.and_then(|lazy| lazy(&inputs)) {
            forecast.borrow_mut().chosen.insert(id.clone(), chosen);
        }
        let ahead =
            Ahead { environment, node: id, runs: runs(id), inputs, links, forecast: &forecast };
        let outputs = match class.forecast {
            Some(rule) => match rule(&ahead) {
                Ok(outputs) => outputs,
                Err(error) if runs(id) => {
                    return Err(Box::new(Failing { node: id.clone(), error }));
                }
                Err(_) => Vec::new(),
            },
            None => passed_on(class, &ahead),
        };
        known.insert(id, outputs);
    }
    Ok(forecast.into_inner())
}

/// What comes out of a node without a rule: the models that go in.
fn passed_on(class: &Node, ahead: &Ahead<'_>) -> Vec<Known> {
    let passed = |kind: Type| {
        let mut takes = class.inputs.iter().filter(|input| input.kind.value_type() == kind);
        match (kind, takes.next(), takes.next()) {
            (Type::Model | Type::Clip | Type::Vae, Some(input), None) => ahead.linked(input.name),
            _ => Known::Nothing,
        }
    };
    class.outputs.iter().map(|output| passed(output.kind)).collect()
}
