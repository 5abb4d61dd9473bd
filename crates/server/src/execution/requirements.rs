//! What a worker must have to run a prompt: devices, model files, classes of nodes.

use std::collections::BTreeSet;

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

/// What a prompt needs of its worker, as far as its literal inputs say. The bytes that it takes are its plan's, which the
/// worker checks on its own devices.
pub fn requirements(prompt: &Prompt, registry: &Registry) -> Requirements {
    let mut needs = Requirements::default();
    for node in prompt.nodes.values() {
        let Some(class) = registry.find(&node.class) else { continue };
        needs.node_classes.insert(class.class.to_owned());
        for input in class.inputs {
            let Some(InputValue::Literal(Value::String(text))) = node.inputs.get(input.name) else {
                continue;
            };
            match MODEL_INPUTS.iter().find(|(name, _)| *name == input.name) {
                Some((_, kind)) => {
                    needs.models.insert(model(*kind, text));
                }
                None => {
                    needs.devices.extend(devices(input.name, text).map(|device| (device, 0)));
                }
            }
        }
        if class.loads_models() {
            needs.occupies.extend(occupied(class, node));
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
fn occupied(class: &Node, node: &PromptNode) -> BTreeSet<String> {
    let mut occupied = BTreeSet::new();
    let mut computes = false;
    let inputs = class.inputs.iter().filter(|input| names_devices(input.name));
    for name in inputs.map(|input| input.name) {
        let text = match node.inputs.get(name) {
            None => continue,
            Some(InputValue::Literal(Value::String(text))) => text,
            // Known in the run only.
            Some(_) => return BTreeSet::from([ALL_DEVICES.to_owned()]),
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
}
