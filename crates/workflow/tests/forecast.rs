//! What is known of a run before it: the pictures that models are planned for, and what will fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use distorch_allocation::{DeviceId, DeviceInfo, Plan, Topology};
use distorch_checkpoint::family::Configs;
use distorch_checkpoint::folders::ModelFolders;
use distorch_models::estimate::Workload;
use distorch_pipeline::image::Pictures;
use distorch_pipeline::models::Tasks;
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::seeded;
use distorch_test_support::small_models::{qwen_image_edit, qwen_image21, sd1, write};
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::{Event, Observer};
use distorch_workflow::{Environment, ExecutionError, Executor, nodes};
use serde_json::{Value as Json, json};

/// Hears what is planned and warned of, and whether any node runs.
#[derive(Default)]
struct Heard {
    planned: Mutex<Vec<(String, Tasks, Vec<Plan>)>>,
    warnings: Mutex<Vec<String>>,
    nodes: Mutex<Vec<String>>,
}

impl Observer for Heard {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Planned { node, tasks, plans, .. } => {
                let planned = (node.to_owned(), *tasks, plans.to_vec());
                self.planned.lock().unwrap().push(planned);
            }
            Event::Warning { text, .. } => self.warnings.lock().unwrap().push(text.to_owned()),
            Event::Node { class, .. } => self.nodes.lock().unwrap().push(class.to_owned()),
            _ => {}
        }
    }
}

fn dry_run(
    executor: &mut Executor,
    nodes: &Json,
    target: &str,
) -> (Result<(), ExecutionError>, Heard) {
    let heard = Heard::default();
    let prompt = Prompt::from_json(&nodes.to_string(), &nodes::all()).unwrap();
    let result = executor.dry_run(&prompt, &[target.to_owned()], &heard);
    assert!(heard.nodes.lock().unwrap().is_empty(), "nothing runs");
    (result, heard)
}

/// What the one loader of a prompt is planned for.
fn tasks(harness: &mut Harness, nodes: &Json, target: &str) -> (Tasks, Vec<String>) {
    let (result, heard) = dry_run(&mut harness.executor, nodes, target);
    result.unwrap_or_else(|error| panic!("{error}"));
    let planned = heard.planned.into_inner().unwrap();
    let [(_, tasks, _)] = planned.as_slice() else { panic!("{planned:?}") };
    (*tasks, heard.warnings.into_inner().unwrap())
}

fn ckpt(name: &str) -> Json {
    node("CheckpointLoaderSimple", json!({ "ckpt_name": name }))
}

fn empty(width: Json, height: u32, batch: u32) -> Json {
    let inputs = json!({ "width": width, "height": height, "batch_size": batch });
    node("EmptyLatentImage", inputs)
}

fn text() -> Json {
    node("CLIPTextEncode", json!({ "clip": ["ckpt", 1], "text": "a" }))
}

fn sampler(latent: &str) -> Json {
    node(
        "KSampler",
        json!({
            "model": ["ckpt", 0], "seed": 7, "steps": 1, "cfg": 1.0, "sampler_name": "euler",
            "scheduler": "normal", "positive": ["text", 0], "negative": ["text", 0],
            "latent_image": [latent, 0], "denoise": 1.0,
        }),
    )
}

fn decode(latent: &str) -> Json {
    node("VAEDecode", json!({ "samples": [latent, 0], "vae": ["ckpt", 2] }))
}

fn with(nodes: &[(&str, Json)]) -> Json {
    let base = [("ckpt", ckpt("tiny.safetensors")), ("text", text())];
    prompt(&[&base[..], nodes].concat())
}

/// Width, height and number of the pictures that are planned for.
fn size(picture: Option<Workload>) -> Option<(u32, u32, u32)> {
    picture.map(|picture| (picture.width, picture.height, picture.batch))
}

