//! Lists that go from node to node: a node that takes single values runs once for each value of a list.

use crate::context::Context;
use crate::inputs::{Inputs, NodeError};
use crate::registry::Registry;
use crate::signature::Node;
use crate::validate::Problem;
use crate::value::Value;

/// A value, or each value of a list, as `change` makes it.
///
/// # Errors
/// The first that `change` has.
pub(crate) fn each(
    value: &Value,
    change: impl Fn(&Value) -> Result<Value, Problem>,
) -> Result<Value, Problem> {
    match value {
        Value::List(values) => {
            let values = values.iter().map(change).collect::<Result<Vec<_>, Problem>>()?;
            Ok(Value::List(values.into()))
        }
        value => change(value),
    }
}

/// Runs a node: once, or for each value of the longest list among its inputs, where it does not take lists itself.
/// Of a shorter list, the last value counts again.
///
/// # Errors
/// When the node fails.
pub(crate) fn run(
    registry: &Registry,
    class: &Node,
    context: &mut Context<'_>,
    inputs: &Inputs,
) -> Result<Vec<Value>, NodeError> {
    let lists = || inputs.iter().filter_map(|(_, value)| value.as_list());
    if class.takes_lists || lists().next().is_none() {
        return registry.run(class, context, inputs);
    }
    // An empty list leaves nothing to run for.
    let most = match lists().map(<[Value]>::len).min() {
        Some(0) => 0,
        _ => lists().map(<[Value]>::len).max().unwrap_or(0),
    };
    let mut outputs: Vec<Vec<Value>> = vec![Vec::new(); class.outputs.len()];
    for at in 0..most {
        let single = inputs.iter().filter_map(|(name, value)| {
            let value = match value.as_list() {
                Some(values) => values.get(at.min(values.len().saturating_sub(1)))?,
                None => value,
            };
            Some((name.to_owned(), value.clone()))
        });
        let results = registry.run(class, context, &single.collect())?;
        for (all, result) in outputs.iter_mut().zip(results) {
            match result {
                Value::List(values) => all.extend(values.iter().cloned()),
                one => all.push(one),
            }
        }
    }
    Ok(outputs.into_iter().map(|values| Value::List(values.into())).collect())
}
