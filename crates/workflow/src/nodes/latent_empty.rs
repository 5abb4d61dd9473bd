//! Latents to start from nothing.

use crate::forecast::{Extent, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;

/// Latents of zeros.
pub const EMPTY_LATENT_IMAGE: Node = Node {
    class: "EmptyLatentImage",
    title: "Empty Latent Image",
    category: "model/latent",
    about: "Makes a batch of empty latents, to be filled by a sampler.",
    inputs: &[
        Input::side("width", 512, 16).tooltip("The width of the pictures in pixels."),
        Input::side("height", 512, 16).tooltip("The height of the pictures in pixels."),
        Input::int("batch_size", 1, 1, 4096).tooltip("How many pictures."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(vec![Known::latent(extent(ahead.inputs()).ok())])),
    run: |_, inputs| zeros(inputs, 4),
    ..Node::EMPTY
};

/// Latents of zeros with 16 channels: SD3's and Flux's.
pub const EMPTY_SD3_LATENT_IMAGE: Node = Node {
    class: "EmptySD3LatentImage",
    title: "EmptySD3LatentImage",
    category: "model/latent/stable diffusion",
    about: "Makes a batch of empty latents of 16 channels, as SD3, SD3.5 and Flux have them, to be \
            filled by a sampler.",
    inputs: &[
        Input::side("width", 1024, 16).step(16).tooltip("The width of the pictures in pixels."),
        Input::side("height", 1024, 16).step(16).tooltip("The height of the pictures in pixels."),
        Input::int("batch_size", 1, 1, 4096).tooltip("How many pictures."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(vec![Known::latent(extent(ahead.inputs()).ok())])),
    run: |_, inputs| zeros(inputs, 16),
    ..Node::EMPTY
};

/// Latents of zeros with 128 channels of 16 × 16 pixels: Flux.2's.
pub const EMPTY_FLUX2_LATENT_IMAGE: Node = Node {
    class: "EmptyFlux2LatentImage",
    title: "Empty Flux 2 Latent",
    category: "model/latent/flux",
    about: "Makes a batch of empty latents as Flux.2 has them, to be filled by a sampler.",
    inputs: EMPTY_SD3_LATENT_IMAGE.inputs,
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(vec![Known::latent(packed(ahead.inputs()).ok())])),
    run: |_, inputs| {
        let extent = packed(inputs)?;
        let latent = Latent::empty(extent.batch, 128, extent.size());
        Ok(vec![Value::Latent(Latent { downscale: extent.downscale, ..latent })])
    },
    ..Node::EMPTY
};

/// Latents of zeros that are pixels: for models without an autoencoder.
pub const EMPTY_CHROMA_RADIANCE_LATENT_IMAGE: Node = Node {
    class: "EmptyChromaRadianceLatentImage",
    title: "EmptyChromaRadianceLatentImage",
    category: "model/latent/chroma radiance",
    about: "Makes a batch of empty latents of the pictures' pixels, for models that sample these.",
    inputs: EMPTY_SD3_LATENT_IMAGE.inputs,
    outputs: OUTPUT,
    forecast: Some(|ahead| Ok(vec![Known::latent(pixels(ahead.inputs()).ok())])),
    run: |_, inputs| {
        let extent = pixels(inputs)?;
        Ok(vec![Value::Latent(Latent::empty(extent.batch, 3, extent.size()))])
    },
    ..Node::EMPTY
};

fn pixels(inputs: &Inputs) -> Result<Extent, NodeError> {
    let size = [inputs.count("height")?, inputs.count("width")?];
    Ok(Extent::new(inputs.count("batch_size")?, size))
}

const OUTPUT: &[Output] = &[Output::new(Type::Latent).tooltip("The empty latents.")];

fn packed(inputs: &Inputs) -> Result<Extent, NodeError> {
    sized(inputs, 16)
}

fn zeros(inputs: &Inputs, channels: usize) -> Result<Vec<Value>, NodeError> {
    let extent = extent(inputs)?;
    let latent = Latent::empty(extent.batch, channels, extent.size());
    Ok(vec![Value::Latent(Latent { downscale: extent.downscale, ..latent })])
}

fn extent(inputs: &Inputs) -> Result<Extent, NodeError> {
    sized(inputs, 8)
}

/// Latents of so many pixels to one.
fn sized(inputs: &Inputs, downscale: usize) -> Result<Extent, NodeError> {
    let size = [inputs.count("height")? / downscale, inputs.count("width")? / downscale];
    let extent = Extent::new(inputs.count("batch_size")?, size);
    Ok(Extent { downscale: Some(downscale), ..extent })
}
