//! What may be wrong with a prompt, as clients and people read it.

use std::fmt;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Value as Json, json};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// What kind of thing: `required_input_missing`, `value_not_in_list`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it is, in general.
    pub message: String,
    /// What it is, here.
    pub details: String,
    /// For programs: the input, what it takes and what it was given.
    pub extra_info: Json,
}

/// What is wrong with a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeProblems {
    /// All of it.
    pub errors: Vec<Problem>,
    /// The output nodes that need this node.
    pub dependent_outputs: Vec<String>,
    /// The node's class.
    pub class_type: String,
}

/// A prompt that cannot be run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Invalid {
    /// The first thing to say.
    pub error: Problem,
    /// What is wrong, node by node.
    pub node_errors: IndexMap<String, NodeProblems>,
}

/// A prompt of which at least a part can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// The output nodes that can be run, in the order of the prompt.
    pub outputs: Vec<String>,
    /// What is wrong with the others.
    pub node_errors: IndexMap<String, NodeProblems>,
}

impl Problem {
    /// A problem of no input.
    pub fn new(kind: &'static str, message: impl Into<String>, details: impl Into<String>) -> Self {
        let (message, details) = (message.into(), details.into());
        Self { kind, message, details, extra_info: json!({}) }
    }

    pub(super) fn with(self, extra_info: Json) -> Self {
        Self { extra_info, ..self }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error.message)?;
        if !self.error.details.is_empty() {
            write!(f, ": {}", self.error.details)?;
        }
        write!(f, "{}", lines(&self.node_errors))
    }
}

impl std::error::Error for Invalid {}

/// The problems that [`lines`] spells out. A cycle of thousands of nodes has as many.
const MOST_LINES: usize = 50;

/// The problems of nodes for people: a line for each of the first, and how many more there are.
pub fn lines(node_errors: &IndexMap<String, NodeProblems>) -> String {
    let problems =
        || node_errors.iter().flat_map(|(id, node)| node.errors.iter().map(move |e| (id, node, e)));
    let mut text = String::new();
    for (id, node, error) in problems().take(MOST_LINES) {
        text +=
            &format!("\n  node {id} ({}): {}: {}", node.class_type, error.message, error.details);
    }
    match problems().count().saturating_sub(MOST_LINES) {
        0 => text,
        more => format!("{text}\n  and {more} more"),
    }
}
