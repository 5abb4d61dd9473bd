//! What is wrong with a prompt is told at once, in the form that ComfyUI's clients read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distorch_test_support::runs::Harness;
use distorch_workflow::amend::Missing;
use distorch_workflow::graph::{InputValue, Prompt};
use distorch_workflow::nodes;
use distorch_workflow::observe::Silent;
use distorch_workflow::validate::Invalid;
use distorch_workflow::value::Value;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// The example with a change.
fn changed(change: impl FnOnce(&mut Json)) -> Prompt {
    let mut graph = Harness::shipped().example("txt2img_distorch2").to_json();
    change(&mut graph);
    Prompt::from_json(&graph.to_string(), &nodes::all()).unwrap()
}

fn invalid(prompt: &Prompt) -> Invalid {
    Harness::shipped().executor.validate(prompt).unwrap_err()
}

/// The one problem of a node.
fn problem(node: &str, change: impl FnOnce(&mut Json)) -> Json {
    let invalid = invalid(&changed(change));
    assert_eq!(invalid.error.kind, "prompt_outputs_failed_validation");
    let errors = serde_json::to_value(&invalid.node_errors).unwrap();
    let node = &errors[node];
    assert_eq!(node["errors"].as_array().unwrap().len(), 1, "{errors}");
    assert_eq!(node["dependent_outputs"], json!(["9"]));
    node["errors"][0].clone()
}

#[test]
fn every_kind_of_error() {
    let input = |node: &'static str, name: &'static str, value: Json| {
        move |graph: &mut Json| graph[node]["inputs"][name] = value
    };
    for (node, change, kind, says) in [
        ("3", input("3", "steps", json!(0)), "value_smaller_than_min", "steps"),
        ("3", input("3", "cfg", json!(100.5)), "value_bigger_than_max", "cfg"),
        ("3", input("3", "seed", json!(-1)), "value_smaller_than_min", "seed"),
        ("3", input("3", "steps", json!("many")), "invalid_input_type", "steps"),
        ("3", input("3", "denoise", json!(null)), "invalid_input_type", "denoise"),
        ("3", input("3", "sampler_name", json!("eulr")), "value_not_in_list", "euler"),
        (
            "4",
            input("4", "ckpt_name", json!("tiny-shape.safetensors")),
            "value_not_in_list",
            "tiny-shapes.safetensors",
        ),
        ("4", input("4", "vae_device", json!("cuda:7")), "value_not_in_list", "cpu"),
        ("3", input("3", "model", json!(["6", 0])), "return_type_mismatch", "CONDITIONING"),
        ("3", input("3", "model", json!(["77", 0])), "bad_linked_input", "77"),
        ("3", input("3", "model", json!(["4", 3])), "bad_linked_input", "slot 3"),
        ("3", input("3", "model", json!("4")), "bad_linked_input", "MODEL"),
        ("3", input("3", "model", json!(["4"])), "bad_linked_input", "MODEL"),
        (
            "4",
            input("4", "unet_expert_mode_allocations", json!("cuda:3,50%")),
            "custom_validation_failed",
            "cuda:3",
        ),
    ] {
        let error = problem(node, change);
        assert_eq!(error["type"], kind, "{error}");
        assert!(error["details"].as_str().unwrap().contains(says), "{error}");
    }
    let error = problem("3", |graph| {
        graph["3"]["inputs"].as_object_mut().unwrap().remove("steps");
    });
    assert_eq!(error["type"], "required_input_missing");
    assert_eq!(error["extra_info"], json!({ "input_name": "steps" }));
    let error = problem("3", |graph| graph["3"]["inputs"]["steps"] = json!(10_001));
    let info = &error["extra_info"];
    assert_eq!((&info["input_name"], &info["received_value"]), (&json!("steps"), &json!(10_001)));
    assert_eq!(info["input_config"][0], "INT");
    assert_eq!(info["input_config"][1]["max"], 10_000);
}

