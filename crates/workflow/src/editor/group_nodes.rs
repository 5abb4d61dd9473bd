//! Group nodes, which the editor had before subgraphs: read as subgraphs.
//!
//! A group node is of the class `workflow>NAME` (`workflow/NAME` until 2024), and `extra.groupNodes`
//! says what it has inside. What it shows outside is not in the file but follows from the inside,
//! node by node: the widgets; the inputs that nothing inside is linked to; at the end the widgets
//! that were made inputs; and the outputs that nothing inside uses, or something outside does too.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::file::{EditorNode, Graph, Group, Link, OUTSIDE, RESULT, Slot};
use super::insides::{GroupWidget, Inside, Insides};
use super::widgets::has_control;
use crate::registry::Registry;
use crate::signature::Kind;

/// The class under which the inside of a node is found.
pub(super) fn class(class: &str) -> Cow<'_, str> {
    match class.strip_prefix("workflow/") {
        Some(name) => Cow::Owned(group_class(name)),
        None => Cow::Borrowed(class),
    }
}

fn group_class(name: &str) -> String {
    format!("workflow>{name}")
}

/// Adds what group nodes have inside.
pub(super) fn add_group_nodes(
    groups: &HashMap<String, Group>,
    registry: &Registry,
    into: &mut Insides,
) {
    let mut shapes = Shapes { groups, registry, known: HashMap::new(), open: HashSet::new() };
    let mut names: Vec<&String> = groups.keys().collect();
    names.sort();
    for name in names {
        shapes.group(name);
    }
    for (name, (_, inside)) in shapes.known {
        into.entry(group_class(&name)).or_insert(inside);
    }
}

/// What a node has to be linked and typed into.
#[derive(Clone, Default)]
struct Shape {
    /// Names of widgets, and whether another that changes them may stand behind.
    widgets: Vec<(String, bool)>,
    /// Names of inputs that are no widgets.
    slots: Vec<String>,
    outputs: usize,
}

struct Shapes<'a> {
    groups: &'a HashMap<String, Group>,
    registry: &'a Registry,
    known: HashMap<String, (Shape, Inside)>,
    /// Groups whose shape is being found: one inside itself has none.
    open: HashSet<String>,
}

/// Groups in groups, at most.
const DEEPEST: usize = 64;

impl Shapes<'_> {
    fn group(&mut self, name: &str) -> Option<Shape> {
        if let Some((shape, _)) = self.known.get(name) {
            return Some(shape.clone());
        }
        if self.open.len() >= DEEPEST || !self.open.insert(name.to_owned()) {
            return None;
        }
        let built = self.groups.get(name).map(|group| Builder::new(group).build(self));
        self.open.remove(name);
        let (shape, inside) = built?;
        self.known.insert(name.to_owned(), (shape.clone(), inside));
        Some(shape)
    }

    /// The shape of a node in a group; none for those that show nothing outside.
    fn node(&mut self, node: &EditorNode, links: &Links, place: usize) -> Option<Shape> {
        if node.is_primitive() {
            let widgets = vec![("value".to_owned(), true)];
            return links.uses(place, 0).then_some(Shape {
                widgets,
                slots: Vec::new(),
                outputs: 1,
            });
        }
        if node.is_reroute() {
            let is_inside = links.leads_to(place, 0).is_some() && links.uses(place, 0);
            let kind = node.inputs.first().and_then(|slot| slot.kind.as_str()).unwrap_or("*");
            let (widgets, slots) = (Vec::new(), vec![kind.to_owned()]);
            let is_shown = !is_inside || links.is_external(place, 0);
            return is_shown.then_some(Shape { widgets, slots, outputs: 1 });
        }
        if node.is_virtual() {
            return None;
        }
        if let Some(name) = class(&node.class).strip_prefix("workflow>") {
            return self.group(name);
        }
        Some(match self.registry.find(self.registry.canonical(&node.class)) {
            Some(class) => {
                let mut shape = Shape { outputs: class.outputs.len(), ..Shape::default() };
                for input in class.inputs {
                    let name = input.name.to_owned();
                    match input.kind {
                        Kind::Link(_) => shape.slots.push(name),
                        _ => shape.widgets.push((name, has_control(input))),
                    }
                }
                shape
            }
            // What the file tells of nodes that are not known here.
            None => {
                let count = node.widgets_values.as_array().map_or(0, Vec::len);
                let widgets = (0..count).map(|place| (place.to_string(), false)).collect();
                let slots = node.inputs.iter().filter(|slot| slot.widget.is_null());
                let slots = slots.map(|slot| slot.name.clone()).collect();
                Shape { widgets, slots, outputs: node.outputs.len() }
            }
        })
    }
}

