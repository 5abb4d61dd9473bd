//! Workflows as ComfyUI's editor saves them, read as prompts.
//!
//! The editor keeps boxes with lists of widget values and numbered links between slots; what it sends
//! to a server has named inputs. The way from one to the other, which the editor's own export
//! goes, is gone here: values get the names of the class's widgets, and links are followed through
//! what only the editor knows: reroutes, primitives, named wires, bypassed nodes, subgraphs.

use std::collections::HashMap;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::graph::{Given, Prompt, PromptError, PromptNode};
use crate::nodes;
use crate::signature::{Input, Kind, Node, Options};

/// Subgraphs in subgraphs, and nodes that a link passes, at most.
const DEEPEST: usize = 64;

/// What a widget that changes a seed after each run may say. It is saved behind the seed.
const CONTROLS: [&str; 5] = ["fixed", "increment", "decrement", "randomize", "increment-wrap"];

/// Where the links of a subgraph come from and go to, instead of a node.
const OUTSIDE: &str = "-10";
const RESULT: &str = "-20";

/// Nodes that never run.
const NEVER: u8 = 2;
/// Nodes that let their inputs through.
const BYPASS: u8 = 4;

/// Reads what the editor saved.
///
/// # Errors
/// When it has not the editor's form, or a subgraph contains itself.
pub(crate) fn read(workflow: &Json) -> Result<Prompt, PromptError> {
    let file: File = serde_json::from_value(workflow.clone()).map_err(PromptError::Editor)?;
    let subgraphs = file.definitions.subgraphs.iter().map(|s| (s.id.as_str(), &s.graph)).collect();
    let top = Scope { graph: &file.graph, subgraphs: &subgraphs, outer: None, depth: 0 };
    let mut nodes = IndexMap::new();
    top.collect(&mut nodes)?;
    Ok(Prompt { nodes, workflow: Some(workflow.clone()) })
}

#[derive(Deserialize)]
struct File {
    #[serde(flatten)]
    graph: Graph,
    #[serde(default)]
    definitions: Definitions,
}

#[derive(Default, Deserialize)]
struct Definitions {
    #[serde(default)]
    subgraphs: Vec<Subgraph>,
}

#[derive(Deserialize)]
struct Subgraph {
    id: String,
    #[serde(flatten)]
    graph: Graph,
}

#[derive(Deserialize)]
struct Graph {
    nodes: Vec<Box_>,
    #[serde(default)]
    links: Vec<Link>,
}

/// A node as the editor draws it.
#[derive(Deserialize)]
struct Box_ {
    id: Id,
    #[serde(rename = "type")]
    class: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    mode: u8,
    /// When the editor would run it.
    #[serde(default)]
    order: i64,
    #[serde(default)]
    inputs: Option<Vec<Slot>>,
    #[serde(default)]
    outputs: Option<Vec<Slot>>,
    #[serde(default)]
    widgets_values: Json,
}

/// A slot of an input or an output.
#[derive(Deserialize)]
struct Slot {
    name: String,
    #[serde(default, rename = "type")]
    kind: Json,
    #[serde(default)]
    link: Option<i64>,
    /// Whether it stands in for a widget.
    #[serde(default)]
    widget: Json,
}

/// Numbers, or texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl Id {
    fn text(&self) -> String {
        match self {
            Id::Number(number) => number.to_string(),
            Id::Text(text) => text.clone(),
        }
    }
}

/// A link: a list, or since its second version a record.
#[derive(Deserialize)]
#[serde(untagged)]
enum Link {
    List(i64, Id, usize, Id, usize, #[allow(dead_code)] Json),
    Record { id: i64, origin_id: Id, origin_slot: usize, target_id: Id, target_slot: usize },
}

impl Link {
    fn id(&self) -> i64 {
        match self {
            Link::List(id, ..) | Link::Record { id, .. } => *id,
        }
    }

