//! The loaders of checkpoints.

use distorch_allocation::{ComponentInputs, LoaderInputs};
use distorch_checkpoint::folders::ModelKind;

use super::file_state::file_state;
use super::loading::{
    ALL, Files, all_ahead, checkpoints, compute_devices, devices_cpu_first, gigabytes, one_file,
    outputs, place, resident, settings,
};
use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::remedy;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const CATEGORY: &str = "multigpu";

const CKPT_NAME: Input =
    Input::found("ckpt_name", checkpoints).tooltip("The name of the checkpoint (model) to load.");

pub(super) const EJECT_MODELS: Input =
    Input::boolean("eject_models", true).tooltip("Unload all other models from the devices first.");

pub(super) const VIRTUAL_VRAM: &str = "Gigabytes (of 1024³ bytes) of the weights that live on the donor \
                            device and come over when a layer needs them.";
pub(super) const DONOR: &str = "The device that lends its memory.";
pub(super) const EXPERT: &str = "Where the weights go, device by device, instead of virtual VRAM: by ratio \
                      (cuda:0,70%;cuda:1,30%), bytes (cuda:0,2gb;cpu,*) or fraction of each \
                      device's memory (cuda:0,0.5;cpu,0.2).";

pub(super) const MODEL_OUTPUTS: &[Output] = &[
    Output::new(Type::Model).tooltip("The model used for denoising latents."),
    Output::new(Type::Clip).tooltip("The text encoders used for encoding prompts."),
    Output::new(Type::Vae).tooltip("The VAE used for encoding and decoding pictures."),
];

const UNET_GIGABYTES: f64 = LoaderInputs::UNET_GIGABYTES.to_f64();
const CLIP_GIGABYTES: f64 = LoaderInputs::CLIP_GIGABYTES.to_f64();

/// The whole of the advanced loader.
pub const ADVANCED_DISTORCH2: Node = Node {
    class: "CheckpointLoaderAdvancedDisTorch2MultiGPU",
    title: "CheckpointLoaderAdvancedDisTorch2MultiGPU",
    category: CATEGORY,
    about: "Loads a checkpoint with its diffusion model and text encoders spread over devices, and \
            its VAE on one of them.",
    inputs: &[
        CKPT_NAME,
        Input::found("unet_compute_device", compute_devices)
            .tooltip("The device that computes the diffusion model."),
        Input::float("unet_virtual_vram_gb", UNET_GIGABYTES, 0.0, 128.0, 0.1).tooltip(VIRTUAL_VRAM),
        Input::found("unet_donor_device", devices_cpu_first).tooltip(DONOR),
        Input::found("clip_compute_device", devices_cpu_first)
            .tooltip("The device that computes the text encoders."),
        Input::float("clip_virtual_vram_gb", CLIP_GIGABYTES, 0.0, 128.0, 0.1).tooltip(VIRTUAL_VRAM),
        Input::found("clip_donor_device", devices_cpu_first).tooltip(DONOR),
        Input::found("vae_device", compute_devices)
            .tooltip("The device that holds and computes the VAE."),
        Input::string("unet_expert_mode_allocations", "").optional().tooltip(EXPERT),
        Input::string("clip_expert_mode_allocations", "").optional().tooltip(EXPERT),
        Input::boolean("high_precision_loras", true).optional().tooltip(
            "Keep layers that a LoRA changes in the compute dtype, instead of the checkpoint's.",
        ),
        EJECT_MODELS.optional(),
    ],
    outputs: MODEL_OUTPUTS,
    check: Some(|environment, inputs| check(environment, advanced(inputs))),
    fingerprint: Some(fingerprint),
    forecast: Some(|ahead| loads(ahead, advanced(ahead.inputs())?, true)),
    run: |context, inputs| load(context, inputs, advanced(inputs)?, true),
    ..Node::EMPTY
};

