//! Signatures as a web client reads them: the answer to `/object_info`.
//!
//! Menu names, categories and what is advanced or deprecated follow ComfyUI of 2026, about its release 0.38.

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use crate::environment::Environment;
use crate::registry::Registry;
use crate::signature::{Input, Kind, Node, Options};

/// All nodes of a registry, by class.
pub fn object_info(registry: &Registry, environment: &Environment) -> IndexMap<&'static str, Json> {
    registry.nodes().map(|node| (node.class, describe(node, environment))).collect()
}

/// One node.
pub fn describe(node: &Node, environment: &Environment) -> Json {
    let part = |optional: bool| -> Vec<&Input> {
        node.inputs.iter().filter(|input| input.optional == optional).collect()
    };
    let (required, optional) = (part(false), part(true));
    let configs = |inputs: &[&Input]| -> Map<String, Json> {
        inputs
            .iter()
            .map(|input| (input.name.to_owned(), input_config(input, environment)))
            .collect()
    };
    let names = |inputs: &[&Input]| inputs.iter().map(|input| input.name).collect::<Vec<_>>();
    let mut input = json!({ "required": configs(&required) });
    let mut order = json!({ "required": names(&required) });
    if !optional.is_empty() {
        input["optional"] = Json::Object(configs(&optional));
        order["optional"] = json!(names(&optional));
    }
    if !node.hidden.is_empty() {
        let hidden = node.hidden.iter().map(|&(name, kind)| (name.to_owned(), json!(kind)));
        input["hidden"] = Json::Object(hidden.collect());
        order["hidden"] = json!(node.hidden.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }
    let outputs = node.outputs;
    json!({
        "input": input,
        "input_order": order,
        "output": outputs.iter().map(|output| output.kind.name()).collect::<Vec<_>>(),
        "output_is_list": vec![false; outputs.len()],
        "output_name": outputs.iter().map(|output| output.name).collect::<Vec<_>>(),
        "output_tooltips": outputs.iter().map(|output| output.tooltip).collect::<Vec<_>>(),
        "name": node.class,
        "display_name": node.title,
        "description": node.about,
        "python_module": "nodes",
        "category": node.category,
        "output_node": node.is_output,
        "deprecated": node.is_deprecated,
        "experimental": node.is_experimental,
    })
}

/// What an input takes: `["INT", {"default": 20, "min": 1, "max": 10000}]`; for a choice, the list
/// first.
pub fn input_config(input: &Input, environment: &Environment) -> Json {
    let mut options = Map::new();
    let mut set = |name: &str, value: Json| {
        options.insert(name.to_owned(), value);
    };
    let kind = match input.kind {
        Kind::Int { default, min, max, step, control_after_generate } => {
            set("default", whole(default));
            set("min", whole(min));
            set("max", whole(max));
            set("step", whole(step));
            if control_after_generate {
                set("control_after_generate", json!(true));
            }
            json!("INT")
        }
        Kind::Float { default, min, max, step, round } => {
            set("default", json!(default));
            set("min", json!(min));
            set("max", json!(max));
            set("step", json!(step));
            if let Some(round) = round {
                set("round", if round == 0.0 { json!(false) } else { json!(round) });
            }
            json!("FLOAT")
        }
        Kind::String { default, multiline, dynamic_prompts } => {
            if !default.is_empty() || !multiline {
                set("default", json!(default));
            }
            if multiline {
                set("multiline", json!(true));
            }
            if dynamic_prompts {
                set("dynamicPrompts", json!(true));
            }
            json!("STRING")
        }
        Kind::Boolean { default, labels } => {
            set("default", json!(default));
            if let Some((yes, no)) = labels {
                set("label_on", json!(yes));
                set("label_off", json!(no));
            }
            json!("BOOLEAN")
        }
        Kind::Choice { options: list, default } => {
            if let Some(default) = default {
                set("default", json!(default));
            }
            if let Options::Files { image_upload: true, .. } = list {
                set("image_upload", json!(true));
            }
            json!(list.list(environment))
        }
        Kind::Link(kind) => json!(kind.name()),
    };
    if input.advanced {
        set("advanced", json!(true));
    }
    if !input.tooltip.is_empty() {
        set("tooltip", json!(input.tooltip));
    }
    match options.is_empty() {
        true => json!([kind]),
        false => json!([kind, options]),
    }
}

/// A whole number as JSON; JSON has no numbers beyond 64 bits.
fn whole(number: i128) -> Json {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => json!(number),
        (_, Ok(number)) => json!(number),
        _ => json!(number as f64),
    }
}
