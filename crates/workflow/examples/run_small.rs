//! Runs workflows end to end with small random models in place of those that they name:
//! `cargo run -p distorch-workflow --example run_small -- FILE…`
//!
//! Prints a line of JSON for each: whether it ran to its end, and what went wrong. Pictures are of 64×64 pixels and two
//! steps, on two simulated devices.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::Path;

use distorch_allocation::{DeviceId, DeviceInfo, Topology};
use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::family::Configs;
use distorch_checkpoint::folders::ModelFolders;
use distorch_pipeline::image::Pictures;
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::small_models;
use distorch_workflow::graph::{InputValue, Prompt};
use distorch_workflow::observe::Silent;
use distorch_workflow::{Environment, Executor, nodes};
use serde_json::{Value as Json, json};

/// The devices that workflows of several GPUs name.
const DEVICES: &str = "cuda:0=2GiB,cuda:1=2GiB";

/// The sides of pictures, in pixels.
const SIDE: usize = 64;

/// Beginnings of the keys of a whole checkpoint's parts.
const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";

fn main() {
    for file in std::env::args().skip(1) {
        let found = match run(Path::new(&file)) {
            Ok(outputs) => json!({ "ran": true, "outputs": outputs }),
            Err(problem) => json!({ "ran": false, "problem": problem }),
        };
        println!("{}", json!({ "file": file, "found": found }));
    }
}

/// The classes of the output nodes of a workflow that ran.
fn run(file: &Path) -> Result<BTreeSet<String>, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let text = std::fs::read_to_string(file).map_err(|error| words(&error))?;
    let registry = nodes::all();
    let mut prompt = Prompt::from_json(&text, &registry).map_err(|error| words(&error))?;
    let folder = tempfile::tempdir().map_err(|error| words(&error))?;
    for name in ["input", "output", "temp"] {
        std::fs::create_dir(folder.path().join(name)).map_err(|error| words(&error))?;
    }
    write_models(&prompt, &folder.path().join("models"))?;
    write_pictures(&prompt, &folder.path().join("input"))?;
    shrink(&mut prompt);
    let cpu = DeviceInfo::new(DeviceId::CPU, "CPU", 8 << 30);
    let topology = Topology::new(vec![cpu]).and_then(|host| host.simulate(DEVICES));
    let folders = ModelFolders::new(folder.path(), &[]).map_err(|error| words(&error))?;
    let environment = Environment::on(folders, topology.map_err(|error| words(&error))?);
    let mut executor = Executor::new(environment, registry);
    let valid = executor.validate(&prompt).map_err(|invalid| words(&invalid))?;
    if !valid.node_errors.is_empty() {
        return Err(format!("{:?}", valid.node_errors));
    }
    executor.dry_run(&prompt, &valid.outputs, &Silent).map_err(|error| words(&error))?;
    let report = executor.run_nodes(&prompt, &valid.outputs, &Silent);
    let report = report.map_err(|error| words(&error))?;
    let class = |id: &String| prompt.nodes.get(id).map(|node| node.class.clone());
    Ok(report.outputs.keys().filter_map(class).collect())
}

/// The text values of all nodes' inputs of a name.
fn named<'p>(prompt: &'p Prompt, input: &'static str) -> impl Iterator<Item = &'p str> {
    prompt.nodes.values().filter_map(move |node| match node.inputs.get(input)? {
        InputValue::Literal(Json::String(text)) => Some(text.as_str()),
        _ => None,
    })
}

/// Small models of the family that the workflow's names tell, under these names.
fn write_models(prompt: &Prompt, models: &Path) -> Result<(), String> {
    let lower = |name: &str| name.to_lowercase();
    for name in named(prompt, "ckpt_name") {
        let configs = match lower(name) {
            name if name.contains("xl") => small_models::sdxl(),
            name if name.contains("lumina") || name.contains("netayume") => small_models::lumina2(),
            _ => small_models::sd1(),
        };
        small_models::write(&models.join("checkpoints").join(name), &configs);
    }
    for name in named(prompt, "unet_name") {
        let configs = match lower(name) {
            name if name.contains("z_image") => small_models::z_image(),
            name if name.contains("klein") => small_models::klein(),
            name if name.contains("chroma") => small_models::chroma(),
            name if name.contains("flux") => small_models::flux(),
            name if name.contains("qwen_image_2.1") => small_models::qwen_image21(),
            name if name.contains("qwen") && name.contains("edit") => {
                small_models::qwen_image_edit()
            }
            name if name.contains("qwen") => small_models::qwen_image(),
            _ => return Err(format!("there is no small model of the family of `{name}`")),
        };
        write_parts(prompt, models, name, &configs);
    }
    Ok(())
}

/// Small pictures, under the names of those that the workflow loads.
fn write_pictures(prompt: &Prompt, folder: &Path) -> Result<(), String> {
    let picture = Pictures::from_fn([1, SIDE, SIDE, 3], |_, row, column, channel| {
        ((row * 3 + column * 5 + channel * 7) % SIDE) as f32 / SIDE as f32
    });
    let loads = prompt.nodes.values().filter(|node| node.class.starts_with("LoadImage"));
    for node in loads {
        if let Some(InputValue::Literal(Json::String(name))) = node.inputs.get("image") {
            let written = picture.save_png(0, &folder.join(name), &[]);
            written.map_err(|error| format!("`{name}` cannot be written: {error}"))?;
        }
    }
    Ok(())
}

/// The parts of a model in files of their own, under the names that the workflow has for them.
fn write_parts(prompt: &Prompt, models: &Path, unet: &str, configs: &Configs) {
    let whole = models.join("checkpoints/whole.safetensors");
    small_models::write(&whole, configs);
    split(&whole, &models.join("diffusion_models").join(unet), UNET);
    for name in named(prompt, "vae_name") {
        split(&whole, &models.join("vae").join(name), VAE);
    }
    let files = ["clip_name", "clip_name1", "clip_name2"].into_iter();
    for file in files.flat_map(|input| named(prompt, input)) {
        let is_t5 = file.to_lowercase().contains("t5");
        let fits = |name: &&str| (*name == "t5xxl") == is_t5;
        let encoder = configs.text_encoders.iter().map(|(name, _)| *name).find(fits);
        let Some(encoder) = encoder else { continue };
        let keys = format!("text_encoders.{encoder}.transformer.");
        split(&whole, &models.join("text_encoders").join(file), &keys);
    }
}

/// Writes the tensors of a file whose keys begin so to another, without the beginning.
fn split(from: &Path, to: &Path, beginning: &str) {
    let checkpoint = Checkpoint::open(from).unwrap();
    let mut file = ModelFile::new();
    for (key, info) in checkpoint.tensors() {
        if let Some(rest) = key.strip_prefix(beginning) {
            file.add_bytes(rest, info.dtype, &info.shape, &checkpoint.bytes(key).unwrap());
        }
    }
    file.write(to);
}

/// Small pictures in two steps.
fn shrink(prompt: &mut Prompt) {
    for node in prompt.nodes.values_mut() {
        for (name, value) in [("width", SIDE), ("height", SIDE), ("steps", 2), ("batch_size", 1)] {
            if let Some(given @ InputValue::Literal(_)) = node.inputs.get_mut(name) {
                *given = InputValue::Literal(json!(value));
            }
        }
    }
}
