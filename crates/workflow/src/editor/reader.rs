//! From the editor's file to a prompt: the nodes that run, with what their inputs come from.

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::file::{EditorNode, File};
use super::insides::Insides;
use super::links::{Graphs, Path, full_id};
use super::named::named;
use super::subgraphs::{self, DEEPEST};
use super::{dynamic_prompts, group_nodes, widgets};
use crate::graph::{Prompt, PromptError, PromptNode, ReadOptions, join};
use crate::registry::Registry;

/// Nodes after all subgraphs were laid out flat, at most.
const MOST_NODES: usize = 100_000;

/// Reads what the editor saved.
///
/// # Errors
/// When it has not the editor's form, or a subgraph contains itself.
pub(crate) fn read(
    workflow: &Json,
    registry: &Registry,
    options: ReadOptions,
) -> Result<Prompt, PromptError> {
    let file: File = serde_json::from_value(workflow.clone()).map_err(PromptError::Editor)?;
    let mut insides = Insides::new();
    subgraphs::add_subgraphs(file.definitions, &mut insides);
    group_nodes::add_group_nodes(&file.extra.group_nodes, registry, &mut insides);
    subgraphs::find_widgets(&mut insides);
    let graphs = Graphs { top: &file.graph, insides: &insides, registry };
    let (nodes, chosen, loose) = Default::default();
    let mut reader = Reader { graphs, registry, options, nodes, chosen, loose };
    reader.collect(&mut Path::new())?;
    Ok(reader.prompt(workflow))
}

struct Reader<'a> {
    graphs: Graphs<'a>,
    registry: &'a Registry,
    options: ReadOptions,
    nodes: IndexMap<String, PromptNode>,
    /// Nodes in whose texts something was chosen.
    chosen: Vec<String>,
    /// Nodes that this program has not and that nothing is linked to: labels and switches of packs,
    /// which only the editor needs.
    loose: IndexMap<String, PromptNode>,
}

impl<'a> Reader<'a> {
    /// The nodes that run, in the editor's order.
    fn collect(&mut self, path: &mut Path<'a>) -> Result<(), PromptError> {
        let graph = self.graphs.graph(path);
        let mut nodes: Vec<&EditorNode> = graph.nodes().iter().collect();
        nodes.sort_by_key(|node| node.order);
        for node in nodes {
            if node.is_virtual() || node.is_muted() || node.is_bypassed() {
                continue;
            }
            let id = full_id(path, &node.id);
            let place = || format!("node `{id}`");
            if let Some(level) = self.graphs.enter(path, node) {
                if path.len() >= DEEPEST {
                    return Err(PromptError::Shape {
                        place: place(),
                        expected: "a subgraph that does not contain itself",
                        found: format!("`{}` within itself", node.class),
                    });
                }
                path.push(level);
                self.collect(path)?;
                path.pop();
                continue;
            }
            if self.nodes.len() >= MOST_NODES {
                return Err(PromptError::Shape {
                    place: place(),
                    expected: "at most 100000 nodes, with those in subgraphs",
                    found: "more".to_owned(),
                });
            }
            let read = self.node(path, node, &id);
            let is_needed = self.registry.find(&read.class).is_some() || graph.is_linked(node);
            let nodes = if is_needed { &mut self.nodes } else { &mut self.loose };
            nodes.insert(id, read);
        }
        Ok(())
    }

    fn prompt(self, workflow: &Json) -> Prompt {
        let (mut nodes, mut notes) = (self.nodes, Vec::new());
        if nodes.is_empty() {
            nodes = self.loose;
        } else if !self.loose.is_empty() {
            let names = self.loose.iter().map(|(id, node)| format!("{id} ({})", node.class));
            notes.push(format!("left out, since nothing is linked to them: node {}", join(names)));
        }
        if !self.chosen.is_empty() {
            let (seed, ids) = (self.options.prompt_seed, join(self.chosen.iter()));
            notes.push(format!(
                "the text of node {ids} has choices (`{{a|b}}`), which were made with the prompt seed \
                 {seed}"
            ));
        }
        let named = named(workflow, self.registry);
        Prompt { nodes, workflow: Some(workflow.clone()), named, notes }
    }

    fn node(&mut self, path: &Path<'a>, node: &EditorNode, id: &str) -> PromptNode {
        let name = self.registry.canonical(&node.class);
        let class = self.registry.find(name);
        let given = path.last().and_then(|level| level.widgets.get(&node.id));
        let inputs = class.map_or_else(IndexMap::new, |class| widgets::widgets(class, node, given));
        let title = node.title.clone().or_else(|| class.map(|class| class.title.to_owned()));
        let mut read = PromptNode { title, inputs, ..PromptNode::new(name) };
        for slot in &node.inputs {
            let Some(link) = slot.link else { continue };
            match self.graphs.follow(path, link) {
                Ok(given) => {
                    // A broken file may have two slots of one name.
                    read.unresolved.shift_remove(&slot.name);
                    read.inputs.insert(slot.name.clone(), given);
                }
                Err(reason) if !read.inputs.contains_key(&slot.name) => {
                    read.unresolved.insert(slot.name.clone(), reason);
                }
                Err(_) => {}
            }
        }
        widgets::renew(&mut read.inputs);
        if let Some(class) = class
            && dynamic_prompts::expand(&mut read, class, id, self.options.prompt_seed)
        {
            self.chosen.push(id.to_owned());
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::graph::InputValue;
    use crate::nodes;

    fn read_json(workflow: Json) -> Prompt {
        Prompt::from_json(&workflow.to_string(), &nodes::all()).unwrap()
    }

    fn link(node: &str, slot: usize) -> InputValue {
        InputValue::Link { node: node.to_owned(), slot }
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
        let literal = |json: Json| InputValue::Literal(json);
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
    fn of_two_slots_of_one_name_the_one_with_a_value_counts() {
        for order in [[77, 1], [1, 77]] {
            let slots = order.map(|link| json!({"name": "model", "type": "MODEL", "link": link}));
            let prompt = read_json(json!({
                "nodes": [
                    {"id": 3, "type": "KSampler", "inputs": slots},
                    {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["a.safetensors"]}
                ],
                "links": [[1, 4, 0, 3, 0, "MODEL"]]
            }));
            let sampler = &prompt.nodes["3"];
            assert_eq!(sampler.inputs["model"], link("4", 0), "{order:?}");
            assert!(!sampler.unresolved.contains_key("model"), "{order:?}");
        }
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
        assert_eq!(prompt.nodes["20:1"].inputs["text"], InputValue::Literal(json!("outside")));
        // A subgraph within itself ends in an error.
        workflow["definitions"]["subgraphs"][0]["nodes"][0]["type"] = json!("b-0");
        let error =
            Prompt::from_json(&workflow.to_string(), &nodes::all()).unwrap_err().to_string();
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
        let error = Prompt::from_json(&odd.to_string(), &nodes::all()).unwrap_err().to_string();
        assert!(error.contains("editor") && error.contains("type"), "{error}");
    }
}
