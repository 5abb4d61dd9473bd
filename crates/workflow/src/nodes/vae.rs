//! Between latents and pictures.

use crate::signature::{Input, Node, Output};
use crate::value::{Latent, Type, Value};

/// Latents to pictures.
pub const DECODE: Node = Node {
    class: "VAEDecode",
    title: "VAE Decode",
    category: "model/latent",
    about: "Decodes latents back into pictures.",
    inputs: &[
        Input::link("samples", Type::Latent).tooltip("The latents."),
        Input::link("vae", Type::Vae).tooltip("The VAE that decodes them."),
    ],
    outputs: &[Output::new(Type::Image).tooltip("The decoded pictures.")],
    run: |context, inputs| {
        let latent = inputs.latent("samples")?;
        Ok(vec![Value::Image(inputs.vae("vae")?.decode(context, &latent.samples, None)?)])
    },
    ..Node::EMPTY
};

/// Pictures to latents.
pub const ENCODE: Node = Node {
    class: "VAEEncode",
    title: "VAE Encode",
    category: "model/latent",
    about: "Encodes pictures as latents.",
    inputs: &[
        Input::link("pixels", Type::Image).tooltip("The pictures."),
        Input::link("vae", Type::Vae).tooltip("The VAE that encodes them."),
    ],
    outputs: &[Output::new(Type::Latent).tooltip("The latents.")],
    run: |context, inputs| {
        let pictures = inputs.image("pixels")?;
        let samples = inputs.vae("vae")?.encode(context, &pictures, None)?;
        Ok(vec![Value::Latent(Latent::new(samples))])
    },
    ..Node::EMPTY
};
