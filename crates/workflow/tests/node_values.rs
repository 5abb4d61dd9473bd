//! What nodes make of small pictures, masks, latents, texts and numbers, against PyTorch, scipy, diffusers and Python
//! (`tools/reference/make_node_values.py`); and how the executor treats lazy inputs, growing inputs and lists.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{fixture, numbers};
use distorch_allocation::{DeviceInfo, Topology};
use distorch_checkpoint::folders::ModelFolders;
use distorch_pipeline::Latent;
use distorch_pipeline::image::{Mask, Pictures};
use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, TensorData, cpu};
use distorch_sampling::guidance::{normed, zero_star};
use distorch_sampling::model_sampling::{ModelSampling, Prediction};
use distorch_sampling::schedule::beta_distributed;
use distorch_test_support::tensors::{distance, values};
use distorch_workflow::execute::Report;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::Silent;
use distorch_workflow::signature::{Input, Node, Output};
use distorch_workflow::value::{Type, Value};
use distorch_workflow::{Environment, ExecutionError, Executor, Registry, describe, nodes};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// Any value by its name, and how often it was asked for.
const GIVEN: Node = Node {
    class: "Given",
    title: "Given",
    category: "test",
    about: "Returns the value of a name.",
    inputs: &[Input::string("name", "")],
    outputs: &[Output::new(Type::Any)],
    ..Node::EMPTY
};

struct Program {
    _folder: TempDir,
    executor: Executor,
    /// Runs of `Given`.
    runs: Arc<AtomicUsize>,
}

impl Program {
    fn new(given: HashMap<String, Value>, change: impl FnOnce(Registry) -> Registry) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let folders = ModelFolders::new(folder.path(), &[]).unwrap();
        let cpu = DeviceInfo::new("cpu".parse().unwrap(), "", 1 << 30);
        let environment = Environment::on(folders, Topology::new(vec![cpu]).unwrap());
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let registry = nodes::all().with_work(GIVEN, move |_, inputs| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(vec![given[inputs.text("name")?].clone()])
        });
        Self { executor: Executor::new(environment, change(registry)), _folder: folder, runs }
    }

    fn report(&mut self, prompt: &Json, node: &str) -> Result<Report, ExecutionError> {
        let prompt = Prompt::from_json(&prompt.to_string(), self.executor.registry()).unwrap();
        self.executor.run_nodes(&prompt, &[node], &Silent)
    }

    fn run(&mut self, prompt: &Json, node: &str) -> Vec<Value> {
        let report = self.report(prompt, node);
        report.unwrap_or_else(|error| panic!("{error}: {prompt}")).values.remove(node).unwrap()
    }
}

fn shape(json: &Json) -> Vec<usize> {
    json["shape"].as_array().unwrap().iter().map(|side| side.as_u64().unwrap() as usize).collect()
}

fn tensor(json: &Json) -> Tensor<4> {
    let data = TensorData::new(numbers(&json["values"]), shape(json));
    Tensor::from_data(data, (&cpu(), DType::F32))
}

/// The values of the fixture, each of what its name says.
fn given(fixture: &Json) -> HashMap<String, Value> {
    let all = fixture["given"].as_object().unwrap().iter();
    let value = |name: &str, json: &Json| {
        let (shape, values) = (shape(json), numbers(&json["values"]));
        match *shape.as_slice() {
            [batch, height, width] => {
                Value::Mask(Mask::new([batch, height, width], values).unwrap())
            }
            [batch, height, width, channels] if !name.contains("latent") => {
                Value::Image(Pictures::new([batch, height, width, channels], values).unwrap())
            }
            _ => Value::Latent(Latent::new(tensor(json))),
        }
    };
    all.map(|(name, json)| (name.clone(), value(name, json))).collect()
}

/// The inputs that hold a name of a given value.
fn links(inputs: &Json, given: &HashMap<String, Value>) -> (Json, Vec<(String, Json)>) {
    let mut linked = inputs.clone();
    let mut sources = Vec::new();
    for (name, value) in inputs.as_object().unwrap() {
        if let Some(source) = value.as_str().filter(|source| given.contains_key(*source)) {
            linked[name] = json!([source, 0]);
            let node = json!({"class_type": "Given", "inputs": {"name": source}});
            sources.push((source.to_owned(), node));
        }
    }
    (linked, sources)
}