/// The links in a group: from a node's output to a node's input, by places.
struct Links {
    links: Vec<[usize; 4]>,
    external: HashSet<(usize, usize)>,
}

impl Links {
    fn new(group: &Group) -> Self {
        let number = |list: &Json, place: usize| {
            list.get(place)?.as_u64().and_then(|number| usize::try_from(number).ok())
        };
        let link = |list: &Json| {
            Some([number(list, 0)?, number(list, 1)?, number(list, 2)?, number(list, 3)?])
        };
        let external = |list: &Json| Some((number(list, 0)?, number(list, 1)?));
        Self {
            links: group.links.iter().filter_map(link).collect(),
            external: group.external.iter().filter_map(external).collect(),
        }
    }

    fn uses(&self, node: usize, slot: usize) -> bool {
        self.links.iter().any(|[from, output, ..]| (*from, *output) == (node, slot))
    }

    fn leads_to(&self, node: usize, slot: usize) -> Option<&[usize; 4]> {
        self.links.iter().find(|[_, _, to, input]| (*to, *input) == (node, slot))
    }

    fn is_external(&self, node: usize, slot: usize) -> bool {
        self.external.contains(&(node, slot))
    }
}

/// Builds the inside of a group node and what it shows outside.
struct Builder<'a> {
    group: &'a Group,
    given: Links,
    nodes: Vec<EditorNode>,
    links: Vec<Link>,
    shape: Shape,
    widgets: Vec<GroupWidget>,
    seen: HashMap<String, usize>,
}

impl<'a> Builder<'a> {
    fn new(group: &'a Group) -> Self {
        let mut nodes = group.nodes.clone();
        for (place, node) in nodes.iter_mut().enumerate() {
            node.id = place.to_string();
            node.order = i64::try_from(place).unwrap_or(i64::MAX);
            // Of the graph that the group was made from.
            node.inputs.iter_mut().for_each(|slot| slot.link = None);
        }
        Self {
            group,
            given: Links::new(group),
            nodes,
            links: Vec::new(),
            shape: Shape::default(),
            widgets: Vec::new(),
            seen: HashMap::new(),
        }
    }

    fn build(mut self, shapes: &mut Shapes<'_>) -> (Shape, Inside) {
        let group = self.group;
        let mut results = Vec::new();
        let mut later = Vec::new();
        for (place, node) in group.nodes.iter().enumerate() {
            let shape = shapes.node(node, &self.given, place);
            self.link_inside(place, shape.as_ref());
            let Some(shape) = shape else { continue };
            let (converted, widgets): (Vec<_>, Vec<_>) = shape.widgets.iter().partition(|widget| {
                let stands_in =
                    |slot: &Slot| slot.widget.get("name") == Some(&Json::from(&*widget.0));
                node.inputs.iter().any(|slot| slot.name == widget.0 && stands_in(slot))
            });
            for (name, has_control) in widgets {
                self.widget(place, node, name, *has_control);
            }
            for name in &shape.slots {
                self.slot(place, node, name, None);
            }
            later.push((place, node, converted.into_iter().cloned().collect::<Vec<_>>()));
            for output in 0..shape.outputs {
                let is_inside =
                    self.given.uses(place, output) && !self.given.is_external(place, output);
                let shown = self.config(place, "output", &output.to_string(), "visible");
                if shown.and_then(Json::as_bool).unwrap_or(!is_inside) {
                    results.push((place, output));
                }
            }
        }
        for (place, node, widgets) in later {
            for (name, has_control) in widgets {
                self.slot(place, node, &name, Some(has_control));
            }
        }
        self.shape.outputs = results.len();
        for (slot, (node, output)) in results.into_iter().enumerate() {
            self.link(&node.to_string(), output, RESULT, slot);
        }
        let inputs = self.shape.slots.clone();
        let graph = Graph::new(self.nodes, self.links);
        (self.shape, Inside::new(graph, inputs, Some(self.widgets)))
    }

