//! What a node needs: the nodes that its inputs are linked to.

use crate::graph::{InputValue, Prompt};
use crate::registry::Registry;

/// A node and all that it needs, each once, in no special order.
pub fn ancestors(prompt: &Prompt, registry: &Registry, target: &str) -> Vec<String> {
    let mut found = indexmap::IndexSet::from([target.to_owned()]);
    let mut next = 0;
    while let Some(id) = found.get_index(next).cloned() {
        next += 1;
        found.extend(needed(prompt, registry, &id).map(str::to_owned));
    }
    found.into_iter().collect()
}

/// The nodes that a node's declared inputs are linked to.
pub(crate) fn needed<'a>(
    prompt: &'a Prompt,
    registry: &Registry,
    id: &str,
) -> impl Iterator<Item = &'a str> {
    let node = prompt.nodes.get(id);
    let class = node.and_then(|node| registry.find(&node.class));
    node.into_iter().flat_map(|node| &node.inputs).filter_map(move |(name, given)| match given {
        InputValue::Link { node, .. } if class.is_some_and(|class| class.input(name).is_some()) => {
            prompt.nodes.contains_key(node).then_some(node.as_str())
        }
        _ => None,
    })
}