#[test]
fn pictures_masks_and_latents_are_pytorchs() {
    let fixture = fixture("node_values.json");
    let given = given(&fixture);
    let mut program = Program::new(given.clone(), |registry| registry);
    let cases = fixture["nodes"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    for case in cases {
        let (class, inputs) = (case[0].as_str().unwrap(), &case[1]);
        let (inputs, sources) = links(inputs, &given);
        let mut prompt = json!({"node": {"class_type": class, "inputs": inputs}});
        for (id, node) in sources {
            prompt[id] = node;
        }
        let (found, dims) = match &program.run(&prompt, "node")[0] {
            Value::Mask(mask) => (mask.values().to_vec(), mask.shape()[1..].to_vec()),
            Value::Image(pictures) => (pictures.values().to_vec(), pictures.shape().to_vec()),
            Value::Latent(latent) => (values(&latent.samples), latent.samples.dims().to_vec()),
            other => panic!("{other:?}"),
        };
        assert_eq!(dims, shape(&case[2]), "{class} {inputs}");
        // Sums in another order, and pictures of 8 bits that Lanczos makes.
        let tolerance = 2e-6;
        let far = distance(&found, &numbers(&case[2]["values"]));
        assert!(far < tolerance, "{class} {inputs}: {far}");
    }
}

#[test]
fn sizes_are_pythons() {
    let fixture = fixture("node_values.json");
    let mut program = Program::new(given(&fixture), |registry| registry);
    let sizes = fixture["sizes"].as_array().unwrap();
    for case in sizes {
        let mut inputs = case[0].clone();
        inputs["image"] = json!(["image", 0]);
        inputs["upscale_method"] = json!("nearest-exact");
        let prompt = json!({
            "image": {"class_type": "Given", "inputs": {"name": "image"}},
            "node": {"class_type": "ImageScaleToTotalPixels", "inputs": inputs},
            "size": {"class_type": "GetImageSize", "inputs": {"image": ["node", 0]}},
        });
        let found: Vec<_> = program.run(&prompt, "size").iter().map(whole).collect();
        let wanted = case[1].as_array().unwrap().iter().map(|side| side.as_i64().unwrap());
        assert_eq!(found, wanted.chain([1]).collect::<Vec<_>>(), "{case}");
    }
    for case in fixture["resolutions"].as_array().unwrap() {
        let prompt = json!({"node": {"class_type": "ResolutionSelector", "inputs": case[0]}});
        let found: Vec<_> = program.run(&prompt, "node").iter().map(whole).collect();
        assert_eq!(json!(found), case[1], "{case}");
    }
    // 6 × 8 pixels.
    for (largest, expected) in [(4, [4, 3]), (80, [80, 60]), (5, [5, 4])] {
        let inputs = json!({
            "image": ["image", 0], "upscale_method": "area", "largest_size": largest,
        });
        let prompt = json!({
            "image": {"class_type": "Given", "inputs": {"name": "image"}},
            "node": {"class_type": "ImageScaleToMaxDimension", "inputs": inputs},
            "size": {"class_type": "GetImageSize", "inputs": {"image": ["node", 0]}},
        });
        let found: Vec<_> = program.run(&prompt, "size").iter().map(whole).take(2).collect();
        assert_eq!(found, expected, "{largest}");
    }
}

fn whole(value: &Value) -> i64 {
    match value {
        Value::Int(number) => i64::try_from(*number).unwrap(),
        other => panic!("{other:?} is no whole number"),
    }
}

#[test]
fn texts_are_pythons() {
    let fixture = fixture("node_values.json");
    let mut program = Program::new(HashMap::new(), |registry| registry);
    let cases = fixture["texts"].as_array().unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let prompt = json!({"node": {"class_type": case[0], "inputs": case[1]}});
        let found = match &program.run(&prompt, "node")[0] {
            Value::String(text) => json!(**text),
            Value::Int(number) => json!(i64::try_from(*number).unwrap()),
            Value::Boolean(yes) => json!(yes),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, case[2], "{case}");
    }
    let wrong = json!({"string": "a", "regex_pattern": "(?=a)", "case_insensitive": true,
                       "multiline": false, "dotall": false});
    let prompt = json!({"node": {"class_type": "RegexMatch", "inputs": wrong}});
    let error = program.report(&prompt, "node").unwrap_err().to_string();
    assert!(error.contains("cannot be asked for here: `(?=`"), "{error}");
}

