//! Latents to start from nothing.

use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, cpu};

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
    outputs: &[Output::new(Type::Latent).tooltip("The empty latents.")],
    forecast: Some(|ahead| Ok(vec![Known::latent(extent(ahead.inputs()).ok())])),
    run: |_, inputs| {
        let Extent { batch, height, width } = extent(inputs)?;
        let shape = [batch, 4, height, width];
        Ok(vec![Value::Latent(Latent::new(Tensor::zeros(shape, (&cpu(), DType::F32))))])
    },
    ..Node::EMPTY
};

fn extent(inputs: &Inputs) -> Result<Extent, NodeError> {
    let size = [inputs.count("height")? / 8, inputs.count("width")? / 8];
    Ok(Extent::new(inputs.count("batch_size")?, size))
}
