//! Where a node's inputs come from: links, followed through what only the editor knows.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::file::{EditorNode, Graph, Slot};
use super::widgets::widgets;
use crate::graph::{Given, PromptError, PromptNode};
use crate::nodes;

/// Subgraphs in subgraphs, and nodes that a link passes, at most.
const DEEPEST: usize = 64;

/// Where the links of a subgraph come from and go to, instead of a node.
const OUTSIDE: &str = "-10";
const RESULT: &str = "-20";

/// Nodes that never run.
const NEVER: u8 = 2;
/// Nodes that let their inputs through.
const BYPASS: u8 = 4;

/// A graph, and the node of the graph around it that it is the inside of.
pub(super) struct Scope<'a> {
    pub(super) graph: &'a Graph,
    pub(super) subgraphs: &'a HashMap<&'a str, &'a Graph>,
    pub(super) outer: Option<(&'a Scope<'a>, &'a EditorNode)>,
    pub(super) depth: usize,
}

impl Scope<'_> {
    /// The nodes that run, in the editor's order.
    pub(super) fn collect(
        &self,
        into: &mut IndexMap<String, PromptNode>,
    ) -> Result<(), PromptError> {
        let mut drawn: Vec<&EditorNode> = self.graph.nodes.iter().collect();
        drawn.sort_by_key(|node_| node_.order);
        for node_ in drawn {
            if node_.is_virtual() || [NEVER, BYPASS].contains(&node_.mode) {
                continue;
            }
            match self.inside(node_) {
                Some(inner) if inner.depth > DEEPEST => {
                    return Err(PromptError::Shape {
                        place: format!("node `{}`", self.id(&node_.id.text())),
                        expected: "a subgraph that does not contain itself",
                        found: format!("`{}` within itself", node_.class),
                    });
                }
                Some(inner) => inner.collect(into)?,
                None => {
                    into.insert(self.id(&node_.id.text()), self.node(node_));
                }
            }
        }
        Ok(())
    }

    /// The node's id outside of all subgraphs: `5:3` for node 3 inside node 5.
    fn id(&self, id: &str) -> String {
        match self.outer {
            Some((outer, node_)) => format!("{}:{id}", outer.id(&node_.id.text())),
            None => id.to_owned(),
        }
    }

    fn find(&self, id: &str) -> Option<&EditorNode> {
        self.graph.nodes.iter().find(|node_| node_.id.text() == id)
    }

    /// What a node that stands for a subgraph has inside.
    fn inside<'b>(&'b self, node_: &'b EditorNode) -> Option<Scope<'b>> {
        let graph = self.subgraphs.get(node_.class.as_str())?;
        let subgraphs = self.subgraphs;
        Some(Scope { graph, subgraphs, outer: Some((self, node_)), depth: self.depth + 1 })
    }

    fn node(&self, node_: &EditorNode) -> PromptNode {
        let class = nodes::find(&node_.class);
        let mut inputs = class.map_or_else(IndexMap::new, |class| widgets(class, node_));
        for slot in node_.inputs() {
            let Some(given) = slot.link.and_then(|link| self.follow(link, DEEPEST)) else {
                continue;
            };
            inputs.insert(slot.name.clone(), given);
        }
        let title = node_.title.clone().or_else(|| class.map(|class| class.title.to_owned()));
        PromptNode { class: node_.class.clone(), title, inputs }
    }

    /// Where a link comes from in the end; `None` where that is nowhere.
    fn follow(&self, link: i64, far: usize) -> Option<Given> {
        let far = far.checked_sub(1)?;
        let (origin, slot) = self.graph.links.iter().find(|other| other.id() == link)?.origin();
        if origin == OUTSIDE {
            return self.given_outside(slot, far);
        }
        let node_ = self.find(&origin)?;
        let on = |slot: Option<&Slot>| self.follow(slot?.link?, far);
        match (node_.mode, node_.class.as_str()) {
            (NEVER, _) => None,
            (BYPASS, _) => on(node_.passed(slot)),
            (_, "Reroute" | "Reroute (rgthree)") => on(node_.inputs().first()),
            (_, "PrimitiveNode") => node_.value(0).cloned().map(Given::Literal),
            (_, "GetNode") => {
                let name = node_.value(0)?;
                let sets =
                    |other: &&EditorNode| other.class == "SetNode" && other.value(0) == Some(name);
                on(self.graph.nodes.iter().find(sets)?.inputs().first())
            }
            _ => match self.inside(node_) {
                Some(inner) => inner.result(slot, far),
                None => Some(Given::Link { node: self.id(&origin), slot }),
            },
        }
    }

    /// What the graph around gives to an input of the subgraph.
    fn given_outside(&self, slot: usize, far: usize) -> Option<Given> {
        let (outer, node_) = self.outer?;
        let input = node_.inputs().get(slot)?;
        if let Some(link) = input.link {
            return outer.follow(link, far);
        }
        // A widget that was moved to the outside has its value there.
        let is_widget = |slot: &&Slot| !slot.widget.is_null();
        let place = node_.inputs().iter().take(slot).filter(is_widget).count();
        is_widget(&input).then(|| node_.value(place).cloned().map(Given::Literal)).flatten()
    }

    /// What the subgraph gives at an output.
    fn result(&self, slot: usize, far: usize) -> Option<Given> {
        let leads_there = |link: &&Link| link.target() == (RESULT.to_owned(), slot);
        self.follow(self.graph.links.iter().find(leads_there)?.id(), far)
    }
}
