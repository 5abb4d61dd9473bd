//! The loaders of diffusion models that come without text encoders and VAE, and of diffusers' folders.

use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::source::{MODEL_INDEX, ModelFiles, Reading};
use distorch_checkpoint::{ComponentKind, Dtype};
use distorch_pipeline::models::Model;

use super::checkpoint::{DONOR, EXPERT, MODEL_OUTPUTS, VIRTUAL_VRAM};
use super::file_state::file_state;
use super::forms::{
    DISTORCH2, MULTI_GPU, Place, by_default, check, on_device, spread, spread_out, whole,
};
use super::loading::{
    ALL, Files, all_ahead, compute_devices, devices_cpu_first, lacks, models, one_file, outputs,
    place,
};
use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const UNET_NAME: Input =
    Input::found("unet_name", |environment| models(environment, ModelKind::DiffusionModels))
        .tooltip("The name of the diffusion model.");

const WEIGHT_DTYPE: Input =
    Input::choice("weight_dtype", &["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"])
        .advanced()
        .tooltip("What the weights are rounded to, where they have more bits.");

const OUTPUT: &[Output] =
    &[Output::new(Type::Model).tooltip("The model used for denoising latents.")];

const UNET: Files = Files {
    inputs: &["unet_name"],
    find: |environment, inputs| {
        let folder = ModelKind::DiffusionModels;
        let (name, files) = one_file(environment, inputs, folder, "unet_name")?;
        let reading = match inputs.text("weight_dtype").unwrap_or("default") {
            "fp8_e4m3fn" | "fp8_e4m3fn_fast" => Reading::Rounded(Dtype::F8E4M3),
            "fp8_e5m2" => Reading::Rounded(Dtype::F8E5M2),
            _ => files.reading,
        };
        Ok((name, ModelFiles { reading, ..files }))
    },
    components: &[ComponentKind::DiffusionModel],
};

/// A diffusion model on the default device.
pub const UNET_LOADER: Node = Node {
    class: "UNETLoader",
    title: "Load Diffusion Model",
    category: "model/loaders",
    about: "Loads a diffusion model from a file of its own.",
    inputs: &[UNET_NAME, WEIGHT_DTYPE],
    outputs: OUTPUT,
    fingerprint: Some(|environment, inputs| state(environment, inputs, "unet_name")),
    forecast: Some(|ahead| unet_ahead(ahead, by_default, false)),
    run: |context, inputs| unet(context, inputs, by_default, false),
    ..Node::EMPTY
};

/// A diffusion model on a device.
pub const UNET_LOADER_MULTI_GPU: Node = Node {
    class: "UNETLoaderMultiGPU",
    title: "UNETLoaderMultiGPU",
    category: MULTI_GPU,
    about: "Loads a diffusion model from a file of its own onto a device.",
    inputs: on_device![UNET_NAME, WEIGHT_DTYPE],
    forecast: Some(|ahead| unet_ahead(ahead, whole, false)),
    run: |context, inputs| unet(context, inputs, whole, false),
    ..UNET_LOADER
};

/// A diffusion model spread over devices.
pub const UNET_LOADER_DISTORCH2: Node = Node {
    class: "UNETLoaderDisTorch2MultiGPU",
    title: "UNETLoaderDisTorch2MultiGPU",
    category: DISTORCH2,
    about: "Loads a diffusion model from a file of its own with its weights spread over devices.",
    inputs: spread!["compute_device", true; UNET_NAME, WEIGHT_DTYPE],
    check: Some(check),
    forecast: Some(|ahead| unet_ahead(ahead, spread_out, true)),
    run: |context, inputs| unet(context, inputs, spread_out, true),
    ..UNET_LOADER
};

/// A diffusion model whose layers stay in the file's dtype where LoRAs change them.
pub const UNET_LOADER_LP: Node = Node {
    class: "UNetLoaderLP",
    title: "UNet Loader (LP)",
    category: "loaders",
    about: "Loads a diffusion model from a file of its own. Layers that a LoRA changes stay in the file's \
            dtype.",
    inputs: &[UNET_NAME],
    run: |context, inputs| {
        let inputs = inputs.clone().with("high_precision_loras", Value::Boolean(false));
        unet(context, &inputs, by_default, false)
    },
    ..UNET_LOADER
};

fn unet(
    context: &mut Context<'_>,
    inputs: &Inputs,
    to: Place,
    ejects: bool,
) -> Result<Vec<Value>, NodeError> {
    let settings = to(context.environment(), inputs)?;
    let parts = place(context, inputs, &UNET, settings, ejects)?;
    let part = parts.get(ComponentKind::DiffusionModel).cloned().ok_or_else(|| {
        NodeError::input("unet_name", lacks(&parts.file, ComponentKind::DiffusionModel))
    })?;
    Ok(vec![Value::Model(Model::new(part)?)])
}

