//! The editor's file as it is written: graphs of nodes with slots, and links.
//!
//! Files of all years are read, so what is missing, null or malformed in a place that does not
//! matter is passed over.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value as Json};

/// Where the links of a subgraph come from and go to, instead of a node.
pub(super) const OUTSIDE: &str = "-10";
pub(super) const RESULT: &str = "-20";

/// A whole file.
#[derive(Deserialize)]
pub(super) struct File {
    #[serde(flatten)]
    pub(super) graph: Graph,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) definitions: Definitions,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) extra: Extra,
}

/// Subgraphs, which may have some of their own.
#[derive(Default, Deserialize)]
pub(super) struct Definitions {
    #[serde(default, deserialize_with = "present")]
    pub(super) subgraphs: Vec<Subgraph>,
}

/// A graph that nodes of the class `id` stand for.
#[derive(Deserialize)]
pub(super) struct Subgraph {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) graph: Graph,
    /// The names of what comes in, by slot.
    #[serde(default, deserialize_with = "present")]
    pub(super) inputs: Vec<Slot>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) definitions: Definitions,
}

/// What is not about running, but for group nodes.
#[derive(Default, Deserialize)]
pub(super) struct Extra {
    /// What group nodes have inside, by name.
    #[serde(default, rename = "groupNodes", deserialize_with = "or_default")]
    pub(super) group_nodes: HashMap<String, Group>,
}

/// The inside of a group node. Its nodes have no ids: links name them by their place.
#[derive(Deserialize)]
pub(super) struct Group {
    pub(super) nodes: Vec<EditorNode>,
    /// `[from, slot, to, slot, …]`, with null for what comes from outside.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) links: Vec<Json>,
    /// `[node, slot, type]`: outputs that are shown though they are also linked inside.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) external: Vec<Json>,
    /// Other names for inputs, and slots that are hidden, by the node's place.
    #[serde(default)]
    pub(super) config: Json,
}

/// Nodes and links, found by their ids.
#[derive(Default, Deserialize)]
#[serde(from = "Drawn")]
pub(super) struct Graph {
    nodes: Vec<EditorNode>,
    links: Vec<Link>,
    by_id: HashMap<String, usize>,
    by_link: HashMap<i64, usize>,
}

#[derive(Deserialize)]
struct Drawn {
    #[serde(deserialize_with = "present")]
    nodes: Vec<EditorNode>,
    #[serde(default, deserialize_with = "or_default")]
    links: Vec<Json>,
}

impl From<Drawn> for Graph {
    fn from(drawn: Drawn) -> Self {
        Self::new(drawn.nodes, drawn.links.iter().filter_map(Link::read).collect())
    }
}

impl Graph {
    /// Where ids occur twice, the first counts.
    pub(super) fn new(nodes: Vec<EditorNode>, links: Vec<Link>) -> Self {
        let (mut by_id, mut by_link) = (HashMap::new(), HashMap::new());
        for (place, node) in nodes.iter().enumerate() {
            by_id.entry(node.id.clone()).or_insert(place);
        }
        for (place, link) in links.iter().enumerate() {
            by_link.entry(link.id).or_insert(place);
        }
        Self { nodes, links, by_id, by_link }
    }

    pub(super) fn nodes(&self) -> &[EditorNode] {
        &self.nodes
    }

    pub(super) fn node(&self, id: &str) -> Option<&EditorNode> {
        self.nodes.get(*self.by_id.get(id)?)
    }

    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(super) fn link(&self, id: i64) -> Option<&Link> {
        self.links.get(*self.by_link.get(&id)?)
    }

    /// The link that leads to a slot.
    pub(super) fn link_to(&self, target: &str, slot: usize) -> Option<&Link> {
        self.links.iter().find(|link| link.target_slot == slot && link.target == target)
    }

    /// Whether a link begins or ends at the node.
    pub(super) fn is_linked(&self, node: &EditorNode) -> bool {
        self.links.iter().any(|link| link.origin == node.id || link.target == node.id)
    }
}

/// A node as the editor draws it.
#[derive(Clone, Deserialize)]
pub(super) struct EditorNode {
    #[serde(default, deserialize_with = "id")]
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) class: String,
    #[serde(default)]
    pub(super) title: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) mode: u8,
    /// When the editor would run it.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) order: i64,
    #[serde(default, deserialize_with = "present")]
    pub(super) inputs: Vec<Slot>,
    #[serde(default, deserialize_with = "present")]
    pub(super) outputs: Vec<Slot>,
    #[serde(default)]
    pub(super) widgets_values: Json,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) properties: Map<String, Json>,
}

