//! Where a node's inputs come from: links, followed through what only the editor knows.

use std::collections::HashMap;
use std::rc::Rc;

use super::file::{EditorNode, Graph, OUTSIDE, RESULT};
use super::group_nodes;
use super::insides::Insides;
use super::subgraphs::{DEEPEST, Level};
use super::widgets::widgets;
use crate::graph::{InputValue, join};
use crate::registry::Registry;

/// Links on the way to a value before circles are looked for.
const SHORT: usize = 64;

/// Inputs inside subgraphs that are searched for the value of one, at most.
const MOST_TRIES: usize = 1000;

/// The way into subgraphs: each in the one before.
pub(super) type Path<'a> = Vec<Rc<Level<'a>>>;

/// A file's graphs.
#[derive(Clone, Copy)]
pub(super) struct Graphs<'a> {
    pub(super) top: &'a Graph,
    pub(super) insides: &'a Insides,
    pub(super) registry: &'a Registry,
}

impl<'a> Graphs<'a> {
    /// The graph that a path leads to.
    pub(super) fn graph(&self, path: &[Rc<Level<'a>>]) -> &'a Graph {
        path.last().map_or(self.top, |level| &level.inside.graph)
    }

    /// The inside of a node that stands for a graph.
    pub(super) fn enter(
        &self,
        path: &[Rc<Level<'a>>],
        node: &'a EditorNode,
    ) -> Option<Rc<Level<'a>>> {
        let inside = self.insides.get(&*group_nodes::class(&node.class))?;
        Some(Rc::new(Level::enter(path, node, inside)))
    }

    /// What the widget has that a subgraph's input leads to: what the input has where neither a link nor a
    /// value is given from outside. The path leads into the subgraph; `tries` bounds the search.
    fn shown_value(
        &self,
        path: &[Rc<Level<'a>>],
        slot: usize,
        tries: &mut usize,
    ) -> Option<InputValue> {
        let graph = self.graph(path);
        let links = graph.links().iter();
        links.filter(|link| link.origin == OUTSIDE && link.origin_slot == slot).find_map(|link| {
            *tries = tries.checked_sub(1)?;
            let node = graph.node(&link.target)?;
            let name = &node.inputs.iter().find(|input| input.link == Some(link.id))?.name;
            if let Some(level) = self.enter(path, node) {
                if let Some(value) = level.inputs.get(name) {
                    return Some(InputValue::Literal(value.clone()));
                }
                let slot = level.inside.inputs.iter().position(|input| input == name)?;
                let inner: Path<'a> = path.iter().cloned().chain([level]).collect();
                return self.shown_value(&inner, slot, tries);
            }
            let class = self.registry.find(self.registry.canonical(&node.class))?;
            let given = path.last().and_then(|level| level.widgets.get(&node.id));
            widgets(class, node, given).shift_remove(name)
        })
    }

    /// Where a link comes from in the end, however long the way, or why that is nowhere.
    pub(super) fn follow(&self, path: &[Rc<Level<'a>>], link: i64) -> Result<InputValue, String> {
        let mut way = Way { graphs: *self, path: path.to_vec(), link };
        let mut seen: HashMap<(String, i64), usize> = HashMap::new();
        let mut passed: Vec<String> = Vec::new();
        for step in 0.. {
            if step >= SHORT {
                let place = (prefix(&way.path).to_owned(), way.link);
                if let Some(&first) = seen.get(&place) {
                    let circle = passed.iter().skip(first).take(5);
                    return Err(format!("its link goes in a circle: {}, …", join(circle)));
                }
                seen.insert(place, passed.len());
            }
            match way.step()? {
                Step::Value(given) => return Ok(given),
                Step::On(link, node) => {
                    way.link = link;
                    if step >= SHORT {
                        passed.push(node);
                    }
                }
            }
        }
        Err("its link is endless".to_owned())
    }
}

/// The id of a node outside of all subgraphs: `5:3` for node 3 inside node 5.
pub(super) fn full_id(path: &[Rc<Level<'_>>], id: &str) -> String {
    format!("{}{id}", prefix(path))
}

fn prefix<'b>(path: &'b [Rc<Level<'_>>]) -> &'b str {
    path.last().map_or("", |level| &level.prefix)
}

/// A link that is followed.
struct Way<'a> {
    graphs: Graphs<'a>,
    path: Path<'a>,
    link: i64,
}

enum Step {
    /// The end of the way.
    Value(InputValue),
    /// Another link, and the node that was passed.
    On(i64, String),
}

impl<'a> Way<'a> {
    fn step(&mut self) -> Result<Step, String> {
        let graph = self.graphs.graph(&self.path);
        let number = self.link;
        let Some(link) = graph.link(number) else {
            return Err(format!("its link {number} is not in the file"));
        };
        if link.origin == OUTSIDE {
            return self.outwards(link.origin_slot);
        }
        let id = full_id(&self.path, &link.origin);
        let Some(node) = graph.node(&link.origin) else {
            return Err(format!(
                "its link {number} comes from node {id}, which is not in the file"
            ));
        };
        let class = node.class();
        let on = |link: Option<i64>, problem: &str| match link {
            Some(link) => Ok(Step::On(link, format!("{class} {id}"))),
            None => Err(format!("it is linked to {class} {id}, {problem}")),
        };
        if node.is_muted() {
            return Err(format!("it is linked to {class} {id}, which is muted"));
        }
        if node.is_bypassed() {
            let input = node.passed(link.origin_slot).and_then(|input| input.link);
            return on(input, "which is bypassed and has no input of the type to give on");
        }
        if node.is_reroute() {
            let input = node.inputs.first().and_then(|input| input.link);
            return on(input, "which nothing is linked to");
        }
        if node.is_primitive() {
            let value = self.primitive(node);
            let problem = || format!("it is linked to {class} {id}, which has no value");
            return value.map(Step::Value).ok_or_else(problem);
        }
        if class == "GetNode" {
            return self.wire(node, &id);
        }
        match self.graphs.enter(&self.path, node) {
            Some(level) => {
                let Some(result) = level.inside.graph.link_to(RESULT, link.origin_slot) else {
                    let slot = link.origin_slot;
                    return Err(format!(
                        "it is linked to output {slot} of the subgraph {id}, which nothing inside \
                         is linked to"
                    ));
                };
                // Each way into a subgraph's output that is its own is a new place, so that no circle would be seen.
                if self.path.len() >= DEEPEST {
                    return Err(format!(
                        "it is linked to the subgraph {class}, which contains itself"
                    ));
                }
                self.path.push(level);
                Ok(Step::On(result.id, format!("subgraph {id}")))
            }
            None => Ok(Step::Value(InputValue::Link { node: id, slot: link.origin_slot })),
        }
    }

    /// Out of a subgraph, to what is linked to the node that stands for it, or the value there.
    fn outwards(&mut self, slot: usize) -> Result<Step, String> {
        let Some(level) = self.path.pop() else {
            return Err("its link comes from outside, where there is nothing".to_owned());
        };
        let (input, name) = level.outer_input(slot);
        if let Some(link) = input.and_then(|input| input.link) {
            return Ok(Step::On(link, format!("subgraph {}", full_id(&self.path, &level.node.id))));
        }
        let value = name.and_then(|name| level.inputs.get(name)).cloned();
        let value = value.map(InputValue::Literal).or_else(|| {
            let inner: Path<'a> = self.path.iter().cloned().chain([level.clone()]).collect();
            self.graphs.shown_value(&inner, slot, &mut { MOST_TRIES })
        });
        value.map(Step::Value).ok_or_else(|| {
            let (id, name) = (full_id(&self.path, &level.node.id), name.unwrap_or("an input"));
            format!("it comes from `{name}` of the subgraph {id}, which nothing is linked to")
        })
    }

    /// A value that a group node around may give instead.
    fn primitive(&self, node: &EditorNode) -> Option<InputValue> {
        let given = self.path.last().and_then(|level| level.widgets.get(&node.id)?.get("value"));
        given.or_else(|| node.value(0)).cloned().map(InputValue::Literal)
    }

    /// From the end of a named wire to its beginning, in this graph or one around.
    fn wire(&mut self, node: &EditorNode, id: &str) -> Result<Step, String> {
        let name = node.value(0).cloned().unwrap_or_default();
        loop {
            let mut nodes = self.graphs.graph(&self.path).nodes().iter();
            let sets =
                |other: &&EditorNode| other.class() == "SetNode" && other.value(0) == Some(&name);
            if let Some(set) = nodes.find(sets) {
                let problem =
                    || format!("it is linked to the SetNode {name}, which nothing is linked to");
                let link = set.inputs.first().and_then(|input| input.link).ok_or_else(problem)?;
                return Ok(Step::On(link, format!("GetNode {id}")));
            }
            if self.path.pop().is_none() {
                return Err(format!("it is linked to the GetNode {name}, which no SetNode feeds"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use crate::graph::{InputValue, Prompt};
    use crate::nodes;

    /// A decoder whose latent comes through these nodes and links.
    fn decoder(mut nodes: Vec<Json>, mut links: Vec<Json>, link: i64) -> Prompt {
        nodes.push(json!({"id": "d", "type": "VAEDecode", "inputs": [
            {"name": "samples", "type": "LATENT", "link": link}]}));
        nodes.push(json!({"id": "e", "type": "EmptyLatentImage", "widgets_values": [64, 64, 1]}));
        links.push(json!([-1, "e", 0, "r0", 0, "LATENT"]));
        Prompt::from_json(&json!({"nodes": nodes, "links": links}).to_string(), &nodes::all())
            .unwrap()
    }

    fn chain(count: i64) -> (Vec<Json>, Vec<Json>) {
        let node = |place: i64| {
            json!({"id": format!("r{place}"), "type": "Reroute",
                   "inputs": [{"name": "", "type": "*", "link": place - 1}]})
        };
        let link = |place: i64| {
            json!([place, format!("r{place}"), 0, format!("r{}", place + 1), 0, "LATENT"])
        };
        ((0..count).map(node).collect(), (0..count).map(link).collect())
    }

    #[test]
    fn reroutes_are_followed_however_many() {
        for count in [1, 63, 64, 65, 500, 20_000] {
            let (nodes, links) = chain(count);
            let prompt = decoder(nodes, links, count - 1);
            let origin = InputValue::Link { node: "e".to_owned(), slot: 0 };
            assert_eq!(prompt.nodes["d"].inputs["samples"], origin, "{count}");
        }
    }

    /// A node of a subgraph that shows, in this order, a text, a size that also goes to a preview, and a
    /// sampler's seed and steps. The file lists some of its inputs, as the editor saves it.
    fn shown(listed: Json, values: Json) -> Prompt {
        let target =
            |name: &str, link: i64| json!({"name": name, "link": link, "widget": {"name": name}});
        let link = |id: i64, slot: i64, node: i64| json!({"id": id, "origin_id": -10, "origin_slot": slot, "target_id": node, "target_slot": 0});
        let names =
            |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let inside = json!({
            "id": "s", "inputs": names(&["text", "size", "latent", "seed", "steps"]),
            "nodes": [
                {"id": 1, "type": "CLIPTextEncode", "inputs": [target("text", 1)], "widgets_values": ["own"]},
                {"id": 2, "type": "EmptyLatentImage", "inputs": [target("width", 2)],
                 "widgets_values": [192, 64, 1]},
                {"id": 3, "type": "PreviewAny", "inputs": [{"name": "source", "link": 3}]},
                {"id": 4, "type": "KSampler", "widgets_values": [9, "fixed", 30],
                 "inputs": [{"name": "latent_image", "link": 4}, target("seed", 5), target("steps", 6)]}],
            "links": [link(1, 0, 1), link(3, 1, 3), link(2, 1, 2), link(4, 2, 4), link(5, 3, 4), link(6, 4, 4)]
        });
        let outer = json!({
            "id": "t", "inputs": names(&["a", "b", "c", "d", "e"]),
            "nodes": [{"id": 5, "type": "s", "inputs": [
                {"name": "text", "link": 1, "widget": {"name": "text"}}, {"name": "size", "link": 2},
                {"name": "latent", "link": 3}, {"name": "seed", "link": 4}, {"name": "steps", "link": 5}]}],
            "links": [link(1, 0, 5), link(2, 1, 5), link(3, 2, 5), link(4, 3, 5), link(5, 4, 5)]
        });
        let file = json!({
            "nodes": [{"id": 7, "type": "s", "inputs": listed, "widgets_values": values},
                      {"id": 8, "type": "t", "inputs": [], "widgets_values": values}],
            "definitions": {"subgraphs": [inside, outer]}
        });
        Prompt::from_json(&file.to_string(), &nodes::all()).unwrap()
    }

    #[test]
    fn values_of_a_subgraph_go_by_its_inputs_that_lead_to_widgets() {
        let steps = json!([{"name": "steps", "label": "how long", "widget": {"name": "steps"}}]);
        for (listed, values) in [
            (steps.clone(), json!(["outer", 128, 5, 12])),
            (json!([]), json!(["outer", 128, 5, 12])),
            (json!([{"name": "latent"}]), json!(["outer", 128, 5, 12])),
            // With what a seed becomes after a run.
            (steps, json!(["outer", 128, 5, "randomize", 12])),
        ] {
            let prompt = shown(listed, values);
            for (id, input, value) in [
                ("1", "text", json!("outer")),
                ("2", "width", json!(128)),
                ("3", "source", json!(128)),
                ("4", "seed", json!(5)),
                ("4", "steps", json!(12)),
            ] {
                for place in ["7", "8:5"] {
                    let found = &prompt.nodes[&format!("{place}:{id}")].inputs[input];
                    assert_eq!(*found, InputValue::Literal(value.clone()), "{place}:{id} {input}");
                }
            }
        }
    }

    #[test]
    fn an_input_without_a_value_has_that_of_the_widget_that_it_shows() {
        let prompt = shown(json!([]), Json::Null);
        for place in ["7", "8:5"] {
            let source = &prompt.nodes[&format!("{place}:3")].inputs["source"];
            assert_eq!(*source, InputValue::Literal(json!(192)));
            assert!(prompt.nodes[&format!("{place}:4")].unresolved.contains_key("latent_image"));
        }
    }

    #[test]
    fn an_output_that_a_subgraph_has_of_itself_is_an_error() {
        let inner = json!({
            "id": "s", "name": "s", "inputs": [],
            "nodes": [{"id": 4, "type": "s"}],
            "links": [{"id": 1, "origin_id": 4, "origin_slot": 0, "target_id": -20, "target_slot": 0}]
        });
        let workflow = json!({
            "nodes": [
                {"id": 1, "type": "VAEDecode", "order": 0,
                 "inputs": [{"name": "samples", "type": "LATENT", "link": 1}]},
                {"id": 2, "type": "s", "order": 1}
            ],
            "links": [[1, 2, 0, 1, 0, "LATENT"]],
            "definitions": {"subgraphs": [inner]}
        });
        let error = Prompt::from_json(&workflow.to_string(), &nodes::all()).unwrap_err();
        assert!(error.to_string().contains("contain itself"), "{error}");
    }

    #[test]
    fn loops_and_loose_ends_say_so() {
        for count in [1, 2, 200] {
            let (mut nodes, links) = chain(count);
            nodes[0]["inputs"][0]["link"] = json!(count - 1);
            let prompt = decoder(nodes, links, 0);
            assert!(prompt.nodes["d"].inputs.is_empty());
            let reason = &prompt.nodes["d"].unresolved["samples"];
            assert!(reason.contains("circle: Reroute r"), "{reason}");
        }
        let (mut nodes, links) = chain(100);
        nodes[3]["inputs"][0]["link"] = Json::Null;
        let prompt = decoder(nodes, links.clone(), 99);
        let reason = &prompt.nodes["d"].unresolved["samples"];
        assert_eq!(reason, "it is linked to Reroute r3, which nothing is linked to");
        let (mut nodes, _) = chain(100);
        nodes[5]["mode"] = json!(2);
        let prompt = decoder(nodes, links, 99);
        assert!(prompt.nodes["d"].unresolved["samples"].contains("Reroute r5, which is muted"));
        let prompt = decoder(Vec::new(), Vec::new(), 77);
        assert!(prompt.nodes["d"].unresolved["samples"].contains("link 77 is not in the file"));
    }
}