fn unet_ahead(ahead: &Ahead<'_>, to: Place, ejects: bool) -> Result<Vec<Known>, NodeError> {
    let settings = to(ahead.environment(), ahead.inputs())?;
    all_ahead(ahead, &UNET, settings, ejects)
}

/// The file's place, size and date.
fn state(environment: &Environment, inputs: &Inputs, input: &str) -> String {
    let name = inputs.text(input).unwrap_or_default();
    file_state(environment, ModelKind::DiffusionModels, name)
}

const MODEL_PATH: Input =
    Input::found("model_path", pipelines).tooltip("The folder that diffusers saved a pipeline in.");

/// The folders of pipelines that are there, by their names below `models/diffusers`.
fn pipelines(environment: &Environment) -> Vec<String> {
    let index = format!("/{MODEL_INDEX}");
    let names = models(environment, ModelKind::Diffusers).into_iter();
    names.filter_map(|name| name.strip_suffix(&index).map(str::to_owned)).collect()
}

const FOLDER: Files = Files {
    inputs: &["model_path"],
    find: |environment, inputs| {
        let name = inputs.text("model_path")?;
        let wrong = |error: &dyn ToString| NodeError::input("model_path", error.to_string());
        let folders = &environment.session.folders;
        let index = folders.resolve(ModelKind::Diffusers, &format!("{name}/{MODEL_INDEX}"));
        let index = index.map_err(|error| wrong(&error))?;
        let folder = index.parent().unwrap_or(&index);
        let files = ModelFiles::of_diffusers(folder).map_err(|error| wrong(&error))?;
        Ok((name.to_owned(), files))
    },
    components: ALL,
};

/// All of a pipeline on the default device.
pub const DIFFUSERS_LOADER: Node = Node {
    class: "DiffusersLoader",
    title: "DiffusersLoader",
    category: "model/loaders",
    about: "Loads a diffusion model with its text encoders and VAE from the folder of a pipeline that \
            diffusers saved.",
    inputs: &[MODEL_PATH],
    outputs: MODEL_OUTPUTS,
    is_deprecated: true,
    fingerprint: Some(folder_state),
    forecast: Some(|ahead| folder_ahead(ahead, by_default, false)),
    run: |context, inputs| folder(context, inputs, by_default, false),
    ..Node::EMPTY
};

/// All of a pipeline on a device.
pub const DIFFUSERS_LOADER_MULTI_GPU: Node = Node {
    class: "DiffusersLoaderMultiGPU",
    title: "DiffusersLoaderMultiGPU",
    category: MULTI_GPU,
    inputs: on_device![MODEL_PATH],
    is_deprecated: false,
    forecast: Some(|ahead| folder_ahead(ahead, whole, false)),
    run: |context, inputs| folder(context, inputs, whole, false),
    ..DIFFUSERS_LOADER
};

/// A pipeline whose diffusion model is spread over devices; the rest stays on the compute device.
pub const DIFFUSERS_LOADER_DISTORCH2: Node = Node {
    class: "DiffusersLoaderDisTorch2MultiGPU",
    title: "DiffusersLoaderDisTorch2MultiGPU",
    category: DISTORCH2,
    about: "Loads a pipeline that diffusers saved with the weights of its diffusion model spread over \
            devices.",
    inputs: spread!["compute_device", true; MODEL_PATH],
    is_deprecated: false,
    check: Some(check),
    forecast: Some(|ahead| folder_ahead(ahead, only_unet_spread, true)),
    run: |context, inputs| folder(context, inputs, only_unet_spread, true),
    ..DIFFUSERS_LOADER
};

/// The diffusion model as the inputs say; the rest whole on its compute device.
fn only_unet_spread(
    environment: &Environment,
    inputs: &Inputs,
) -> Result<distorch_allocation::LoaderSettings, NodeError> {
    let unet = spread_out(environment, inputs)?.unet;
    let device = Value::String(unet.compute_device.to_string().into());
    let rest = whole(environment, &inputs.clone().with("device", device))?;
    Ok(distorch_allocation::LoaderSettings { unet, ..rest })
}

fn folder(
    context: &mut Context<'_>,
    inputs: &Inputs,
    to: Place,
    ejects: bool,
) -> Result<Vec<Value>, NodeError> {
    let settings = to(context.environment(), inputs)?;
    let parts = place(context, inputs, &FOLDER, settings, ejects)?;
    outputs(context, &parts, "model_path")
}

fn folder_ahead(ahead: &Ahead<'_>, to: Place, ejects: bool) -> Result<Vec<Known>, NodeError> {
    let settings = to(ahead.environment(), ahead.inputs())?;
    all_ahead(ahead, &FOLDER, settings, ejects)
}

/// The places, sizes and dates of the folder's files.
fn folder_state(environment: &Environment, inputs: &Inputs) -> String {
    let Ok((_, files)) = (FOLDER.find)(environment, inputs) else { return String::new() };
    files.paths.iter().map(|path| super::file_state::path_state(path)).collect()
}
