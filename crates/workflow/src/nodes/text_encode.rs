//! Prompts.

use distorch_models::conditioning::PictureSize;
use distorch_models::family;
use distorch_models::text::{Prompt, T5Padding, TextOptions};

use crate::context::Context;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, MAX_SIDE, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::diffusion::conditioning::{Cond, Conditioning};

pub(super) const CLIP: Input = Input::link("clip", Type::Clip).tooltip("The text encoders.");

const OUTPUT: &[Output] =
    &[Output::new(Type::Conditioning).tooltip("The encoded text, which guides the model.")];

/// A prompt as conditioning.
pub const CLIP_TEXT_ENCODE: Node = Node {
    class: "CLIPTextEncode",
    title: "CLIP Text Encode (Prompt)",
    category: "model/conditioning",
    about: "Encodes a prompt with text encoders, as what a diffusion model is to follow.",
    inputs: &[Input::prompt("text").tooltip("The text to be encoded."), CLIP],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        ahead.encodes_text("clip");
        Ok(Vec::new())
    }),
    run: |context, inputs| Ok(output(encode(context, inputs)?)),
    ..Node::EMPTY
};

/// Clip skip.
pub const CLIP_SET_LAST_LAYER: Node = Node {
    class: "CLIPSetLastLayer",
    title: "CLIP Set Last Layer",
    category: "model/conditioning",
    about: "Sets the layer of the text encoders that is read: -1 is the last, -2 the one before.",
    inputs: &[
        CLIP,
        Input::int("stop_at_clip_layer", -1, -24, -1)
            .advanced()
            .tooltip("The layer, counted back from the end."),
    ],
    outputs: &[Output::new(Type::Clip).tooltip("The text encoders that are read at this layer.")],
    run: |_, inputs| {
        let mut clip = inputs.clip("clip")?;
        let layer = inputs.int("stop_at_clip_layer")?.unsigned_abs();
        clip.clip_skip = usize::try_from(layer).ok();
        Ok(vec![Value::Clip(clip)])
    },
    ..Node::EMPTY
};

/// How T5's prompts are filled up.
pub const T5_TOKENIZER_OPTIONS: Node = Node {
    class: "T5TokenizerOptions",
    title: "T5TokenizerOptions",
    category: "experimental/conditioning",
    about: "Sets with how many tokens T5's prompts are filled up.",
    inputs: &[
        CLIP,
        Input::int("min_padding", 0, 0, 10000)
            .advanced()
            .tooltip("Padding tokens behind any text."),
        Input::int("min_length", 0, 0, 10000)
            .advanced()
            .tooltip("Tokens that there are at least, with these."),
    ],
    outputs: &[Output::new(Type::Clip).tooltip("The text encoders with these options.")],
    is_experimental: true,
    run: |_, inputs| {
        let mut clip = inputs.clip("clip")?;
        let (padding, length) = (inputs.count("min_padding")?, inputs.count("min_length")?);
        clip.t5_padding = Some(T5Padding { padding, length });
        Ok(vec![Value::Clip(clip)])
    },
    ..Node::EMPTY
};

const fn size(name: &'static str) -> Input {
    Input::int(name, 1024, 0, MAX_SIDE)
}

const fn crop(name: &'static str) -> Input {
    Input::int(name, 0, 0, MAX_SIDE)
}

/// A prompt for each of SDXL's text encoders, with the sizes that the model is told.
pub const CLIP_TEXT_ENCODE_SDXL: Node = Node {
    class: "CLIPTextEncodeSDXL",
    title: "CLIPTextEncodeSDXL",
    category: "advanced/conditioning",
    about: "Encodes a prompt for each of the two text encoders of SDXL, with the sizes that the \
            model is told.",
    inputs: &[
        CLIP,
        size("width").tooltip("The width of the original picture, as in training."),
        size("height").tooltip("The height of the original picture, as in training."),
        crop("crop_w").tooltip("Columns that were cropped away on the left."),
        crop("crop_h").tooltip("Rows that were cropped away at the top."),
        size("target_width").tooltip("The width of the picture that is made."),
        size("target_height").tooltip("The height of the picture that is made."),
        Input::prompt("text_g").tooltip("The text for the large encoder, OpenCLIP bigG."),
        Input::prompt("text_l").tooltip("The text for the small encoder, CLIP-L."),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        ahead.encodes_text("clip");
        Ok(Vec::new())
    }),
    run: |context, inputs| {
        let clip = inputs.clip("clip")?;
        if family::of(clip.family()).encoders() != ["clip_l", "clip_g"] {
            let problem = format!(
                "these text encoders are those of {}, which do not read two prompts: take those of \
                 an SDXL base checkpoint, or CLIPTextEncode",
                clip.family(),
            );
            return Err(NodeError::input("clip", problem));
        }
        let (large, small) = (inputs.text("text_g")?, inputs.text("text_l")?);
        let prompt = Prompt::Each(vec![("clip_g", large.into()), ("clip_l", small.into())]);
        let cond = clip.encode(context.run(), &prompt, &TextOptions::default())?;
        let number = |name: &str| inputs.count(name).map(|number| number as f64);
        let size = PictureSize {
            width: number("width")?,
            height: number("height")?,
            crop_x: number("crop_w")?,
            crop_y: number("crop_h")?,
            target_width: number("target_width")?,
            target_height: number("target_height")?,
        };
        Ok(output(Cond { size: Some(size), ..cond }))
    },
    ..Node::EMPTY
};

