//! Prompts for Qwen-Image 2.1, and what of a prompt it keeps between steps.

use distorch_models::estimate::Workload;
use distorch_models::text::{PicturePrompt, PictureTask, Prompt, PromptPicture, TextOptions};
use distorch_pipeline::Latent;
use distorch_pipeline::diffusion::conditioning::{Cond, Conditioning};
use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::resize::{Method, resize};
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

/// Pixels that a picture's sides are whole multiples of: those of a token of the text encoder.
const STEP: usize = 32;

const IMAGES: Growing =
    Growing { name: "images", one: "image", named: true, least: 0, optional: true };

macro_rules! inputs {
    ($($number:literal)*) => {
        &[
            CLIP,
            Input::prompt("prompt").tooltip("What the picture should have."),
            Input::prompt("negative_prompt").tooltip("What the picture should not have."),
            Input::link("vae", Type::Vae)
                .optional()
                .tooltip("The VAE that encodes the pictures for the model; without it they are in the prompt only."),
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
    about: "Encodes a prompt and a negative one for Qwen-Image 2.1, with pictures that the prompt can call <image1>, <image2> \
            and so on. The latents to start from are empty ones of the first picture's size, or of the resolution.",
    inputs: inputs![1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16],
    outputs: &[
        Output::new(Type::Conditioning).named("positive"),
        Output::new(Type::Conditioning).named("negative"),
        Output::new(Type::Latent).named("latent").tooltip("The empty latents."),
    ],
    forecast: Some(|ahead| {
        let Ok(resolution) = ahead.inputs().count("resolution") else {
            ahead.encodes_prompt("clip", None);
            return Ok(Vec::new());
        };
        let given: Vec<String> = named().filter(|name| ahead.has(name)).collect();
        let brought = |size| sides(size, resolution);
        let sizes: Vec<Option<[usize; 2]>> = given
            .iter()
            .map(|name| ahead.extent(name).map(|pictures| brought(pictures.size())))
            .collect();
        for size in sizes.iter().flatten() {
            ahead.converts("vae", Some(*size), None);
        }
        // Whatever a picture is, it is brought to so many pixels.
        let about = (resolution > 0).then(|| brought([1, 1]));
        let known: Option<Vec<_>> = sizes.iter().map(|size| size.or(about)).collect();
        ahead.encodes_prompt("clip", known.map(Workload::of_prompt));
        let first = sizes.first().copied().flatten();
        let has_pictures = !given.is_empty();
        // Pictures of a size that is not known yet say it later.
        let size = first.or_else(|| (!has_pictures).then(|| square(resolution)));
        let latent = size.map(|size| Extent::new(1, latent(size)));
        Ok(vec![Known::Nothing, Known::Nothing, Known::latent(latent)])
    }),
    run: encoded,
    ..Node::EMPTY
};

/// The names of the pictures' inputs.
fn named() -> impl Iterator<Item = String> {
    (1..=MOST).map(|number| format!("images.image_{number}"))
}

/// The size of a picture where none says it.
fn square(resolution: usize) -> [usize; 2] {
    [if resolution == 0 { SIDE } else { resolution }; 2]
}

/// Rows and columns of the latent of a picture.
fn latent(size: [usize; 2]) -> [usize; 2] {
    size.map(|side| (side / DOWNSCALE).max(1))
}

/// The sides that a picture is brought to: about the pixels of a square, or its own, in whole steps.
fn sides(size: [usize; 2], resolution: usize) -> [usize; 2] {
    let [rows, columns] = size.map(|side| side.max(1) as f64);
    let ratio = columns / rows;
    let wanted = match resolution as f64 {
        0.0 => [rows, columns],
        side => [(side * side / ratio).sqrt(), (side * side * ratio).sqrt()],
    };
    wanted.map(|side| ((side / STEP as f64).round_ties_even() as usize).max(1) * STEP)
}

/// A picture as the text encoder sees it, and as the autoencoder does.
struct Shown {
    prompt: PromptPicture,
    reference: Pictures,
}

impl Shown {
    /// The first picture of a batch. Where it is not opaque, the text encoder sees it on white.
    fn new(batch: &Pictures, resolution: usize, input: &str) -> Result<Self, NodeError> {
        let [_, rows, columns, channels] = batch.shape();
        let first = batch.each().next().unwrap_or_default().to_vec();
        let empty = || NodeError::input(input, "there is no picture in it");
        let first = Pictures::new([1, rows, columns, channels], first).ok_or_else(empty)?;
        let size = sides([rows, columns], resolution);
        let reference = match size == [rows, columns] {
            true => first,
            false => {
                let resized = resize(&first, Method::Lanczos, size);
                resized.map_err(|error| NodeError::input(input, error.to_string()))?
            }
        };
        let on_white = match reference.shape() {
            [batch, rows, columns, 4] => {
                Pictures::from_fn([batch, rows, columns, 3], |picture, y, x, channel| {
                    let opacity = reference.at(picture, y, x, 3);
                    reference.at(picture, y, x, channel) * opacity + (1.0 - opacity)
                })
            }
            _ => reference.clone(),
        };
        let prompt = on_white.for_prompt().ok_or_else(empty)?;
        Ok(Self { prompt, reference })
    }
}

fn encoded(context: &mut Context<'_>, inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    let (clip, resolution) = (inputs.clip("clip")?, inputs.count("resolution")?);
    let mut shown = Vec::new();
    for name in named().filter(|name| inputs.has(name)) {
        shown.push(Shown::new(&inputs.image(&name)?, resolution, &name)?);
    }
    let size = shown.first().map(|shown| {
        let [_, rows, columns, _] = shown.reference.shape();
        [rows, columns]
    });
    let empty = Latent::empty(1, CHANNELS, latent(size.unwrap_or_else(|| square(resolution))));
    let (pictures, pixels): (Vec<_>, Vec<_>) =
        shown.into_iter().map(|shown| (shown.prompt, shown.reference)).unzip();
    let refers = inputs.has("vae") && !pictures.is_empty();
    // The prompts first, since an encoder that sees no pictures is an error.
    let mut conds = Vec::new();
    for prompt in ["prompt", "negative_prompt"] {
        conds.push(told(context, &clip, inputs.text(prompt)?, &pictures, refers)?);
    }
    let mut references = Vec::new();
    if refers {
        let vae = inputs.vae("vae")?;
        for picture in &pixels {
            references.push(vae.encode(context.run(), picture, None)?);
        }
    }
    let both = conds.into_iter().map(|mut cond| {
        cond.reference_latents.clone_from(&references);
        Value::Conditioning(Conditioning::new(vec![cond]))
    });
    Ok(both.chain([Value::Latent(empty)]).collect())
}

/// A prompt with pictures, a blank where there is none: the model was not trained on a turn without a word. Latents may stand
/// for the pictures' tokens.
fn told(
    context: &Context<'_>,
    clip: &Clip,
    text: &str,
    pictures: &[PromptPicture],
    leave_pictures_out: bool,
) -> Result<Cond, NodeError> {
    let text = if text.is_empty() { " " } else { text }.into();
    let prompt = match pictures {
        [] => Prompt::Same(text),
        _ => {
            let (task, pictures) = (PictureTask::Own, pictures.to_vec());
            Prompt::WithPictures(PicturePrompt { text, task, pictures })
        }
    };
    let options = TextOptions { leave_pictures_out, ..TextOptions::default() };
    Ok(clip.encode(context.run(), &prompt, &options)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: √(1048576 · 2/3) is 836.1, 26.1 steps; √(1048576 · 3/2) is 1254.2, 39.2 steps.
    #[test]
    fn sides_are_whole_steps() {
        assert_eq!(sides([200, 300], 1024), [832, 1248]);
        assert_eq!(sides([200, 300], 0), [192, 288]); // 6.25 and 9.375
        assert_eq!(sides([80, 10], 0), [64, 32]); // 2.5 goes to the even number, 0.3 to the least
        assert_eq!(latent(sides([64, 32], 0)), [4, 2]);
        assert_eq!(latent(square(0)), [64, 64]);
    }
}