#[test]
fn all_errors_come_at_once() {
    let prompt = changed(|graph| {
        graph["3"]["inputs"]["steps"] = json!(0);
        graph["3"]["inputs"]["cfg"] = json!("x");
        graph["5"]["inputs"]["width"] = json!(1);
        graph["4"]["inputs"]["ckpt_name"] = json!("none.ckpt");
    });
    let invalid = invalid(&prompt);
    let count: usize = invalid.node_errors.values().map(|node| node.errors.len()).sum();
    assert_eq!((count, invalid.node_errors.len()), (4, 3));
    let text = invalid.to_string();
    for part in ["node 3 (KSampler)", "node 5 (EmptyLatentImage)", "none.ckpt"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_no_output_needs_is_not_looked_at() {
    let prompt = changed(|graph| {
        graph["20"] = json!({ "class_type": "EmptyLatentImage", "inputs": { "width": -5 } });
    });
    assert!(Harness::shipped().executor.validate(&prompt).is_ok());
}

#[test]
fn unknown_classes_and_prompts_without_output() {
    let invalid_class =
        |class: &str| invalid(&changed(|graph| graph["3"]["class_type"] = json!(class))).error;
    let error = invalid_class("KSamplr");
    assert_eq!(error.kind, "missing_node_type");
    assert!(error.details.contains("did you mean KSampler?"), "{error:?}");
    assert_eq!(error.extra_info["class_type"], "KSamplr");
    let error = invalid_class("LoraLoaderGGUF");
    assert!(error.details.contains("ComfyUI-GGUF"), "{error:?}");
    let error = invalid_class("workflow>mine");
    assert!(error.details.contains("does not say what is inside"), "{error:?}");
    let nothing = changed(|graph| {
        graph.as_object_mut().unwrap().remove("9");
    });
    assert_eq!(invalid(&nothing).error.kind, "prompt_no_outputs");
}

/// What needs a node of an unknown class cannot be run; the rest can.
#[test]
fn an_unknown_class_stops_only_what_needs_it() {
    let prompt = changed(|graph| {
        graph["30"] = json!({ "class_type": "Upscaler9000", "inputs": { "image": ["8", 0] } });
        graph["31"] = json!({ "class_type": "PreviewImage", "inputs": { "images": ["30", 0] } });
        graph["32"] = json!({ "class_type": "SaveVideo", "inputs": { "images": ["8", 0] } });
    });
    let valid = Harness::shipped().executor.validate(&prompt).unwrap();
    assert_eq!(valid.outputs, ["9"]);
    let told = |id: &str| {
        let node = &valid.node_errors[id];
        assert_eq!(node.errors.len(), 1, "{node:?}");
        (node.errors[0].kind, node.dependent_outputs.join(" "))
    };
    assert_eq!(told("30"), ("missing_node_type", "31".to_owned()));
    assert_eq!(told("32"), ("missing_node_type", "32".to_owned()));
    assert_eq!(valid.node_errors.len(), 2);
}

/// ComfyUI makes texts of other values as Python does.
#[test]
fn what_is_no_text_is_the_text_that_python_makes_of_it() {
    let mut harness = Harness::shipped();
    for (value, text) in [
        (Json::Null, "None"),
        (json!(true), "True"),
        (json!(false), "False"),
        (json!(12), "12"),
        (json!(0.5), "0.5"),
    ] {
        let prompt = json!({"1": {"class_type": "PrimitiveString", "inputs": {"value": value}}});
        let prompt = Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap();
        let report = harness.executor.run_nodes(&prompt, &["1"], &Silent).unwrap();
        let Value::String(made) = &report.values["1"][0] else { panic!("no text") };
        assert_eq!(&**made, text);
    }
}

/// Of the node pack's simple loader only the checkpoint is required.
#[test]
fn most_inputs_of_the_simple_loader_may_be_left_out() {
    for inputs in [
        json!({}),
        json!({"compute_device": "cpu"}),
        json!({"virtual_vram_gb": 1.0, "donor_device": "cpu"}),
        json!({"expert_mode_allocations": "cpu,*", "eject_models": false}),
    ] {
        let prompt = changed(|graph| {
            graph["4"]["class_type"] = json!("CheckpointLoaderSimpleDisTorch2MultiGPU");
            graph["4"]["inputs"] = inputs.clone();
            graph["4"]["inputs"]["ckpt_name"] = json!("tiny-shapes.safetensors");
        });
        let valid = Harness::shipped().executor.validate(&prompt);
        assert!(valid.is_ok(), "{inputs}: {}", valid.unwrap_err());
    }
}

/// Inputs that came later than their node, and of a picture's prompt all that have a default.
#[test]
fn inputs_that_are_missing_have_their_defaults() {
    let older = || {
        changed(|graph| {
            graph["3"]["inputs"].as_object_mut().unwrap().remove("steps");
            graph["5"] = json!({ "class_type": "VAEEncodeForInpaint",
                "inputs": { "pixels": ["20", 0], "vae": ["4", 2], "mask": ["21", 0] } });
            graph["20"] = json!({ "class_type": "LoadImage", "inputs": {} });
            graph["21"] = json!({ "class_type": "SolidMask",
                "inputs": { "value": 1.0, "width": 8, "height": 8 } });
        })
    };
    let filled = |missing| {
        let mut prompt = older();
        prompt.fill_in(missing, &nodes::all());
        let given = |id: &str, name: &str| match prompt.nodes[id].inputs.get(name) {
            Some(InputValue::Literal(value)) => Some(value.clone()),
            _ => None,
        };
        (given("5", "grow_mask_by"), given("3", "steps"), given("20", "image"), prompt.notes.len())
    };
    assert_eq!(filled(Missing::AddedLater), (Some(json!(6)), None, None, 1));
    assert_eq!(filled(Missing::Any), (Some(json!(6)), Some(json!(20)), None, 2));
    let mut prompt = older();
    prompt.fill_in(Missing::AddedLater, &nodes::all());
    let note = &prompt.notes[0];
    assert_eq!(
        note,
        "node 5 (VAEEncodeForInpaint): `grow_mask_by` is missing and has its default, 6"
    );
}

#[test]
fn circles_are_found() {
    let prompt = changed(|graph| {
        graph["3"]["inputs"]["latent_image"] = json!(["3", 0]);
    });
    // Only the node on it, not those that need it.
    let invalid = invalid(&prompt);
    let told: Vec<_> = invalid
        .node_errors
        .iter()
        .flat_map(|(id, node)| node.errors.iter().map(move |error| (id.as_str(), error.kind)))
        .collect();
    assert_eq!(told, [("3", "dependency_cycle")]);
}

/// A link that leads nowhere in an editor's file says where it ends.
#[test]
fn loose_ends_are_told() {
    let harness = Harness::shipped();
    let mut file = harness.example("editor").workflow.unwrap();
    let nodes = file["nodes"].as_array_mut().unwrap();
    let decode = nodes.iter_mut().find(|node| node["type"] == "VAEDecode").unwrap();
    decode["inputs"][0]["link"] = json!(900);
    nodes.push(json!({"id": 90, "type": "Reroute", "inputs": [{"name": "", "link": null}]}));
    let decode = json!([900, 90, 0, 8, 0, "LATENT"]);
    file["links"].as_array_mut().unwrap().push(decode);
    let prompt = Prompt::from_json(&file.to_string(), &nodes::all()).unwrap();
    let text = harness.executor.validate(&prompt).unwrap_err().to_string();
    let says = "samples: it is linked to Reroute 90, which nothing is linked to";
    assert!(text.contains(says), "{text}");
}

/// A chain of nodes far longer than any stack is deep.
#[test]
fn long_chains_do_not_overflow() {
    let mut graph = Harness::shipped().example("txt2img_distorch2").to_json();
    let mut last = json!(["5", 0]);
    for place in 0..20_000 {
        let id = format!("c{place}");
        let mut sampler = graph["3"].clone();
        sampler["inputs"]["latent_image"] = last;
        graph[&id] = sampler;
        last = json!([id, 0]);
    }
    graph["8"]["inputs"]["samples"] = last;
    let prompt = Prompt::from_json(&graph.to_string(), &nodes::all()).unwrap();
    assert!(Harness::shipped().executor.validate(&prompt).is_ok());
}

/// The places of a JSON value, but its own.
fn pointers(json: &Json, place: String, into: &mut Vec<String>) {
    let inner: Vec<(String, &Json)> = match json {
        Json::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        Json::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in inner {
        let place = format!("{place}/{name}");
        into.push(place.clone());
        pointers(value, place, into);
    }
}

/// JSON of any shape in any place.
fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        "[ -~]{0,12}".prop_map(Json::from),
        Just(json!(["4", 0])),
        Just(json!(["3", 0])),
        Just(json!(["3", 1e300])),
        Just(json!({ "__value__": ["4", 0] })),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[a-z_0-9]{0,8}", inner, 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

/// A workflow in the editor's form is the one that it exports.
#[test]
fn the_editors_form_is_read_as_what_it_exports() {
    let harness = Harness::shipped();
    let [exported, edited] = ["txt2img_distorch2", "editor"].map(|name| harness.example(name));
    assert_eq!(edited.nodes, exported.nodes);
    assert!(edited.workflow.is_some());
}

/// 300 workflows; as many as `PROPTEST_CASES` says where it is set.
fn cases() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(300),
    }
}

proptest! {
    #![proptest_config(cases())]

    /// The editor's boxes, slots and links replaced by anything.
    #[test]
    fn fuzzed_editor_workflows_are_answered(
        changes in prop::collection::vec((0..64_usize, any_json()), 1..5)
    ) {
        let harness = Harness::shipped();
        let mut file = harness.example("editor").workflow.unwrap();
        for (place, value) in changes {
            let mut places = Vec::new();
            pointers(&file, String::new(), &mut places);
            let at = place * places.len() / 64;
            if let Some(old) = file.pointer_mut(&places[at]) {
                *old = value;
            }
        }
        if let Ok(prompt) = Prompt::from_json(&file.to_string(), &nodes::all()) {
            drop(harness.executor.validate(&prompt));
        }
    }

    /// Inputs, classes and whole nodes replaced by anything: an answer, never a panic.
    #[test]
    fn fuzzed_workflows_are_answered(
        changes in prop::collection::vec((0..8_usize, 0..12_usize, any_json(), 0..4_u8), 1..5)
    ) {
        let harness = Harness::shipped();
        let mut graph = harness.example("txt2img_distorch2").to_json();
        let ids: Vec<String> = graph.as_object().unwrap().keys().cloned().collect();
        for (node, input, value, kind) in changes {
            let id = &ids[node % ids.len()];
            match kind {
                0 => graph[id] = value,
                1 if graph[id].is_object() => graph[id]["class_type"] = value,
                2 if graph[id].is_object() => graph[id]["inputs"] = value,
                _ => {
                    let inputs = graph[id].get_mut("inputs").and_then(Json::as_object_mut);
                    let Some(inputs) = inputs else { continue };
                    let Some(name) = inputs.keys().nth(input).cloned() else { continue };
                    inputs.insert(name, value);
                }
            }
        }
        if let Ok(prompt) = Prompt::from_json(&graph.to_string(), &nodes::all()) {
            match harness.executor.validate(&prompt) {
                Ok(valid) => prop_assert!(!valid.outputs.is_empty()),
                Err(invalid) => prop_assert!(!invalid.to_string().is_empty()),
            }
        }
    }

    /// Text of any kind.
    #[test]
    fn any_text_is_answered(text in "[\\[\\]{}\":,0-9a-z ]{0,60}") {
        drop(Prompt::from_json(&text, &nodes::all()));
    }
}

/// An output that can be run is run, though another cannot.
#[test]
fn one_bad_output_does_not_stop_another() {
    let prompt = changed(|graph| {
        graph["3"]["inputs"]["steps"] = json!(1);
        graph["21"] = json!({ "class_type": "SaveImage", "inputs": { "images": ["8", 0] } });
    });
    let mut harness = Harness::shipped();
    let report = harness.executor.run(&prompt, &Silent).unwrap();
    assert_eq!(report.outputs.keys().collect::<Vec<_>>(), ["9"]);
    assert_eq!(report.node_errors["21"].errors[0].kind, "required_input_missing");
}

/// A prefix that leads out of the output folder saves nothing.
#[test]
fn prefixes_stay_in_the_output_folder() {
    let mut harness = Harness::shipped();
    let mut prompt = harness.example("txt2img_distorch2");
    prompt.set("3.steps=1", &nodes::all()).unwrap();
    prompt.set("9.filename_prefix=../../escaped", &nodes::all()).unwrap();
    let error = harness.executor.run(&prompt, &Silent).unwrap_err().to_string();
    assert!(error.contains("filename_prefix"), "{error}");
    prompt.set("9.filename_prefix=sub/%KSampler.seed%_%width%", &nodes::all()).unwrap();
    let report = harness.executor.run(&prompt, &Silent).unwrap();
    let saved = harness.saved(&report.outputs["9"]);
    assert!(saved[0].ends_with("output/sub/6_128_00001_.png"), "{saved:?}");
    assert!(saved[0].is_file());
}

#[test]
fn of_many_problems_the_first_are_spelled_out() {
    let broken: serde_json::Map<String, Json> = (0..60)
        .map(|node| {
            (
                node.to_string(),
                json!({"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}),
            )
        })
        .collect();
    let invalid =
        invalid(&Prompt::from_json(&Json::Object(broken).to_string(), &nodes::all()).unwrap());
    assert_eq!(invalid.node_errors.len(), 60, "programs see all of them");
    let said = invalid.to_string();
    assert_eq!(said.matches("Required input is missing: images").count(), 50, "{said}");
    assert!(said.ends_with("\n  and 10 more"), "{said}");
}
