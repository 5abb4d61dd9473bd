//! Changes to a prompt that has been read: overrides and defaults of inputs.

use serde_json::Value as Json;

use crate::graph::{InputValue, Prompt, PromptError, PromptNode, join};
use crate::registry::Registry;

/// Which inputs that a prompt lacks take their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Those that ComfyUI's node has not had from the beginning.
    AddedLater,
    /// All.
    Any,
}

impl Prompt {
    /// Overrides an input: `NODE.INPUT=VALUE`, where the node is an id, a title or a class that
    /// only one node has. The value is JSON, or else text.
    ///
    /// # Errors
    /// When the text has another form, names no node or several, or an input that the node has not.
    pub fn set(&mut self, given: &str, registry: &Registry) -> Result<(), PromptError> {
        let problem = |problem: String| PromptError::Set { given: given.to_owned(), problem };
        let parts = given.split_once('=').and_then(|(place, value)| {
            let (node, input) = place.trim().rsplit_once('.')?;
            Some((node.trim(), input.trim(), value))
        });
        let Some((node, input, value)) = parts else {
            return Err(problem("an override is written NODE.INPUT=VALUE".to_owned()));
        };
        let id = self.find(node).map_err(problem)?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()));
        if let Some(node) = self.nodes.get_mut(&id) {
            expect_input(node, &id, input, registry).map_err(problem)?;
            node.inputs.insert(input.to_owned(), InputValue::from_json(&value));
        }
        Ok(())
    }

    /// Gives inputs that are missing their defaults, where these do not depend on the machine, and
    /// notes it.
    pub fn fill_in(&mut self, missing: Missing, registry: &Registry) {
        for (id, node) in &mut self.nodes {
            let Some(class) = registry.find(&node.class) else { continue };
            for input in class.inputs {
                let is_meant = missing == Missing::Any || input.added_later;
                if input.optional || !is_meant || node.inputs.contains_key(input.name) {
                    continue;
                }
                let Some(default) = input.default_value() else { continue };
                self.notes.push(format!(
                    "node {id} ({}): `{}` is missing and has its default, {default}",
                    node.class, input.name
                ));
                node.inputs.insert(input.name.to_owned(), InputValue::Literal(default));
            }
        }
    }
}

/// An input that the node's class has, where that is known.
fn expect_input(
    node: &PromptNode,
    id: &str,
    input: &str,
    registry: &Registry,
) -> Result<(), String> {
    let Some(class) = registry.find(&node.class) else { return Ok(()) };
    if class.input(input).is_some() {
        return Ok(());
    }
    let names = join(class.inputs.iter().map(|input| input.name));
    Err(match class.inputs {
        [] => format!("node {id} ({}) has no inputs", node.class),
        _ => format!("node {id} ({}) has no input `{input}`; it has {names}", node.class),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::nodes;

    const TWO: &str = r#"{
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "3": {"class_type": "KSampler", "inputs": {"seed": 18446744073709551615, "model": ["4", 0]},
              "_meta": {"title": "Sample"}}
    }"#;

    #[test]
    fn overrides_find_a_node_by_id_title_or_class() {
        let registry = nodes::all();
        let mut prompt = Prompt::from_json(TWO, &registry).unwrap();
        prompt.set("3.seed=7", &registry).unwrap();
        prompt.set("Sample.sampler_name=euler", &registry).unwrap();
        prompt.set("CheckpointLoaderSimple.ckpt_name=b=c.safetensors", &registry).unwrap();
        prompt.set("3.model=[\"4\", 1]", &registry).unwrap();
        let error = prompt.set("3.sede=7", &registry).unwrap_err().to_string();
        assert!(
            error.contains("node 3 (KSampler) has no input `sede`; it has model, seed"),
            "{error}"
        );
        assert!(!prompt.nodes["3"].inputs.contains_key("sede"));
        let sampler = &prompt.nodes["3"].inputs;
        assert_eq!(sampler["seed"], InputValue::Literal(json!(7)));
        assert_eq!(sampler["sampler_name"], InputValue::Literal(json!("euler")));
        assert_eq!(sampler["model"], InputValue::Link { node: "4".into(), slot: 1 });
        let loader = &prompt.nodes["4"].inputs;
        assert_eq!(loader["ckpt_name"], InputValue::Literal(json!("b=c.safetensors")));
        for wrong in ["seed=7", "3.seed", "9.seed=1", ""] {
            let error = prompt.set(wrong, &registry).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{wrong}`: ")), "{error}");
        }
    }
}
