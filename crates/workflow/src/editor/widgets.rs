//! Widget values, which the editor keeps in a list, by the names of the class's inputs.

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::file::EditorNode;
use crate::graph::Given;
use crate::signature::{Input, Kind, Node, Options};

/// What a widget that changes a seed after each run may say. It is saved behind the seed.
const CONTROLS: [&str; 5] = ["fixed", "increment", "decrement", "randomize", "increment-wrap"];

/// The values of a node's widgets, by name. Widgets that are newer than the file have their defaults.
pub(super) fn widgets(class: &Node, node_: &EditorNode) -> IndexMap<String, Given> {
    let mut found = IndexMap::new();
    let mut place = 0;
    for input in class.inputs.iter().filter(|input| !matches!(input.kind, Kind::Link(_))) {
        let value = match &node_.widgets_values {
            Json::Object(named) => named.get(input.name),
            _ => node_.value(place),
        };
        place += 1;
        if controls(input) && is_control(node_.value(place)) {
            place += 1;
        }
        let value = value.cloned().or_else(|| default(input));
        if let Some(value) = value.filter(|value| !value.is_null()) {
            found.insert(input.name.to_owned(), Given::Literal(value));
        }
    }
    found
}

/// Whether a widget that changes the value after each run stands behind.
fn controls(input: &Input) -> bool {
    matches!(input.kind, Kind::Int { control_after_generate: true, .. })
}

fn is_control(value: Option<&Json>) -> bool {
    value.and_then(Json::as_str).is_some_and(|text| CONTROLS.contains(&text))
}

/// What a new widget says, where that does not depend on the machine.
fn default(input: &Input) -> Option<Json> {
    match input.kind {
        Kind::Int { default, .. } => u64::try_from(default).ok().map(Json::from),
        Kind::Float { default, .. } => Some(default.into()),
        Kind::String { default, .. } => Some(default.into()),
        Kind::Boolean { default, .. } => Some(default.into()),
        Kind::Choice { options: Options::Fixed(list), default } => {
            default.or_else(|| list.first().copied()).map(Json::from)
        }
        Kind::Choice { default, .. } => default.map(Json::from),
        Kind::Link(_) => None,
    }
}
