//! `distorch generate`: a picture from a checkpoint and a prompt.
//!
//! The options make a workflow, and the workflow makes the picture: what is saved in it can be
//! opened in ComfyUI, or run again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use distorch_models::estimate::Picture;
use distorch_workflow::graph::Prompt;
use distorch_workflow::nodes::eight_bit;
use distorch_workflow::picture::png_file::ascii_json;
use distorch_workflow::value::Value;
use distorch_workflow::{Executor, picture::Pictures};
use serde_json::{Value as Json, json};

use super::{print_text, recognise};
use crate::args::{GenerateArgs, LoraArg, Shared};
use crate::failure::Failure;
use crate::machine;
use crate::studio;
use crate::watch::Watch;

/// The node whose pictures are saved.
const DECODE: &str = "8";

/// Makes pictures.
pub fn run(shared: &Shared, args: &GenerateArgs) -> Result<(), Failure> {
    let paths = paths(args)?;
    let mut executor = studio::executor(shared, &args.compute)?;
    let (prompt, size) = workflow(&mut executor, args)?;
    let watch = Watch::new(false);
    let result = executor.run_nodes(&prompt, &[DECODE], &watch);
    watch.finish();
    let report = result.map_err(studio::failure)?;
    let values = report.values.get(DECODE).map_or(&[][..], Vec::as_slice);
    let Some(Value::Image(pictures)) = values.first() else {
        return Err(Failure::machine("the workflow gave no picture"));
    };
    save(pictures, &paths, &prompt, args, size)?;
    let mut text = studio::memory(&executor);
    for path in &paths {
        text += &format!("\nsaved {}", path.display());
    }
    print_text(text.trim_start_matches('\n'))
}

/// Where the pictures go.
fn paths(args: &GenerateArgs) -> Result<Vec<PathBuf>, Failure> {
    let output = &args.output;
    let wrong =
        |problem: &str| Failure::input(format!("`--output {}`: {problem}", output.display()));
    if output.is_dir() {
        return Err(wrong("this is a folder; name a file in it, such as `out.png`"));
    }
    let is_png = output.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("png"));
    let stem = output
        .file_stem()
        .filter(|_| is_png)
        .ok_or_else(|| wrong("pictures are saved as PNG; name a file that ends in `.png`"))?;
    writable(output).map_err(|(folder, error)| {
        wrong(&format!("no file can be made in `{}`: {error}", folder.display()))
    })?;
    if args.batch == 1 {
        return Ok(vec![output.clone()]);
    }
    let stem = stem.to_string_lossy();
    Ok((1..=args.batch).map(|n| output.with_file_name(format!("{stem}_{n:05}.png"))).collect())
}

/// Fails, with the folder that is to blame, where no file of this path could be made: better now than
/// after the last step. Folders that are missing are made when the file is.
fn writable(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let mut folders = path.ancestors().skip(1);
    let there = folders.find(|folder| folder.as_os_str().is_empty() || folder.exists());
    let folder = there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrong = |error| (folder.to_owned(), error);
    tempfile::Builder::new().prefix(".distorch-").tempfile_in(folder).map(drop).map_err(wrong)
}

/// The workflow that the options mean, and the size of its pictures.
fn workflow(executor: &mut Executor, args: &GenerateArgs) -> Result<(Prompt, [u32; 2]), Failure> {
    let folders = &executor.environment().folders;
    let path = machine::checkpoint_path(folders, &args.ckpt)?;
    let (_, model) = recognise(&path)?;
    let native = Picture::native(&model);
    let size = [args.width.unwrap_or(native.width), args.height.unwrap_or(native.height)];
    let mut nodes = json!({
        "4": loader(args),
        "6": node("CLIPTextEncode", json!({ "text": args.prompt, "clip": ["4", 1] })),
        "7": node("CLIPTextEncode", json!({ "text": args.negative, "clip": ["4", 1] })),
        "3": node("KSampler", json!({
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
            "seed": args.seed, "steps": args.steps, "cfg": args.cfg, "denoise": args.denoise,
            "sampler_name": args.sampler, "scheduler": args.scheduler,
        })),
        DECODE: node("VAEDecode", json!({ "samples": ["3", 0], "vae": ["4", 2] })),
        "9": node("SaveImage", json!({ "images": [DECODE, 0], "filename_prefix": "ComfyUI" })),
    });
    match &args.image {
        None => {
            let [width, height] = size;
            let inputs = json!({ "width": width, "height": height, "batch_size": args.batch });
            nodes["5"] = node("EmptyLatentImage", inputs);
        }
        Some(image) => from_picture(executor, args, image, &mut nodes)?,
    }
    with_loras(args, &mut nodes);
    if let Some(skip) = args.clip_skip {
        let clip = nodes["6"]["inputs"]["clip"].take();
        let inputs = json!({ "clip": clip, "stop_at_clip_layer": -i64::from(skip) });
        nodes["11"] = node("CLIPSetLastLayer", inputs);
        for encode in ["6", "7"] {
            nodes[encode]["inputs"]["clip"] = json!(["11", 0]);
        }
    }
    let prompt = Prompt::from_json(&nodes.to_string()).map_err(Failure::machine)?;
    Ok((prompt, size))
}