/// By hand: ComfyUI's nodes bring 60×40 pixels to 1254×836 (a megapixel) and to 470×314 (384²), or to 96×64.
#[test]
fn text_encoders_are_planned_for_the_pictures_in_their_prompts() {
    let mut harness = Harness::with("checkpoints/tiny.safetensors", &qwen_image_edit());
    let picture = Pictures::new([1, 40, 60, 3], vec![0.5; 3 * 40 * 60]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.png");
    picture.save_png(0, &path, &[]).unwrap();
    let name = harness.put(&path);
    let with = |class: &str, inputs: Json| {
        let picture = node("LoadImage", json!({ "image": name }));
        let text = json!({ "clip": ["ckpt", 1], "text": "a" });
        let mut prompted = json!({ "clip": ["ckpt", 1], "prompt": "a" });
        prompted.as_object_mut().unwrap().extend(inputs.as_object().unwrap().clone());
        prompt(&[
            ("ckpt", ckpt("tiny.safetensors")),
            ("picture", picture),
            ("plain", node("CLIPTextEncode", text)),
            ("prompted", node(class, prompted)),
            (
                "both",
                node(
                    "ConditioningCombine",
                    json!({
                        "conditioning_1": ["prompted", 0], "conditioning_2": ["plain", 0],
                    }),
                ),
            ),
            ("empty", empty(json!(64), 64, 1)),
            ("sampler", {
                let mut sampler = sampler("empty");
                sampler["inputs"]["positive"] = json!(["both", 0]);
                sampler["inputs"]["negative"] = json!(["plain", 0]);
                sampler
            }),
        ])
    };
    let mut planned = |graph: &Json| size(tasks(&mut harness, graph, "sampler").0.text.most);
    let (edit, plus) = ("TextEncodeQwenImageEdit", "TextEncodeQwenImageEditPlus");
    let none = planned(&with(edit, json!({})));
    assert_eq!(none, Some((0, 0, 0)));
    let one = planned(&with(edit, json!({ "image": ["picture", 0] })));
    assert_eq!(one, Some((1254, 836, 1)));
    let two = json!({ "image1": ["picture", 0], "image3": ["picture", 0] });
    assert_eq!(planned(&with(plus, two)), Some((470, 314, 2)));

    write(&harness.model_path("checkpoints/tiny.safetensors"), &qwen_image21());
    let mut planned = |resolution: u32| {
        let inputs = json!({
            "negative_prompt": "", "resolution": resolution, "images.image_1": ["picture", 0],
        });
        let (tasks, _) = tasks(&mut harness, &with("TextEncodeQwenImage21", inputs), "sampler");
        size(tasks.text.most)
    };
    assert_eq!(planned(80), Some((96, 64, 1)));
    assert_eq!(planned(0), Some((64, 32, 1)));
}

/// A guidance of 1, and a guider without a negative, need no second row; of two samplers, the one with more counts.
#[test]
fn a_negative_prediction_is_planned_for_where_one_is_made() {
    let mut harness = Harness::sd1();
    let simple = |cfg: f64, latent: &str| {
        let mut sampler = sampler(latent);
        sampler["inputs"]["cfg"] = json!(cfg);
        sampler
    };
    let custom = |guider: &str, inputs: Json| {
        let mut inputs = inputs;
        inputs["model"] = json!(["ckpt", 0]);
        let sampler = json!({
            "noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["sampler", 0],
            "sigmas": ["sigmas", 0], "latent_image": ["latent", 0],
        });
        let sigmas =
            json!({ "model": ["ckpt", 0], "scheduler": "normal", "steps": 1, "denoise": 1.0 });
        vec![
            ("noise", node("RandomNoise", json!({ "noise_seed": 1 }))),
            ("guider", node(guider, inputs)),
            ("sampler", node("KSamplerSelect", json!({ "sampler_name": "euler" }))),
            ("sigmas", node("BasicScheduler", sigmas)),
            ("first", node("SamplerCustomAdvanced", sampler)),
        ]
    };
    let guided = |cfg: f64| {
        custom("CFGGuider", json!({ "positive": ["text", 0], "negative": ["text", 0], "cfg": cfg }))
    };
    let basic = custom("BasicGuider", json!({ "conditioning": ["text", 0] }));
    let again = vec![("zero", simple(1.0, "latent")), ("first", simple(3.0, "zero"))];
    let cases = [
        (vec![("first", simple(1.0, "latent"))], 1),
        (vec![("first", simple(1.5, "latent"))], 2),
        (guided(1.0), 1),
        (guided(3.0), 2),
        (basic, 1),
        (again, 2),
    ];
    for (mut nodes, rows) in cases {
        nodes.push(("latent", empty(json!(64), 64, 1)));
        let workflow = with(&nodes);
        let (tasks, _) = tasks(&mut harness, &workflow, "first");
        assert_eq!(tasks.diffusion.most.map(|most| most.cfg_batch), Some(rows), "{workflow}");
    }
}

#[test]
fn models_are_planned_for_what_the_workflow_makes() {
    let mut harness = Harness::sd1();
    let input = harness.folder.path().join("input");
    fs::create_dir_all(&input).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["pictures/kept.gif", "pictures/rgb.png", "latents/new.latent"] {
        let from = fixtures.join(name);
        fs::copy(&from, input.join(from.file_name().unwrap())).unwrap();
    }
    let upscale = |class: &str, inputs: Json| {
        let mut inputs = inputs;
        inputs["samples"] = json!(["first", 0]);
        inputs["upscale_method"] = json!("bilinear");
        node(class, inputs)
    };
    let sampled = |nodes: &[(&str, Json)]| with(&[nodes, &[("last", decode("first"))]].concat());
    let of_latent = |latent: Json| sampled(&[("latent", latent), ("first", sampler("latent"))]);
    let picture = |name: &str| ("picture", node("LoadImage", json!({ "image": name })));
    let scaled = |width: u32, height: u32| {
        let inputs = json!({
            "image": ["picture", 0], "upscale_method": "bilinear", "width": width, "height": height,
            "crop": "disabled",
        });
        ("scaled", node("ImageScale", inputs))
    };
    let encode = |from: &str| {
        ("latent", node("VAEEncode", json!({ "pixels": [from, 0], "vae": ["ckpt", 2] })))
    };
    let hires = |second: Json| {
        with(&[
            ("latent", empty(json!(256), 320, 3)),
            ("first", sampler("latent")),
            ("larger", second),
            ("second", sampler("larger")),
            ("last", decode("second")),
        ])
    };
    // Of all that is sampled, the largest; of what is decoded or encoded, the largest too.
    type Sizes = [(u32, u32, u32); 2];
    let cases: Vec<(Json, Sizes)> = vec![
        (of_latent(empty(json!(512), 768, 1)), [(512, 768, 1), (512, 768, 1)]),
        (of_latent(empty(json!(100), 64, 5)), [(96, 64, 5), (96, 64, 1)]),
        (
            hires(upscale("LatentUpscaleBy", json!({ "scale_by": 1.5 }))),
            [(384, 480, 3), (384, 480, 1)],
        ),
        (
            hires(upscale("LatentUpscale", json!({ "width": 0, "height": 640, "crop": "center" }))),
            [(512, 640, 3), (512, 640, 1)],
        ),
        (
            hires(node("RepeatLatentBatch", json!({ "samples": ["first", 0], "amount": 4 }))),
            [(256, 320, 12), (256, 320, 1)],
        ),
        (
            hires(node(
                "LatentRotate",
                json!({ "samples": ["first", 0], "rotation": "90 degrees" }),
            )),
            [(320, 256, 3), (320, 256, 1)],
        ),
        (
            sampled(&[
                picture("rgb.png"),
                scaled(300, 203),
                encode("scaled"),
                ("first", sampler("latent")),
            ]),
            // Encoded as it is; sampled and decoded in whole latent pixels.
            [(296, 200, 1), (300, 203, 1)],
        ),
        (
            with(&[
                ("wide", node("PrimitiveInt", json!({ "value": 704 }))),
                ("latent", empty(json!(["wide", 0]), 64, 1)),
                ("first", sampler("latent")),
                (
                    "last",
                    node(
                        "VAEDecodeTiled",
                        json!({
                            "samples": ["first", 0], "vae": ["ckpt", 2], "tile_size": 128,
                            "overlap": 32, "temporal_size": 64, "temporal_overlap": 8,
                        }),
                    ),
                ),
            ]),
            [(704, 64, 1), (128, 64, 1)],
        ),
    ];
    for (nodes, [sampling, vae]) in cases {
        let (tasks, warnings) = tasks(&mut harness, &nodes, "last");
        let found = [size(tasks.diffusion.most), size(tasks.vae.most)];
        assert_eq!(found, [Some(sampling), Some(vae)], "{nodes}");
        assert!(tasks.text.used && !tasks.diffusion.unknown && !tasks.vae.unknown);
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    // Latents in a file.
    let nodes = of_latent(node("LoadLatent", json!({ "latent": "new.latent" })));
    let (found, _) = tasks(&mut harness, &nodes, "last");
    assert_eq!(size(found.diffusion.most), Some((40, 24, 2)));
    // How many frames an animation has is not known before it is read: the model's own size is planned for.
    let nodes = sampled(&[picture("kept.gif"), encode("picture"), ("first", sampler("latent"))]);
    let (found, warnings) = tasks(&mut harness, &nodes, "last");
    assert_eq!((found.diffusion.most, found.diffusion.unknown), (None, true));
    assert!(
        warnings[0].contains("is not known before the run: the plan is for 512×512"),
        "{warnings:?}"
    );
}

/// Latents and pictures come out in the size that was foreseen.
#[test]
fn a_run_makes_what_was_foreseen() {
    let mut harness = Harness::sd1();
    let nodes = with(&[
        ("latent", empty(json!(72), 136, 2)),
        (
            "larger",
            node(
                "LatentUpscaleBy",
                json!({ "samples": ["latent", 0], "upscale_method": "bilinear", "scale_by": 0.7 }),
            ),
        ),
        ("first", sampler("larger")),
        ("last", decode("first")),
    ]);
    let (tasks, _) = tasks(&mut harness, &nodes, "last");
    let latent = harness.run(&nodes, "first");
    let distorch_workflow::value::Value::Latent(latent) = &latent[0] else { panic!() };
    let [batch, _, height, width] = latent.samples.dims().map(|side| side as u32);
    assert_eq!(size(tasks.diffusion.most), Some((8 * width, 8 * height, batch)));
    assert_eq!(size(tasks.vae.most), Some((8 * width, 8 * height, 1)));
}

/// A plan's activations are those of the picture, and they grow with it.
#[test]
fn larger_pictures_are_planned_with_more_memory() {
    let mut harness = Harness::sd1();
    let mut peaks = |side: u32, batch: u32| {
        let mut guided = sampler("latent");
        guided["inputs"]["cfg"] = json!(2.0);
        let nodes = with(&[
            ("latent", empty(json!(side), side, batch)),
            ("first", guided),
            ("last", decode("first")),
        ]);
        let (result, heard) = dry_run(&mut harness.executor, &nodes, "last");
        result.unwrap();
        let planned = heard.planned.into_inner().unwrap();
        ["unet", "clip", "vae"].map(|name| {
            let plan = planned[0].2.iter().find(|plan| plan.component == name).unwrap();
            plan.activation_bytes
        })
    };
    let ([unet, clip, vae], [large_unet, large_clip, large_vae]) = (peaks(256, 1), peaks(512, 1));
    assert!(large_unet > 2 * unet && large_vae > 2 * vae, "{unet} {large_unet}, {vae} {large_vae}");
    assert_eq!(clip, large_clip);
    let [many_unet, _, many_vae] = peaks(256, 4);
    assert!(many_unet > 2 * unet);
    assert_eq!(many_vae, vae, "latents are decoded one by one");
}

fn message(error: &ExecutionError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What will fail does so before the first node runs, in a run as in a dry one.
#[test]
fn what_is_missing_is_told_before_anything_runs() {
    let mut harness = Harness::sd1();
    let no_vae = Configs { vae: None, ..sd1() };
    write(&harness.model_path("checkpoints/no-vae.safetensors"), &no_vae);
    let no_text = Configs { text_encoders: Vec::new(), ..sd1() };
    write(&harness.model_path("checkpoints/no-text.safetensors"), &no_text);
    let only_vae = Configs { diffusion: None, ..no_text.clone() };
    write(&harness.model_path("checkpoints/only-vae.safetensors"), &only_vae);
    fs::write(harness.model_path("checkpoints/broken.safetensors"), "no model").unwrap();
    fs::create_dir_all(harness.model_path("loras")).unwrap();
    fs::write(harness.model_path("loras/broken.safetensors"), "no LoRA").unwrap();
    let wrong = "lora_unet_down_blocks_1_attentions_0_proj_in";
    let tensors = [("lora_up", vec![64, 2, 1, 1]), ("lora_down", vec![2, 63, 1, 1])];
    let tensors = tensors.into_iter().map(|(part, shape)| {
        let values = seeded::weight(part, &shape, 0);
        (format!("{wrong}.{part}.weight"), shape, values)
    });
    ModelFile::of_values(tensors).write(&harness.model_path("loras/other.safetensors"));
    let tensors = [("lora_up", vec![4, 2]), ("lora_down", vec![2, 4])];
    let tensors = tensors.into_iter().map(|(part, shape)| {
        let values = seeded::weight(part, &shape, 0);
        (format!("lora_unet_nowhere.{part}.weight"), shape, values)
    });
    ModelFile::of_values(tensors).write(&harness.model_path("loras/nowhere.safetensors"));
    let base = [
        ("latent", empty(json!(64), 64, 1)),
        ("first", sampler("latent")),
        ("last", decode("first")),
    ];
    let of = |name: &str| {
        let mut nodes = with(&base);
        nodes["ckpt"] = ckpt(name);
        nodes
    };
    let with_lora = |name: &str| {
        let mut nodes = with(&base);
        let inputs = json!({ "model": ["ckpt", 0], "lora_name": name, "strength_model": 1.0 });
        nodes["lora"] = node("LoraLoaderModelOnly", inputs);
        nodes["first"]["inputs"]["model"] = json!(["lora", 0]);
        nodes
    };
    for (nodes, at, says) in [
        (of("no-vae.safetensors"), "last", "`no-vae.safetensors` has no VAE"),
        (of("no-text.safetensors"), "text", "`no-text.safetensors` has no text encoder"),
        (of("only-vae.safetensors"), "ckpt", "`only-vae.safetensors` has no diffusion model"),
        (of("broken.safetensors"), "ckpt", "broken.safetensors"),
        (with_lora("broken.safetensors"), "lora", "broken.safetensors"),
        (with_lora("other.safetensors"), "lora", wrong),
        (with_lora("nowhere.safetensors"), "lora", "none of its 2 keys fits"),
    ] {
        let (result, _) = dry_run(&mut harness.executor, &nodes, "last");
        let error = result.unwrap_err();
        let heard = Heard::default();
        let parsed = Prompt::from_json(&nodes.to_string(), &nodes::all()).unwrap();
        let in_run = harness.executor.run_nodes(&parsed, &["last"], &heard).unwrap_err();
        assert_eq!(message(&error), message(&in_run));
        assert!(heard.nodes.into_inner().unwrap().is_empty(), "{says}");
        let text = message(&error);
        assert!(text.starts_with(&format!("node {at} (")) && text.contains(says), "{text}");
    }
    // Of a model that lacks what is not used, nothing is said.
    let mut nodes = of("no-vae.safetensors");
    nodes["first"]["inputs"]["steps"] = json!(1);
    assert!(dry_run(&mut harness.executor, &nodes, "first").0.is_ok());
    // A LoRA of no strength is not opened.
    let mut nodes = with_lora("broken.safetensors");
    nodes["lora"]["inputs"]["strength_model"] = json!(0.0);
    assert!(dry_run(&mut harness.executor, &nodes, "last").0.is_ok());
}

/// The message without what was free on the host, which other programs change.
fn but_for_free(message: &str) -> String {
    let parts = message.split(" needed, ").map(|part| match part.split_once(" free") {
        Some((_, rest)) => rest,
        None => part,
    });
    parts.collect()
}

/// What cannot fit is refused with what it needs, what there is and the way out, before it is loaded.
#[test]
fn what_cannot_fit_is_refused() {
    let harness = Harness::sd1();
    let executor = |simulated: &str, retries: bool| {
        let folders = ModelFolders::new(harness.folder.path(), &[]).unwrap();
        let cpu = DeviceInfo::new(DeviceId::CPU, "CPU", 8 << 30);
        let topology = Topology::new(vec![cpu]).unwrap().simulate(simulated).unwrap();
        let environment = Environment::on(folders, topology);
        Executor::new(
            environment.with_models(|models| models.with_auto_retry(retries)),
            nodes::all(),
        )
    };
    let nodes = |side: u32, batch: u32, tiled: bool| {
        let mut nodes = with(&[
            ("latent", empty(json!(side), side, batch)),
            ("first", sampler("latent")),
            ("last", decode("first")),
        ]);
        if tiled {
            let inputs = json!({
                "samples": ["first", 0], "vae": ["ckpt", 2], "tile_size": 64, "overlap": 0,
                "temporal_size": 64, "temporal_overlap": 8,
            });
            nodes["last"] = node("VAEDecodeTiled", inputs);
        }
        nodes
    };
    let refused = |simulated: &str, nodes: &Json| {
        let mut executor = executor(simulated, false);
        let (result, heard) = dry_run(&mut executor, nodes, "last");
        let error = message(&result.unwrap_err());
        assert!(!heard.planned.into_inner().unwrap().is_empty(), "the plan is told: {error}");
        let heard = Heard::default();
        let prompt = Prompt::from_json(&nodes.to_string(), &nodes::all()).unwrap();
        let in_run = executor.run_nodes(&prompt, &["last"], &heard).unwrap_err();
        assert_eq!(but_for_free(&message(&in_run)), but_for_free(&error));
        assert!(heard.nodes.into_inner().unwrap().is_empty());
        error
    };
    // The bytes that a component needs at its peak.
    let needs = |nodes: &Json, name: &str| {
        let (result, heard) = dry_run(&mut executor("cuda:0=4GiB", false), nodes, "last");
        result.unwrap();
        let planned = heard.planned.into_inner().unwrap();
        let plan = planned[0].2.iter().find(|plan| plan.component == name).unwrap();
        plan.resident_bytes + plan.transient_bytes()
    };
    let device = |bytes: u64| format!("cuda:0={bytes}B");
    let batch = nodes(512, 2, true);
    // With half of it not even one half of the guidance has room.
    let error = refused(&device(needs(&batch, "unet") / 2), &batch);
    for part in [
        "the diffusion model of `tiny.safetensors`, for 512×512 pixels, 2 at once:",
        "cuda:0 (simulated)",
        "needed",
        "free; make fewer pictures",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let (whole, tiled) = (nodes(512, 1, false), nodes(512, 1, true));
    let small = device(needs(&whole, "vae") - 1);
    assert!(needs(&whole, "unet") < needs(&whole, "vae"));
    let error = refused(&small, &whole);
    assert!(error.contains("the VAE of") && error.contains("VAEDecodeTiled"), "{error}");
    assert!(dry_run(&mut executor(&device(needs(&whole, "vae")), false), &whole, "last").0.is_ok());
    // In tiles, or where tiles are taken when there is no room, it goes.
    assert!(dry_run(&mut executor(&small, false), &tiled, "last").0.is_ok());
    assert!(dry_run(&mut executor(&small, true), &whole, "last").0.is_ok());
    // The host is a device too: no machine has what a batch of that size takes.
    let error = refused("", &nodes(16384, 4096, true));
    assert!(error.contains("cpu") && error.contains("free; make fewer pictures"), "{error}");
}