/// A slot of an input or an output.
#[derive(Clone, Default, Deserialize)]
pub(super) struct Slot {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) name: String,
    /// What the user calls it.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) label: Option<String>,
    #[serde(default, rename = "type")]
    pub(super) kind: Json,
    #[serde(default)]
    pub(super) link: Option<i64>,
    /// The widget that it stands in for.
    #[serde(default)]
    pub(super) widget: Json,
}

impl EditorNode {
    /// Never runs, and gives nothing.
    const NEVER: u8 = 2;
    /// Lets its inputs through.
    const BYPASS: u8 = 4;

    /// The value of a widget that has no name.
    pub(super) fn value(&self, place: usize) -> Option<&Json> {
        self.widgets_values.get(place)
    }

    pub(super) fn is_muted(&self) -> bool {
        self.mode == Self::NEVER
    }

    pub(super) fn is_bypassed(&self) -> bool {
        self.mode == Self::BYPASS
    }

    /// The class without blanks around, which ComfyUI wrote after one class until 2025.
    pub(super) fn class(&self) -> &str {
        self.class.trim()
    }

    pub(super) fn is_reroute(&self) -> bool {
        matches!(self.class(), "Reroute" | "Reroute (rgthree)")
    }

    pub(super) fn is_primitive(&self) -> bool {
        self.class() == "PrimitiveNode"
    }

    /// Whether only the editor knows it.
    pub(super) fn is_virtual(&self) -> bool {
        self.is_reroute()
            || self.is_primitive()
            || matches!(self.class(), "Note" | "MarkdownNote" | "SetNode" | "GetNode")
    }

    /// The input whose value a bypassed node gives as this output: the one at the same place where its
    /// type is the same, else the first of the type.
    pub(super) fn passed(&self, slot: usize) -> Option<&Slot> {
        let kind = &self.outputs.get(slot)?.kind;
        let same = |input: &&Slot| input.kind == *kind;
        self.inputs.get(slot).filter(same).or_else(|| self.inputs.iter().find(same))
    }
}

/// From an output slot of a node to an input slot of another.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) id: i64,
    pub(super) origin: String,
    pub(super) origin_slot: usize,
    pub(super) target: String,
    pub(super) target_slot: usize,
}

impl Link {
    /// A link is a list, or since its second version a record.
    fn read(link: &Json) -> Option<Self> {
        let part = |place: usize, name: &str| link.get(place).or_else(|| link.get(name));
        let slot = |place, name| usize::try_from(part(place, name)?.as_u64()?).ok();
        Some(Self {
            id: part(0, "id")?.as_i64()?,
            origin: id_text(part(1, "origin_id")?)?,
            origin_slot: slot(2, "origin_slot")?,
            target: id_text(part(3, "target_id")?)?,
            target_slot: slot(4, "target_slot")?,
        })
    }
}

/// Ids are numbers, or texts.
fn id_text(id: &Json) -> Option<String> {
    match id {
        Json::Number(number) => Some(number.to_string()),
        Json::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = Json::deserialize(deserializer)?;
    id_text(&id).ok_or_else(|| serde::de::Error::custom("a node's `id` is a number or a text"))
}

/// The default for null.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list, or null, in which some may be null.
fn present<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list: Option<Vec<Option<T>>> = Option::deserialize(deserializer)?;
    Ok(list.unwrap_or_default().into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_and_malformed_links_are_passed_over() {
        let file = json!({
            "nodes": [null, {"id": 1, "type": "A", "inputs": null, "mode": null},
                      {"id": "x", "type": "B ", "inputs": [null, {"name": "a", "link": 7}]}],
            "links": [null, [7, 1, 0, "x", 0, "T"], [8, 1, 0, "x"], 5, "link",
                      [9, 1, -1, "x", 0, "T"], [10, 1, 0, "x", 1],
                      {"id": 11, "origin_id": 1, "origin_slot": 2, "target_id": "x",
                       "target_slot": 3, "type": "T"}],
            "definitions": null, "extra": {"groupNodes": null}
        });
        let graph = serde_json::from_value::<File>(file).unwrap().graph;
        assert_eq!(graph.nodes().len(), 2);
        assert_eq!(graph.node("x").unwrap().class(), "B");
        assert_eq!(graph.node("x").unwrap().inputs[0].link, Some(7));
        let link = |id| graph.link(id).map(|link| (link.origin.as_str(), link.target_slot));
        assert_eq!(
            [7, 8, 9, 10, 11].map(link),
            [Some(("1", 0)), None, None, Some(("1", 1)), Some(("1", 3)),]
        );
        assert_eq!(graph.link_to("x", 3).unwrap().id, 11);
    }
}
