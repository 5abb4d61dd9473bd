//! A prompt: the nodes of a workflow in ComfyUI's API format, and what their inputs come from.
//!
//! ```json
//! {"3": {"class_type": "KSampler", "inputs": {"seed": 7, "model": ["4", 0]}, "_meta": {"title": "…"}}}
//! ```

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use thiserror::Error;

use crate::json_text::{without_mark, without_non_finite};
use crate::{editor, nodes};

/// Why a text is no prompt.
#[derive(Debug, Error)]
pub enum PromptError {
    /// No text.
    #[error("this is no text: {0}")]
    Text(String),
    /// No JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The format that ComfyUI's editor saves, but not quite.
    #[error(
        "this looks like a workflow as the editor saves it, but is none: {0}; export it for the API \
         (in ComfyUI: Workflow, Export (API)) and run that"
    )]
    Editor(#[source] serde_json::Error),
    /// JSON of another kind.
    #[error("{place}: expected {expected}, found {found}")]
    Shape {
        /// Where.
        place: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// An override that cannot be.
    #[error("`{given}`: {problem}")]
    Set {
        /// The override.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// How a workflow is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What follows from `{a|b}` in the texts of an editor's file.
    pub prompt_seed: u64,
}

/// Which inputs that a prompt lacks take their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Those that ComfyUI's node has not had from the beginning.
    AddedLater,
    /// All.
    Any,
}

/// A workflow to be run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// The nodes by id, in the order of the file.
    pub nodes: IndexMap<String, PromptNode>,
    /// The editor's own form of the workflow, where the file carries it: saved with pictures.
    pub workflow: Option<Json>,
    /// What was done to the file to read it, for the user.
    pub notes: Vec<String>,
}

/// A node of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptNode {
    /// The class.
    pub class: String,
    /// What the user calls it.
    pub title: Option<String>,
    /// What it is given.
    pub inputs: IndexMap<String, Given>,
    /// Why inputs are given nothing though something is linked to them.
    pub unresolved: IndexMap<String, String>,
}

/// What an input is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// A value.
    Literal(Json),
    /// What a slot of another node gives.
    Link {
        /// The node's id.
        node: String,
        /// Its output slot.
        slot: usize,
    },
}

impl Given {
    fn from_json(value: &Json) -> Self {
        if let Json::Array(items) = value
            && let [Json::String(node), slot] = items.as_slice()
            && let Some(slot) = slot_number(slot)
        {
            return Given::Link { node: node.clone(), slot };
        }
        // How a client sends a list that is no link.
        match value.get("__value__") {
            Some(inner) => Given::Literal(inner.clone()),
            None => Given::Literal(value.clone()),
        }
    }

    /// As JSON: a link is `[node, slot]`.
    pub fn to_json(&self) -> Json {
        match self {
            Given::Literal(list @ Json::Array(_)) => json!({ "__value__": list }),
            Given::Literal(value) => value.clone(),
            Given::Link { node, slot } => json!([node, slot]),
        }
    }
}

fn slot_number(value: &Json) -> Option<usize> {
    let number = value.as_u64().or_else(|| {
        let float = value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..1e6).contains(f))?;
        Some(float as u64)
    });
    number.and_then(|number| usize::try_from(number).ok())
}

impl Prompt {
    /// Reads a prompt: the API format itself, what is sent to a server with the prompt under
    /// `prompt`, or a workflow as the editor saves it.
    ///
    /// # Errors
    /// When the text is no JSON, or JSON of another shape.
    pub fn from_json(text: &str) -> Result<Self, PromptError> {
        Self::read(text, ReadOptions::default())
    }