#[test]
fn schedules_are_those_of_diffusers_and_scipy() {
    let fixture = fixture("node_values.json");
    let mut program = Program::new(HashMap::new(), |registry| registry);
    for case in fixture["flux2"].as_array().unwrap() {
        let prompt = json!({"node": {"class_type": "Flux2Scheduler", "inputs": case[0]}});
        let Value::Sigmas(sigmas) = &program.run(&prompt, "node")[0] else { panic!() };
        let found: Vec<f32> = sigmas.iter().map(|sigma| *sigma as f32).collect();
        assert!(distance(&found, &numbers(&case[1])) < 1e-6, "{case}");
    }
    let sampling = ModelSampling::stable_diffusion(Prediction::Eps);
    let table = sampling.sigmas();
    for case in fixture["quantiles"].as_array().unwrap() {
        let number = |name: &str| case[0][name].as_f64().unwrap();
        let shape = [number("alpha"), number("beta")];
        let found = beta_distributed(&sampling, number("steps") as usize, shape).unwrap();
        let places = case[1].as_array().unwrap().iter().map(|place| place.as_u64().unwrap());
        let expected: Vec<f64> =
            places.map(|place| f64::from(table[place as usize] as f32)).chain([0.0]).collect();
        assert_eq!(found, expected, "{case}");
    }
    let text = json!({"sigmas": "14.6, 7.5;\n0.25 0"});
    let prompt = json!({"node": {"class_type": "ManualSigmas", "inputs": text}});
    let Value::Sigmas(sigmas) = &program.run(&prompt, "node")[0] else { panic!() };
    assert_eq!(**sigmas, [f64::from(14.6_f32), 7.5, 0.25, 0.0]);
}

#[test]
fn guidance_is_corrected_by_the_formulas() {
    let fixture = fixture("node_values.json");
    let of = |name: &str| tensor(&fixture["given"][name]);
    let expected = |name: &str| numbers(&fixture["guidance"][name]["values"]);
    let found = zero_star(of("guided"), of("noisy"), of("positive"), of("negative"), 4.0);
    assert!(distance(&values(&found), &expected("zero star")) < 2e-6);
    let found = normed(of("guided"), of("positive"), 0.9);
    assert!(distance(&values(&found), &expected("normed")) < 1e-6);
}

fn numbered(count: usize) -> HashMap<String, Value> {
    let value = |at: usize| (at.to_string(), Value::Int(at as i128));
    let mut all: HashMap<_, _> = (0..count).map(value).collect();
    all.insert("yes".to_owned(), Value::Boolean(true));
    all.insert("list".to_owned(), Value::List((0..3).map(|at| Value::Int(10 * at)).collect()));
    all.insert("short".to_owned(), Value::List([1, 2].map(Value::Int).into()));
    all.insert("none".to_owned(), Value::List(Arc::new([])));
    all
}

fn source(name: &str) -> Json {
    json!({"class_type": "Given", "inputs": {"name": name}})
}

fn switch(switch: Json) -> Json {
    let inputs = json!({"switch": switch, "on_false": ["no", 0], "on_true": ["yes branch", 0]});
    json!({"class_type": "ComfySwitchNode", "inputs": inputs})
}

