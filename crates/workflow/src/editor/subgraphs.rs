//! Nodes that stand for a graph: what they have inside, and the values that one of them gives to it.
//!
//! A subgraph's widgets lie on the node that stands for it in three ways, by the age of the file: in the
//! order of those of the subgraph's inputs that lead to a widget inside; by `properties.proxyWidgets`, a
//! list of nodes and widgets inside, in its order; and, in group nodes, in the order of what is inside.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::Value as Json;

use super::file::{Definitions, EditorNode, Link, OUTSIDE, Slot};
use super::group_nodes;
use super::insides::{GroupWidget, Inside, Insides};
use super::widgets::{Named, is_control};

/// Subgraphs in subgraphs, at most.
pub(super) const DEEPEST: usize = 64;

/// How `proxyWidgets` names the subgraph's own inputs, instead of a node inside.
const OWN: &str = "-1";

/// Adds subgraphs and those that are defined in them.
pub(super) fn add_subgraphs(definitions: Definitions, into: &mut Insides) {
    for subgraph in definitions.subgraphs {
        let inputs = subgraph.inputs.into_iter().map(|slot| slot.name).collect();
        into.entry(subgraph.id).or_insert(Inside::new(subgraph.graph, inputs, None));
        add_subgraphs(subgraph.definitions, into);
    }
}

/// Finds which inputs of subgraphs lead to widgets, those through subgraphs inside too.
pub(super) fn find_widgets(insides: &mut Insides) {
    for _ in 0..DEEPEST {
        let found: Vec<(String, usize)> = insides
            .iter()
            .flat_map(|(class, inside)| {
                let slots = inside.graph.links().iter().filter_map(|link| {
                    let is_new =
                        link.origin == OUTSIDE && !inside.shown.contains(&link.origin_slot);
                    (is_new && leads_to_widget(insides, inside, link)).then_some(link.origin_slot)
                });
                slots.map(|slot| (class.clone(), slot))
            })
            .collect();
        if found.is_empty() {
            return;
        }
        for (class, slot) in found {
            if let Some(inside) = insides.get_mut(&class) {
                inside.shown.insert(slot);
            }
        }
    }
}

/// Whether a link goes to an input with a widget, or to one of a subgraph that leads to such.
fn leads_to_widget(insides: &Insides, inside: &Inside, link: &Link) -> bool {
    let Some(node) = inside.graph.node(&link.target) else { return false };
    let Some(input) = node.inputs.iter().find(|input| input.link == Some(link.id)) else {
        return false;
    };
    let within = insides.get(&*group_nodes::class(&node.class));
    let slot = within.and_then(|within| within.inputs.iter().position(|name| *name == input.name));
    let is_shown = within.zip(slot).is_some_and(|(within, slot)| within.shown.contains(&slot));
    is_shown || !input.widget.is_null()
}

/// The inside of one node.
pub(super) struct Level<'a> {
    /// The node that stands for it.
    pub(super) node: &'a EditorNode,
    pub(super) inside: &'a Inside,
    /// What the node's own inputs have, where nothing is linked to them.
    pub(super) inputs: Named,
    /// What widgets of nodes inside have instead of their own values, by the node's id.
    pub(super) widgets: HashMap<String, Named>,
    /// Before the ids of nodes inside: `5:3:`.
    pub(super) prefix: String,
}

