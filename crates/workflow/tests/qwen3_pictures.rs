//! Small checkpoints of Z-Image, Lumina 2, Flux.2 Klein and dev, Krea 2, Qwen-Image and Qwen-Image 2.1 through this program and through diffusers' and
//! transformers' classes: the same latents and pictures. `make_*_pipeline.py` of `tools/reference` made the references.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "qwen3_pictures/prompts.rs"]
mod prompts;
#[path = "qwen3_pictures/references.rs"]
mod references;

use std::path::Path;

use distorch_checkpoint::family::Configs;
use distorch_pipeline::diffusion::conditioning::Conditioning;
use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::small_models::{
    chroma, flux2_dev, klein, krea2, lumina2, qwen_image, qwen_image21, write, z_image,
};
use distorch_test_support::tensors::{max_error, values};
use distorch_workflow::value::Value;
use safetensors::SafeTensors;
use serde_json::{Value as Json, json};

/// Of the largest value of the reference: 8 evaluations in f32 in another order of additions, 40 of Lumina 2.
const TOLERANCE: f32 = 1e-3;

fn loader(file: &str) -> Json {
    node("CheckpointLoaderSimple", json!({ "ckpt_name": file }))
}

/// Two simulated devices beside the CPU with a model, and a loader that spreads its transformer and text encoder as these
/// expert strings say.
fn spread(file: &str, configs: &Configs, [unet, clip]: [&str; 2]) -> (Harness, Json) {
    let harness = Harness::empty_on("cuda:0=900MiB,cuda:1=900MiB");
    write(&harness.model_path(&format!("checkpoints/{file}")), configs);
    let inputs = json!({
        "ckpt_name": file, "unet_compute_device": "cuda:0", "unet_virtual_vram_gb": 0.0,
        "unet_donor_device": "cpu", "clip_compute_device": "cuda:1", "clip_virtual_vram_gb": 0.0,
        "clip_donor_device": "cpu", "vae_device": "cuda:0",
        "unet_expert_mode_allocations": unet, "clip_expert_mode_allocations": clip,
    });
    (harness, node("CheckpointLoaderAdvancedDisTorch2MultiGPU", inputs))
}

fn workflow(loader: Json, prompts: &[String], run: &Json, cfg: f64) -> Json {
    let text = |text: &str| node("CLIPTextEncode", json!({ "clip": ["file", 1], "text": text }));
    // Latents of the model's own form: at the first step there is only noise in them.
    let size =
        json!({ "width": run["width"], "height": run["height"], "batch_size": 1, "color": 0 });
    let empty = json!({ "pixels": ["pixels", 0], "vae": ["file", 2] });
    let sampler = json!({
        "model": ["file", 0], "seed": run["seed"], "steps": run["steps"], "cfg": cfg,
        "sampler_name": "euler", "scheduler": "simple", "positive": ["positive", 0],
        "negative": ["negative", 0], "latent_image": ["empty", 0], "denoise": 1.0,
    });
    prompt(&[
        ("file", loader),
        ("positive", text(&prompts[0])),
        ("negative", text(&prompts[1])),
        ("pixels", node("EmptyImage", size)),
        ("empty", node("VAEEncode", empty)),
        ("sampler", node("KSampler", sampler)),
        ("picture", node("VAEDecode", json!({ "samples": ["sampler", 0], "vae": ["file", 2] }))),
    ])
}

#[test]
fn latents_and_pictures_of_z_image_are_diffusers() {
    check("z_image", &z_image());
}

/// 20 steps.
#[test]
fn latents_and_pictures_of_lumina_2_are_diffusers() {
    check("lumina2", &lumina2());
}

#[test]
fn latents_and_pictures_of_klein_are_diffusers() {
    check("klein", &klein());
}

/// With a distilled guidance.
#[test]
fn latents_and_pictures_of_flux2_dev_are_diffusers() {
    check("flux2_dev", &flux2_dev());
}

#[test]
fn latents_and_pictures_of_krea_2_are_diffusers() {
    check("krea2", &krea2());
}

#[test]
fn latents_and_pictures_of_qwen_image_are_diffusers() {
    check("qwen_image", &qwen_image());
}

/// Pictures of four channels; references' places and the time's rows are tested with the network.
#[test]
fn latents_and_pictures_of_qwen_image_2_1_are_diffusers() {
    check("qwen_image21", &qwen_image21());
}