    fn origin(&self) -> (String, usize) {
        match self {
            Link::List(_, node, slot, ..)
            | Link::Record { origin_id: node, origin_slot: slot, .. } => (node.text(), *slot),
        }
    }

    fn target(&self) -> (String, usize) {
        match self {
            Link::List(_, _, _, node, slot, _)
            | Link::Record { target_id: node, target_slot: slot, .. } => (node.text(), *slot),
        }
    }
}

impl Box_ {
    fn inputs(&self) -> &[Slot] {
        self.inputs.as_deref().unwrap_or_default()
    }

    /// The value of a widget that has no name.
    fn value(&self, place: usize) -> Option<&Json> {
        self.widgets_values.get(place)
    }

    /// Whether only the editor knows it.
    fn is_virtual(&self) -> bool {
        const CLASSES: [&str; 7] = [
            "Reroute",
            "Reroute (rgthree)",
            "PrimitiveNode",
            "Note",
            "MarkdownNote",
            "SetNode",
            "GetNode",
        ];
        CLASSES.contains(&self.class.as_str())
    }

    /// The input whose value a bypassed node gives as this output: the one at the same place where its
    /// type is the same, else the first of the type.
    fn passed(&self, slot: usize) -> Option<&Slot> {
        let kind = &self.outputs.as_deref()?.get(slot)?.kind;
        let inputs = self.inputs();
        let same = |input: &&Slot| input.kind == *kind;
        inputs.get(slot).filter(same).or_else(|| inputs.iter().find(same))
    }
}

/// A graph, and the node of the graph around it that it is the inside of.
struct Scope<'a> {
    graph: &'a Graph,
    subgraphs: &'a HashMap<&'a str, &'a Graph>,
    outer: Option<(&'a Scope<'a>, &'a Box_)>,
    depth: usize,
}

impl Scope<'_> {
    /// The nodes that run, in the editor's order.
    fn collect(&self, into: &mut IndexMap<String, PromptNode>) -> Result<(), PromptError> {
        let mut boxes: Vec<&Box_> = self.graph.nodes.iter().collect();
        boxes.sort_by_key(|box_| box_.order);
        for box_ in boxes {
            if box_.is_virtual() || [NEVER, BYPASS].contains(&box_.mode) {
                continue;
            }
            match self.inside(box_) {
                Some(inner) if inner.depth > DEEPEST => {
                    return Err(PromptError::Shape {
                        place: format!("node `{}`", self.id(&box_.id.text())),
                        expected: "a subgraph that does not contain itself",
                        found: format!("`{}` within itself", box_.class),
                    });
                }
                Some(inner) => inner.collect(into)?,
                None => {
                    into.insert(self.id(&box_.id.text()), self.node(box_));
                }
            }
        }
        Ok(())
    }

    /// The node's id outside of all subgraphs: `5:3` for node 3 inside node 5.
    fn id(&self, id: &str) -> String {
        match self.outer {
            Some((outer, box_)) => format!("{}:{id}", outer.id(&box_.id.text())),
            None => id.to_owned(),
        }
    }

    fn find(&self, id: &str) -> Option<&Box_> {
        self.graph.nodes.iter().find(|box_| box_.id.text() == id)
    }

    /// What a node that stands for a subgraph has inside.
    fn inside<'b>(&'b self, box_: &'b Box_) -> Option<Scope<'b>> {
        let graph = self.subgraphs.get(box_.class.as_str())?;
        let subgraphs = self.subgraphs;
        Some(Scope { graph, subgraphs, outer: Some((self, box_)), depth: self.depth + 1 })
    }

    fn node(&self, box_: &Box_) -> PromptNode {
        let class = nodes::find(&box_.class);
        let mut inputs = class.map_or_else(IndexMap::new, |class| widgets(class, box_));
        for slot in box_.inputs() {
            let Some(given) = slot.link.and_then(|link| self.follow(link, DEEPEST)) else {
                continue;
            };
            inputs.insert(slot.name.clone(), given);
        }
        let title = box_.title.clone().or_else(|| class.map(|class| class.title.to_owned()));
        PromptNode { class: box_.class.clone(), title, inputs }
    }

