//! Nodes that need their own result.

use std::collections::HashSet;

use super::needs::needed;
use crate::graph::Prompt;
use crate::registry::Registry;

/// The nodes on cycles, and no others: those that need one on a cycle, or that one needs, are not
/// on it. These are the strongly connected parts of the prompt, by Tarjan's algorithm without
/// recursion.
pub(super) fn on_cycles(prompt: &Prompt, registry: &Registry) -> HashSet<String> {
    let needs: Vec<Vec<usize>> = prompt
        .nodes
        .keys()
        .map(|id| {
            needed(prompt, registry, id).filter_map(|id| prompt.nodes.get_index_of(id)).collect()
        })
        .collect();
    let mut search = Search {
        found: vec![None; needs.len()],
        lowest: vec![0; needs.len()],
        is_open: vec![false; needs.len()],
        open: Vec::new(),
        count: 0,
    };
    let mut cyclic = HashSet::new();
    for start in 0..needs.len() {
        search.from(start, &needs, &mut |part| {
            let is_cycle = match part {
                [only] => needs.get(*only).is_some_and(|needs| needs.contains(only)),
                _ => true,
            };
            if is_cycle {
                let ids = part.iter().filter_map(|node| prompt.nodes.get_index(*node));
                cyclic.extend(ids.map(|(id, _)| id.clone()));
            }
        });
    }
    cyclic
}

/// Tarjan's state, by node.
struct Search {
    /// When a node was found.
    found: Vec<Option<usize>>,
    /// The earliest found node that is reached from it.
    lowest: Vec<usize>,
    /// Whether it is on `open`: its part is not yet whole.
    is_open: Vec<bool>,
    open: Vec<usize>,
    count: usize,
}

impl Search {
    #[allow(clippy::indexing_slicing)] // all indices are those of nodes
    fn from(&mut self, start: usize, needs: &[Vec<usize>], part: &mut dyn FnMut(&[usize])) {
        if self.found[start].is_some() {
            return;
        }
        // Nodes and how many of their needs were looked at.
        let mut way = vec![(start, 0)];
        self.find(start);
        while let Some((node, next)) = way.last_mut() {
            let node = *node;
            if let Some(&needed) = needs[node].get(*next) {
                *next += 1;
                match self.found[needed] {
                    None => {
                        self.find(needed);
                        way.push((needed, 0));
                    }
                    Some(found) if self.is_open[needed] => {
                        self.lowest[node] = self.lowest[node].min(found);
                    }
                    Some(_) => {}
                }
                continue;
            }
            way.pop();
            if let Some((user, _)) = way.last() {
                self.lowest[*user] = self.lowest[*user].min(self.lowest[node]);
            }
            if self.found[node] == Some(self.lowest[node]) {
                let begin = self.open.iter().rposition(|&open| open == node).unwrap_or(0);
                let whole = self.open.split_off(begin);
                whole.iter().for_each(|&node| self.is_open[node] = false);
                part(&whole);
            }
        }
    }

    #[allow(clippy::indexing_slicing)] // all indices are those of nodes
    fn find(&mut self, node: usize) {
        self.found[node] = Some(self.count);
        self.lowest[node] = self.count;
        self.count += 1;
        self.is_open[node] = true;
        self.open.push(node);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::graph::{InputValue, PromptNode};
    use crate::nodes;

    /// A prompt of nodes that take any number of links.
    fn prompt(count: usize, links: &[(usize, usize)]) -> Prompt {
        let mut prompt = Prompt::default();
        for node in 0..count {
            prompt.nodes.insert(node.to_string(), PromptNode::new("KSampler"));
        }
        let inputs = ["model", "positive", "negative", "latent_image", "seed", "steps", "cfg"];
        for (from, to) in links {
            let node = prompt.nodes.get_mut(&to.to_string()).unwrap();
            let free = inputs.iter().find(|name| !node.inputs.contains_key(**name)).unwrap();
            let link = InputValue::Link { node: from.to_string(), slot: 0 };
            node.inputs.insert((*free).to_owned(), link);
        }
        prompt
    }

    #[test]
    fn what_comes_after_a_cycle_is_not_on_it() {
        // 0 → 1 ⇄ 2 → 3 → 4 → 4 → 5, and 6 alone.
        let links = [(0, 1), (1, 2), (2, 1), (2, 3), (3, 4), (4, 4), (4, 5)];
        let mut found: Vec<_> = on_cycles(&prompt(7, &links), &nodes::all()).into_iter().collect();
        found.sort();
        assert_eq!(found, ["1", "2", "4"]);
    }

    #[test]
    fn long_chains_and_cycles() {
        let registry = nodes::all();
        let count = 30_000;
        let chain: Vec<_> = (1..count).map(|node| (node - 1, node)).collect();
        assert!(on_cycles(&prompt(count, &chain), &registry).is_empty());
        let around: Vec<_> = (0..count).map(|node| (node, (node + 1) % count)).collect();
        assert_eq!(on_cycles(&prompt(count, &around), &registry).len(), count);
    }

    proptest! {
        /// A node is on a cycle if it can be reached from itself.
        #[test]
        fn as_by_brute_force(links in prop::collection::hash_set((0..9_usize, 0..9_usize), 0..7)) {
            let links: Vec<_> = links.into_iter().collect();
            let found = on_cycles(&prompt(9, &links), &nodes::all());
            for node in 0..9 {
                let mut reached = HashSet::new();
                let mut next = vec![node];
                while let Some(at) = next.pop() {
                    for &(from, to) in &links {
                        if from == at && reached.insert(to) {
                            next.push(to);
                        }
                    }
                }
                prop_assert_eq!(found.contains(&node.to_string()), reached.contains(&node));
            }
        }
    }
}
