//! Any bytes as a workflow file, and as choices that make one in the editor's form: links that lead
//! anywhere, subgraphs and group nodes in each other, widgets with any values.

#![no_main]

use std::sync::LazyLock;

use distorch_workflow::amend::Missing;
use distorch_workflow::graph::{Prompt, ReadOptions};
use distorch_workflow::{Registry, json_text, nodes};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = json_text::decode(data) {
        read(&text);
    }
    let mut choices = Choices(data.iter());
    let [one, other] = [0, 1].map(|place| {
        let mut graph = choices.graph();
        graph["id"] = json!(format!("s{place}"));
        graph["inputs"] = choices.slots();
        graph
    });
    let mut file = choices.graph();
    file["definitions"] = json!({"subgraphs": [one, other]});
    file["extra"] = json!({"groupNodes": {"a": choices.group(), "b": choices.group()}});
    read(&file.to_string());
});

static REGISTRY: LazyLock<Registry> = LazyLock::new(nodes::all);

/// The same each time, and nothing both given and not.
fn read(text: &str) {
    let (registry, options) = (&*REGISTRY, ReadOptions { prompt_seed: 7 });
    let Ok(mut prompt) = Prompt::read(text, registry, options) else { return };
    assert!(Prompt::read(text, registry, options).is_ok_and(|again| again == prompt));
    for node in prompt.nodes.values() {
        assert!(node.unresolved.keys().all(|name| !node.inputs.contains_key(name)));
    }
    let _ = Prompt::read(&prompt.to_json().to_string(), registry, options);
    prompt.fill_in(Missing::Any, registry);
    let _ = prompt.set("KSampler.seed=1", registry);
}

/// The fuzzer's bytes, one for each choice.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % count
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn list(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> Value) -> Value {
        (0..self.below(most + 1)).map(|_| item(self)).collect()
    }

    fn graph(&mut self) -> Value {
        let nodes: Value = (0..self.below(7))
            .map(|place| {
                let mut node = self.node();
                node["id"] = json!(place);
                node
            })
            .collect();
        let links = self.list(12, |choices| {
            let origin = choices.of(&[0, 1, 2, 3, 4, 5, -10]);
            let target = choices.of(&[0, 1, 2, 3, 4, 5, -20]);
            let [id, from, to] = [12, 4, 4].map(|count| choices.below(count));
            json!([id, origin, from, target, to, "T"])
        });
        json!({"nodes": nodes, "links": links})
    }

    /// The inside of a group node.
    fn group(&mut self) -> Value {
        let nodes = self.list(5, Self::node);
        let links = self.list(8, |choices| {
            let [from, slot, to, input] = [6, 4, 6, 4].map(|count| choices.below(count));
            let from = if from == 5 { Value::Null } else { json!(from) };
            json!([from, slot, to, input, 1, "T"])
        });
        let external = self.list(3, |choices| json!([choices.below(6), choices.below(4), "T"]));
        json!({"nodes": nodes, "links": links, "external": external})
    }

    fn node(&mut self) -> Value {
        const CLASSES: [&str; 16] = [
            "KSampler", "Reroute", "PrimitiveNode", "s0", "s1", "workflow>a", "workflow/b",
            "GetNode", "SetNode", "CLIPTextEncode", "VAEDecode", "SaveImage", "Note", "X",
            "ConditioningAverage ", "Reroute (rgthree)",
        ];
        let class = self.of(&CLASSES);
        let mode = self.of(&[0, 0, 0, 2, 4]);
        let (inputs, outputs) = (self.slots(), self.slots());
        let values = self.list(7, Self::value);
        let proxies = self.list(2, |choices| {
            json!([choices.of(&["-1", "0", "1"]), choices.of(&["seed", "text", "value"])])
        });
        json!({
            "type": class, "mode": mode, "order": self.below(9), "inputs": inputs,
            "outputs": outputs, "widgets_values": values, "properties": {"proxyWidgets": proxies},
        })
    }

    fn slots(&mut self) -> Value {
        self.list(4, |choices| {
            let name = choices.of(&["seed", "text", "model", "samples", "clip", ""]);
            let kind = choices.of(&["T", "INT", "*"]);
            let link = choices.below(14);
            let link = if link > 11 { Value::Null } else { json!(link) };
            let widget = choices.of(&[None, None, Some(name)]);
            let widget = widget.map_or(Value::Null, |name| json!({ "name": name }));
            json!({"name": name, "type": kind, "link": link, "widget": widget})
        })
    }

    fn value(&mut self) -> Value {
        match self.below(8) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(self.below(256)),
            3 => json!(0.5),
            4 => json!("fixed"),
            5 => json!("sample_euler"),
            6 => json!("{a|{b|c}} // d"),
            _ => json!(["0", 0]),
        }
    }
}
