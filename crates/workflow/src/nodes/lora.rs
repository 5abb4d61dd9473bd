//! The loaders of LoRAs.

use std::sync::Arc;

use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::lora::{self, Fit, Target};
use distorch_checkpoint::{Checkpoint, ComponentKind};
use distorch_runtime::lora::LoraFile;

use super::file_state::file_state;
use super::loading::models;
use crate::context::Context;
use crate::environment::Environment;
use crate::forecast::{Ahead, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::models::ModelFile;

const MODEL: Input =
    Input::link("model", Type::Model).tooltip("The diffusion model that the LoRA changes.");

const LORA_NAME: Input = Input::found("lora_name", loras).tooltip("The name of the LoRA.");

const STRENGTH_MODEL: Input = strength("strength_model")
    .tooltip("How strongly the diffusion model is changed. May be negative.");

const MODEL_OUTPUT: Output = Output::new(Type::Model).tooltip("The diffusion model with the LoRA.");

const fn strength(name: &'static str) -> Input {
    Input::float(name, 1.0, -100.0, 100.0, 0.01)
}

fn loras(environment: &Environment) -> Vec<String> {
    models(environment, ModelKind::Loras)
}

fn fingerprint(environment: &Environment, inputs: &Inputs) -> String {
    let name = inputs.text("lora_name").unwrap_or_default();
    file_state(environment, ModelKind::Loras, name)
}

/// A LoRA on a diffusion model and text encoders.
pub const LORA_LOADER: Node = Node {
    class: "LoraLoader",
    title: "Load LoRA (Model and CLIP)",
    category: "model/loaders",
    about: "Changes a diffusion model and its text encoders by a LoRA. Several can follow one \
            another.",
    inputs: &[
        MODEL,
        Input::link("clip", Type::Clip).tooltip("The text encoders that the LoRA changes."),
        LORA_NAME,
        STRENGTH_MODEL,
        strength("strength_clip")
            .tooltip("How strongly the text encoders are changed. May be negative."),
    ],
    outputs: &[MODEL_OUTPUT, Output::new(Type::Clip).tooltip("The text encoders with the LoRA.")],
    fingerprint: Some(fingerprint),
    forecast: Some(|ahead| fits(ahead, &["model", "clip"])),
    run: |context, inputs| {
        let (model, clip) = (inputs.model("model")?, inputs.clip("clip")?);
        let (strength, strength_clip) =
            (inputs.float("strength_model")? as f32, inputs.float("strength_clip")? as f32);
        if strength == 0.0 && strength_clip == 0.0 {
            return Ok(vec![Value::Model(model), Value::Clip(clip)]);
        }
        let (of_model, of_clip) = (model.part().file(), clip.part().file());
        let file = open(context, inputs, &[target(of_model, UNET), target(of_clip, CLIP)])?;
        let lora = fitted(&file, of_model)?;
        let lora_clip = match Arc::ptr_eq(of_model, of_clip) {
            true => Arc::clone(&lora),
            false => fitted(&file, of_clip)?,
        };
        let model = model.with_lora(&lora, strength);
        Ok(vec![Value::Model(model), Value::Clip(clip.with_lora(&lora_clip, strength_clip))])
    },
    ..Node::EMPTY
};

/// A LoRA on a diffusion model.
pub const LORA_LOADER_MODEL_ONLY: Node = Node {
    class: "LoraLoaderModelOnly",
    title: "Load LoRA",
    category: "model/loaders",
    about: "Changes a diffusion model by a LoRA. Several can follow one another.",
    inputs: &[MODEL, LORA_NAME, STRENGTH_MODEL],
    outputs: &[MODEL_OUTPUT],
    fingerprint: Some(fingerprint),
    forecast: Some(|ahead| fits(ahead, &["model"])),
    run: |context, inputs| {
        let (model, strength) = (inputs.model("model")?, inputs.float("strength_model")? as f32);
        if strength == 0.0 {
            return Ok(vec![Value::Model(model)]);
        }
        let of_model = model.part().file();
        let file = open(context, inputs, &[target(of_model, UNET)])?;
        let lora = fitted(&file, of_model)?;
        Ok(vec![Value::Model(model.with_lora(&lora, strength))])
    },
    ..Node::EMPTY
};

const UNET: ComponentKind = ComponentKind::DiffusionModel;
const CLIP: ComponentKind = ComponentKind::TextEncoders;

fn target(file: &ModelFile, component: ComponentKind) -> Target<'_> {
    Target { model: &file.model, component }
}

/// Opens the LoRA and tells of keys that mean nothing for any of the models. A LoRA that changes nothing of
/// the targets is an error.
fn open(
    context: &Context<'_>,
    inputs: &Inputs,
    targets: &[Target<'_>],
) -> Result<Arc<Checkpoint>, NodeError> {
    let name = inputs.text("lora_name")?;
    let (file, fit) = checked(context.environment(), name, targets)?;
    if let Some(key) = fit.unknown.first() {
        let count = fit.unknown.len();
        context.warn(&format!(
            "{count} keys of the LoRA `{name}` are left out, since this model has nothing that \
             they could change; the first is `{key}`"
        ));
    }
    Ok(Arc::new(file))
}

/// A LoRA file and what of it fits the targets: its keys, shapes and alphas, no more of it is read.
fn checked(
    environment: &Environment,
    name: &str,
    targets: &[Target<'_>],
) -> Result<(Checkpoint, Fit), NodeError> {
    let path = environment
        .session
        .folders
        .resolve(ModelKind::Loras, name)
        .map_err(|error| NodeError::input("lora_name", error))?;
    let file = Checkpoint::open(&path).map_err(|error| NodeError::input("lora_name", error))?;
    let fit = lora::check(&file, targets)
        .map_err(|error| NodeError::input("lora_name", format!("`{name}`: {error}")))?;
    Ok((file, fit))
}

fn fitted(file: &Arc<Checkpoint>, model: &ModelFile) -> Result<Arc<LoraFile>, NodeError> {
    LoraFile::new(Arc::clone(file), &model.model)
        .map(Arc::new)
        .map_err(|error| NodeError::input("lora_name", error))
}

/// Whether the LoRA will fit the models that it is put on.
fn fits(ahead: &Ahead<'_>, onto: &[&str]) -> Result<Vec<Known>, NodeError> {
    let inputs = ahead.inputs();
    let passed = onto.iter().map(|input| ahead.linked(input)).collect();
    let strengths = ["strength_model", "strength_clip"].map(|name| inputs.float(name).ok());
    let used = strengths.iter().flatten().any(|strength| *strength != 0.0);
    let sources: Option<Vec<_>> = onto.iter().map(|input| ahead.source(input)).collect();
    let (Some(sources), true, Ok(name)) = (sources, used, inputs.text("lora_name")) else {
        return Ok(passed);
    };
    let components = [UNET, CLIP];
    let targets = sources.iter().zip(components);
    let targets: Vec<_> =
        targets.map(|(source, component)| target(&source.file, component)).collect();
    checked(ahead.environment(), name, &targets)?;
    Ok(passed)
}
