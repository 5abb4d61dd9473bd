//! Prompts with pictures for Qwen-Image-Edit.

use distorch_models::estimate::Workload;
use distorch_models::text::{PicturePrompt, PictureTask, Prompt, TextOptions};
use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::resize::{Method, resize};

use super::text_encode::{CLIP, output};
use crate::context::Context;
use crate::forecast::{Ahead, Extent};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

/// Pixels that a picture is brought to for the autoencoder, and for a prompt with one picture.
const LARGE: usize = 1024 * 1024;

/// Pixels that pictures are brought to for a prompt with several.
const SMALL: usize = 384 * 384;

/// Pixels that sides are whole multiples of for the autoencoder of a prompt with several pictures.
const STEP: usize = 8;

const PROMPT: Input = Input::prompt("prompt").tooltip("What is to be changed.");

const VAE: Input = Input::link("vae", Type::Vae)
    .optional()
    .tooltip("The VAE that encodes the pictures for the model to look at; without it they are in the prompt only.");

const OUTPUT: &[Output] =
    &[Output::new(Type::Conditioning).tooltip("The encoded prompt, with the pictures to look at.")];

/// A prompt with one picture.
pub const TEXT_ENCODE_QWEN_IMAGE_EDIT: Node = Node {
    class: "TextEncodeQwenImageEdit",
    title: "TextEncodeQwenImageEdit",
    category: "model/conditioning/qwen image",
    about: "Encodes a prompt about a picture for Qwen-Image-Edit. The picture is brought to about a megapixel.",
    inputs: &[
        CLIP,
        PROMPT,
        VAE,
        Input::link("image", Type::Image).optional().tooltip("The picture."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        encodes(ahead, &["image"], LARGE);
        converts(ahead, "image", 1);
        Ok(Vec::new())
    }),
    run: |context, inputs| {
        let mut pictures = Vec::new();
        if inputs.has("image") {
            let image = of_pixels(&inputs.image("image")?, LARGE, 1, "image")?;
            pictures.push(Shown { prompt: image.clone(), reference: Some(image) });
        }
        encode(context, inputs, inputs.text("prompt")?, PictureTask::Own, &pictures)
    },
    ..Node::EMPTY
};

/// The inputs of a prompt with several pictures.
const IMAGES: [&str; 3] = ["image1", "image2", "image3"];

const fn image(name: &'static str) -> Input {
    Input::link(name, Type::Image).optional().tooltip("A picture, by its number in the prompt.")
}

/// A prompt with several pictures.
pub const TEXT_ENCODE_QWEN_IMAGE_EDIT_PLUS: Node = Node {
    class: "TextEncodeQwenImageEditPlus",
    title: "TextEncodeQwenImageEditPlus",
    category: "model/conditioning/qwen image",
    about: "Encodes a prompt about up to three pictures for Qwen-Image-Edit 2509 and later, which it calls Picture 1 to \
            Picture 3. They are brought to 384×384 pixels for the prompt, and to about a megapixel for the VAE.",
    inputs: &[CLIP, PROMPT, VAE, image(IMAGES[0]), image(IMAGES[1]), image(IMAGES[2])],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        encodes(ahead, &IMAGES, SMALL);
        IMAGES.into_iter().for_each(|name| converts(ahead, name, STEP));
        Ok(Vec::new())
    }),
    run: |context, inputs| {
        let (mut pictures, mut text) = (Vec::new(), String::new());
        for (name, number) in IMAGES.into_iter().zip(1..) {
            if !inputs.has(name) {
                continue;
            }
            let image = inputs.image(name)?;
            let reference = inputs.has("vae").then(|| of_pixels(&image, LARGE, STEP, name));
            pictures.push(Shown {
                prompt: of_pixels(&image, SMALL, 1, name)?,
                reference: reference.transpose()?,
            });
            text.push_str(&format!(
                "Picture {number}: <|vision_start|><|image_pad|><|vision_end|>"
            ));
        }
        text.push_str(inputs.text("prompt")?);
        encode(context, inputs, &text, PictureTask::Edit, &pictures)
    },
    ..Node::EMPTY
};

/// A picture as the text encoder sees it, and as the autoencoder does.
struct Shown {
    prompt: Pictures,
    reference: Option<Pictures>,
}

fn encode(
    context: &Context<'_>,
    inputs: &Inputs,
    text: &str,
    task: PictureTask,
    shown: &[Shown],
) -> Result<Vec<Value>, NodeError> {
    let pictures = shown.iter().filter_map(|shown| shown.prompt.for_prompt()).collect();
    let prompt = Prompt::WithPictures(PicturePrompt { text: text.into(), task, pictures });
    let clip = inputs.clip("clip")?;
    // First, since an encoder that sees no pictures is an error.
    let mut cond = clip.encode(context.run(), &prompt, &TextOptions::default())?;
    if inputs.has("vae") {
        let vae = inputs.vae("vae")?;
        for pictures in shown.iter().filter_map(|shown| shown.reference.as_ref()) {
            cond.reference_latents.push(vae.encode(context.run(), &pictures.colours(), None)?);
        }
    }
    Ok(output(cond))
}

/// The text encoder will read a prompt with the pictures of these inputs, brought to about so many pixels; those of a size
/// that is not known are squares.
fn encodes(ahead: &Ahead<'_>, images: &[&str], pixels: usize) {
    let given = images.iter().filter(|name| ahead.has(name));
    let size = |name: &&str| ahead.extent(name).map_or([1, 1], Extent::size);
    let sizes = given.map(|name| sides(size(name), pixels, 1));
    ahead.encodes_prompt("clip", Some(Workload::of_prompt(sizes)));
}

/// The autoencoder will convert the picture of an input.
fn converts(ahead: &Ahead<'_>, image: &str, step: usize) {
    if let Some(pictures) = ahead.extent(image) {
        ahead.converts("vae", Some(sides(pictures.size(), LARGE, step)), None);
    }
}

/// Pictures at about so many pixels, by averaging.
fn of_pixels(
    pictures: &Pictures,
    pixels: usize,
    step: usize,
    input: &str,
) -> Result<Pictures, NodeError> {
    let [_, rows, columns, _] = pictures.shape();
    let size = sides([rows, columns], pixels, step);
    resize(pictures, Method::Area, size).map_err(|error| NodeError::input(input, error.to_string()))
}

/// Sides in about their ratio, of so many pixels, each a whole multiple.
fn sides(size: [usize; 2], pixels: usize, step: usize) -> [usize; 2] {
    let [rows, columns] = size.map(|side| side as f64);
    let factor = (pixels as f64 / (columns * rows)).sqrt();
    let step = step.max(1);
    size.map(|side| (side as f64 * factor / step as f64).round_ties_even() as usize * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: √(1048576 / 60000) is 4.18051, √(147456 / 60000) is 1.56768.
    #[test]
    fn sides_keep_their_ratio() {
        assert_eq!(sides([200, 300], LARGE, 1), [836, 1254]);
        assert_eq!(sides([200, 300], LARGE, STEP), [840, 1256]);
        assert_eq!(sides([200, 300], SMALL, 1), [314, 470]);
        assert_eq!(sides([1024, 1024], LARGE, STEP), [1024, 1024]);
        assert_eq!(sides([1, 1_000_000], LARGE, STEP), [0, 1_024_000]);
        assert_eq!(sides([0, 5], SMALL, 1)[0], 0);
    }
}
