//! Pictures to files.

use std::io::Write;
use std::path::Path;

use chrono::Local;
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::files::file_name::{Series, Tokens};
use crate::inputs::NodeError;
use crate::preflight::Preflight;
use crate::signature::{Input, METADATA, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::image::Pictures;
use distorch_pipeline::image::png_file::{Picture8, ascii_json};

const OUTPUTS: &[Output] =
    &[Output::new(Type::Image).named("images").tooltip("The pictures, as they came.")];

/// The prefix of previews.
const TEMPORARY: &str = "ComfyUI_temp";

pub(super) const IMAGES: Input = Input::link("images", Type::Image).tooltip("The pictures.");

/// Pictures in the output folder.
pub const SAVE_IMAGE: Node = Node {
    class: "SaveImage",
    title: "Save Image",
    category: "image",
    about: "Saves pictures in the output folder, with the workflow that made them inside.",
    inputs: &[
        IMAGES,
        Input::string("filename_prefix", "ComfyUI").tooltip(
            "What the names begin with. May have folders in it, and tokens: %date:yyyy-MM-dd%, \
             %width%, %height%, %Node title.input%.",
        ),
    ],
    outputs: OUTPUTS,
    is_output: true,
    hidden: METADATA,
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

/// Pictures to be looked at, in the folder for temporary files.
pub const PREVIEW_IMAGE: Node = Node {
    class: "PreviewImage",
    title: "Preview Image",
    category: "image",
    about: "Shows pictures, which are kept in the folder for temporary files.",
    inputs: &[IMAGES],
    outputs: OUTPUTS,
    is_output: true,
    hidden: METADATA,
    preflight: Some(|look| can_save(look, &look.environment().temp_dir, TEMPORARY, "png")),
    run: |context, inputs| {
        let folder = context.environment().temp_dir.clone();
        save(context, inputs.image("images")?, &folder, "temp", TEMPORARY)
    },
    ..Node::EMPTY
};

pub(super) fn save(
    context: &mut Context<'_>,
    pictures: Pictures,
    folder: &Path,
    kind: &str,
    prefix: &str,
) -> Result<Vec<Value>, NodeError> {
    let [_, height, width, _] = pictures.shape();
    let tokens = Tokens { prompt: context.prompt(), width, height, time: Local::now() };
    let prefix = tokens.replace(prefix);
    let texts = metadata(context);
    let mut saved = Vec::new();
    for (place, picture) in eight_bit(&pictures).enumerate() {
        let prefix = prefix.replace("%batch_num%", &place.to_string());
        let series = Series::new(folder, &prefix)
            .map_err(|error| NodeError::input("filename_prefix", error))?;
        let write = |file: &mut dyn Write| picture.write(file, &texts);
        let name = series.save("png", write).map_err(NodeError::failed)?;
        saved.push(json!({ "filename": name, "subfolder": series.subfolder, "type": kind }));
    }
    context.show("images", saved);
    Ok(vec![Value::Image(pictures)])
}

/// Whether pictures of this prefix could be saved in the folder, as far as that is known before the
/// run: the prefix's tokens have other values then, and a prefix may come from another node.
pub(super) fn can_save(
    look: &Preflight<'_>,
    folder: &Path,
    prefix: &str,
    extension: &str,
) -> Result<(), String> {
    let (width, height) = (512, 512);
    let tokens = Tokens { prompt: look.prompt(), width, height, time: Local::now() };
    let series = Series::new(folder, &tokens.replace(prefix))
        .map_err(|error| format!("filename_prefix: {error}"))?;
    series.check(extension).map_err(|error| error.to_string())
}

/// What a picture carries: the prompt, and the workflow where the client sent it.
pub(super) fn metadata(context: &Context<'_>) -> Vec<(String, String)> {
    if !context.environment().save_metadata {
        return Vec::new();
    }
    let prompt = context.prompt();
    let text = |name: &str, value: &Json| (name.to_owned(), ascii_json(value));
    let workflow = prompt.workflow.iter().map(|workflow| text("workflow", workflow));
    std::iter::once(text("prompt", &prompt.to_json())).chain(workflow).collect()
}

/// The pictures with 8 bits a channel.
pub fn eight_bit(pictures: &Pictures) -> impl Iterator<Item = Picture8> {
    let [_, height, width, channels] = pictures.shape();
    pictures.each().map(move |values| Picture8::new(values, [height, width, channels]))
}