    /// Where a link comes from in the end; `None` where that is nowhere.
    fn follow(&self, link: i64, far: usize) -> Option<Given> {
        let far = far.checked_sub(1)?;
        let (origin, slot) = self.graph.links.iter().find(|other| other.id() == link)?.origin();
        if origin == OUTSIDE {
            return self.given_outside(slot, far);
        }
        let box_ = self.find(&origin)?;
        let on = |slot: Option<&Slot>| self.follow(slot?.link?, far);
        match (box_.mode, box_.class.as_str()) {
            (NEVER, _) => None,
            (BYPASS, _) => on(box_.passed(slot)),
            (_, "Reroute" | "Reroute (rgthree)") => on(box_.inputs().first()),
            (_, "PrimitiveNode") => box_.value(0).cloned().map(Given::Literal),
            (_, "GetNode") => {
                let name = box_.value(0)?;
                let sets = |other: &&Box_| other.class == "SetNode" && other.value(0) == Some(name);
                on(self.graph.nodes.iter().find(sets)?.inputs().first())
            }
            _ => match self.inside(box_) {
                Some(inner) => inner.result(slot, far),
                None => Some(Given::Link { node: self.id(&origin), slot }),
            },
        }
    }

    /// What the graph around gives to an input of the subgraph.
    fn given_outside(&self, slot: usize, far: usize) -> Option<Given> {
        let (outer, box_) = self.outer?;
        let input = box_.inputs().get(slot)?;
        if let Some(link) = input.link {
            return outer.follow(link, far);
        }
        // A widget that was moved to the outside has its value there.
        let is_widget = |slot: &&Slot| !slot.widget.is_null();
        let place = box_.inputs().iter().take(slot).filter(is_widget).count();
        is_widget(&input).then(|| box_.value(place).cloned().map(Given::Literal)).flatten()
    }

    /// What the subgraph gives at an output.
    fn result(&self, slot: usize, far: usize) -> Option<Given> {
        let leads_there = |link: &&Link| link.target() == (RESULT.to_owned(), slot);
        self.follow(self.graph.links.iter().find(leads_there)?.id(), far)
    }
}