/// One allocation for the diffusion model; the rest stays on the compute device.
pub const SIMPLE_DISTORCH2: Node = Node {
    class: "CheckpointLoaderSimpleDisTorch2MultiGPU",
    title: "CheckpointLoaderSimpleDisTorch2MultiGPU",
    category: CATEGORY,
    about: "Loads a checkpoint with its weights spread over devices.",
    inputs: &[
        CKPT_NAME,
        Input::found("compute_device", compute_devices)
            .optional()
            .tooltip("The device that computes the models."),
        Input::float("virtual_vram_gb", UNET_GIGABYTES, 0.0, 128.0, 0.1)
            .optional()
            .tooltip(VIRTUAL_VRAM),
        Input::found("donor_device", devices_cpu_first).optional().tooltip(DONOR),
        Input::string("expert_mode_allocations", "").optional().tooltip(EXPERT),
        EJECT_MODELS.optional(),
    ],
    outputs: MODEL_OUTPUTS,
    check: Some(|environment, inputs| check(environment, simple(inputs))),
    fingerprint: Some(fingerprint),
    forecast: Some(|ahead| loads(ahead, simple(ahead.inputs())?, true)),
    run: |context, inputs| load(context, inputs, simple(inputs)?, true),
    ..Node::EMPTY
};

/// Each component whole on a device.
pub const ADVANCED_MULTI_GPU: Node = Node {
    class: "CheckpointLoaderAdvancedMultiGPU",
    title: "CheckpointLoaderAdvancedMultiGPU",
    category: CATEGORY,
    about: "Loads a checkpoint with its diffusion model, text encoders and VAE each on a device.",
    inputs: &[
        CKPT_NAME,
        Input::found("unet_device", compute_devices).tooltip("The device of the diffusion model."),
        Input::found("clip_device", devices_cpu_first).tooltip("The device of the text encoders."),
        Input::found("vae_device", compute_devices).tooltip("The device of the VAE."),
    ],
    outputs: MODEL_OUTPUTS,
    fingerprint: Some(fingerprint),
    forecast: Some(|ahead| loads(ahead, whole(ahead.inputs(), EACH), false)),
    run: |context, inputs| load(context, inputs, whole(inputs, EACH), false),
    ..Node::EMPTY
};

/// All of the checkpoint on one device.
pub const SIMPLE_MULTI_GPU: Node = Node {
    class: "CheckpointLoaderSimpleMultiGPU",
    title: "CheckpointLoaderSimpleMultiGPU",
    category: CATEGORY,
    about: "Loads a checkpoint onto a device.",
    inputs: &[CKPT_NAME, Input::found("device", compute_devices).optional().tooltip("The device.")],
    outputs: MODEL_OUTPUTS,
    fingerprint: Some(fingerprint),
    forecast: Some(|ahead| loads(ahead, whole(ahead.inputs(), ["device"; 3]), false)),
    run: |context, inputs| load(context, inputs, whole(inputs, ["device"; 3]), false),
    ..Node::EMPTY
};

/// All of the checkpoint on the default device.
pub const SIMPLE: Node = Node {
    class: "CheckpointLoaderSimple",
    title: "Load Checkpoint",
    category: "model/loaders",
    about: "Loads a checkpoint: a diffusion model with its text encoders and VAE.",
    inputs: &[CKPT_NAME],
    outputs: MODEL_OUTPUTS,
    fingerprint: Some(fingerprint),
    forecast: Some(|ahead| loads(ahead, whole(ahead.inputs(), ["device"; 3]), false)),
    run: |context, inputs| load(context, inputs, whole(inputs, ["device"; 3]), false),
    ..Node::EMPTY
};

/// All of the checkpoint on the default device. What the configuration would say is read off the file.
pub const WITH_CONFIG: Node = Node {
    class: "CheckpointLoader",
    title: "Load Checkpoint With Config (DEPRECATED)",
    category: "model/loaders",
    about: "Loads a checkpoint: a diffusion model with its text encoders and VAE. The configuration is \
            read off the file, whatever `config_name` says.",
    inputs: &[
        Input::file("config_name", |_| CONFIGS.iter().map(ToString::to_string).collect()),
        CKPT_NAME,
    ],
    is_deprecated: true,
    ..SIMPLE
};