/// A prompt for each of SD3's text encoders.
pub const CLIP_TEXT_ENCODE_SD3: Node = Node {
    class: "CLIPTextEncodeSD3",
    title: "CLIP Text Encode (SD3)",
    category: "model/conditioning/stable diffusion",
    about: "Encodes a prompt for each of the three text encoders of SD3 and SD3.5.",
    inputs: &[
        CLIP,
        Input::prompt("clip_l").tooltip("The text for CLIP-L."),
        Input::prompt("clip_g").tooltip("The text for the larger CLIP, OpenCLIP bigG."),
        Input::prompt("t5xxl").tooltip("The text for T5-XXL."),
        Input::choice("empty_padding", &["none", "empty_prompt"]).advanced().tooltip(
            "What stands for an empty text: nothing, or what the encoder makes of an empty prompt.",
        ),
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        ahead.encodes_text("clip");
        Ok(Vec::new())
    }),
    run: |context, inputs| {
        let clip = inputs.clip("clip")?;
        if family::of(clip.family()).encoders() != ["clip_l", "clip_g", "t5xxl"] {
            let problem = format!(
                "these text encoders are those of {}, which do not read SD3's three prompts: take \
                 those of an SD3 checkpoint, or CLIPTextEncode",
                clip.family(),
            );
            return Err(NodeError::input("clip", problem));
        }
        let texts = ["clip_l", "clip_g", "t5xxl"].map(|name| Ok((name, inputs.text(name)?.into())));
        let prompt = Prompt::Each(texts.into_iter().collect::<Result<_, NodeError>>()?);
        let skip_empty = inputs.text("empty_padding")? == "none";
        let options = TextOptions { skip_empty, ..TextOptions::default() };
        Ok(output(clip.encode(context.run(), &prompt, &options)?))
    },
    ..Node::EMPTY
};

/// A prompt for SDXL's refiner, with the score and the size that the model is told.
pub const CLIP_TEXT_ENCODE_SDXL_REFINER: Node = Node {
    class: "CLIPTextEncodeSDXLRefiner",
    title: "CLIPTextEncodeSDXLRefiner",
    category: "advanced/conditioning",
    about: "Encodes a prompt for the SDXL refiner, with the aesthetic score and the size that the \
            model is told.",
    inputs: &[
        Input::float("ascore", 6.0, 0.0, 1000.0, 0.01)
            .tooltip("How beautiful the picture is to be: 6 for a prompt, 2.5 for a negative one."),
        size("width").tooltip("The width of the original picture, as in training."),
        size("height").tooltip("The height of the original picture, as in training."),
        Input::prompt("text").tooltip("The text to be encoded."),
        CLIP,
    ],
    outputs: OUTPUT,
    forecast: Some(|ahead| {
        ahead.encodes_text("clip");
        Ok(Vec::new())
    }),
    run: |context, inputs| {
        let cond = encode(context, inputs)?;
        let (score, size) = (inputs.float("ascore")?, refiner_size(inputs)?);
        Ok(output(Cond { size: Some(size), aesthetic_score: Some(score), ..cond }))
    },
    ..Node::EMPTY
};

fn refiner_size(inputs: &Inputs) -> Result<PictureSize, NodeError> {
    Ok(PictureSize::new(inputs.count("width")?, inputs.count("height")?))
}

/// The prompt of the input `text`, encoded for all encoders of the input `clip`.
fn encode(context: &Context<'_>, inputs: &Inputs) -> Result<Cond, NodeError> {
    let prompt = Prompt::Same(inputs.text("text")?.into());
    Ok(inputs.clip("clip")?.encode(context.run(), &prompt, &TextOptions::default())?)
}

pub(super) fn output(cond: Cond) -> Vec<Value> {
    vec![Value::Conditioning(Conditioning::new(vec![cond]))]
}
