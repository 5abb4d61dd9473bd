//! The nodes of a file as the editor names them, for the tokens of file names.

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::file::EditorNode;
use super::subgraphs::DEEPEST;
use super::widgets::widgets;
use crate::graph::{InputValue, NamedNode};
use crate::registry::Registry;

/// Nodes that are listed, at most, before subgraphs are left out.
const MOST_LISTED: usize = 10_000;

/// The nodes in the editor's order, those in subgraphs too. What a file leaves out is what a new node has:
/// the class for the name, the class's title for the title.
pub(crate) fn named(workflow: &Json, registry: &Registry) -> Vec<NamedNode> {
    let subgraphs = workflow.pointer("/definitions/subgraphs").and_then(Json::as_array);
    let mut all = Vec::new();
    list(workflow, subgraphs.map_or(&[], Vec::as_slice), "", DEEPEST, &mut all);
    all.into_iter().map(|(id, node)| named_node(id, node, registry)).collect()
}

fn named_node(id: String, node: &Json, registry: &Registry) -> NamedNode {
    let class = node.get("type").and_then(Json::as_str);
    let property = node.pointer("/properties/Node name for S&R").and_then(Json::as_str);
    let title = node.get("title").and_then(Json::as_str);
    let usual = || registry.find(class?).map(|class| class.title);
    NamedNode {
        id,
        name: property.or(class).map(str::to_owned),
        title: title.or_else(usual).map(str::to_owned),
        widgets: widget_values(node, registry).unwrap_or_default(),
    }
}

/// Lists nodes in the editor's order: those in a subgraph before the node that stands for it.
fn list<'a>(
    graph: &'a Json,
    subgraphs: &'a [Json],
    outer: &str,
    deep: usize,
    into: &mut Vec<(String, &'a Json)>,
) {
    for node in graph.get("nodes").and_then(Json::as_array).into_iter().flatten() {
        let id = match node.get("id") {
            Some(Json::String(id)) => format!("{outer}{id}"),
            Some(id) => format!("{outer}{id}"),
            None => continue,
        };
        let class = node.get("type");
        let inner = subgraphs.iter().find(|graph| class.is_some() && graph.get("id") == class);
        if let (Some(inner), Some(deep)) = (inner, deep.checked_sub(1))
            && into.len() < MOST_LISTED
        {
            list(inner, subgraphs, &format!("{id}:"), deep, into);
        }
        into.push((id, node));
    }
}

/// The values of a node's widgets as the file has them, also where links take their place.
fn widget_values(node: &Json, registry: &Registry) -> Option<IndexMap<String, Json>> {
    let node: EditorNode = serde_json::from_value(node.clone()).ok()?;
    if let Json::Object(named) = node.widgets_values {
        return Some(named.into_iter().collect());
    }
    let values = widgets(registry.find(&node.class)?, &node, None).into_iter();
    let literal = |(name, given)| match given {
        InputValue::Literal(value) => Some((name, value)),
        InputValue::Link { .. } => None,
    };
    Some(values.filter_map(literal).collect())
}