    /// Reads a prompt as [`from_json`](Self::from_json) does. A byte-order mark is skipped; the
    /// NaN and Infinity that Python writes are null.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn read(text: &str, options: ReadOptions) -> Result<Self, PromptError> {
        let text = &*without_non_finite(without_mark(text));
        // Kept in the file's order, which JSON values as such have not.
        let ordered: Ordered = match serde_json::from_str(text) {
            Ok(ordered) => ordered,
            Err(error) => return Err(not_an_object(text, error)),
        };
        if ordered.get("nodes").is_some_and(Json::is_array) {
            return editor::read(&serde_json::from_str(text)?, options);
        }
        match ordered.get("prompt") {
            Some(Json::Object(fields)) if !fields.contains_key("class_type") => {
                let sent: Sent = serde_json::from_str(text)?;
                let path = "/extra_pnginfo/workflow";
                let workflow = sent.extra_data.as_ref().and_then(|data| data.pointer(path));
                Self::from_nodes(&sent.prompt, workflow.cloned())
            }
            _ => Self::from_nodes(&ordered, None),
        }
    }

    fn from_nodes(nodes: &Ordered, workflow: Option<Json>) -> Result<Self, PromptError> {
        let read =
            |(id, node): (&String, &Json)| Ok((id.clone(), PromptNode::from_json(id, node)?));
        let nodes = nodes.iter().map(read).collect::<Result<_, PromptError>>()?;
        Ok(Self { nodes, workflow, notes: Vec::new() })
    }

    /// The API format.
    pub fn to_json(&self) -> Json {
        let nodes = self.nodes.iter().map(|(id, node)| (id.clone(), node.to_json()));
        Json::Object(nodes.collect())
    }

    /// Overrides an input: `NODE.INPUT=VALUE`, where the node is an id, a title or a class that
    /// only one node has. The value is JSON, or else text.
    ///
    /// # Errors
    /// When the text has another form, names no node or several, or an input that the node has not.
    pub fn set(&mut self, given: &str) -> Result<(), PromptError> {
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
            node.expect_input(&id, input).map_err(problem)?;
            node.inputs.insert(input.to_owned(), Given::from_json(&value));
        }
        Ok(())
    }

    /// Gives inputs that are missing their defaults, where these do not depend on the machine, and
    /// notes it.
    pub fn fill_in(&mut self, missing: Missing) {
        for (id, node) in &mut self.nodes {
            let Some(class) = nodes::find(&node.class) else { continue };
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
                node.inputs.insert(input.name.to_owned(), Given::Literal(default));
            }
        }
    }

    /// The id of the node that a user means by an id, a title or a class.
    ///
    /// # Errors
    /// What is wrong, in words, when there is none or more than one.
    pub fn find(&self, name: &str) -> Result<String, String> {
        if self.nodes.contains_key(name) {
            return Ok(name.to_owned());
        }
        let called = |(_, node): &(&String, &PromptNode)| {
            node.title.as_deref() == Some(name) || node.class == name
        };
        let found: Vec<&String> = self.nodes.iter().filter(called).map(|(id, _)| id).collect();
        match found.as_slice() {
            [id] => Ok((*id).clone()),
            [] => {
                let nodes = self.nodes.iter().map(|(id, node)| format!("{id} ({})", node.class));
                Err(format!("no node `{name}`; there are {}", join(nodes)))
            }
            several => Err(format!("several nodes are called `{name}`: {}", join(several.iter()))),
        }
    }
}

impl PromptNode {
    /// A node that is given nothing.
    pub fn new(class: &str) -> Self {
        Self { class: class.to_owned(), ..Self::default() }
    }

    /// An input that the node's class has, where that is known.
    fn expect_input(&self, id: &str, input: &str) -> Result<(), String> {
        let Some(class) = nodes::find(&self.class) else { return Ok(()) };
        if class.input(input).is_some() {
            return Ok(());
        }
        let names = join(class.inputs.iter().map(|input| input.name));
        Err(match class.inputs {
            [] => format!("node {id} ({}) has no inputs", self.class),
            _ => format!("node {id} ({}) has no input `{input}`; it has {names}", self.class),
        })
    }

    fn from_json(id: &str, value: &Json) -> Result<Self, PromptError> {
        let place = || format!("node `{id}`");
        let fields = object(value, place)?;
        let class = match fields.get("class_type") {
            Some(Json::String(class)) => nodes::canonical(class).to_owned(),
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
                .map(|(name, value)| (name.clone(), Given::from_json(value)))
                .collect(),
        };
        let title = value.pointer("/_meta/title").and_then(Json::as_str).map(str::to_owned);
        Ok(Self { class, title, inputs, unresolved: IndexMap::new() })
    }

