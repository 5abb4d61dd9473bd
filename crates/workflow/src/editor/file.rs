//! The editor's file as it is written: graphs of nodes with slots, and links.

use serde::Deserialize;
use serde_json::Value as Json;

#[derive(Deserialize)]
pub(super) struct File {
    #[serde(flatten)]
    pub(super) graph: Graph,
    #[serde(default)]
    pub(super) definitions: Definitions,
}

#[derive(Default, Deserialize)]
pub(super) struct Definitions {
    #[serde(default)]
    pub(super) subgraphs: Vec<Subgraph>,
}

#[derive(Deserialize)]
pub(super) struct Subgraph {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) graph: Graph,
}

#[derive(Deserialize)]
pub(super) struct Graph {
    pub(super) nodes: Vec<EditorNode>,
    #[serde(default)]
    pub(super) links: Vec<Link>,
}

/// A node as the editor draws it.
#[derive(Deserialize)]
pub(super) struct EditorNode {
    pub(super) id: Id,
    #[serde(rename = "type")]
    pub(super) class: String,
    #[serde(default)]
    pub(super) title: Option<String>,
    #[serde(default)]
    pub(super) mode: u8,
    /// When the editor would run it.
    #[serde(default)]
    pub(super) order: i64,
    #[serde(default)]
    pub(super) inputs: Option<Vec<Slot>>,
    #[serde(default)]
    pub(super) outputs: Option<Vec<Slot>>,
    #[serde(default)]
    pub(super) widgets_values: Json,
}

/// A slot of an input or an output.
#[derive(Deserialize)]
pub(super) struct Slot {
    pub(super) name: String,
    #[serde(default, rename = "type")]
    pub(super) kind: Json,
    #[serde(default)]
    pub(super) link: Option<i64>,
    /// Whether it stands in for a widget.
    #[serde(default)]
    pub(super) widget: Json,
}

/// Numbers, or texts.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Id {
    Number(i64),
    Text(String),
}

impl Id {
    pub(super) fn text(&self) -> String {
        match self {
            Id::Number(number) => number.to_string(),
            Id::Text(text) => text.clone(),
        }
    }
}

/// A link: a list, or since its second version a record.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Link {
    List(i64, Id, usize, Id, usize, #[allow(dead_code)] Json),
    Record { id: i64, origin_id: Id, origin_slot: usize, target_id: Id, target_slot: usize },
}

impl Link {
    pub(super) fn id(&self) -> i64 {
        match self {
            Link::List(id, ..) | Link::Record { id, .. } => *id,
        }
    }

    pub(super) fn origin(&self) -> (String, usize) {
        match self {
            Link::List(_, node, slot, ..)
            | Link::Record { origin_id: node, origin_slot: slot, .. } => (node.text(), *slot),
        }
    }

    pub(super) fn target(&self) -> (String, usize) {
        match self {
            Link::List(_, _, _, node, slot, _)
            | Link::Record { target_id: node, target_slot: slot, .. } => (node.text(), *slot),
        }
    }
}

impl EditorNode {
    pub(super) fn inputs(&self) -> &[Slot] {
        self.inputs.as_deref().unwrap_or_default()
    }

    /// The value of a widget that has no name.
    pub(super) fn value(&self, place: usize) -> Option<&Json> {
        self.widgets_values.get(place)
    }

    /// Whether only the editor knows it.
    pub(super) fn is_virtual(&self) -> bool {
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
    pub(super) fn passed(&self, slot: usize) -> Option<&Slot> {
        let kind = &self.outputs.as_deref()?.get(slot)?.kind;
        let inputs = self.inputs();
        let same = |input: &&Slot| input.kind == *kind;
        inputs.get(slot).filter(same).or_else(|| inputs.iter().find(same))
    }
}
