//! Latents to files and back: safetensors files with the tensor `latent_tensor`.
//!
//! Files with the tensor `latent_format_version_0` hold latents as an autoencoder gives them. Those
//! without it, of ComfyUI's first days, hold them as Stable Diffusion 1 samples them.

use std::collections::HashMap;
use std::io::Write;

use chrono::Local;
use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::decode::to_f32;
use distorch_runtime::tensor::{DType, Tensor, TensorData, cpu};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::file_state::{input_is_there, input_state};
use super::save_image::can_save;
use crate::context::Context;
use crate::environment::Environment;
use crate::files::file_name::{Series, Tokens};
use crate::files::input_file;
use crate::forecast::{Ahead, Extent, Known};
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, METADATA, Node, Output};
use crate::value::{Type, Value};
use distorch_pipeline::Latent;
use distorch_pipeline::image::room;

const CATEGORY: &str = "model/latent";
const TENSOR: &str = "latent_tensor";
const VERSION: &str = "latent_format_version_0";

/// What Stable Diffusion 1 multiplies an autoencoder's latents with.
const OLD_SCALE: f32 = 0.18215;

/// Latents to a file in the output folder.
pub const SAVE_LATENT: Node = Node {
    class: "SaveLatent",
    title: "Save Latent",
    category: CATEGORY,
    about: "Saves latents in the output folder, with the workflow that made them.",
    inputs: &[
        Input::link("samples", Type::Latent).tooltip("The latents."),
        Input::string("filename_prefix", "latents/ComfyUI").tooltip(
            "What the name begins with. May have folders and tokens in it, as SaveImage's.",
        ),
    ],
    outputs: &[Output::new(Type::Latent).named("samples").tooltip("The latents, as they came.")],
    is_output: true,
    hidden: METADATA,
    preflight: Some(|look| {
        let prefix = look.inputs().text("filename_prefix").unwrap_or_default();
        can_save(look, &look.environment().output_dir, prefix, "latent")
    }),
    run: |context, inputs| save(context, inputs),
    ..Node::EMPTY
};

/// Latents from a file of the input folder.
pub const LOAD_LATENT: Node = Node {
    class: "LoadLatent",
    title: "Load Latent",
    category: CATEGORY,
    about: "Loads latents that SaveLatent saved and that were put into the input folder.",
    inputs: &[Input::file("latent", latents).tooltip("The file, which ends in .latent.")],
    outputs: &[Output::new(Type::Latent).tooltip("The latents.")],
    fingerprint: Some(|environment, inputs| input_state(environment, inputs, "latent")),
    check: Some(|environment, inputs| input_is_there(environment, inputs, "latent")),
    forecast: Some(|ahead| Ok(vec![Known::latent(extent(ahead))])),
    run: |context, inputs| {
        let path = input_file::find(context.environment(), inputs.text("latent")?)
            .map_err(|error| NodeError::input("latent", error))?;
        let file = Checkpoint::open(&path).map_err(|error| NodeError::input("latent", error))?;
        let samples = read(&file).map_err(|error| NodeError::input("latent", error))?;
        Ok(vec![Value::Latent(Latent::new(samples))])
    },
    ..Node::EMPTY
};

fn latents(environment: &Environment) -> Vec<String> {
    input_file::list(environment, &["latent"])
}

/// The size of the latents in the file that an input names, without reading them.
fn extent(ahead: &Ahead<'_>) -> Option<Extent> {
    let path = input_file::find(ahead.environment(), ahead.inputs().text("latent").ok()?).ok()?;
    let file = Checkpoint::open(&path).ok()?;
    let &[batch, _, height, width] = file.get(TENSOR)?.shape.as_slice() else { return None };
    Some(Extent::new(batch, [height, width]))
}

fn read(file: &Checkpoint) -> Result<Tensor<4>, String> {
    let name = file.path().display();
    let Some(info) = file.get(TENSOR) else {
        return Err(format!("`{name}` has no tensor `{TENSOR}`: it was not saved by SaveLatent"));
    };
    let shape = <[usize; 4]>::try_from(info.shape.as_slice()).ok();
    let Some(shape) = shape.filter(|shape| !shape.contains(&0) && info.dtype.is_float()) else {
        return Err(format!(
            "`{name}`: the tensor `{TENSOR}` is of {} and the shape {:?}; latents are of floats \
             and the shape [batch, channels, height, width]",
            info.dtype, info.shape,
        ));
    };
    room(shape).map_err(|error| format!("`{name}`: {error}"))?;
    let mut bytes = vec![0; usize::try_from(info.bytes()).unwrap_or(usize::MAX)];
    file.read_into(TENSOR, 0, &mut bytes).map_err(|error| error.to_string())?;
    let mut values = to_f32(&bytes, info.dtype);
    if file.get(VERSION).is_none() {
        values.iter_mut().for_each(|value| *value *= 1.0 / OLD_SCALE);
    }
    Ok(Tensor::from_data(TensorData::new(values, shape), (&cpu(), DType::F32)))
}

fn save(context: &mut Context<'_>, inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    let latent = inputs.latent("samples")?;
    let [_, _, height, width] = latent.samples.dims();
    let tokens = Tokens {
        prompt: context.prompt(),
        width: width * 8,
        height: height * 8,
        time: Local::now(),
    };
    let prefix = tokens.replace(inputs.text("filename_prefix")?);
    let series = Series::new(&context.environment().output_dir, &prefix)
        .map_err(|error| NodeError::input("filename_prefix", error))?;
    let metadata = super::save_image::metadata(context).into_iter().collect();
    let bytes = serialized(&latent.samples, metadata).map_err(NodeError::failed)?;
    let write = |file: &mut dyn Write| file.write_all(&bytes);
    let name = series.save("latent", write).map_err(NodeError::failed)?;
    let saved = json!({ "filename": name, "subfolder": series.subfolder, "type": "output" });
    context.show("latents", vec![saved]);
    Ok(vec![Value::Latent(latent)])
}

fn serialized(samples: &Tensor<4>, metadata: HashMap<String, String>) -> Result<Vec<u8>, String> {
    let data = samples.clone().into_data().convert::<f32>();
    let values = data.as_slice::<f32>().map_err(|error| format!("{error:?}"))?;
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes);
    let tensors = [
        (TENSOR, view(&samples.dims(), &bytes).map_err(|error| error.to_string())?),
        (VERSION, view(&[0], &[]).map_err(|error| error.to_string())?),
    ];
    let metadata = (!metadata.is_empty()).then_some(metadata);
    safetensors::serialize(tensors, metadata).map_err(|error| error.to_string())
}
