//! The loaders of checkpoints.

use std::sync::Arc;

use distorch_allocation::{
    ComponentInputs, LayoutChoice, LoaderInputs, LoaderSettings, VirtualVram,
};
use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::folders::ModelKind;

use super::file_state::file_state;
use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::{Ahead, Known, Load};
use crate::inputs::{Inputs, NodeError};
use crate::observe::Event;
use crate::remedy;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::models::{Clip, Model, ModelFile, OpenFailure, Parts, Vae};

const ALL: &[ComponentKind] =
    &[ComponentKind::DiffusionModel, ComponentKind::TextEncoders, ComponentKind::Vae];

const CATEGORY: &str = "multigpu";

const CKPT_NAME: Input =
    Input::found("ckpt_name", checkpoints).tooltip("The name of the checkpoint (model) to load.");

const EJECT_MODELS: Input =
    Input::boolean("eject_models", true).tooltip("Unload all other models from the devices first.");

const VIRTUAL_VRAM: &str = "Gigabytes (of 1024³ bytes) of the weights that live on the donor \
                            device and come over when a layer needs them.";
const DONOR: &str = "The device that lends its memory.";
const EXPERT: &str = "Where the weights go, device by device, instead of virtual VRAM: by ratio \
                      (cuda:0,70%;cuda:1,30%), bytes (cuda:0,2gb;cpu,*) or fraction of each \
                      device's memory (cuda:0,0.5;cpu,0.2).";

const MODEL_OUTPUTS: &[Output] = &[
    Output::new(Type::Model).tooltip("The model used for denoising latents."),
    Output::new(Type::Clip).tooltip("The text encoders used for encoding prompts."),
    Output::new(Type::Vae).tooltip("The VAE used for encoding and decoding pictures."),
];

/// The checkpoints that are there.
pub(super) fn checkpoints(environment: &Environment) -> Vec<String> {
    models(environment, ModelKind::Checkpoints)
}

/// The models of a kind that are there.
pub(super) fn models(environment: &Environment, kind: ModelKind) -> Vec<String> {
    let listing = environment.session.folders.list(kind).unwrap_or_default();
    listing.entries.into_iter().map(|entry| entry.name).collect()
}

/// The devices, the default compute device first.
pub(super) fn compute_devices(environment: &Environment) -> Vec<String> {
    let first = environment.session.topology().default_compute();
    let mut ids = environment.session.topology().ids();
    ids.sort_by_key(|id| (*id != first, *id));
    ids.iter().map(ToString::to_string).collect()
}

/// The devices, `cpu` first.
pub(super) fn devices_cpu_first(environment: &Environment) -> Vec<String> {
    let mut ids = environment.session.topology().ids();
    ids.sort_by_key(|id| (!id.is_cpu(), *id));
    ids.iter().map(ToString::to_string).collect()
}

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

fn gigabytes(inputs: &Inputs, name: &str, default: VirtualVram) -> Result<VirtualVram, NodeError> {
    let Ok(given) = inputs.float(name) else { return Ok(default) };
    VirtualVram::gigabytes(given).map_err(|error| NodeError::input(name, error))
}

/// The inputs that name a device for each component.
const EACH: [&str; 3] = ["unet_device", "clip_device", "vae_device"];

fn whole(inputs: &Inputs, names: [&str; 3]) -> LoaderInputs {
    let [unet, clip, vae] = names.map(|name| inputs.text(name).ok().map(str::to_owned));
    resident(unet, clip, vae)
}

/// Each component whole on its device; without one, on the default device.
pub(super) fn resident(
    unet: Option<String>,
    clip: Option<String>,
    vae: Option<String>,
) -> LoaderInputs {
    LoaderInputs {
        unet: ComponentInputs::whole_on(unet),
        clip: ComponentInputs::whole_on(clip),
        vae_device: vae,
        layout: LayoutChoice::default(),
    }
}

fn settings(environment: &Environment, inputs: LoaderInputs) -> Result<LoaderSettings, String> {
    let inputs = LoaderInputs { layout: environment.session.layout, ..inputs };
    inputs.settings(environment.session.topology()).map_err(|error| remedy::input_error(&error))
}

/// Whether the settings can be on this machine.
fn check(environment: &Environment, inputs: Result<LoaderInputs, NodeError>) -> Result<(), String> {
    settings(environment, inputs.map_err(|error| error.to_string())?).map(drop)
}

/// The file's place, size and date.
fn fingerprint(environment: &Environment, inputs: &Inputs) -> String {
    let name = inputs.text("ckpt_name").unwrap_or_default();
    file_state(environment, ModelKind::Checkpoints, name)
}

/// What a loader node loads from.
pub(super) struct File {
    /// The input that names it.
    pub(super) input: &'static str,
    /// The folder that it is in.
    pub(super) folder: ModelKind,
    /// The components that are wanted.
    pub(super) components: &'static [ComponentKind],
}

const CHECKPOINT: File =
    File { input: "ckpt_name", folder: ModelKind::Checkpoints, components: ALL };

