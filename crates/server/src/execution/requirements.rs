//! What a worker must have to run a prompt: devices, model files, classes of nodes.

use std::collections::BTreeSet;
use std::path::Path;

use distorch_allocation::DeviceId;
use distorch_checkpoint::folders::ModelKind;
use distorch_queue::{ALL_DEVICES, DEFAULT_DEVICE, Requirements};
use distorch_workflow::Registry;
use distorch_workflow::graph::{InputValue, Prompt, PromptNode};
use distorch_workflow::signature::Node;
use serde_json::Value;

/// The inputs that name model files, by ComfyUI's names.
const MODEL_INPUTS: [(&str, ModelKind); 11] = [
    ("ckpt_name", ModelKind::Checkpoints),
    ("lora_name", ModelKind::Loras),
    ("vae_name", ModelKind::Vae),
    ("unet_name", ModelKind::DiffusionModels),
    ("clip_name", ModelKind::TextEncoders),
    ("clip_name1", ModelKind::TextEncoders),
    ("clip_name2", ModelKind::TextEncoders),
    ("clip_name3", ModelKind::TextEncoders),
    ("clip_name4", ModelKind::TextEncoders),
    ("control_net_name", ModelKind::Controlnet),
    ("model_name", ModelKind::UpscaleModels),
];

/// Nodes that return what they are given, and the input that holds it.
const CONSTANTS: [(&str, &str); 3] = [
    ("DeviceSelectorMultiGPU", "device"),
    ("PrimitiveString", "value"),
    ("PrimitiveStringMultiline", "value"),
];

/// Links from one constant to another that are followed.
const MOST_LINKS: usize = 8;

/// What a prompt needs of its worker, as far as its inputs say: literals, and links to constants. The bytes that it takes are
/// its plan's, which the worker checks on its own devices.
pub fn requirements(prompt: &Prompt, registry: &Registry) -> Requirements {
    let mut needs = Requirements::default();
    for node in prompt.nodes.values() {
        let Some(class) = registry.find(&node.class) else { continue };
        needs.node_classes.insert(class.class.to_owned());
        for input in class.inputs {
            let Given::Text(text) = given(prompt, node, input.name) else { continue };
            match MODEL_INPUTS.iter().find(|(name, _)| *name == input.name) {
                // Other names stand for no file or for several: `pixel_space`, `taesd`.
                Some((_, kind)) if ModelKind::has_model_extension(Path::new(text)) => {
                    needs.models.insert(model(*kind, text));
                }
                Some(_) => {}
                None => {
                    needs.devices.extend(devices(input.name, text).map(|device| (device, 0)));
                }
            }
        }
        if class.loads_models() {
            needs.occupies.extend(occupied(prompt, class, node));
        }
    }
    if needs.occupies.is_empty() {
        // What is done without a model is done there.
        needs.occupies.insert(DeviceId::CPU.to_string());
    }
    needs
}

/// The devices that a prompt has to itself for what a node loads: those that compute, and accelerators that may hold
/// weights. The host's memory is everybody's.
fn occupied(prompt: &Prompt, class: &Node, node: &PromptNode) -> BTreeSet<String> {
    let mut occupied = BTreeSet::new();
    let mut computes = false;
    let inputs = class.inputs.iter().filter(|input| names_devices(input.name));
    for name in inputs.map(|input| input.name) {
        let text = match given(prompt, node, name) {
            Given::Nothing => continue,
            Given::Text(text) => text,
            Given::Unknown => return BTreeSet::from([ALL_DEVICES.to_owned()]),
        };
        let is_compute = !name.ends_with("allocations") && !name.contains("donor");
        let cpu = DeviceId::CPU.to_string();
        let named: Vec<String> =
            devices(name, text).filter(|device| is_compute || *device != cpu).collect();
        computes |= is_compute && !named.is_empty();
        occupied.extend(named);
    }
    if !computes {
        occupied.insert(DEFAULT_DEVICE.to_owned());
    }
    occupied
}

/// What an input has, before anything runs.
enum Given<'a> {
    Nothing,
    /// A text, or a link to a node that returns one.
    Text(&'a str),
    /// What is known in the run only.
    Unknown,
}

fn given<'a>(prompt: &'a Prompt, node: &'a PromptNode, input: &str) -> Given<'a> {
    let mut value = node.inputs.get(input);
    if value.is_none() {
        return Given::Nothing;
    }
    for _ in 0..MOST_LINKS {
        let link = match value {
            Some(InputValue::Literal(Value::String(text))) => return Given::Text(text),
            Some(InputValue::Link { node, slot: 0 }) => node,
            _ => break,
        };
        let Some(node) = prompt.nodes.get(link) else { break };
        let constant = CONSTANTS.iter().find(|(class, _)| *class == node.class);
        let Some((_, holds)) = constant else { break };
        value = node.inputs.get(*holds);
    }
    Given::Unknown
}

/// A model file as workers and prompts name it.
pub(super) fn model(kind: ModelKind, name: &str) -> String {
    format!("{}/{}", kind.name(), name.replace('\\', "/"))
}

/// Whether an input of the loaders names devices.
fn names_devices(input: &str) -> bool {
    input == "device" || input.ends_with("_device") || input.ends_with("expert_mode_allocations")
}