    fn to_json(&self) -> Json {
        let inputs: Map<_, _> =
            self.inputs.iter().map(|(name, given)| (name.clone(), given.to_json())).collect();
        let mut node = Map::new();
        node.insert("inputs".to_owned(), Json::Object(inputs));
        node.insert("class_type".to_owned(), self.class.clone().into());
        if let Some(title) = &self.title {
            node.insert("_meta".to_owned(), json!({ "title": title }));
        }
        Json::Object(node)
    }
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

/// What a JSON value is, in a few words.
pub(crate) fn describe(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(_) | Json::Number(_) => value.to_string(),
        Json::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        Json::String(_) => "a text".to_owned(),
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "an object".to_owned(),
    }
}

/// Names with commas between.
pub(crate) fn join<T: ToString>(names: impl Iterator<Item = T>) -> String {
    names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"{
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "3": {"class_type": "KSampler", "inputs": {"seed": 18446744073709551615, "model": ["4", 0]},
              "_meta": {"title": "Sample"}}
    }"#;

    #[test]
    fn reads_and_writes_the_api_format() {
        let prompt = Prompt::from_json(TWO).unwrap();
        let sampler = &prompt.nodes["3"];
        assert_eq!(sampler.title.as_deref(), Some("Sample"));
        assert_eq!(sampler.inputs["model"], Given::Link { node: "4".into(), slot: 0 });
        assert_eq!(sampler.inputs["seed"], Given::Literal(json!(u64::MAX)));
        let again = Prompt::from_json(&prompt.to_json().to_string()).unwrap();
        assert_eq!(again.nodes["3"], prompt.nodes["3"]);
        assert_eq!(prompt.nodes.keys().collect::<Vec<_>>(), ["4", "3"]);
        let sent = json!({"prompt": prompt.to_json(), "client_id": "x",
                          "extra_data": {"extra_pnginfo": {"workflow": {"id": 1}}}});
        let sent = Prompt::from_json(&sent.to_string()).unwrap();
        assert_eq!(sent.nodes["3"], prompt.nodes["3"]);
        assert_eq!(sent.workflow, Some(json!({"id": 1})));
    }

    #[test]
    fn a_list_that_is_no_link_is_a_value() {
        for list in [json!([1, 2]), json!(["4"]), json!(["4", "x"]), json!(["4", -1])] {
            assert_eq!(Given::from_json(&list), Given::Literal(list));
        }
        let wrapped = json!({"__value__": ["4", 0]});
        assert_eq!(Given::from_json(&wrapped), Given::Literal(json!(["4", 0])));
        assert_eq!(Given::from_json(&wrapped).to_json(), wrapped);
    }

    #[test]
    fn overrides_find_a_node_by_id_title_or_class() {
        let mut prompt = Prompt::from_json(TWO).unwrap();
        prompt.set("3.seed=7").unwrap();
        prompt.set("Sample.sampler_name=euler").unwrap();
        prompt.set("CheckpointLoaderSimple.ckpt_name=b=c.safetensors").unwrap();
        prompt.set("3.model=[\"4\", 1]").unwrap();
        let error = prompt.set("3.sede=7").unwrap_err().to_string();
        assert!(
            error.contains("node 3 (KSampler) has no input `sede`; it has model, seed"),
            "{error}"
        );
        assert!(!prompt.nodes["3"].inputs.contains_key("sede"));
        let sampler = &prompt.nodes["3"].inputs;
        assert_eq!(sampler["seed"], Given::Literal(json!(7)));
        assert_eq!(sampler["sampler_name"], Given::Literal(json!("euler")));
        assert_eq!(sampler["model"], Given::Link { node: "4".into(), slot: 1 });
        let loader = &prompt.nodes["4"].inputs;
        assert_eq!(loader["ckpt_name"], Given::Literal(json!("b=c.safetensors")));
        for wrong in ["seed=7", "3.seed", "9.seed=1", ""] {
            let error = prompt.set(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{wrong}`: ")), "{error}");
        }
    }

    #[test]
    fn other_json_is_told_apart() {
        let error = |text| Prompt::from_json(text).unwrap_err().to_string();
        assert!(error(r#"{"nodes": [7], "links": []}"#).contains("Export (API)"));
        assert!(error("[]").contains("expected an object, found a list"));
        assert!(error(r#"{"1": {"inputs": {}}}"#).contains("node `1`, `class_type`"));
        assert!(error(r#"{"1": 5}"#).contains("node `1`"));
        assert!(error("{").starts_with("not JSON"));
    }
}