/// The values of a node's widgets, by name. Widgets that are newer than the file have their defaults.
fn widgets(class: &Node, box_: &Box_) -> IndexMap<String, Given> {
    let mut found = IndexMap::new();
    let mut place = 0;
    for input in class.inputs.iter().filter(|input| !matches!(input.kind, Kind::Link(_))) {
        let value = match &box_.widgets_values {
            Json::Object(named) => named.get(input.name),
            _ => box_.value(place),
        };
        place += 1;
        if controls(input) && is_control(box_.value(place)) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_json(workflow: Json) -> Prompt {
        Prompt::from_json(&workflow.to_string()).unwrap()
    }

    fn link(node: &str, slot: usize) -> Given {
        Given::Link { node: node.to_owned(), slot }
    }

    /// A sampler whose inputs come through everything that only the editor knows.
    fn workflow() -> Json {
        json!({
            "last_node_id": 20, "last_link_id": 30, "version": 0.4, "extra": {}, "groups": [],
            "nodes": [
                {"id": 9, "type": "SaveImage", "order": 9, "mode": 0,
                 "inputs": [{"name": "images", "type": "IMAGE", "link": 9}],
                 "widgets_values": ["it"]},
                {"id": 3, "type": "KSampler", "order": 8, "mode": 0, "title": "Sample",
                 "inputs": [
                    {"name": "model", "type": "MODEL", "link": 1},
                    {"name": "positive", "type": "CONDITIONING", "link": 2},
                    {"name": "negative", "type": "CONDITIONING", "link": 3},
                    {"name": "latent_image", "type": "LATENT", "link": 4},
                    {"name": "steps", "type": "INT", "link": 5, "widget": {"name": "steps"}},
                    {"name": "denoise", "type": "FLOAT", "link": null,
                     "widget": {"name": "denoise"}}],
                 "outputs": [{"name": "LATENT", "type": "LATENT", "links": [8]}],
                 "widgets_values": [7, "randomize", 99, 2.5, "euler", "karras", 0.75]},
                {"id": 4, "type": "CheckpointLoaderSimple", "order": 0,
                 "widgets_values": ["a.safetensors"]},
                {"id": 10, "type": "LoraLoader", "order": 1, "mode": 4,
                 "inputs": [{"name": "model", "type": "MODEL", "link": 10},
                            {"name": "clip", "type": "CLIP", "link": 11}],
                 "outputs": [{"name": "MODEL", "type": "MODEL"}, {"name": "CLIP", "type": "CLIP"}],
                 "widgets_values": ["l.safetensors", 1, 1]},
                {"id": 6, "type": "CLIPTextEncode", "order": 3,
                 "inputs": [{"name": "clip", "type": "CLIP", "link": 12}],
                 "widgets_values": {"text": "a fox"}},
                {"id": 11, "type": "Reroute", "order": 4,
                 "inputs": [{"name": "", "type": "*", "link": 13}]},
                {"id": 12, "type": "CLIPTextEncode", "order": 5, "mode": 2,
                 "inputs": [{"name": "clip", "type": "CLIP", "link": 12}],
                 "widgets_values": ["muted"]},
                {"id": 13, "type": "PrimitiveNode", "order": 2,
                 "outputs": [{"name": "INT", "type": "INT"}], "widgets_values": [12, "fixed"]},
                {"id": 14, "type": "SetNode", "order": 6, "widgets_values": ["latent"],
                 "inputs": [{"name": "LATENT", "type": "LATENT", "link": 14}]},
                {"id": 15, "type": "GetNode", "order": 7, "widgets_values": ["latent"]},
                {"id": "5", "type": "EmptyLatentImage", "order": 1, "widgets_values": [64]},
                {"id": 16, "type": "Note", "order": 0, "widgets_values": ["mind the fox"]},
                {"id": 8, "type": "VAEDecode", "order": 9,
                 "inputs": [{"name": "samples", "type": "LATENT", "link": 8},
                            {"name": "vae", "type": "VAE", "link": 15}]}
            ],
            "links": [
                [1, 10, 0, 3, 0, "MODEL"], [2, 11, 0, 3, 1, "CONDITIONING"],
                [3, 12, 0, 3, 2, "CONDITIONING"], [4, 15, 0, 3, 3, "LATENT"],
                [5, 13, 0, 3, 4, "INT"], [8, 3, 0, 8, 0, "LATENT"], [9, 8, 0, 9, 0, "IMAGE"],
                [10, 4, 0, 10, 0, "MODEL"], [11, 4, 1, 10, 1, "CLIP"],
                [12, 10, 1, 6, 0, "CLIP"],
                {"id": 13, "origin_id": 6, "origin_slot": 0, "target_id": 11, "target_slot": 0,
                 "type": "CONDITIONING"},
                [14, "5", 0, 14, 0, "LATENT"], [15, 4, 2, 8, 1, "VAE"]
            ]
        })
    }

    #[test]
    fn links_are_followed_through_what_only_the_editor_knows() {
        let prompt = read_json(workflow());
        assert_eq!(prompt.nodes.keys().collect::<Vec<_>>(), ["4", "5", "6", "3", "9", "8"]);
        let sampler = &prompt.nodes["3"];
        assert_eq!(sampler.title.as_deref(), Some("Sample"));
        let literal = |json: Json| Given::Literal(json);
        for (name, given) in [
            ("model", link("4", 0)),
            ("positive", link("6", 0)),
            ("latent_image", link("5", 0)),
            ("seed", literal(json!(7))),
            ("steps", literal(json!(12))),
            ("cfg", literal(json!(2.5))),
            ("sampler_name", literal(json!("euler"))),
            ("scheduler", literal(json!("karras"))),
            ("denoise", literal(json!(0.75))),
        ] {
            assert_eq!(sampler.inputs[name], given, "{name}");
        }
        assert!(!sampler.inputs.contains_key("negative"), "its node never runs");
        assert_eq!(prompt.nodes["6"].inputs["clip"], link("4", 1));
        assert_eq!(prompt.nodes["6"].inputs["text"], literal(json!("a fox")));
        let empty = &prompt.nodes["5"].inputs;
        assert_eq!(empty["width"], literal(json!(64)));
        assert_eq!(empty["height"], literal(json!(512)), "the default of a widget without value");
        assert_eq!(prompt.workflow, Some(workflow()), "saved with pictures");
    }

    #[test]
    fn subgraphs_are_laid_out_flat() {
        let inner = json!({
            "id": "b-0", "name": "Encode", "inputNode": {"id": -10}, "outputNode": {"id": -20},
            "nodes": [
                {"id": 1, "type": "CLIPTextEncode", "inputs": [
                    {"name": "clip", "type": "CLIP", "link": 1},
                    {"name": "text", "type": "STRING", "link": 3, "widget": {"name": "text"}}],
                 "widgets_values": ["inside"]},
                {"id": 2, "type": "ConditioningZeroOut",
                 "inputs": [{"name": "conditioning", "type": "CONDITIONING", "link": 2}]}
            ],
            "links": [
                {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0},
                {"id": 2, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0},
                {"id": 3, "origin_id": -10, "origin_slot": 1, "target_id": 1, "target_slot": 1},
                {"id": 4, "origin_id": 2, "origin_slot": 0, "target_id": -20, "target_slot": 0}
            ]
        });
        let mut workflow = workflow();
        workflow["definitions"] = json!({"subgraphs": [inner]});
        workflow["nodes"].as_array_mut().unwrap().push(json!({
            "id": 20, "type": "b-0", "widgets_values": ["outside"],
            "inputs": [{"name": "clip", "type": "CLIP", "link": 20},
                       {"name": "text", "type": "STRING", "widget": {"name": "text"}}],
            "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}]
        }));
        let links = workflow["links"].as_array_mut().unwrap();
        links.push(json!([20, 4, 1, 20, 0, "CLIP"]));
        links[2] = json!([3, 20, 0, 3, 2, "CONDITIONING"]);
        let prompt = read_json(workflow.clone());
        assert_eq!(prompt.nodes["3"].inputs["negative"], link("20:2", 0));
        assert_eq!(prompt.nodes["20:2"].inputs["conditioning"], link("20:1", 0));
        assert_eq!(prompt.nodes["20:1"].inputs["clip"], link("4", 1));
        assert_eq!(prompt.nodes["20:1"].inputs["text"], Given::Literal(json!("outside")));
        // A subgraph within itself ends in an error.
        workflow["definitions"]["subgraphs"][0]["nodes"][0]["type"] = json!("b-0");
        let error = Prompt::from_json(&workflow.to_string()).unwrap_err().to_string();
        assert!(error.contains("contain itself"), "{error}");
    }

    #[test]
    fn links_in_a_circle_lead_nowhere() {
        let workflow = json!({
            "nodes": [
                {"id": 1, "type": "Reroute", "inputs": [{"name": "", "link": 2}]},
                {"id": 2, "type": "Reroute", "inputs": [{"name": "", "link": 1}]},
                {"id": 3, "type": "VAEDecode", "inputs": [{"name": "samples", "link": 1}]}
            ],
            "links": [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 1, 0, "*"]]
        });
        assert!(read_json(workflow).nodes["3"].inputs.is_empty());
        let odd = json!({"nodes": [{"id": 1}], "links": []});
        let error = Prompt::from_json(&odd.to_string()).unwrap_err().to_string();
        assert!(error.contains("editor") && error.contains("type"), "{error}");
    }
}