/// `ejects` is whether other models leave where `eject_models` is not given.
fn load(
    context: &mut Context<'_>,
    inputs: &Inputs,
    loader: LoaderInputs,
    ejects: bool,
) -> Result<Vec<Value>, NodeError> {
    let parts = place(context, inputs, &CHECKPOINT, loader, ejects)?;
    outputs(context, &parts)
}

/// Plans a file's components and tells how.
pub(super) fn place(
    context: &Context<'_>,
    inputs: &Inputs,
    file: &File,
    loader: LoaderInputs,
    ejects: bool,
) -> Result<Parts, NodeError> {
    let load = load_of(context.environment(), inputs, file, loader, ejects)?;
    let tasks = context.tasks();
    let placed = context.environment().session.models.place(&load.loader(tasks));
    let parts = placed.map_err(|error| of_file(file.input, error.into()))?;
    let (node, plans) = (context.node(), parts.plans());
    context.tell(Event::Planned { node, model: &load.name, tasks: &tasks, plans: &plans });
    Ok(parts)
}

/// What a loader node loads, and how.
fn load_of(
    environment: &Environment,
    inputs: &Inputs,
    file: &File,
    loader: LoaderInputs,
    ejects: bool,
) -> Result<Load, NodeError> {
    let settings = settings(environment, loader).map_err(NodeError::failed)?;
    let name = inputs.text(file.input)?;
    let path = environment
        .session
        .folders
        .resolve(file.folder, name)
        .map_err(|error| NodeError::input(file.input, error))?;
    Ok(Load {
        name: name.to_owned(),
        path,
        settings,
        kinds: file.components,
        high_precision_loras: inputs.boolean("high_precision_loras").unwrap_or(true),
        eject_models: ejects && inputs.boolean("eject_models").unwrap_or(true),
    })
}

/// A file that a node will load, and what will come out of the node.
pub(super) type FileAhead = (Arc<ModelFile>, Vec<Known>);

/// The file that a node will load and what will come out, component by component; `None` where it is not
/// known which file.
pub(super) fn ahead_of(
    ahead: &Ahead<'_>,
    file: &File,
    loader: LoaderInputs,
    ejects: bool,
) -> Result<Option<FileAhead>, NodeError> {
    if !ahead.inputs().has(file.input) {
        return Ok(None);
    }
    let load = load_of(ahead.environment(), ahead.inputs(), file, loader, ejects)?;
    let opened = ahead.environment().session.models.open(&load.name, &load.path);
    let opened = opened.map_err(|error| of_file(file.input, error.into()))?;
    let source = ahead.loads(load, &opened);
    let known = |kind: &ComponentKind| {
        let source = source.clone();
        match kind {
            _ if opened.model.component(*kind).is_none() => {
                Known::Absent(lacks(&opened, *kind).into())
            }
            ComponentKind::DiffusionModel => Known::Model(source),
            ComponentKind::TextEncoders => Known::Clip(source),
            ComponentKind::Vae => Known::Vae(source),
        }
    };
    let known = file.components.iter().map(known).collect();
    Ok(Some((opened, known)))
}

/// What will come out of a loader of checkpoints.
fn loads(ahead: &Ahead<'_>, loader: LoaderInputs, ejects: bool) -> Result<Vec<Known>, NodeError> {
    let Some((_, known)) = ahead_of(ahead, &CHECKPOINT, loader, ejects)? else {
        return Ok(Vec::new());
    };
    // The first component, without which a file is no checkpoint.
    if let Some(Known::Absent(problem)) = known.first() {
        return Err(NodeError::input("ckpt_name", problem));
    }
    Ok(known)
}

/// A file that cannot be used is a matter of the input that names it.
fn of_file(input: &str, error: NodeError) -> NodeError {
    match error {
        NodeError::Failed(error) if error.is::<OpenFailure>() => NodeError::input(input, error),
        other => other,
    }
}

/// A checkpoint without text encoders or VAE gives the rest, as ComfyUI does; one without a diffusion
/// model is none.
fn outputs(context: &Context<'_>, parts: &Parts) -> Result<Vec<Value>, NodeError> {
    let part =
        |kind: ComponentKind| parts.get(kind).cloned().ok_or_else(|| lacks(&parts.file, kind));
    let model = part(ComponentKind::DiffusionModel)
        .map_err(|problem| NodeError::input("ckpt_name", problem))?;
    let absent = |problem: String| {
        context.warn(&problem);
        Value::Absent(problem.into())
    };
    let clip = match part(ComponentKind::TextEncoders) {
        Ok(part) => Value::Clip(Clip::new(part)?),
        Err(problem) => absent(problem),
    };
    let vae = match part(ComponentKind::Vae) {
        Ok(part) => Value::Vae(Vae::new(part)?),
        Err(problem) => absent(problem),
    };
    Ok(vec![Value::Model(Model::new(model)?), clip, vae])
}

/// What a file lacks, and the way out.
fn lacks(file: &ModelFile, kind: ComponentKind) -> String {
    let way_out = match kind {
        ComponentKind::Vae => "; load one with VAELoader",
        _ => "",
    };
    let (name, label) = (&file.name, file.model.label());
    format!("`{name}` has no {}; it is {label}{way_out}", distorch_pipeline::models::in_words(kind))
}
