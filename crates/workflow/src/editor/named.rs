//! The nodes of a file as the editor finds them by a name, for the tokens of file names.

use serde_json::Value as Json;

use super::DEEPEST;
use super::file::EditorNode;
use super::widgets::widgets;
use crate::graph::Given;
use crate::nodes;

/// Nodes that are looked at for one name, at most.
const MOST_LISTED: usize = 10_000;

/// The node that the editor means by a name, with its id in a prompt: the first whose `Node name for
/// S&R` it is, else the first with this title. What a file leaves out is what a new node has: the
/// class for the one, the class's title for the other.
pub(crate) fn find_named<'a>(workflow: &'a Json, name: &str) -> Option<(String, &'a Json)> {
    let class = |node: &'a Json| node.get("type").and_then(Json::as_str);
    let by_name = |node: &'a Json| {
        let property = node.pointer("/properties/Node name for S&R").and_then(Json::as_str);
        property.or_else(|| class(node)) == Some(name)
    };
    let by_title = |node: &'a Json| {
        let title = node.get("title").and_then(Json::as_str);
        let usual = || nodes::find(class(node)?).map(|class| class.title);
        title.or_else(usual) == Some(name)
    };
    let subgraphs = workflow.pointer("/definitions/subgraphs").and_then(Json::as_array);
    let mut all = Vec::new();
    list(workflow, subgraphs.map_or(&[], Vec::as_slice), "", DEEPEST, &mut all);
    let found = all
        .iter()
        .find(|(_, node)| by_name(node))
        .or_else(|| all.iter().find(|(_, node)| by_title(node)));
    found.cloned()
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

/// The value of a node's widget as the file has it, also where a link takes its place.
pub(crate) fn widget_value(node: &Json, widget: &str) -> Option<Json> {
    let node: EditorNode = serde_json::from_value(node.clone()).ok()?;
    if let Json::Object(named) = &node.widgets_values {
        return named.get(widget).cloned();
    }
    match widgets(nodes::find(&node.class)?, &node, None).swap_remove(widget)? {
        Given::Literal(value) => Some(value),
        Given::Link { .. } => None,
    }
}
