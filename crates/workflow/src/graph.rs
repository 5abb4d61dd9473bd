//! A prompt: the nodes of a workflow in ComfyUI's API format, and what their inputs come from.
//!
//! ```json
//! {"3": {"class_type": "KSampler", "inputs": {"seed": 7, "model": ["4", 0]}, "_meta": {"title": "…"}}}
//! ```

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};
use thiserror::Error;

impl From<serde_json::Error> for PromptError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

/// Why a text is no prompt.
#[derive(Debug, Error)]
pub enum PromptError {
    /// No text.
    #[error("this is no text: {0}")]
    Text(String),
    /// No JSON.
    #[error("not JSON: {0}")]
    Json(serde_json::Error),
    /// The format that ComfyUI's editor saves, but not quite.
    #[error(
        "this looks like a workflow as the editor saves it, but is none: {0}; export it for the API \
         (in ComfyUI: Workflow, Export (API)) and run that"
    )]
    Editor(serde_json::Error),
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

/// A workflow to be run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// The nodes by id, in the order of the file.
    pub nodes: IndexMap<String, PromptNode>,
    /// The editor's own form of the workflow, where the file carries it: saved with pictures.
    pub workflow: Option<Json>,
    /// The nodes of that form, as the tokens of file names (`%Node.widget%`) name them.
    pub named: Vec<NamedNode>,
    /// What was done to the file to read it, for the user.
    pub notes: Vec<String>,
}

/// A node of the editor's form of a workflow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedNode {
    /// Its id in the prompt.
    pub id: String,
    /// Its name for searching and replacing, which is its class where it has no other.
    pub name: Option<String>,
    /// What the user calls it, which is its class's title where that is nothing else.
    pub title: Option<String>,
    /// The values of its widgets as the file has them, also where a link takes their place.
    pub widgets: IndexMap<String, Json>,
}

/// A node of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptNode {
    /// The class.
    pub class: String,
    /// What the user calls it.
    pub title: Option<String>,
    /// What it is given.
    pub inputs: IndexMap<String, InputValue>,
    /// Why inputs are given nothing though something is linked to them.
    pub unresolved: IndexMap<String, String>,
}

/// What an input is given.
#[derive(Clone, Debug, PartialEq)]
pub enum InputValue {
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

impl InputValue {
    pub(crate) fn from_json(value: &Json) -> Self {
        if let Json::Array(items) = value
            && let [Json::String(node), slot] = items.as_slice()
            && let Some(slot) = slot_number(slot)
        {
            return InputValue::Link { node: node.clone(), slot };
        }
        // How a client sends a list that is no link.
        match value.get("__value__") {
            Some(inner) => InputValue::Literal(inner.clone()),
            None => InputValue::Literal(value.clone()),
        }
    }

    /// As JSON: a link is `[node, slot]`.
    pub fn to_json(&self) -> Json {
        match self {
            InputValue::Literal(list @ Json::Array(_)) => json!({ "__value__": list }),
            InputValue::Literal(value) => value.clone(),
            InputValue::Link { node, slot } => json!([node, slot]),
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
    /// The API format.
    pub fn to_json(&self) -> Json {
        let nodes = self.nodes.iter().map(|(id, node)| (id.clone(), node.to_json()));
        Json::Object(nodes.collect())
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

    /// The node of the editor's form that the editor means by a name: the first of this name for
    /// searching and replacing, else the first of this title.
    pub fn named(&self, name: &str) -> Option<&NamedNode> {
        let is = |part: &Option<String>| part.as_deref() == Some(name);
        let by_name = self.named.iter().find(|node| is(&node.name));
        by_name.or_else(|| self.named.iter().find(|node| is(&node.title)))
    }
}

impl PromptNode {
    /// A node that is given nothing.
    pub fn new(class: &str) -> Self {
        Self { class: class.to_owned(), ..Self::default() }
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

    #[test]
    fn a_list_that_is_no_link_is_a_value() {
        for list in [json!([1, 2]), json!(["4"]), json!(["4", "x"]), json!(["4", -1])] {
            assert_eq!(InputValue::from_json(&list), InputValue::Literal(list));
        }
        let wrapped = json!({"__value__": ["4", 0]});
        assert_eq!(InputValue::from_json(&wrapped), InputValue::Literal(json!(["4", 0])));
        assert_eq!(InputValue::from_json(&wrapped).to_json(), wrapped);
    }
}
