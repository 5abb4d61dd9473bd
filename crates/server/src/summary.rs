//! How a picture was made, in a few words, from the prompt that it carries.

use std::collections::{HashSet, VecDeque};

use distorch_workflow::graph::{InputValue, Prompt, PromptNode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// What people want to know of a picture. What the prompt does not say is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct Summary {
    /// What it should show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What it should not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// The checkpoint or diffusion model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The seed, as the prompt has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<Value>,
    /// Steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Value>,
    /// How closely the prompt is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cfg: Option<Value>,
    /// The sampler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// The scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
}

/// The inputs that hold a prompt's text, by node.
const TEXTS: [&str; 5] = ["text", "text_g", "t5xxl", "clip_l", "prompt"];

impl Summary {
    /// What a prompt says: of the sampler that comes first in it, and of what leads to that.
    pub fn of(prompt: &Prompt) -> Self {
        let conditioned = ["positive", "conditioning"].into_iter().find_map(|input| {
            let mut nodes = prompt.nodes.values();
            nodes
                .find(|node| link(node, input).is_some() && samples(node))
                .map(|node| (node, input))
        });
        let text =
            |node: &PromptNode, input| link(node, input).and_then(|from| text_behind(prompt, from));
        // What the sampler itself says counts before what any other node does.
        let first = conditioned.map(|(node, _)| node);
        let value = |names: &[&str]| {
            let nodes = first.into_iter().chain(prompt.nodes.values());
            let mut found =
                nodes.flat_map(|node| names.iter().filter_map(|name| literal(node, name)));
            found.next().cloned()
        };
        let word = |names: &[&str]| value(names)?.as_str().map(str::to_owned);
        Self {
            prompt: conditioned.and_then(|(node, input)| text(node, input)),
            negative_prompt: first
                .and_then(|node| text(node, "negative"))
                .filter(|text| !text.trim().is_empty()),
            model: word(&["ckpt_name", "unet_name"]),
            seed: value(&["seed", "noise_seed"]),
            steps: value(&["steps"]),
            cfg: value(&["cfg"]),
            sampler: word(&["sampler_name"]),
            scheduler: word(&["scheduler"]),
        }
    }
}

/// Whether a node is one in which positive and negative come to their use.
fn samples(node: &PromptNode) -> bool {
    node.class.contains("Sampler") || node.class.contains("Guider")
}

fn literal<'a>(node: &'a PromptNode, name: &str) -> Option<&'a Value> {
    match node.inputs.get(name) {
        Some(InputValue::Literal(value)) => Some(value),
        _ => None,
    }
}

fn link<'a>(node: &'a PromptNode, name: &str) -> Option<&'a str> {
    match node.inputs.get(name) {
        Some(InputValue::Link { node, .. }) => Some(node),
        _ => None,
    }
}

/// The text of the nearest node that has one, from a node on against the links.
fn text_behind(prompt: &Prompt, from: &str) -> Option<String> {
    let mut seen = HashSet::new();
    let mut next = VecDeque::from([from]);
    while let Some(id) = next.pop_front() {
        let Some(node) = prompt.nodes.get(id).filter(|_| seen.insert(id)) else { continue };
        let text = TEXTS.iter().find_map(|name| literal(node, name)?.as_str());
        if let Some(text) = text {
            return Some(text.to_owned());
        }
        next.extend(node.inputs.values().filter_map(|given| match given {
            InputValue::Link { node, .. } => Some(node.as_str()),
            InputValue::Literal(_) => None,
        }));
    }
    None
}
