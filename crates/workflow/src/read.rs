//! The text of a workflow, in any of its forms, read as a prompt.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::editor;
use crate::graph::{InputValue, Prompt, PromptError, PromptNode, ReadOptions, describe};
use crate::json_text::{without_mark, without_non_finite};
use crate::registry::Registry;

impl Prompt {
    /// Reads a prompt: the API format itself, what is sent to a server with the prompt under
    /// `prompt`, or a workflow as the editor saves it.
    ///
    /// # Errors
    /// When the text is no JSON, or JSON of another shape.
    pub fn from_json(text: &str, registry: &Registry) -> Result<Self, PromptError> {
        Self::read(text, registry, ReadOptions::default())
    }

    /// Reads a prompt as [`from_json`](Self::from_json) does. A byte-order mark is skipped; the
    /// NaN and Infinity that Python writes are null.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn read(
        text: &str,
        registry: &Registry,
        options: ReadOptions,
    ) -> Result<Self, PromptError> {
        let text = &*without_non_finite(without_mark(text));
        // Kept in the file's order, which JSON values as such have not.
        let ordered: Ordered = match serde_json::from_str(text) {
            Ok(ordered) => ordered,
            Err(error) => return Err(not_an_object(text, error)),
        };
        if ordered.get("nodes").is_some_and(Json::is_array) {
            return editor::read(&serde_json::from_str(text)?, registry, options);
        }
        match ordered.get("prompt") {
            Some(Json::Object(fields)) if !fields.contains_key("class_type") => {
                let sent: Sent = serde_json::from_str(text)?;
                let path = "/extra_pnginfo/workflow";
                let workflow = sent.extra_data.as_ref().and_then(|data| data.pointer(path));
                from_nodes(&sent.prompt, registry, workflow.cloned())
            }
            _ => from_nodes(&ordered, registry, None),
        }
    }
}

fn from_nodes(
    nodes: &Ordered,
    registry: &Registry,
    workflow: Option<Json>,
) -> Result<Prompt, PromptError> {
    let read = |(id, node): (&String, &Json)| Ok((id.clone(), read_node(id, node, registry)?));
    let nodes = nodes.iter().map(read).collect::<Result<_, PromptError>>()?;
    let named = workflow.as_ref().map(|workflow| editor::named(workflow, registry));
    Ok(Prompt { nodes, workflow, named: named.unwrap_or_default(), notes: Vec::new() })
}

fn read_node(id: &str, value: &Json, registry: &Registry) -> Result<PromptNode, PromptError> {
    let place = || format!("node `{id}`");
    let fields = object(value, place)?;
    let class = match fields.get("class_type") {
        Some(Json::String(class)) => registry.canonical(class).to_owned(),
        other => {
            return Err(PromptError::Shape {
                place: format!("node `{id}`, `class_type`"),
                expected: "the name of a node class",
                found: other.map_or_else(|| "nothing".to_owned(), describe),
            });
        }
    };
    let inputs = match fields.get("inputs") {
        None => IndexMap::new(),
        Some(inputs) => object(inputs, || format!("node `{id}`, `inputs`"))?
            .iter()
            .map(|(name, value)| (name.clone(), InputValue::from_json(value)))
            .collect(),
    };
    let title = value.pointer("/_meta/title").and_then(Json::as_str).map(str::to_owned);
    Ok(PromptNode { class, title, inputs, unresolved: IndexMap::new() })
}

/// JSON fields in the order of their file.
type Ordered = IndexMap<String, Json>;

/// What a client sends to a server.
#[derive(Deserialize)]
struct Sent {
    prompt: Ordered,
    extra_data: Option<Json>,
}

fn not_an_object(text: &str, error: serde_json::Error) -> PromptError {
    match serde_json::from_str::<Json>(text) {
        Ok(other) => PromptError::Shape {
            place: "the workflow".to_owned(),
            expected: "an object",
            found: describe(&other),
        },
        Err(_) => PromptError::Json(error),
    }
}

fn object(value: &Json, place: impl Fn() -> String) -> Result<&Map<String, Json>, PromptError> {
    value.as_object().ok_or_else(|| PromptError::Shape {
        place: place(),
        expected: "an object",
        found: describe(value),
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
    fn reads_and_writes_the_api_format() {
        let prompt = Prompt::from_json(TWO, &nodes::all()).unwrap();
        let sampler = &prompt.nodes["3"];
        assert_eq!(sampler.title.as_deref(), Some("Sample"));
        assert_eq!(sampler.inputs["model"], InputValue::Link { node: "4".into(), slot: 0 });
        assert_eq!(sampler.inputs["seed"], InputValue::Literal(json!(u64::MAX)));
        let again = Prompt::from_json(&prompt.to_json().to_string(), &nodes::all()).unwrap();
        assert_eq!(again.nodes["3"], prompt.nodes["3"]);
        assert_eq!(prompt.nodes.keys().collect::<Vec<_>>(), ["4", "3"]);
        let sent = json!({"prompt": prompt.to_json(), "client_id": "x",
                          "extra_data": {"extra_pnginfo": {"workflow": {"id": 1}}}});
        let sent = Prompt::from_json(&sent.to_string(), &nodes::all()).unwrap();
        assert_eq!(sent.nodes["3"], prompt.nodes["3"]);
        assert_eq!(sent.workflow, Some(json!({"id": 1})));
    }

    #[test]
    fn other_json_is_told_apart() {
        let error = |text| Prompt::from_json(text, &nodes::all()).unwrap_err().to_string();
        assert!(error(r#"{"nodes": [7], "links": []}"#).contains("Export (API)"));
        assert!(error("[]").contains("expected an object, found a list"));
        assert!(error(r#"{"1": {"inputs": {}}}"#).contains("node `1`, `class_type`"));
        assert!(error(r#"{"1": 5}"#).contains("node `1`"));
        assert!(error("{").starts_with("not JSON"));
    }
}
