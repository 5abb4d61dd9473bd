//! Pictures to files.

use std::io;
use std::path::Path;

use chrono::Local;
use serde_json::{Value as Json, json};

use crate::execute::Context;
use crate::inputs::{Inputs, NodeError};
use crate::picture::Pictures;
use crate::picture::file_name::{Series, Tokens};
use crate::picture::png_file::{Picture8, ascii_json};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};

const OUTPUTS: &[Output] = &[Output::new(Type::Image).tooltip("The pictures, as they came.")];

const IMAGES: Input = Input::link("images", Type::Image).tooltip("The pictures.");

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
    run: |context, inputs| {
        let folder = context.environment().output_dir.clone();
        save(context, inputs, &folder, "output", inputs.text("filename_prefix")?)
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
    run: |context, inputs| {
        let folder = context.environment().temp_dir.clone();
        save(context, inputs, &folder, "temp", "ComfyUI_temp")
    },
    ..Node::EMPTY
};

fn save(
    context: &mut Context<'_>,
    inputs: &Inputs,
    folder: &Path,
    kind: &str,
    prefix: &str,
) -> Result<Vec<Value>, NodeError> {
    let pictures = inputs.image("images")?;
    let [_, height, width, _] = pictures.shape();
    let tokens = Tokens { prompt: context.prompt(), width, height, time: Local::now() };
    let prefix = tokens.replace(prefix);
    let texts = metadata(context);
    let mut saved = Vec::new();
    for (place, picture) in eight_bit(&pictures).enumerate() {
        let prefix = prefix.replace("%batch_num%", &place.to_string());
        let series = Series::new(folder, &prefix)
            .map_err(|error| NodeError::input("filename_prefix", error))?;
        let name = save_next(&picture, &series, &texts)?;
        saved.push(json!({ "filename": name, "subfolder": series.subfolder, "type": kind }));
    }
    context.show("images", saved);
    Ok(vec![Value::Image(pictures)])
}

/// Saves under the next number that no other program has taken meanwhile.
fn save_next(
    picture: &Picture8,
    series: &Series,
    texts: &[(String, String)],
) -> Result<String, NodeError> {
    let mut number = series.next();
    loop {
        let name = series.file_name(number, "png");
        match picture.save(&series.folder.join(&name), texts, false) {
            Ok(()) => return Ok(name),
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(NodeError::failed(error)),
        }
    }
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
