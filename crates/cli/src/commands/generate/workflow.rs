//! The workflow that the options of `distorch generate` stand for, which pictures carry: nothing runs it here.

use distorch_allocation::LoaderInputs;
use distorch_workflow::graph::Prompt;
use distorch_workflow::nodes;
use serde_json::{Value as Json, json};

use super::options::Meaning;
use crate::args::GenerateArgs;
use crate::error::CliError;

/// The node that loads the checkpoint.
const LOADER: &str = "4";
/// The node that samples.
const SAMPLER: &str = "3";
/// The node that loads the first LoRA; those of others count on.
const FIRST_LORA: usize = 20;

/// The workflow that makes the same picture in ComfyUI: what pictures carry.
pub fn workflow(args: &GenerateArgs, meaning: &Meaning) -> Result<Prompt, CliError> {
    let mut nodes = json!({
        LOADER: loader(args, meaning),
        "6": node("CLIPTextEncode", json!({ "text": args.prompt, "clip": [LOADER, 1] })),
        "7": node("CLIPTextEncode", json!({ "text": args.negative, "clip": [LOADER, 1] })),
        SAMPLER: node("KSampler", json!({
            "model": [LOADER, 0], "positive": ["6", 0], "negative": ["7", 0],
            "latent_image": ["5", 0], "seed": meaning.seed, "steps": args.steps, "cfg": args.cfg,
            "denoise": args.denoise, "sampler_name": args.sampler, "scheduler": args.scheduler,
        })),
        "8": node("VAEDecode", json!({ "samples": [SAMPLER, 0], "vae": [LOADER, 2] })),
        "9": node("SaveImage", json!({ "images": ["8", 0], "filename_prefix": "ComfyUI" })),
    });
    match &meaning.image {
        None => {
            let [width, height] = meaning.size;
            let inputs = json!({ "width": width, "height": height, "batch_size": args.batch });
            nodes["5"] = node("EmptyLatentImage", inputs);
        }
        Some(image) => from_picture(args, &image.name, &mut nodes),
    }
    if let Some(guidance) = args.guidance {
        for (id, encode, input) in [("14", "6", "positive"), ("15", "7", "negative")] {
            let inputs = json!({ "conditioning": [encode, 0], "guidance": guidance });
            nodes[id] = node("FluxGuidance", inputs);
            nodes[SAMPLER]["inputs"][input] = json!([id, 0]);
        }
    }
    with_loras(&meaning.loras, &mut nodes);
    if let Some(skip) = args.clip_skip {
        let clip = nodes["6"]["inputs"]["clip"].take();
        let inputs = json!({ "clip": clip, "stop_at_clip_layer": -i64::from(skip) });
        nodes["11"] = node("CLIPSetLastLayer", inputs);
        for encode in ["6", "7"] {
            nodes[encode]["inputs"]["clip"] = json!(["11", 0]);
        }
    }
    Prompt::from_json(&nodes.to_string(), &nodes::all()).map_err(CliError::internal)
}

fn node(class: &str, inputs: Json) -> Json {
    json!({ "class_type": class, "inputs": inputs })
}

/// Puts LoRAs one after the other between the checkpoint and what uses it.
fn with_loras(loras: &[(String, f64)], nodes: &mut Json) {
    let mut from = LOADER.to_owned();
    for (id, (name, strength)) in (FIRST_LORA..).zip(loras) {
        let inputs = json!({
            "model": [from, 0], "clip": [from, 1], "lora_name": name,
            "strength_model": strength, "strength_clip": strength,
        });
        from = id.to_string();
        nodes[&from] = node("LoraLoader", inputs);
    }
    nodes[SAMPLER]["inputs"]["model"] = json!([from, 0]);
    for encode in ["6", "7"] {
        nodes[encode]["inputs"]["clip"] = json!([from, 1]);
    }
}

/// Starts from a picture of the input folder.
fn from_picture(args: &GenerateArgs, name: &str, nodes: &mut Json) {
    nodes["10"] = node("LoadImage", json!({ "image": name }));
    let mut pixels = json!(["10", 0]);
    if args.width.is_some() || args.height.is_some() {
        // A side of 0 follows from the other one.
        let [width, height] = [args.width, args.height].map(Option::unwrap_or_default);
        let inputs = json!({
            "image": pixels, "upscale_method": "lanczos", "width": width, "height": height,
            "crop": "center",
        });
        nodes["12"] = node("ImageScale", inputs);
        pixels = json!(["12", 0]);
    }
    nodes["5"] = node("VAEEncode", json!({ "pixels": pixels, "vae": [LOADER, 2] }));
    if args.batch > 1 {
        nodes["13"] =
            node("RepeatLatentBatch", json!({ "samples": ["5", 0], "amount": args.batch }));
        nodes[SAMPLER]["inputs"]["latent_image"] = json!(["13", 0]);
    }
}

/// The loader: the plainest of ComfyUI's that takes what is asked for.
fn loader(args: &GenerateArgs, meaning: &Meaning) -> Json {
    let spread = args.virtual_vram_gb.is_some()
        || args.donor_device.is_some()
        || args.expert_mode_allocations.is_some();
    let checkpoint = &meaning.checkpoint;
    if spread {
        let inputs = json!({
            "ckpt_name": checkpoint,
            "compute_device": meaning.device,
            // Gigabytes are the node's own where only a donor is named.
            "virtual_vram_gb": args.virtual_vram_gb.unwrap_or(LoaderInputs::UNET_GIGABYTES.to_f64()),
            "donor_device": args.donor_device.as_deref().unwrap_or("cpu"),
            "expert_mode_allocations": args.expert_mode_allocations.as_deref().unwrap_or(""),
        });
        return node("CheckpointLoaderSimpleDisTorch2MultiGPU", inputs);
    }
    match args.device {
        Some(_) => {
            let inputs = json!({ "ckpt_name": checkpoint, "device": meaning.device });
            node("CheckpointLoaderSimpleMultiGPU", inputs)
        }
        None => node("CheckpointLoaderSimple", json!({ "ckpt_name": checkpoint })),
    }
}