fn check(name: &str, configs: &Configs) {
    let file = format!("{name}.safetensors");
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let bytes = std::fs::read(format!("{fixtures}/{file}")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    let prompts: Vec<String> = serde_json::from_str(&metadata["prompts"]).unwrap();
    let run: Json = serde_json::from_str(&metadata["run"]).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let mut harness = Harness::with(&format!("checkpoints/{file}"), configs);
    let strengths: Vec<f64> = serde_json::from_value(run["guidance"].clone()).unwrap();
    for cfg in strengths {
        let mut workflow = workflow(loader(&file), &prompts, &run, cfg);
        if let Some(guidance) = run.get("distilled") {
            let inputs = json!({ "conditioning": ["positive", 0], "guidance": guidance });
            workflow["guided"] = node("FluxGuidance", inputs);
            workflow["sampler"]["inputs"]["positive"] = json!(["guided", 0]);
        }
        let expected = floats(&reference, &format!("latent.{cfg:.1}"));
        let found = harness.latent(&workflow, "sampler", 0);
        let error = max_error(&found, &expected);
        println!("{name}, cfg {cfg}: {error:.1e}");
        assert!(error < TOLERANCE, "cfg {cfg}: {error}");
        let Value::Image(pictures) = &harness.run(&workflow, "picture")[0] else {
            panic!("no picture")
        };
        // Bytes as ComfyUI's SaveImage makes them.
        let found: Vec<u8> = pictures.values().iter().map(|value| (value * 255.0) as u8).collect();
        let picture = reference.tensor(&format!("picture.{cfg:.1}")).unwrap();
        assert_eq!(found.len(), picture.data().len());
        let pairs = found.iter().zip(picture.data());
        let furthest = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(furthest <= 1, "cfg {cfg}: {furthest}");
    }
}

fn floats(reference: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = reference.tensor(name).unwrap();
    let values = tensor.data().chunks_exact(4);
    values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The guided guess as short as the positive one, at most; the positive one alone at the highest noise.
#[test]
fn renormed_latents_of_lumina_2_are_the_formulas() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let bytes = std::fs::read(fixtures.join("lumina2.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    let prompts: Vec<String> = serde_json::from_str(&metadata["prompts"]).unwrap();
    let run: Json = serde_json::from_str(&metadata["run"]).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let mut harness = Harness::with("checkpoints/lumina2.safetensors", &lumina2());
    let mut workflow = workflow(loader("lumina2.safetensors"), &prompts, &run, 3.0);
    let mut inputs = run["renorm"].clone();
    inputs["model"] = json!(["file", 0]);
    workflow["renormed"] = node("RenormCFG", inputs);
    workflow["sampler"]["inputs"]["model"] = json!(["renormed", 0]);
    let found = harness.latent(&workflow, "sampler", 0);
    let error = max_error(&found, &floats(&reference, "latent.renorm"));
    println!("renormed: {error:.1e}");
    assert!(error < TOLERANCE, "{error}");
    // The last node that changes the formula counts, as in ComfyUI.
    let plain = harness.latent(
        &behind(&workflow, json!({ "cfg_trunc": 100.0, "renorm_cfg": 0.0 })),
        "sampler",
        0,
    );
    let error = max_error(&plain, &floats(&reference, "latent.3.0"));
    assert!(error < TOLERANCE, "{error}");
}

/// The workflow with another node behind the one that renorms.
fn behind(workflow: &Json, mut inputs: Json) -> Json {
    let mut workflow = workflow.clone();
    inputs["model"] = json!(["renormed", 0]);
    workflow["again"] = node("RenormCFG", inputs);
    workflow["sampler"]["inputs"]["model"] = json!(["again", 0]);
    workflow
}

/// What the model is told before a prompt is text before it.
#[test]
fn prompts_of_lumina_2_have_an_instruction_before_them() {
    let mut harness = Harness::with("checkpoints/l.safetensors", &lumina2());
    let told = |kind: &str| {
        let inputs =
            json!({ "clip": ["file", 1], "system_prompt": kind, "user_prompt": "a (cat:1.2)" });
        node("CLIPTextEncodeLumina2", inputs)
    };
    let text = |text: &str| node("CLIPTextEncode", json!({ "clip": ["file", 1], "text": text }));
    let superior = "You are an assistant designed to generate superior images with the superior degree of image-text \
                    alignment based on textual prompts or user prompts. <Prompt Start> a (cat:1.2)";
    let alignment = "You are an assistant designed to generate high-quality images with the highest degree of \
                     image-text alignment based on textual prompts. <Prompt Start> a (cat:1.2)";
    let graph = prompt(&[
        ("file", loader("l.safetensors")),
        ("told superior", told("superior")),
        ("superior", text(superior)),
        ("told alignment", told("alignment")),
        ("alignment", text(alignment)),
    ]);
    let mut states = |name: &str| match &harness.run(&graph, name)[0] {
        Value::Conditioning(conditioning) => values(&conditioning.conds()[0].context),
        other => panic!("{other:?}"),
    };
    for kind in ["superior", "alignment"] {
        assert_eq!(states(&format!("told {kind}")), states(kind), "{kind}");
    }
    assert_ne!(states("superior").len(), states("alignment").len());
}

/// Transformer and text encoder over three devices, by virtual VRAM and by an expert string.
#[test]
fn every_allocation_gives_the_same_latents() {
    let prompts = ["a red circle, 红色的圆".to_owned(), String::new()];
    let run = json!({ "seed": 5, "steps": 2, "width": 72, "height": 64 });
    let allocations = ["cuda:0,40%;cuda:1,30%;cpu,30%", "cuda:0,500kb;cuda:1,300kb;cpu,*", ""];
    let models = [
        ("z_image.safetensors", z_image()),
        ("lumina2.safetensors", lumina2()),
        ("klein.safetensors", klein()),
        ("flux2_dev.safetensors", flux2_dev()),
        ("krea2.safetensors", krea2()),
        ("qwen_image.safetensors", qwen_image()),
        ("qwen_image21.safetensors", qwen_image21()),
    ];
    for (name, configs) in models {
        let mut plain = Harness::with(&format!("checkpoints/{name}"), &configs);
        let expected = plain.latent(&workflow(loader(name), &prompts, &run, 2.0), "sampler", 0);
        for allocation in allocations {
            let mut harness = Harness::empty_on("cuda:0=600MiB,cuda:1=600MiB");
            write(&harness.model_path(&format!("checkpoints/{name}")), &configs);
            let inputs = json!({
                "ckpt_name": name, "unet_compute_device": "cuda:0", "unet_virtual_vram_gb": 1.0,
                "unet_donor_device": "cuda:1", "clip_compute_device": "cuda:1",
                "clip_virtual_vram_gb": 1.0, "clip_donor_device": "cpu", "vae_device": "cuda:0",
                "unet_expert_mode_allocations": allocation,
            });
            let loader = node("CheckpointLoaderAdvancedDisTorch2MultiGPU", inputs);
            let latent = harness.latent(&workflow(loader, &prompts, &run, 2.0), "sampler", 0);
            assert!(latent == expected, "{name}, {allocation}");
        }
    }
}

/// Transformer, text encoder and VAE from a file each make what one file of all makes, through the core loaders and through
/// those that spread weights.
#[test]
fn separate_files_make_what_one_file_makes() {
    let prompts = ["a red circle".to_owned(), String::new()];
    let run = json!({ "seed": 5, "steps": 2, "width": 72, "height": 64 });
    let cases = [
        ("lumina2", z_image()),
        ("lumina2", lumina2()),
        ("flux2", klein()),
        ("flux2", flux2_dev()),
        ("chroma", chroma()),
        ("qwen_image", qwen_image()),
        ("qwen_image", qwen_image21()),
    ];
    for (kind, configs) in cases {
        let name = format!("{kind}.safetensors");
        let mut whole = Harness::with(&format!("checkpoints/{name}"), &configs);
        let expected = whole.latent(&workflow(loader(&name), &prompts, &run, 2.0), "sampler", 0);
        let mut harness = Harness::empty_on("cuda:0=600MiB,cuda:1=600MiB");
        let Configs { diffusion, text_encoders, vae } = configs;
        for (folder, part) in [
            ("diffusion_models", Configs { diffusion, ..Configs::default() }),
            ("text_encoders", Configs { text_encoders, ..Configs::default() }),
            ("vae", Configs { vae, ..Configs::default() }),
        ] {
            std::fs::create_dir_all(harness.model_path(folder)).unwrap();
            write(&harness.model_path(&format!("{folder}/{name}")), &part);
        }
        for suffix in ["", "DisTorch2MultiGPU"] {
            let spread = match suffix {
                "" => json!({}),
                _ => json!({ "expert_mode_allocations": "cuda:0,40%;cuda:1,30%;cpu,30%" }),
            };
            let load = |class: &str, inputs: Json| {
                let mut node = node(&format!("{class}{suffix}"), inputs);
                let all = node["inputs"].as_object_mut().unwrap();
                all.extend(spread.as_object().unwrap().clone());
                node
            };
            let unet = json!({ "unet_name": name, "weight_dtype": "default" });
            let mut workflow = workflow(load("UNETLoader", unet), &prompts, &run, 2.0);
            let clip = load("CLIPLoader", json!({ "clip_name": name, "type": kind }));
            workflow["text encoder"] = clip;
            workflow["autoencoder"] = node("VAELoader", json!({ "vae_name": name }));
            for text in ["positive", "negative"] {
                workflow[text]["inputs"]["clip"] = json!(["text encoder", 0]);
            }
            for user in ["empty", "picture"] {
                workflow[user]["inputs"]["vae"] = json!(["autoencoder", 0]);
            }
            let latent = harness.latent(&workflow, "sampler", 0);
            assert!(latent == expected, "{kind}{suffix}");
        }
    }
}

/// A prompt and a negative one as two text nodes encode them, a blank for none; empty latents of any size, of which those of
/// another model's are brought to this one's.
#[test]
fn prompts_and_empty_latents_of_qwen_image_2_1() {
    let mut harness = Harness::with("checkpoints/q.safetensors", &qwen_image21());
    let text = |text: &str| node("CLIPTextEncode", json!({ "clip": ["file", 1], "text": text }));
    let both = |resolution: u32| {
        let inputs = json!({
            "clip": ["file", 1], "prompt": "a red (circle)", "negative_prompt": "",
            "resolution": resolution,
        });
        node("TextEncodeQwenImage21", inputs)
    };
    let sampler = |latent: Json, model: &str| {
        let inputs = json!({
            "model": [model, 0], "seed": 1, "steps": 1, "cfg": 2.0, "sampler_name": "euler",
            "scheduler": "simple", "positive": ["both", 0], "negative": ["both", 1],
            "latent_image": latent, "denoise": 1.0,
        });
        node("KSampler", inputs)
    };
    let cache = |device: &str, dtype: &str| {
        let inputs = json!({ "model": ["file", 0], "device": device, "dtype": dtype });
        node("QwenImage21Cache", inputs)
    };
    let empty = json!({ "width": 104, "height": 96, "batch_size": 1 });
    let mut graph = prompt(&[
        ("file", loader("q.safetensors")),
        ("positive", text("a red (circle)")),
        ("negative", text(" ")),
        ("both", both(96)),
        ("empty", node("EmptyLatentImage", empty)),
        ("cached", cache("auto", "default")),
        ("own", sampler(json!(["both", 2]), "file")),
        ("other", sampler(json!(["empty", 0]), "file")),
        ("kept", sampler(json!(["both", 2]), "cached")),
    ]);
    let found = harness.run(&graph, "both");
    for (found, name) in found.iter().zip(["positive", "negative"]) {
        let alone = &harness.run(&graph, name)[0];
        let (Value::Conditioning(found), Value::Conditioning(alone)) = (found, alone) else {
            panic!("no conditioning")
        };
        let states = |conditioning: &Conditioning| values(&conditioning.conds()[0].context);
        assert_eq!(states(found), states(alone), "{name}");
    }
    let dims = |value: &Value| match value {
        Value::Latent(latent) => latent.samples.dims(),
        other => panic!("{other:?}"),
    };
    assert_eq!(dims(&found[2]), [1, 64, 6, 6]);
    // 104 pixels are 6.5 of the model's: halves go to the even number.
    assert_eq!(dims(&harness.run(&graph, "other")[0]), [1, 64, 6, 6]);
    let own = harness.latent(&graph, "own", 0);
    assert_eq!(own, harness.latent(&graph, "other", 0));
    assert_eq!(own, harness.latent(&graph, "kept", 0));
    graph["both"] = both(0);
    assert_eq!(dims(&harness.run(&graph, "both")[2]), [1, 64, 64, 64]);
    graph["both"] = both(96);
    graph["cached"] = cache("gpu", "int8");
    let error = harness.fail(&graph, "cached");
    assert!(error.contains("dtype") && error.contains("int8"), "{error}");
    graph["cached"] = cache("off", "int4");
    assert_eq!(own, harness.latent(&graph, "kept", 0));
}
