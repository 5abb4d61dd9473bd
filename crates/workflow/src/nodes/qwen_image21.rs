//! Prompts for Qwen-Image 2.1, and what of a prompt it keeps between steps.

use distorch_models::text::{Prompt, TextOptions};
use distorch_pipeline::Latent;
use distorch_pipeline::diffusion::conditioning::{Cond, Conditioning};
use distorch_pipeline::models::Clip;

use super::text_encode::CLIP;
use crate::context::Context;
use crate::forecast::{Extent, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Growing, Input, Node, Output};
use crate::value::{Type, Value};

/// Channels of the latents, and pixels to one of them.
const CHANNELS: usize = 64;
const DOWNSCALE: usize = 16;

/// The side of pictures where there are none to say it.
const SIDE: usize = 1024;

/// How many pictures there can be.
const MOST: usize = 16;

const IMAGES: Growing =
    Growing { name: "images", one: "image", named: true, least: 0, optional: true };

macro_rules! inputs {
    ($($number:literal)*) => {
        &[
            CLIP,
            Input::prompt("prompt").tooltip("What the picture should have."),
            Input::prompt("negative_prompt").tooltip("What the picture should not have."),
            Input::link("vae", Type::Vae).optional().tooltip("The VAE that encodes the pictures."),
            Input::int("resolution", SIDE as i128, 0, 4096)
                .step(32)
                .tooltip(
                    "The pictures are brought to about the number of pixels of a square with this side, in their ratio \
                     and in multiples of 32; 0 keeps them as large as they are.",
                ),
            $(Input::link(concat!("images.image_", $number), Type::Image).one_of(&IMAGES)),*
        ]
    };
}

/// A prompt and a negative one, with pictures to look at.
pub const TEXT_ENCODE: Node = Node {
    class: "TextEncodeQwenImage21",
    title: "Text Encode Qwen Image 2.1",
    category: "model/conditioning/qwen image",
    about: "Encodes a prompt and a negative one for Qwen-Image 2.1. The latents to start from are empty ones of the \
            resolution. Pictures to look at are not read yet.",
    inputs: inputs![1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16],
    outputs: &[
        Output::new(Type::Conditioning).named("positive"),
        Output::new(Type::Conditioning).named("negative"),
        Output::new(Type::Latent).named("latent").tooltip("The empty latents."),
    ],
    forecast: Some(|ahead| {
        ahead.encodes_text("clip");
        let size = ahead.inputs().count("resolution").ok().map(|side| Extent::new(1, latent(side)));
        Ok(vec![Known::Nothing, Known::Nothing, Known::latent(size)])
    }),
    run: encoded,
    ..Node::EMPTY
};

/// Rows and columns of the latent of a square picture.
fn latent(resolution: usize) -> [usize; 2] {
    let side = if resolution == 0 { SIDE } else { resolution };
    [(side / DOWNSCALE).max(1); 2]
}

fn encoded(context: &mut Context<'_>, inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    let named = (1..=MOST).map(|number| format!("images.image_{number}"));
    if let Some(name) = named.into_iter().find(|name| inputs.has(name)) {
        let problem = "Qwen-Image 2.1 does not look at pictures here yet: leave them away to make one from the prompt";
        return Err(NodeError::input(&name, problem));
    }
    let clip = inputs.clip("clip")?;
    let positive = told(context, &clip, inputs.text("prompt")?)?;
    let negative = told(context, &clip, inputs.text("negative_prompt")?)?;
    let empty = Latent::empty(1, CHANNELS, latent(inputs.count("resolution")?));
    let conditioning = |cond: Cond| Value::Conditioning(Conditioning::new(vec![cond]));
    Ok(vec![conditioning(positive), conditioning(negative), Value::Latent(empty)])
}

/// A prompt, a blank where there is none: the model was not trained on a turn without a word.
fn told(context: &Context<'_>, clip: &Clip, text: &str) -> Result<Cond, NodeError> {
    let prompt = Prompt::Same(if text.is_empty() { " " } else { text }.into());
    Ok(clip.encode(context.run(), &prompt, &TextOptions::default())?)
}

/// What is kept of a prompt's tokens between steps.
pub const CACHE: Node = Node {
    class: "QwenImage21Cache",
    title: "Qwen Image 2.1 Cache",
    category: "model/conditioning/qwen image",
    about: "Says where ComfyUI keeps the keys and values of Qwen-Image 2.1's prompt and references between steps. Here \
            they are computed at each step, which makes the same pictures: the model goes on as it is.",
    inputs: &[
        Input::link("model", Type::Model).tooltip("The model."),
        Input::choice("device", &["auto", "gpu", "cpu", "off"])
            .tooltip("Where they would be kept. All make the same pictures."),
        Input::choice("dtype", &["default", "int8", "int4"]).tooltip(
            "How they would be kept: the two of fewer bits would make other pictures and are refused, unless `device` is \
             `off`.",
        ),
    ],
    outputs: &[Output::new(Type::Model).tooltip("The model.")],
    is_experimental: true,
    run: |_, inputs| {
        let dtype = inputs.text("dtype")?;
        if dtype != "default" && inputs.text("device")? != "off" {
            let problem = format!(
                "a cache in `{dtype}` rounds what it keeps and makes other pictures, and there is none here: take `default`"
            );
            return Err(NodeError::input("dtype", problem));
        }
        Ok(vec![Value::Model(inputs.model("model")?)])
    },
    ..Node::EMPTY
};
