//! The loaders of VAEs that come without a model.

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::folders::ModelKind;

use super::checkpoint::{File, compute_devices, models, place, resident};
use crate::environment::Environment;
use crate::execute::Context;
use crate::inputs::{Inputs, NodeError};
use crate::models::Vae;
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const VAE_NAME: Input = Input::found("vae_name", vaes).tooltip("The name of the VAE.");

const OUTPUT: &[Output] =
    &[Output::new(Type::Vae).tooltip("The VAE used for encoding and decoding pictures.")];

fn vaes(environment: &Environment) -> Vec<String> {
    models(environment, ModelKind::Vae)
}

fn fingerprint(environment: &Environment, inputs: &Inputs) -> String {
    let name = inputs.text("vae_name").unwrap_or_default();
    super::file_state(environment, ModelKind::Vae, name)
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
    run: load,
    ..Node::EMPTY
};

/// A VAE on a device.
pub const VAE_LOADER_MULTI_GPU: Node = Node {
    class: "VAELoaderMultiGPU",
    title: "VAELoaderMultiGPU",
    category: "multigpu",
    about: "Loads a VAE from a file of its own onto a device.",
    inputs: &[VAE_NAME, Input::found("device", compute_devices).optional().tooltip("The device.")],
    outputs: OUTPUT,
    fingerprint: Some(fingerprint),
    run: load,
    ..Node::EMPTY
};

fn load(context: &mut Context<'_>, inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    let device = inputs.text("device").ok().map(str::to_owned);
    let file =
        File { input: "vae_name", folder: ModelKind::Vae, components: &[ComponentKind::Vae] };
    let parts = place(context, inputs, &file, resident(None, None, device), false)?;
    let part = parts.get(ComponentKind::Vae).cloned().ok_or_else(|| {
        let (name, label) = (&parts.file.name, parts.file.model.label());
        NodeError::input("vae_name", format!("`{name}` has no VAE: it is {label}"))
    })?;
    Ok(vec![Value::Vae(Vae::new(part)?)])
}
