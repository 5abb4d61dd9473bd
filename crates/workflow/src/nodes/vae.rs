//! Between latents and pictures.

use crate::forecast::{Ahead, Extent, Known};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;

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
    forecast: Some(|ahead| Ok(decoded(ahead, None))),
    run: |context, inputs| {
        let latent = inputs.latent("samples")?;
        Ok(vec![Value::Image(inputs.vae("vae")?.decode(context.run(), &latent.samples, None)?)])
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
    forecast: Some(|ahead| Ok(vec![encoded(ahead, None)])),
    run: |context, inputs| {
        let pictures = inputs.image("pixels")?;
        let samples = inputs.vae("vae")?.encode(context.run(), &pictures, None)?;
        Ok(vec![Value::Latent(Latent::new(samples))])
    },
    ..Node::EMPTY
};

/// What comes out of a decoder.
pub(super) fn decoded(ahead: &Ahead<'_>, tile: Option<usize>) -> Vec<Known> {
    let pictures = ahead.extent("samples").and_then(|latent| {
        let downscale = ahead.downscale("vae")?;
        Some(latent.sized(latent.size().map(|side| side.saturating_mul(downscale))))
    });
    ahead.converts("vae", pictures.map(Extent::size), tile);
    vec![Known::image(pictures)]
}

/// What comes out of an encoder: sides are cut to whole latent pixels.
pub(super) fn encoded(ahead: &Ahead<'_>, tile: Option<usize>) -> Known {
    let latents = ahead.extent("pixels").and_then(|pictures| {
        let downscale = ahead.downscale("vae")?.max(1);
        Some(pictures.sized(pictures.size().map(|side| side / downscale)))
    });
    ahead.converts("vae", ahead.extent("pixels").map(Extent::size), tile);
    Known::latent(latents)
}
