//! What a worker must have to run a prompt: devices, model files, classes of nodes.

use distorch_allocation::DeviceId;
use distorch_checkpoint::folders::ModelKind;
use distorch_queue::Requirements;
use distorch_workflow::Registry;
use distorch_workflow::graph::{InputValue, Prompt};
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
    }
    needs
}

/// A model file as workers and prompts name it.
pub(super) fn model(kind: ModelKind, name: &str) -> String {
    format!("{}/{}", kind.name(), name.replace('\\', "/"))
}

/// The devices that an input of the loaders names.
fn devices(input: &str, text: &str) -> impl Iterator<Item = String> {
    let is_device = input == "device" || input.ends_with("_device");
    let names = match is_device || input.ends_with("expert_mode_allocations") {
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
    }
}