#[test]
fn only_the_chosen_branch_of_a_switch_runs() {
    for (choice, expected) in [(json!(false), 1), (json!(true), 2)] {
        // By a value that is known before the run, and by one that the run computes.
        let computed = json!({"class_type": "ComfyNotNode", "inputs": {"value": ["zero", 0]}});
        let computed_no = json!({"class_type": "ComfyNotNode", "inputs": {"value": ["one", 0]}});
        for known in [true, false] {
            let mut program = Program::new(numbered(4), |registry| registry);
            let mut prompt = json!({
                "no": source("1"), "yes branch": source("2"), "zero": source("0"),
                "one": source("3"),
                "switch": switch(choice.clone()),
            });
            if !known {
                let test = if expected == 2 { computed.clone() } else { computed_no.clone() };
                prompt["test"] = test;
                prompt["switch"] = switch(json!(["test", 0]));
            }
            let report = program.report(&prompt, "switch").unwrap();
            assert_eq!(whole(&report.values["switch"][0]), expected);
            let other = if expected == 2 { "no" } else { "yes branch" };
            assert!(!report.executed.iter().any(|id| id == other), "{:?}", report.executed);
            let runs = if known { 1 } else { 2 };
            assert_eq!(program.runs.load(Ordering::Relaxed), runs);
        }
    }
}

#[test]
fn switches_may_be_behind_each_other_and_results_are_kept() {
    let mut program = Program::new(numbered(4), |registry| registry);
    let prompt = |last: bool| {
        json!({
            "no": source("1"), "yes branch": source("2"), "zero": source("0"),
            "test": {"class_type": "ComfyNotNode", "inputs": {"value": ["zero", 0]}},
            "inner": switch(json!(["test", 0])),
            "outer": {"class_type": "ComfySwitchNode", "inputs": {
                "switch": ["test", 0], "on_false": ["no", 0], "on_true": ["inner", 0],
            }},
            "after": {"class_type": "ComfyMathExpression", "inputs": {
                "expression": if last { "a * 10" } else { "a * 100" }, "values.a": ["outer", 0],
            }},
        })
    };
    let report = program.report(&prompt(true), "after").unwrap();
    assert_eq!(whole(&report.values["after"][1]), 20);
    assert!(!report.executed.iter().any(|id| id == "no"));
    let report = program.report(&prompt(false), "after").unwrap();
    assert_eq!(whole(&report.values["after"][1]), 200);
    assert_eq!(report.executed, ["after"], "the rest is there already");
}

/// A thousand switches, each of which chooses by what the one before gives.
#[test]
fn many_switches_in_a_row_are_no_deeper_than_one() {
    let mut program = Program::new(numbered(4), |registry| registry);
    let mut prompt = json!({"no": source("1"), "yes branch": source("2"), "s0": source("3")});
    for at in 1..=1000 {
        let before = format!("s{}", at - 1);
        prompt[format!("t{at}")] =
            json!({"class_type": "ComfyNotNode", "inputs": {"value": [before, 0]}});
        prompt[format!("s{at}")] = json!({"class_type": "ComfySwitchNode", "inputs": {
            "switch": [format!("t{at}"), 0], "on_false": [before, 0], "on_true": ["no", 0],
        }});
    }
    let report = program.report(&prompt, "s1000").unwrap();
    assert_eq!(whole(&report.values["s1000"][0]), 3);
    assert!(!report.executed.iter().any(|id| id == "no"));
}

#[test]
fn a_branch_that_would_fail_is_no_matter_where_it_is_not_chosen() {
    let mut program = Program::new(numbered(4), |registry| registry);
    let loader = json!({"class_type": "TextGenerate", "inputs": {
        "clip": ["clip", 0], "prompt": "x", "max_length": 10, "sampling_mode": "off",
    }});
    let prompt = |choice: bool| {
        json!({
            "no": source("1"), "clip": source("2"), "yes branch": loader,
            "switch": switch(json!(choice)),
        })
    };
    assert_eq!(whole(&program.run(&prompt(false), "switch")[0]), 1);
    let error = program.report(&prompt(true), "switch").unwrap_err().to_string();
    assert!(error.contains("not written by language models here"), "{error}");
}

