//! Pictures and masks shown and saved in other ways than ComfyUI's first nodes do it.

use distorch_pipeline::image::Pictures;

use super::save_image::{IMAGES, can_save, save};
use crate::inputs::NodeError;
use crate::signature::{Input, METADATA, Node, Output};
use crate::value::Type;

/// The prefix of previews.
const TEMPORARY: &str = "ComfyUI_temp";

/// Masks to be looked at.
pub const MASK_PREVIEW: Node = Node {
    class: "MaskPreview",
    title: "Preview Mask",
    category: "image/mask",
    about: "Shows masks as grey pictures, which are kept in the folder for temporary files.",
    inputs: &[Input::link("mask", Type::Mask).tooltip("The masks.")],
    is_output: true,
    hidden: METADATA,
    preflight: Some(|look| can_save(look, &look.environment().temp_dir, TEMPORARY, "png")),
    run: |context, inputs| {
        let mask = inputs.mask("mask")?;
        let [batch, height, width] = mask.shape();
        let shape = [batch, height, width, 3];
        let pictures = Pictures::from_fn(shape, |picture, y, x, _| mask.at(picture, y, x));
        let folder = context.environment().temp_dir.clone();
        save(context, pictures, &folder, "temp", TEMPORARY).map(|_| Vec::new())
    },
    ..Node::EMPTY
};

/// Two batches of pictures to be looked at side by side.
pub const COMPARE: Node = Node {
    class: "ImageCompare",
    title: "Compare Images",
    category: "image",
    about: "Shows pictures beside others, both kept in the folder for temporary files.",
    inputs: &[
        Input::link("image_a", Type::Image).optional().tooltip("The one pictures."),
        Input::link("image_b", Type::Image).optional().tooltip("The others."),
    ],
    is_output: true,
    hidden: METADATA,
    preflight: Some(|look| can_save(look, &look.environment().temp_dir, TEMPORARY, "png")),
    run: |context, inputs| {
        let folder = context.environment().temp_dir.clone();
        for name in ["image_a", "image_b"] {
            if let Ok(pictures) = inputs.image(name) {
                save(context, pictures, &folder, "temp", TEMPORARY)?;
            }
        }
        Ok(Vec::new())
    },
    ..Node::EMPTY
};

/// Pictures in the output folder, in a format that is chosen.
pub const SAVE_IMAGE_ADVANCED: Node = Node {
    class: "SaveImageAdvanced",
    title: "Save Image (Advanced)",
    category: "image",
    about: "Saves pictures in the output folder, with the workflow that made them inside: here as PNG of 8 bits.",
    inputs: &[
        IMAGES,
        Input::string("filename_prefix", "ComfyUI").tooltip("What the names begin with."),
        Input::choice("format", &["png", "exr", "avif"]).tooltip("The files' format."),
        Input::choice("format.bit_depth", &["8-bit", "16-bit", "32-bit float", "10-bit"])
            .when("format", &["png", "exr", "avif"])
            .tooltip("Bits of a value."),
        Input::string("format.input_color_space", "sRGB")
            .when("format", &["png", "exr", "avif"])
            .tooltip("What the pictures' values are."),
    ],
    outputs: &[Output::new(Type::Image).named("images").tooltip("The pictures, as they came.")],
    is_output: true,
    hidden: METADATA,
    check: Some(|_, inputs| {
        let text =
            |name: &str, default: &'static str| inputs.text(name).unwrap_or(default).to_owned();
        let (format, depth) = (text("format", "png"), text("format.bit_depth", "8-bit"));
        let space = text("format.input_color_space", "sRGB");
        match (format.as_str(), depth.as_str(), space.as_str()) {
            ("png", "8-bit", "sRGB") => Ok(()),
            _ => Err(format!(
                "pictures are saved as png of 8-bit in sRGB here, not as {format} of {depth} in {space}"
            )),
        }
    }),
    preflight: Some(|look| {
        let prefix = look.inputs().text("filename_prefix").unwrap_or_default();
        can_save(look, &look.environment().output_dir, prefix, "png")
    }),
    run: |context, inputs| {
        let folder = context.environment().output_dir.clone();
        let prefix = inputs.text("filename_prefix")?;
        save(context, inputs.image("images")?, &folder, "output", prefix)
    },
    ..Node::EMPTY
};

/// A text that a language model would write.
pub const TEXT_GENERATE: Node = Node {
    class: "TextGenerate",
    title: "Generate Text",
    category: "text",
    about: "Has a text encoder write a text. That is not built: workflows run where a switch leaves this node out.",
    inputs: &[
        Input::link("clip", Type::Clip),
        Input::prompt("prompt"),
        Input::int("max_length", 256, 1, 32768),
        Input::choice("sampling_mode", &["on", "off"]),
        Input::float("sampling_mode.temperature", 0.7, 0.01, 2.0, 0.000_001)
            .when("sampling_mode", ON),
        Input::int("sampling_mode.top_k", 64, 0, 1000).when("sampling_mode", ON),
        Input::float("sampling_mode.top_p", 0.95, 0.0, 1.0, 0.01).when("sampling_mode", ON),
        Input::float("sampling_mode.min_p", 0.05, 0.0, 1.0, 0.01).when("sampling_mode", ON),
        Input::float("sampling_mode.repetition_penalty", 1.05, 0.0, 5.0, 0.01)
            .when("sampling_mode", ON),
        Input::int("sampling_mode.seed", 0, 0, crate::signature::MAX_SEED)
            .when("sampling_mode", ON),
        Input::float("sampling_mode.presence_penalty", 0.0, 0.0, 5.0, 0.01)
            .when("sampling_mode", ON),
        Input::link("image", Type::Image).optional(),
        Input::boolean("thinking", false).optional(),
        Input::boolean("use_default_template", true).optional(),
    ],
    outputs: &[
        Output::new(Type::String).named("generated_text"),
        Output::new(Type::String).named("thinking"),
    ],
    forecast: Some(|_| Err(not_built())),
    run: |_, _| Err(not_built()),
    ..Node::EMPTY
};

const ON: &[&str] = &["on"];

fn not_built() -> NodeError {
    NodeError::failed(
        "texts are not written by language models here: turn the switch off that asks for it, or write the prompt \
         yourself",
    )
}