fn node(class: &str, inputs: Json) -> Json {
    json!({ "class_type": class, "inputs": inputs })
}

/// Puts LoRAs one after the other between the checkpoint and what uses it.
fn with_loras(args: &GenerateArgs, nodes: &mut Json) {
    const FIRST: usize = 20;
    let mut from = "4".to_owned();
    for (id, LoraArg { name, strength }) in (FIRST..).zip(&args.lora) {
        let inputs = json!({
            "model": [from, 0], "clip": [from, 1], "lora_name": name,
            "strength_model": strength, "strength_clip": strength,
        });
        from = id.to_string();
        nodes[&from] = node("LoraLoader", inputs);
    }
    nodes["3"]["inputs"]["model"] = json!([from, 0]);
    for encode in ["6", "7"] {
        nodes[encode]["inputs"]["clip"] = json!([from, 1]);
    }
}

/// Starts from a picture, whose folder becomes the input folder.
fn from_picture(
    executor: &mut Executor,
    args: &GenerateArgs,
    image: &Path,
    nodes: &mut Json,
) -> Result<(), Failure> {
    let wrong =
        |problem: String| Failure::input(format!("`--image {}`: {problem}", image.display()));
    let path = fs::canonicalize(image).map_err(|error| wrong(error.to_string()))?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Err(wrong("its name is not Unicode".to_owned()));
    };
    executor.environment_mut().input_dir = folder.to_owned();
    nodes["10"] = node("LoadImage", json!({ "image": name }));
    let mut pixels = json!(["10", 0]);
    if let (Some(width), Some(height)) = (args.width, args.height) {
        nodes["12"] = node(
            "ImageScale",
            json!({
                "image": pixels, "upscale_method": "lanczos", "width": width, "height": height,
                "crop": "center",
            }),
        );
        pixels = json!(["12", 0]);
    }
    nodes["5"] = node("VAEEncode", json!({ "pixels": pixels, "vae": ["4", 2] }));
    if args.batch > 1 {
        nodes["13"] =
            node("RepeatLatentBatch", json!({ "samples": ["5", 0], "amount": args.batch }));
        nodes["3"]["inputs"]["latent_image"] = json!(["13", 0]);
    }
    Ok(())
}

fn loader(args: &GenerateArgs) -> Json {
    let spread = args.virtual_vram_gb.is_some()
        || args.donor_device.is_some()
        || args.expert_mode_allocations.is_some();
    let mut inputs = json!({ "ckpt_name": args.ckpt });
    let device = args.device.as_deref();
    if spread {
        // Gigabytes are the node's own where only a donor is named.
        let gigabytes = args.virtual_vram_gb.unwrap_or(4.0);
        inputs["virtual_vram_gb"] = json!(gigabytes);
        inputs["donor_device"] = json!(args.donor_device.as_deref().unwrap_or("cpu"));
        inputs["expert_mode_allocations"] = json!(args.expert_mode_allocations);
        inputs["compute_device"] = json!(device);
        return node("CheckpointLoaderSimpleDisTorch2MultiGPU", inputs);
    }
    match device {
        Some(device) => {
            inputs["device"] = json!(device);
            node("CheckpointLoaderSimpleMultiGPU", inputs)
        }
        None => node("CheckpointLoaderSimple", inputs),
    }
}

fn save(
    pictures: &Pictures,
    paths: &[PathBuf],
    prompt: &Prompt,
    args: &GenerateArgs,
    size: [u32; 2],
) -> Result<(), Failure> {
    let texts = [
        ("parameters".to_owned(), parameters(args, size)),
        ("prompt".to_owned(), ascii_json(&prompt.to_json())),
    ];
    for (picture, path) in eight_bit(pictures).zip(paths) {
        picture.save(path, &texts, true).map_err(Failure::machine)?;
    }
    Ok(())
}

/// The parameters as other programs write them into pictures.
fn parameters(args: &GenerateArgs, [width, height]: [u32; 2]) -> String {
    let GenerateArgs { steps, sampler, scheduler, cfg, seed, denoise, ckpt, .. } = args;
    let negative = match args.negative.is_empty() {
        true => String::new(),
        false => format!("Negative prompt: {}\n", args.negative),
    };
    let loras = args.lora.iter().map(|lora| format!("LoRA: {}:{}, ", lora.name, lora.strength));
    format!(
        "{}\n{negative}Steps: {steps}, Sampler: {sampler}, Schedule type: {scheduler}, \
         CFG scale: {cfg}, Seed: {seed}, Size: {width}x{height}, Model: {ckpt}, {}\
         Denoising strength: {denoise}, Version: distorch {}",
        args.prompt,
        loras.collect::<String>(),
        env!("CARGO_PKG_VERSION"),
    )
}
