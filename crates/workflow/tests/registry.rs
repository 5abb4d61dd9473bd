//! Nodes of a program's own, beside the shipped ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use distorch_allocation::{DeviceInfo, Topology};
use distorch_checkpoint::folders::ModelFolders;
use distorch_pipeline::image::Pictures;
use distorch_workflow::execute::Report;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::Silent;
use distorch_workflow::registry::{Absent, Classes};
use distorch_workflow::signature::{Input, Node, Output};
use distorch_workflow::value::{Type, Value};
use distorch_workflow::{Environment, ExecutionError, Executor, Registry, describe, nodes};
use serde_json::{Value as Json, json};

/// Pictures whose values rise by this much from pixel to pixel.
const RAMP: Node = Node {
    class: "Ramp",
    title: "Ramp",
    category: "image",
    about: "Returns a picture of rising values.",
    inputs: &[Input::float("by", 0.125, 0.0, 0.25, 0.01)],
    outputs: &[Output::new(Type::Image)],
    run: |_, inputs| {
        let by = inputs.float("by")? as f32;
        let picture = Pictures::from_fn([1, 2, 2, 1], |_, y, x, _| (2 * y + x) as f32 * by);
        Ok(vec![Value::Image(picture)])
    },
    ..Node::EMPTY
};

/// A number, which is counted up with each run.
const COUNTER: Node = Node {
    class: "Counter",
    title: "Counter",
    category: "number",
    about: "Returns how often it was run, and a number more.",
    inputs: &[Input::int("more", 0, 0, 100)],
    outputs: &[Output::new(Type::Int)],
    ..Node::EMPTY
};

struct Program {
    _folder: tempfile::TempDir,
    executor: Executor,
}

impl Program {
    fn new(registry: Registry) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let folders = ModelFolders::new(folder.path(), &[]).unwrap();
        let cpu = DeviceInfo::new("cpu".parse().unwrap(), "", 1 << 30);
        let environment = Environment::on(folders, Topology::new(vec![cpu]).unwrap());
        Self { executor: Executor::new(environment, registry), _folder: folder }
    }

    fn run(&mut self, prompt: &Json, node: &str) -> Result<Report, ExecutionError> {
        let prompt = Prompt::from_json(&prompt.to_string(), self.executor.registry()).unwrap();
        self.executor.run_nodes(&prompt, &[node], &Silent)
    }
}