    /// What is linked to a node from inside.
    fn link_inside(&mut self, place: usize, shape: Option<&Shape>) {
        let links: Vec<_> =
            self.given.links.iter().filter(|[_, _, to, _]| *to == place).copied().collect();
        for [from, output, _, input] in links {
            let has_slot = |node: &EditorNode| input < node.inputs.len();
            let slot = if self.nodes.get(place).is_some_and(has_slot) {
                Some(input)
            } else {
                // A file that has no slots for the node.
                let name = shape.and_then(|shape| shape.slots.get(input).cloned());
                name.map(|name| self.input(place, &name))
            };
            if let Some(slot) = slot {
                let id = self.link(&from.to_string(), output, &place.to_string(), slot);
                self.set_link(place, slot, id);
            }
        }
    }

    fn widget(&mut self, place: usize, node: &EditorNode, input: &str, has_control: bool) {
        let name = self.name(place, node, input);
        self.shape.widgets.push((name.clone(), has_control));
        let (node, input) = (place.to_string(), input.to_owned());
        self.widgets.push(GroupWidget { name, node, input, has_control });
    }

    /// An input that comes from outside, unless something inside is linked to it. One that was a
    /// widget has a value too in newer files.
    fn slot(&mut self, place: usize, node: &EditorNode, input: &str, widget: Option<bool>) {
        // Only a reroute has a slot under another name than its own.
        let slot = match node.is_reroute() {
            true if !node.inputs.is_empty() => 0,
            _ => self.input(place, input),
        };
        let linked = |node: &EditorNode| node.inputs.get(slot).is_some_and(|s| s.link.is_some());
        if self.nodes.get(place).is_some_and(linked) {
            return;
        }
        let name = self.name(place, node, input);
        if let Some(has_control) = widget {
            self.shape.widgets.push((name.clone(), has_control));
            let (node, input, name) = (place.to_string(), input.to_owned(), name.clone());
            self.widgets.push(GroupWidget { name, node, input, has_control });
        } else if self.config(place, "input", input, "visible") == Some(&Json::Bool(false)) {
            return;
        }
        let id = self.link(OUTSIDE, self.shape.slots.len(), &place.to_string(), slot);
        self.shape.slots.push(name);
        self.set_link(place, slot, id);
    }

    /// The slot of a node's input, which is added where the file has none.
    fn input(&mut self, place: usize, name: &str) -> usize {
        let Some(node) = self.nodes.get_mut(place) else { return 0 };
        let found = node.inputs.iter().position(|slot| slot.name == name);
        found.unwrap_or_else(|| {
            node.inputs.push(Slot { name: name.to_owned(), ..Slot::default() });
            node.inputs.len() - 1
        })
    }

    fn link(&mut self, origin: &str, origin_slot: usize, target: &str, target_slot: usize) -> i64 {
        let id = i64::try_from(self.links.len()).unwrap_or(i64::MAX);
        let (origin, target) = (origin.to_owned(), target.to_owned());
        self.links.push(Link { id, origin, origin_slot, target, target_slot });
        id
    }

    fn set_link(&mut self, place: usize, slot: usize, id: i64) {
        if let Some(slot) = self.nodes.get_mut(place).and_then(|node| node.inputs.get_mut(slot)) {
            slot.link = Some(id);
        }
    }