impl<'a> Level<'a> {
    /// The inside of a node in the graph that `outer` is the way to.
    pub(super) fn enter(outer: &[Rc<Level<'a>>], node: &'a EditorNode, inside: &'a Inside) -> Self {
        let around = outer.last();
        let prefix = around.map_or("", |level| &level.prefix);
        let prefix = format!("{prefix}{}:", node.id);
        let mut level =
            Self { node, inside, inputs: Named::new(), widgets: HashMap::new(), prefix };
        let given = around.and_then(|level| level.widgets.get(&node.id));
        match &inside.widgets {
            Some(widgets) => level.group_widgets(widgets, given),
            None => level.subgraph_widgets(given),
        }
        level
    }

    fn group_widgets(&mut self, widgets: &[GroupWidget], given: Option<&Named>) {
        let node = self.node;
        let mut place = 0;
        for widget in widgets {
            let own = match &node.widgets_values {
                Json::Object(named) => named.get(&widget.name),
                _ => node.value(place),
            };
            place += 1;
            if widget.has_control && node.value(place).is_some_and(is_control) {
                place += 1;
            }
            let value = given.and_then(|given| given.get(&widget.name)).or(own);
            self.set(&widget.node, &widget.input, value);
        }
    }

    fn subgraph_widgets(&mut self, given: Option<&Named>) {
        let node = self.node;
        let proxies = proxies(node);
        for (place, (source, name)) in proxies.iter().enumerate() {
            let value = given.and_then(|given| given.get(name)).or_else(|| node.value(place));
            if source == OWN {
                self.set_input(name, value);
            } else {
                self.set(source, name, value);
            }
        }
        if proxies.is_empty() {
            self.shown_widgets();
        }
        for (name, value) in given.into_iter().flatten() {
            self.set_input(name, Some(value));
        }
    }

    /// The values of the inputs that lead to widgets, in the subgraph's order. A node may list fewer
    /// inputs: the editor leaves those out that are nothing but an unlinked widget without a label.
    fn shown_widgets(&mut self) {
        let (node, inside) = (self.node, self.inside);
        let listed = |name: &str| node.inputs.iter().find(|slot| slot.name == name);
        let has_widget = |name: &str| listed(name).is_some_and(|slot| !slot.widget.is_null());
        let mut names: Vec<&str> = Vec::new();
        for (slot, name) in inside.inputs.iter().enumerate() {
            if inside.shown.contains(&slot) || has_widget(name) {
                names.push(name);
            }
        }
        for slot in &node.inputs {
            if !inside.inputs.contains(&slot.name) && !slot.widget.is_null() {
                names.push(&slot.name);
            }
        }
        // Some files have what a seed becomes after a run behind it.
        let values = node.widgets_values.as_array().map_or(0, Vec::len);
        let has_controls = values > names.len();
        let mut place = 0;
        for name in names {
            let value = match &node.widgets_values {
                Json::Object(named) => named.get(name),
                _ => node.value(place),
            };
            place += 1;
            if has_controls
                && value.is_some_and(Json::is_number)
                && node.value(place).is_some_and(is_control)
            {
                place += 1;
            }
            self.set_input(name, value);
        }
    }

    fn set_input(&mut self, name: &str, value: Option<&Json>) {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            self.inputs.insert(name.to_owned(), value.clone());
        }
    }

    fn set(&mut self, node: &str, input: &str, value: Option<&Json>) {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            let widgets = self.widgets.entry(node.to_owned()).or_default();
            widgets.insert(input.to_owned(), value.clone());
        }
    }

    /// The input of the node for what comes in at a slot inside, and its name. Editors leave inputs
    /// out that are nothing but widgets, so that names count before places.
    pub(super) fn outer_input(&self, slot: usize) -> (Option<&'a Slot>, Option<&'a str>) {
        let (inputs, name) = (&self.node.inputs, self.inside.inputs.get(slot));
        let named = |name: &String| inputs.iter().find(|input| input.name == *name);
        let found = match name {
            None => inputs.get(slot),
            Some(name) => named(name).or_else(|| {
                let is_whole = inputs.len() == self.inside.inputs.len();
                is_whole.then(|| inputs.get(slot)).flatten()
            }),
        };
        (found, name.map(String::as_str).or_else(|| found.map(|input| input.name.as_str())))
    }
}

/// `[["3", "seed"], …]`: the nodes and widgets inside that a node shows, or text that says so.
fn proxies(node: &EditorNode) -> Vec<(String, String)> {
    let list = match node.properties.get("proxyWidgets") {
        Some(Json::String(text)) => serde_json::from_str(text).unwrap_or_default(),
        Some(list) => list.clone(),
        None => return Vec::new(),
    };
    let entry = |entry: &Json| {
        let part = |place| match entry.get(place)? {
            Json::Number(number) => Some(number.to_string()),
            part => part.as_str().map(str::to_owned),
        };
        Some((part(0)?, part(1)?))
    };
    list.as_array().into_iter().flatten().filter_map(entry).collect()
}
