//! Latents to start from nothing.

use distorch_runtime::Tensor;
use distorch_runtime::tensor::{DType, cpu};

use crate::signature::{Input, Node, Output};
use crate::value::{Latent, Type, Value};

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
    run: |_, inputs| {
        let [batch, height, width] =
            [inputs.count("batch_size")?, inputs.count("height")?, inputs.count("width")?];
        let shape = [batch, 4, height / 8, width / 8];
        Ok(vec![Value::Latent(Latent::new(Tensor::zeros(shape, (&cpu(), DType::F32))))])
    },
    ..Node::EMPTY
};