/// The configurations that ComfyUI comes with.
const CONFIGS: [&str; 10] = [
    "anything_v3.yaml",
    "v1-inference.yaml",
    "v1-inference_clip_skip_2.yaml",
    "v1-inference_clip_skip_2_fp16.yaml",
    "v1-inference_fp16.yaml",
    "v1-inpainting-inference.yaml",
    "v2-inference-v.yaml",
    "v2-inference-v_fp32.yaml",
    "v2-inference.yaml",
    "v2-inference_fp32.yaml",
];

fn advanced(inputs: &Inputs) -> Result<LoaderInputs, NodeError> {
    let text = |name: &str, default: &str| inputs.text(name).unwrap_or(default).to_owned();
    let standard = LoaderInputs::default();
    Ok(LoaderInputs {
        unet: ComponentInputs {
            compute_device: inputs.text("unet_compute_device").ok().map(str::to_owned),
            virtual_vram: gigabytes(inputs, "unet_virtual_vram_gb", standard.unet.virtual_vram)?,
            donors: text("unet_donor_device", &standard.unet.donors),
            allocation: text("unet_expert_mode_allocations", ""),
        },
        clip: ComponentInputs {
            compute_device: Some(text("clip_compute_device", "cpu")),
            virtual_vram: gigabytes(inputs, "clip_virtual_vram_gb", standard.clip.virtual_vram)?,
            donors: text("clip_donor_device", &standard.clip.donors),
            allocation: text("clip_expert_mode_allocations", ""),
        },
        vae_device: inputs.text("vae_device").ok().map(str::to_owned),
        layout: standard.layout,
    })
}

fn simple(inputs: &Inputs) -> Result<LoaderInputs, NodeError> {
    let device = inputs.text("compute_device").ok().map(str::to_owned);
    let text = |name: &str, default: &str| inputs.text(name).unwrap_or(default).to_owned();
    let standard = LoaderInputs::default().unet;
    Ok(LoaderInputs {
        unet: ComponentInputs {
            compute_device: device.clone(),
            virtual_vram: gigabytes(inputs, "virtual_vram_gb", standard.virtual_vram)?,
            donors: text("donor_device", &standard.donors),
            allocation: text("expert_mode_allocations", ""),
        },
        ..resident(device.clone(), device.clone(), device)
    })
}

/// The inputs that name a device for each component.
const EACH: [&str; 3] = ["unet_device", "clip_device", "vae_device"];

fn whole(inputs: &Inputs, names: [&str; 3]) -> LoaderInputs {
    let [unet, clip, vae] = names.map(|name| inputs.text(name).ok().map(str::to_owned));
    resident(unet, clip, vae)
}

/// Whether the settings can be on this machine.
fn check(environment: &Environment, inputs: Result<LoaderInputs, NodeError>) -> Result<(), String> {
    let inputs = inputs.map_err(|error| error.to_string())?;
    settings(environment, inputs, remedy::input_name).map(drop)
}

/// The file's place, size and date.
fn fingerprint(environment: &Environment, inputs: &Inputs) -> String {
    let name = inputs.text("ckpt_name").unwrap_or_default();
    file_state(environment, ModelKind::Checkpoints, name)
}

const CHECKPOINT: Files = Files {
    inputs: &["ckpt_name"],
    find: |environment, inputs| one_file(environment, inputs, ModelKind::Checkpoints, "ckpt_name"),
    components: ALL,
};

/// `ejects` is whether other models leave where `eject_models` is not given.
fn load(
    context: &mut Context<'_>,
    inputs: &Inputs,
    loader: LoaderInputs,
    ejects: bool,
) -> Result<Vec<Value>, NodeError> {
    let settings = settings(context.environment(), loader, remedy::input_name);
    let settings = settings.map_err(NodeError::failed)?;
    let parts = place(context, inputs, &CHECKPOINT, settings, ejects)?;
    outputs(context, &parts, "ckpt_name")
}

/// What will come out of a loader of checkpoints.
fn loads(ahead: &Ahead<'_>, loader: LoaderInputs, ejects: bool) -> Result<Vec<Known>, NodeError> {
    let settings = settings(ahead.environment(), loader, remedy::input_name);
    let settings = settings.map_err(NodeError::failed)?;
    all_ahead(ahead, &CHECKPOINT, settings, ejects)
}