    fn config(&self, place: usize, side: &str, name: &str, what: &str) -> Option<&'a Json> {
        self.group.config.get(place.to_string())?.get(side)?.get(name)?.get(what)
    }

    /// What the group node calls an input: as the node does, with the node's title before where that
    /// name is taken, and a number where that one is too.
    fn name(&mut self, place: usize, node: &EditorNode, input: &str) -> String {
        let labelled = node.inputs.iter().find(|slot| slot.name == input);
        let given = self.config(place, "input", input, "name").and_then(Json::as_str);
        let label = given.or_else(|| labelled.and_then(|slot| slot.label.as_deref()));
        let mut key = label.unwrap_or(input).to_owned();
        let mut name = key.clone();
        let is_titled = node.is_primitive() && node.title.is_some();
        if is_titled || self.seen.contains_key(&key) {
            let title = node.title.as_deref().unwrap_or(&node.class);
            key = format!("{title} {input}");
            name = match self.seen.get(&key) {
                Some(count) => format!("{title} {count} {input}"),
                None => key.clone(),
            };
        }
        *self.seen.entry(key).or_insert(1) += 1;
        name
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use crate::graph::{InputValue, Prompt};
    use crate::nodes;

    fn link(node: &str, slot: usize) -> InputValue {
        InputValue::Link { node: node.to_owned(), slot }
    }

    /// A prompt and its opposite in a group, whose seed goes through a primitive into a sampler in
    /// another group around.
    fn workflow(separator: &str) -> Json {
        let text = |title: &str, text: &str| {
            json!({"type": "CLIPTextEncode", "title": title, "widgets_values": [text],
                   "inputs": [{"name": "clip", "type": "CLIP", "link": 3}],
                   "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING", "links": [4]}]})
        };
        let texts = json!({
            "nodes": [text("Yes", "inner yes"), text("No", "inner no")],
            "links": [],
            "external": [[0, 0, "CONDITIONING"], [1, 0, "CONDITIONING"]]
        });
        let sampled = json!({
            "nodes": [
                {"type": format!("workflow{separator}texts"), "widgets_values": ["a", "b"],
                 "inputs": [{"name": "clip", "type": "CLIP", "link": 1},
                            {"name": "No clip", "type": "CLIP", "link": 2}],
                 "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"},
                             {"name": "No CONDITIONING", "type": "CONDITIONING"}]},
                {"type": "PrimitiveNode", "title": "Noise", "widgets_values": [5, "fixed"],
                 "outputs": [{"name": "INT", "type": "INT", "widget": {"name": "seed"}}]},
                {"type": "KSampler", "widgets_values": [1, "fixed", 2, 3.0, "euler", "normal", 1.0],
                 "inputs": [
                    {"name": "model", "type": "MODEL", "link": 1},
                    {"name": "positive", "type": "CONDITIONING", "link": 1},
                    {"name": "negative", "type": "CONDITIONING", "link": 1},
                    {"name": "latent_image", "type": "LATENT", "link": 1},
                    {"name": "seed", "type": "INT", "link": 1, "widget": {"name": "seed"}},
                    {"name": "cfg", "type": "FLOAT", "link": 1, "widget": {"name": "cfg"}}],
                 "outputs": [{"name": "LATENT", "type": "LATENT"}]},
                {"type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 9}],
                 "outputs": [{"name": "", "type": "LATENT"}]},
                {"type": "VAEDecode",
                 "inputs": [{"name": "samples", "type": "LATENT", "link": 9},
                            {"name": "vae", "type": "VAE", "link": 9}],
                 "outputs": [{"name": "IMAGE", "type": "IMAGE"}]}
            ],
            "links": [[0, 0, 2, 1, 1, "CONDITIONING"], [0, 1, 2, 2, 1, "CONDITIONING"],
                      [1, 0, 2, 4, 2, "INT"], [2, 0, 3, 0, 3, "LATENT"], [3, 0, 4, 0, 4, "LATENT"],
                      [null, 0, 2, 0, 5, "MODEL"]],
            "external": [[2, 0, "LATENT"]]
        });
        json!({
            "nodes": [
                {"id": 1, "type": "CheckpointLoaderSimple", "order": 0, "widgets_values": ["a.ckpt"]},
                {"id": 2, "type": "EmptyLatentImage", "order": 1, "widgets_values": [64, 64, 1]},
                {"id": 3, "type": "PrimitiveFloat", "order": 2, "widgets_values": [7.5]},
                {"id": 4, "type": format!("workflow{separator}sampled"), "order": 3,
                 "inputs": [
                    {"name": "clip", "type": "CLIP", "link": 1},
                    {"name": "No clip", "type": "CLIP", "link": 2},
                    {"name": "model", "type": "MODEL", "link": 3},
                    {"name": "latent_image", "type": "LATENT", "link": 4},
                    {"name": "vae", "type": "VAE", "link": 5},
                    {"name": "cfg", "type": "FLOAT", "link": 6, "widget": {"name": "cfg"}}],
                 "widgets_values": ["outer yes", "outer no", 77, "randomize", 9, "heun", "karras",
                                    0.5]},
                {"id": 5, "type": "SaveImage", "order": 4, "widgets_values": ["p"],
                 "inputs": [{"name": "images", "type": "IMAGE", "link": 7}]},
                {"id": 6, "type": "SaveLatent", "order": 5, "widgets_values": ["l"],
                 "inputs": [{"name": "samples", "type": "LATENT", "link": 8}]}
            ],
            "links": [[1, 1, 1, 4, 0, "CLIP"], [2, 1, 1, 4, 1, "CLIP"], [3, 1, 0, 4, 2, "MODEL"],
                      [4, 2, 0, 4, 3, "LATENT"], [5, 1, 2, 4, 4, "VAE"], [6, 3, 0, 4, 5, "FLOAT"],
                      [7, 4, 1, 5, 0, "IMAGE"], [8, 4, 0, 6, 0, "LATENT"]],
            "extra": {"groupNodes": {"sampled": sampled, "texts": texts}}
        })
    }

    #[test]
    fn group_nodes_are_laid_out_flat_one_in_another_too() {
        for separator in [">", "/"] {
            let prompt =
                Prompt::from_json(&workflow(separator).to_string(), &nodes::all()).unwrap();
            let ids: Vec<_> = prompt.nodes.keys().map(String::as_str).collect();
            assert_eq!(ids, ["1", "2", "3", "4:0:0", "4:0:1", "4:2", "4:4", "5", "6"]);
            let sampler = &prompt.nodes["4:2"].inputs;
            let literal = |json: Json| InputValue::Literal(json);
            for (name, given) in [
                ("model", link("1", 0)),
                ("positive", link("4:0:0", 0)),
                ("negative", link("4:0:1", 0)),
                ("latent_image", link("2", 0)),
                ("seed", literal(json!(77))),
                ("steps", literal(json!(9))),
                ("cfg", link("3", 0)),
                ("sampler_name", literal(json!("heun"))),
                ("scheduler", literal(json!("karras"))),
                ("denoise", literal(json!(0.5))),
            ] {
                assert_eq!(sampler[name], given, "{name}");
            }
            let inputs = |id: &str, name: &str| prompt.nodes[id].inputs[name].clone();
            assert_eq!(inputs("4:0:0", "text"), literal(json!("outer yes")));
            assert_eq!(inputs("4:0:1", "text"), literal(json!("outer no")));
            assert_eq!(inputs("4:0:1", "clip"), link("1", 1));
            assert_eq!(inputs("4:4", "samples"), link("4:2", 0));
            assert_eq!(inputs("4:4", "vae"), link("1", 2));
            assert_eq!(inputs("5", "images"), link("4:4", 0));
            assert_eq!(inputs("6", "samples"), link("4:2", 0));
        }
    }

    #[test]
    fn a_group_within_itself_is_told() {
        let mut file = workflow(">");
        file["extra"]["groupNodes"]["texts"]["nodes"][0]["type"] = json!("workflow>sampled");
        let error = Prompt::from_json(&file.to_string(), &nodes::all()).unwrap_err().to_string();
        assert!(error.contains("contain itself"), "{error}");
    }

    #[test]
    fn a_group_without_its_inside_is_a_node_that_is_not_known() {
        let mut file = workflow(">");
        file["extra"] = json!({});
        let prompt = Prompt::from_json(&file.to_string(), &nodes::all()).unwrap();
        assert_eq!(prompt.nodes["4"].class, "workflow>sampled");
    }
}
