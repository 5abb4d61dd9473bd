//! Signatures as a web client reads them: the answer to `/object_info`.
//!
//! Menu names, categories and what is advanced or deprecated follow ComfyUI of 2026, about its release 0.38.

use std::collections::HashSet;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use crate::environment::Environment;
use crate::registry::Registry;
use crate::signature::{Input, Kind, Node, Options};

/// All nodes of a registry, by class.
pub fn object_info(registry: &Registry, environment: &Environment) -> IndexMap<&'static str, Json> {
    registry.nodes().map(|node| (node.class, describe(node, environment))).collect()
}

/// What [`object_info`] says of the machine and its files, as they are now: the lists that its choices are made of, each once.
/// Where these are the same, so is the whole.
pub fn found(registry: &Registry, environment: &Environment) -> Vec<Vec<String>> {
    let inputs = registry.nodes().flat_map(|node| node.inputs);
    let finders = inputs.filter_map(|input| match input.kind {
        Kind::Choice {
            options: Options::Found(find) | Options::Files { list: find, .. }, ..
        } => Some(find),
        _ => None,
    });
    // Functions at one address find the same.
    let mut seen = HashSet::new();
    let once = finders.filter(|find| seen.insert(*find as usize));
    once.map(|find| find(environment)).collect()
}

/// One node.
pub fn describe(node: &Node, environment: &Environment) -> Json {
    let part = |optional: bool| -> Vec<&Input> {
        // A growing list is there even where nothing in it is.
        let is_optional = |input: &Input| input.optional && input.growing.is_none();
        // Those of a choice are part of it.
        let own = node.inputs.iter().filter(|input| input.when.is_none());
        own.filter(|input| is_optional(input) == optional).collect()
    };
    let (required, optional) = (part(false), part(true));
    let configs = |inputs: &[&Input]| -> Map<String, Json> {
        inputs.iter().map(|input| config(input, node, environment)).collect()
    };
    let names = |inputs: &[&Input]| {
        let names = inputs.iter().map(|input| input.growing.map_or(input.name, |list| list.name));
        let mut names = names.collect::<Vec<_>>();
        names.dedup();
        names
    };
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
        "output_is_list": outputs.iter().map(|output| output.is_list).collect::<Vec<_>>(),
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

/// An input's name and what it takes; those of a growing list are one.
fn config(input: &Input, node: &Node, environment: &Environment) -> (String, Json) {
    let Some(list) = input.growing else {
        let config = match choice_with_inputs(input, node, environment) {
            Some(config) => config,
            None => input_config(input, environment),
        };
        return (input.name.to_owned(), config);
    };
    let prefix = format!("{}.", list.name);
    let all = node.inputs.iter().filter(|other| other.growing.is_some_and(|g| g.name == list.name));
    let names: Vec<&str> = all.filter_map(|other| other.name.strip_prefix(&prefix)).collect();
    let one = json!({ list.one: input_config(&Input { growing: None, ..*input }, environment) });
    let part = if list.optional { "optional" } else { "required" };
    let mut template = json!({ "input": { part: one }, "min": list.least });
    match list.named {
        true => template["names"] = json!(names),
        false => {
            template["prefix"] = json!(list.one);
            template["max"] = json!(names.len());
        }
    }
    (list.name.to_owned(), json!(["COMFY_AUTOGROW_V3", { "template": template }]))
}

/// A choice of which each value has inputs of its own.
fn choice_with_inputs(input: &Input, node: &Node, environment: &Environment) -> Option<Json> {
    let Kind::Choice { options, .. } = input.kind else { return None };
    let prefix = format!("{}.", input.name);
    let own = |value: &str| -> Vec<&Input> {
        let is_own = |other: &&Input| {
            other.when.is_some_and(|(name, values)| name == input.name && values.contains(&value))
        };
        node.inputs.iter().filter(is_own).collect()
    };
    let names = options.list(environment);
    if names.iter().all(|name| own(name).is_empty()) {
        return None;
    }
    let option = |name: &String| {
        let inputs: Map<String, Json> = own(name)
            .into_iter()
            .map(|other| {
                let short = other.name.strip_prefix(&prefix).unwrap_or(other.name);
                (short.to_owned(), input_config(other, environment))
            })
            .collect();
        json!({ "key": name, "inputs": { "required": inputs } })
    };
    let options: Vec<Json> = names.iter().map(option).collect();
    Some(json!(["COMFY_DYNAMICCOMBO_V3", { "options": options }]))
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
        Kind::Data(kind) => json!(kind.name()),
        Kind::Link(kind) => match input.shared_type {
            Some(name) => {
                let template = json!({ "template_id": name, "allowed_types": kind.name() });
                set("template", template);
                json!("COMFY_MATCHTYPE_V3")
            }
            None => json!(kind.name()),
        },
    };
    if input.lazy {
        set("lazy", json!(true));
    }
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