/// The devices that an input of the loaders names.
fn devices(input: &str, text: &str) -> impl Iterator<Item = String> {
    let names = match names_devices(input) {
        true => text,
        false => "",
    };
    let names = names.split([';', ',']).map(str::trim);
    names.filter_map(|name| name.parse::<DeviceId>().ok()).map(|id| id.to_string())
}

#[cfg(test)]
mod tests {
    use distorch_workflow::nodes;

    use super::*;

    #[test]
    fn devices_models_and_classes_of_a_prompt_are_found() {
        let prompt = r#"{"4": {"class_type": "CheckpointLoaderAdvancedDisTorch2MultiGPU", "inputs": {
            "ckpt_name": "a.safetensors", "unet_compute_device": "cuda:0",
            "unet_donor_device": "cpu", "clip_compute_device": "cpu", "vae_device": "cuda:0",
            "unet_expert_mode_allocations": "cuda:1,2gb;cpu,*", "clip_expert_mode_allocations": ""
        }}}"#;
        let registry = nodes::all();
        let needs = requirements(&Prompt::from_json(prompt, &registry).unwrap(), &registry);
        let devices: Vec<_> = needs.devices.keys().map(String::as_str).collect();
        assert_eq!(devices, ["cpu", "cuda:0", "cuda:1"]);
        assert_eq!(needs.models.into_iter().collect::<Vec<_>>(), ["checkpoints/a.safetensors"]);
        assert!(needs.node_classes.contains("CheckpointLoaderAdvancedDisTorch2MultiGPU"));
        let occupied: Vec<_> = needs.occupies.iter().map(String::as_str).collect();
        assert_eq!(occupied, ["cpu", "cuda:0", "cuda:1"]);
    }

    #[test]
    fn a_prompt_has_the_devices_to_itself_that_compute_or_hold_its_weights() {
        let registry = nodes::all();
        let occupied = |class: &str, inputs: &str| {
            let prompt = format!(r#"{{"4": {{"class_type": "{class}", "inputs": {{{inputs}}}}}}}"#);
            let needs = requirements(&Prompt::from_json(&prompt, &registry).unwrap(), &registry);
            needs.occupies.into_iter().collect::<Vec<_>>().join(" ")
        };
        let loader = "CheckpointLoaderSimpleDisTorch2MultiGPU";
        let cases = [
            ("CheckpointLoaderSimple", r#""ckpt_name": "a""#, DEFAULT_DEVICE),
            ("CLIPLoader", r#""clip_name": "a", "device": "default""#, DEFAULT_DEVICE),
            ("CLIPLoader", r#""clip_name": "a", "device": "cpu""#, "cpu"),
            (loader, r#""compute_device": "cuda:1", "donor_device": "cpu""#, "cuda:1"),
            (loader, r#""compute_device": "cuda:1", "donor_device": "cuda:0""#, "cuda:0 cuda:1"),
            (loader, r#""compute_device": ["9", 0]"#, ALL_DEVICES),
            (loader, r#""expert_mode_allocations": "cuda:1,1gb;cpu,*""#, "cuda:1 default"),
            ("SaveImage", r#""filename_prefix": "a""#, "cpu"),
        ];
        for (class, inputs, expected) in cases {
            assert_eq!(occupied(class, inputs), expected, "{class} {inputs}");
        }
    }

    #[test]
    fn a_name_that_is_no_files_is_nothing_that_a_worker_lacks() {
        let registry = nodes::all();
        let prompt = r#"{"4": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
                         "5": {"class_type": "VAELoader", "inputs": {"vae_name": "a.sft"}}}"#;
        let needs = requirements(&Prompt::from_json(prompt, &registry).unwrap(), &registry);
        assert!(needs.models.iter().eq(["vae/a.sft"]), "{needs:?}");
    }

    #[test]
    fn a_device_behind_a_link_to_a_constant_is_known() {
        let registry = nodes::all();
        let occupied = |device: &str, others: &str| {
            let prompt = format!(
                r#"{{"4": {{"class_type": "CheckpointLoaderSimpleDisTorch2MultiGPU",
                      "inputs": {{"compute_device": {device}, "donor_device": "cpu"}}}}, {others}}}"#
            );
            let needs = requirements(&Prompt::from_json(&prompt, &registry).unwrap(), &registry);
            needs.occupies.into_iter().collect::<Vec<_>>().join(" ")
        };
        let selector = |device: &str| {
            format!(
                r#""9": {{"class_type": "DeviceSelectorMultiGPU", "inputs": {{"device": {device}}}}}"#
            )
        };
        let to_selector = r#"["9", 0]"#;
        assert_eq!(occupied(to_selector, &selector(r#""cuda:1""#)), "cuda:1");
        let through = r#""8": {"class_type": "PrimitiveString", "inputs": {"value": "cuda:0"}}"#;
        let chain = format!("{}, {through}", selector(r#"["8", 0]"#));
        assert_eq!(occupied(to_selector, &chain), "cuda:0");
        // Neither a slot that is not there, nor a circle, nor a node that computes.
        assert_eq!(occupied(r#"["9", 1]"#, &selector(r#""cuda:1""#)), ALL_DEVICES);
        assert_eq!(occupied(to_selector, &selector(to_selector)), ALL_DEVICES);
        let computed = r#""9": {"class_type": "StringConcatenate",
            "inputs": {"string_a": "cuda:", "string_b": "1", "delimiter": ""}}"#;
        assert_eq!(occupied(to_selector, computed), ALL_DEVICES);
    }
}
