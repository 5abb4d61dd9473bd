//! The loaders of VAEs that come without a model.

use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::{Checkpoint, ComponentKind};

use super::checkpoint::{DONOR, EXPERT, VIRTUAL_VRAM};
use super::file_state::file_state;
use super::forms::{
    DISTORCH2, MULTI_GPU, Place, by_default, check, on_device, spread, spread_out, whole,
};
use super::loading::{
    Files, ahead_of, compute_devices, devices_cpu_first, models, one_file, place,
};
use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::models::{ModelFile, Vae};

const VAE_NAME: Input = Input::found("vae_name", vaes).tooltip("The name of the VAE.");

const OUTPUT: &[Output] =
    &[Output::new(Type::Vae).tooltip("The VAE used for encoding and decoding pictures.")];

/// The choice of no network at all: a latent is the picture itself.
const PIXEL_SPACE: &str = "pixel_space";

/// Tiny autoencoders of pictures, each an encoder and a decoder in files of their own whose names start so.
const TINY: [&str; 4] = ["taesd", "taesdxl", "taesd3", "taef1"];

/// What the names of tiny autoencoders of videos start with.
const TINY_OF_VIDEOS: [&str; 3] = ["taehv", "lighttae", "taeltx"];

/// The files, then what there is besides: tiny autoencoders where their files are there, as in ComfyUI.
fn vaes(environment: &Environment) -> Vec<String> {
    let mut names = models(environment, ModelKind::Vae);
    let tiny = models(environment, ModelKind::VaeApprox);
    let has = |start: String| tiny.iter().any(|name| name.starts_with(&start));
    let both = |name: &str| has(format!("{name}_encoder.")) && has(format!("{name}_decoder."));
    names.extend(tiny.iter().filter(|name| is_of_videos(name)).cloned());
    names.extend(TINY.iter().filter(|name| both(name)).map(|name| (*name).to_owned()));
    names.push(PIXEL_SPACE.to_owned());
    names
}

fn is_of_videos(name: &str) -> bool {
    TINY_OF_VIDEOS.iter().any(|start| name.starts_with(start))
}

fn fingerprint(environment: &Environment, inputs: &Inputs) -> String {
    let name = inputs.text("vae_name").unwrap_or_default();
    file_state(environment, ModelKind::Vae, name)
}

/// A VAE on the default device.
pub const VAE_LOADER: Node = Node {
    class: "VAELoader",
    title: "Load VAE",
    category: "model/loaders",
    about: "Loads a VAE from a file of its own.",
    inputs: &[VAE_NAME],
    outputs: OUTPUT,
    fingerprint: Some(fingerprint),
    forecast: Some(|ahead| loads(ahead, by_default, false)),
    run: |context, inputs| load(context, inputs, by_default, false),
    ..Node::EMPTY
};

/// A VAE on a device.
pub const VAE_LOADER_MULTI_GPU: Node = Node {
    class: "VAELoaderMultiGPU",
    title: "VAELoaderMultiGPU",
    category: MULTI_GPU,
    about: "Loads a VAE from a file of its own onto a device.",
    inputs: on_device![VAE_NAME],
    forecast: Some(|ahead| loads(ahead, whole, false)),
    run: |context, inputs| load(context, inputs, whole, false),
    ..VAE_LOADER
};

/// A VAE spread over devices.
pub const VAE_LOADER_DISTORCH2: Node = Node {
    class: "VAELoaderDisTorch2MultiGPU",
    title: "VAELoaderDisTorch2MultiGPU",
    category: DISTORCH2,
    about: "Loads a VAE from a file of its own with its weights spread over devices.",
    inputs: spread!["compute_device", true; VAE_NAME],
    check: Some(check),
    forecast: Some(|ahead| loads(ahead, spread_out, true)),
    run: |context, inputs| load(context, inputs, spread_out, true),
    ..VAE_LOADER
};

/// Whether a file is the mark of a model that samples pixels, in place of a VAE. What cannot be opened is told
/// of when it is loaded.
fn marks_pixel_space(environment: &Environment, name: &str) -> bool {
    let path = environment.session.folders.resolve(ModelKind::Vae, name).ok();
    let file = path.and_then(|path| Checkpoint::open(&path).ok());
    file.is_some_and(|file| file.get("pixel_space_vae").is_some())
}

/// Whether no network at all is meant.
///
/// # Errors
/// When it is a tiny autoencoder.
fn is_pixel_space(environment: &Environment, name: &str) -> Result<bool, NodeError> {
    let in_folder = models(environment, ModelKind::Vae).iter().any(|own| own == name);
    if (!in_folder && name == PIXEL_SPACE) || marks_pixel_space(environment, name) {
        return Ok(true);
    }
    if !in_folder && (TINY.contains(&name) || is_of_videos(name)) {
        let problem = format!(
            "`{name}` is a tiny autoencoder, which distorch does not run: take a whole VAE, such as \
             the checkpoint's own"
        );
        return Err(NodeError::input("vae_name", problem));
    }
    Ok(false)
}

fn load(
    context: &mut Context<'_>,
    inputs: &Inputs,
    to: Place,
    ejects: bool,
) -> Result<Vec<Value>, NodeError> {
    if is_pixel_space(context.environment(), inputs.text("vae_name")?)? {
        return Ok(vec![Value::Vae(Vae::pixels())]);
    }
    let settings = to(context.environment(), inputs)?;
    let parts = place(context, inputs, &FILE, settings, ejects)?;
    let part = parts.get(ComponentKind::Vae).cloned().ok_or_else(|| no_vae(&parts.file))?;
    Ok(vec![Value::Vae(Vae::new(part)?)])
}

const FILE: Files = Files {
    inputs: &["vae_name"],
    find: |environment, inputs| one_file(environment, inputs, ModelKind::Vae, "vae_name"),
    components: &[ComponentKind::Vae],
};

fn no_vae(file: &ModelFile) -> NodeError {
    let (name, label) = (&file.name, file.model.label());
    NodeError::input("vae_name", format!("`{name}` has no VAE: it is {label}"))
}

fn loads(ahead: &Ahead<'_>, to: Place, ejects: bool) -> Result<Vec<Known>, NodeError> {
    if let Ok(name) = ahead.inputs().text("vae_name")
        && is_pixel_space(ahead.environment(), name)?
    {
        return Ok(Vec::new());
    }
    let settings = to(ahead.environment(), ahead.inputs())?;
    match ahead_of(ahead, &FILE, settings, ejects)? {
        Some((file, known)) if matches!(known.first(), Some(Known::Absent(_))) => {
            Err(no_vae(&file))
        }
        found => Ok(found.map_or_else(Vec::new, |(_, known)| known)),
    }
}