#[test]
fn growing_inputs_are_named_with_a_dot() {
    let mut program = Program::new(numbered(9), |registry| registry);
    let prompt = json!({
        "two": source("2"), "seven": source("7"),
        "math": {"class_type": "ComfyMathExpression", "inputs": {
            "expression": "max(a, c) ** 2 / 2 + sum(values)", "values.a": ["two", 0],
            "values.c": ["seven", 0],
        }},
        "plain": {"class_type": "ComfyMathExpression", "inputs": {
            "expression": "a // 2 > 3", "values.a": 9,
        }},
        "and": {"class_type": "ComfyAndNode", "inputs": {
            "values.value0": ["two", 0], "values.value1": ["plain", 2],
        }},
        "or": {"class_type": "ComfyOrNode", "inputs": {"values.value0": 0, "values.value1": ""}},
    });
    let math = program.run(&prompt, "math");
    let Value::Float(real) = math[0] else { panic!() };
    assert_eq!((real, whole(&math[1])), (33.5, 33));
    assert!(matches!(program.run(&prompt, "and")[0], Value::Boolean(true)));
    assert!(matches!(program.run(&prompt, "or")[0], Value::Boolean(false)));
    // As clients of ComfyUI are told.
    let info = describe::object_info(program.executor.registry(), program.executor.environment());
    let math = &info["ComfyMathExpression"];
    assert_eq!(math["input_order"]["required"], json!(["expression", "values"]));
    let values = &math["input"]["required"]["values"];
    assert_eq!(values[0], "COMFY_AUTOGROW_V3");
    assert_eq!(values[1]["template"]["names"].as_array().unwrap().len(), 26);
    let one = &values[1]["template"]["input"]["optional"]["value"];
    assert_eq!(one[0], "FLOAT,INT,BOOLEAN");
    let and = &info["ComfyAndNode"]["input"]["required"]["values"][1]["template"];
    assert_eq!((&and["prefix"], &and["min"]), (&json!("value"), &json!(1)));
    let switch = &info["ComfySwitchNode"]["input"]["optional"]["on_true"];
    assert_eq!((&switch[0], &switch[1]["lazy"]), (&json!("COMFY_MATCHTYPE_V3"), &json!(true)));
}

/// Counts the values that it is given at once.
const COUNT: Node = Node {
    class: "Count",
    title: "Count",
    category: "test",
    about: "Returns how many values there are.",
    inputs: &[Input::link("all", Type::Any)],
    outputs: &[Output::new(Type::Int)],
    takes_lists: true,
    run: |_, inputs| {
        let count = inputs.get("all").and_then(Value::as_list).map_or(1, <[Value]>::len);
        Ok(vec![Value::Int(count as i128)])
    },
    ..Node::EMPTY
};

#[test]
fn a_node_runs_once_for_each_value_of_a_list() {
    let mut program = Program::new(numbered(4), |registry| registry.with(COUNT));
    let sum = |a: &str, b: &str| {
        json!({
            "a": source(a), "b": source(b),
            "sum": {"class_type": "ComfyMathExpression", "inputs": {
                "expression": "a + b", "values.a": ["a", 0], "values.b": ["b", 0],
            }},
            "count": {"class_type": "Count", "inputs": {"all": ["sum", 1]}},
        })
    };
    for (a, b, expected) in [
        ("list", "2", vec![2, 12, 22]),
        // Of the shorter one, the last counts again.
        ("list", "short", vec![1, 12, 22]),
        ("list", "none", vec![]),
    ] {
        let prompt = sum(a, b);
        let values = program.run(&prompt, "sum");
        let list: Vec<i64> = values[1].as_list().unwrap().iter().map(whole).collect();
        assert_eq!(list, expected);
        assert_eq!(whole(&program.run(&prompt, "count")[0]), expected.len() as i64);
    }
    assert_eq!(whole(&program.run(&sum("1", "2"), "count")[0]), 1);
}

#[test]
fn any_value_is_shown_as_text() {
    let mut program = Program::new(numbered(4), |registry| registry);
    let prompt = json!({
        "three": source("3"),
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["three", 0]}},
        "half": {"class_type": "PreviewAny", "inputs": {"source": 2.0}},
    });
    let parsed = Prompt::from_json(&prompt.to_string(), program.executor.registry()).unwrap();
    let report = program.executor.run(&parsed, &Silent).unwrap();
    assert_eq!(report.outputs["show"]["text"], json!(["3"]));
    assert_eq!(report.outputs["half"]["text"], json!(["2.0"]));
}
