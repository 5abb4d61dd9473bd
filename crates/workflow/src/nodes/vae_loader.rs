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
use distorch_checkpoint::source::ModelFiles;
use distorch_pipeline::models::{ModelFile, TinyFormat, Vae};

const VAE_NAME: Input = Input::found("vae_name", vaes).tooltip("The name of the VAE.");

const OUTPUT: &[Output] =
    &[Output::new(Type::Vae).tooltip("The VAE used for encoding and decoding pictures.")];

/// The choice of no network at all: a latent is the picture itself.
const PIXEL_SPACE: &str = "pixel_space";

/// Tiny autoencoders of pictures, each an encoder and a decoder in files of their own whose names start so, with the
/// scale and shift between the latents that they see and a whole VAE's (those of SD 1.x, SDXL, SD3 and Flux).
const TINY: [(&str, TinyFormat); 4] = [
    ("taesd", TinyFormat { scale: 0.18215, shift: 0.0 }),
    ("taesdxl", TinyFormat { scale: 0.13025, shift: 0.0 }),
    ("taesd3", TinyFormat { scale: 1.5305, shift: 0.0609 }),
    ("taef1", TinyFormat { scale: 0.3611, shift: 0.1159 }),
];

/// What the names of tiny autoencoders of videos start with.
const TINY_OF_VIDEOS: [&str; 3] = ["taehv", "lighttae", "taeltx"];

/// The files, then what there is besides: tiny autoencoders where their files are there, as in ComfyUI.
fn vaes(environment: &Environment) -> Vec<String> {
    let mut names = models(environment, ModelKind::Vae);
    let tiny = models(environment, ModelKind::VaeApprox);
    let has = |start: String| tiny.iter().any(|name| name.starts_with(&start));
    let both = |name: &str| has(format!("{name}_encoder.")) && has(format!("{name}_decoder."));
    names.extend(tiny.iter().filter(|name| is_of_videos(name)).cloned());
    let tiny = TINY.iter().map(|(name, _)| *name);
    names.extend(tiny.filter(|name| both(name)).map(str::to_owned));
    names.push(PIXEL_SPACE.to_owned());
    names
}

fn is_of_videos(name: &str) -> bool {
    TINY_OF_VIDEOS.iter().any(|start| name.starts_with(start))
}

fn fingerprint(environment: &Environment, inputs: &Inputs) -> String {
    let name = inputs.text("vae_name").unwrap_or_default();
    match tiny(environment, name) {
        Some(_) => ["encoder", "decoder"]
            .map(|half| match half_of(environment, name, half) {
                Some(file) => file_state(environment, ModelKind::VaeApprox, &file),
                None => String::new(),
            })
            .join(" "),
        None => file_state(environment, ModelKind::Vae, name),
    }
}

/// The tiny autoencoder that is meant, where one is.
fn tiny(environment: &Environment, name: &str) -> Option<TinyFormat> {
    let (_, format) = TINY.iter().find(|(known, _)| *known == name)?;
    let in_folder = models(environment, ModelKind::Vae).iter().any(|own| own == name);
    (!in_folder).then_some(*format)
}

/// The file of a half of a tiny autoencoder.
fn half_of(environment: &Environment, name: &str, half: &str) -> Option<String> {
    let start = format!("{name}_{half}.");
    models(environment, ModelKind::VaeApprox).into_iter().find(|file| file.starts_with(&start))
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
/// When it is a tiny autoencoder of videos.
fn is_pixel_space(environment: &Environment, name: &str) -> Result<bool, NodeError> {
    let in_folder = models(environment, ModelKind::Vae).iter().any(|own| own == name);
    if (!in_folder && name == PIXEL_SPACE) || marks_pixel_space(environment, name) {
        return Ok(true);
    }
    if !in_folder && is_of_videos(name) {
        let problem = format!(
            "`{name}` is a tiny autoencoder of videos, which distorch does not run: take a whole VAE, such as \
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
    if let Some(format) = tiny(context.environment(), inputs.text("vae_name")?) {
        let half = |files: &Files, ejects: bool| {
            let parts = place(context, inputs, files, settings.clone(), ejects)?;
            parts.get(ComponentKind::Vae).cloned().ok_or_else(|| no_vae(&parts.file))
        };
        let (decoder, encoder) = (half(&DECODER, ejects)?, half(&ENCODER, false)?);
        return Ok(vec![Value::Vae(Vae::tiny(encoder, decoder, format)?)]);
    }
    let parts = place(context, inputs, &FILE, settings, ejects)?;
    let part = parts.get(ComponentKind::Vae).cloned().ok_or_else(|| no_vae(&parts.file))?;
    Ok(vec![Value::Vae(Vae::new(part)?)])
}

const FILE: Files = Files {
    inputs: &["vae_name"],
    find: |environment, inputs| one_file(environment, inputs, ModelKind::Vae, "vae_name"),
    components: &[ComponentKind::Vae],
};

/// The halves of a tiny autoencoder.
const DECODER: Files = Files {
    inputs: &["vae_name"],
    find: |environment, inputs| half(environment, inputs, "decoder"),
    components: &[ComponentKind::Vae],
};
const ENCODER: Files = Files {
    inputs: &["vae_name"],
    find: |environment, inputs| half(environment, inputs, "encoder"),
    components: &[ComponentKind::Vae],
};

fn half(
    environment: &Environment,
    inputs: &Inputs,
    half: &str,
) -> Result<(String, ModelFiles), NodeError> {
    let name = inputs.text("vae_name")?;
    let file = half_of(environment, name, half).ok_or_else(|| {
        let problem = format!("there is no `{name}_{half}` in models/vae_approx: put it there");
        NodeError::input("vae_name", problem)
    })?;
    let path = environment.session.folders.resolve(ModelKind::VaeApprox, &file);
    let path = path.map_err(|error| NodeError::input("vae_name", error))?;
    Ok((file, path.into()))
}

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
    let name = ahead.inputs().text("vae_name").unwrap_or_default();
    // Of a tiny autoencoder, the decoder stands for both.
    let files = if tiny(ahead.environment(), name).is_some() { &DECODER } else { &FILE };
    match ahead_of(ahead, files, settings, ejects)? {
        Some((file, known)) if matches!(known.first(), Some(Known::Absent(_))) => {
            Err(no_vae(&file))
        }
        found => Ok(found.map_or_else(Vec::new, |(_, known)| known)),
    }
}