/// The own node's pictures, inverted by a shipped node.
fn inverted_ramp(by: f64) -> Json {
    json!({
        "1": {"class_type": "Ramp", "inputs": {"by": by}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    })
}

#[test]
fn an_own_node_runs_before_a_shipped_one() {
    let mut program = Program::new(nodes::all().with(RAMP));
    let mut report = program.run(&inverted_ramp(0.25), "2").unwrap();
    let values = report.values.remove("2").unwrap();
    let [Value::Image(picture)] = values.as_slice() else { panic!("{values:?}") };
    assert_eq!(picture.values(), [1.0, 0.75, 0.5, 0.25]);
    // It is validated by its signature, as all are.
    let error = program.run(&inverted_ramp(0.5), "2").unwrap_err().to_string();
    assert!(error.contains("node 1 (Ramp): Value 0.5 bigger than max of 0.25: by"), "{error}");
    // The registry without it does not know it, but for its name.
    let error = Program::new(nodes::all()).run(&inverted_ramp(0.25), "2").unwrap_err();
    assert!(error.to_string().contains("This program has no node `Ramp`"), "{error}");
}

#[test]
fn an_own_node_is_read_from_the_editors_form_and_described() {
    let registry = nodes::all().with(RAMP);
    let file = json!({
        "nodes": [
            {"id": 1, "type": " Ramp", "widgets_values": [0.0625]},
            {"id": 2, "type": "ImageInvert", "inputs": [{"name": "image", "link": 5}]},
        ],
        "links": [[5, 1, 0, 2, 0, "IMAGE"]],
    });
    let mut prompt = Prompt::from_json(&file.to_string(), &registry).unwrap();
    assert_eq!(prompt.to_json()["1"]["class_type"], "Ramp");
    assert_eq!(prompt.to_json()["1"]["inputs"], json!({"by": 0.0625}));
    prompt.set("Ramp.by=0.2", &registry).unwrap();
    let error = prompt.set("Ramp.to=0.2", &registry).unwrap_err().to_string();
    assert!(error.contains("node 1 (Ramp) has no input `to`; it has by"), "{error}");
    let program = Program::new(registry);
    let info = describe::object_info(program.executor.registry(), program.executor.environment());
    assert_eq!(info.len(), nodes::all().nodes().len() + 1);
    assert_eq!(info["Ramp"]["input"]["required"]["by"][1]["max"], 0.25);
}

#[test]
fn a_closure_keeps_its_state_and_results_are_kept() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let registry = nodes::all().with_work(COUNTER, move |_, inputs| {
        let runs = counted.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(vec![Value::Int(inputs.int("more")? + runs as i128)])
    });
    let mut program = Program::new(registry);
    let mut number = |more: u32| {
        let prompt = json!({"1": {"class_type": "Counter", "inputs": {"more": more}}});
        let report = program.run(&prompt, "1").unwrap();
        match report.values["1"][0] {
            Value::Int(number) => number,
            ref other => panic!("{other:?}"),
        }
    };
    // The second 10 comes from the cache.
    assert_eq!([number(10), number(20), number(10)], [11, 22, 11]);
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_node_takes_the_place_of_one_of_its_class() {
    let one = Node { run: |_, _| Ok(vec![Value::Int(1)]), ..COUNTER };
    let two = Node { run: |_, _| Ok(vec![Value::Int(2)]), ..COUNTER };
    let registry = Registry::of([RAMP]).with_work(one, |_, _| Ok(vec![Value::Int(3)]));
    let result = |registry: Registry| {
        let classes: Vec<&str> = registry.nodes().map(|node| node.class).collect();
        assert_eq!(classes, ["Ramp", "Counter"]);
        let prompt = json!({"1": {"class_type": "Counter", "inputs": {"more": 0}}});
        match Program::new(registry).run(&prompt, "1").unwrap().values["1"][0] {
            Value::Int(number) => number,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(result(registry.clone()), 3);
    assert_eq!(result(registry.with(two)), 2);
}

#[test]
fn who_has_what_is_absent_is_part_of_a_registry() {
    let absent = |classes, provider| Absent { classes, provider };
    let registry = Registry::of([RAMP, COUNTER]).with_absent([
        absent(Classes::Containing("Tiled"), "the tiles pack"),
        absent(Classes::Named("TiledRamp"), "the ramps pack"),
    ]);
    assert_eq!(registry.provided_by("TiledRamp"), Some("the ramps pack"), "names count first");
    assert_eq!(registry.provided_by("ATiledOne"), Some("the tiles pack"));
    assert_eq!(registry.provided_by("Ramp2"), None);
    assert_eq!(registry.closest_match("Countr"), Some("Counter"));
    assert_eq!(registry.closest_match("Sampler"), None);
    let mut program = Program::new(registry);
    let mut fail = |class: &str| {
        let prompt = json!({"1": {"class_type": class, "inputs": {}}});
        program.run(&prompt, "1").unwrap_err().to_string()
    };
    assert!(fail("TiledRamp").contains("node 1 is a `TiledRamp`, which is of the ramps pack"));
    assert!(fail("Countr").contains("node 1 is a `Countr`: did you mean Counter?"));
    // That of the shipped nodes.
    assert_eq!(nodes::all().provided_by("ControlNetLoader"), Some("ComfyUI (ControlNet)"));
    for service in ["FluxProUltraImageNode", "KlingTextToVideoWithAudio", "OpenAIGPTImage1"] {
        let provider = Some("a paid service, and distorch calls none");
        assert_eq!(nodes::all().provided_by(service), provider, "{service}");
    }
    for open in ["TextEncodeBooguEdit", "SeedVR2Preprocess", "LuminaNode", "TripoSplat"] {
        assert_eq!(nodes::all().provided_by(open), None, "{open}");
    }
    let pack = Some("the node pack ComfyUI-MultiGPU");
    assert_eq!(nodes::all().provided_by("ControlNetLoaderDisTorch2MultiGPU"), pack);
}
