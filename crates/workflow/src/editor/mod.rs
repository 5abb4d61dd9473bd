//! Workflows as ComfyUI's editor saves them, read as prompts.
//!
//! The editor keeps drawn with lists of widget values and numbered links between slots; what it sends
//! to a server has named inputs. The way from one to the other, which the editor's own export
//! goes, is gone here: values get the names of the class's widgets, and links are followed through
//! what only the editor knows: reroutes, primitives, named wires, bypassed nodes, subgraphs.

mod file;
mod links;
mod widgets;

use indexmap::IndexMap;
use serde_json::Value as Json;

use file::File;
use links::Scope;

use crate::graph::{Prompt, PromptError};

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::graph::Given;

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
