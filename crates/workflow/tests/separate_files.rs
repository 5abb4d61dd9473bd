//! Diffusion model, text encoders and VAE from files of their own: the picture is that of the one file that holds them
//! all, bit for bit, wherever their weights live.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "separate_files/memory.rs"]
mod memory;

use std::path::Path;
use std::sync::Mutex;

use distorch_allocation::{DeviceId, DeviceInfo, Plan, Topology};
use distorch_checkpoint::cast::to_fp8;
use distorch_checkpoint::decode::to_f32;
use distorch_checkpoint::folders::ModelFolders;
use distorch_checkpoint::{Checkpoint, Dtype};
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::runs::{node, prompt};
use distorch_test_support::{repository, small_models};
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::{Event, Observer, Silent};
use distorch_workflow::value::Value;
use distorch_workflow::{Environment, Executor, describe, nodes};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// An executor of models in a folder, on a host with simulated devices.
fn executor(folder: &Path, simulated: &str) -> Executor {
    let cpu = DeviceInfo::new(DeviceId::CPU, "CPU", 8 << 30);
    let topology = Topology::new(vec![cpu]).unwrap().simulate(simulated).unwrap();
    let folders = ModelFolders::new(folder, &[]).unwrap();
    Executor::new(Environment::on(folders, topology), nodes::all())
}

/// Writes the tensors of a file that have these prefixes to another, each prefix changed.
fn split(from: &Path, to: &Path, prefixes: &[(&str, &str)]) {
    let checkpoint = Checkpoint::open(from).unwrap();
    let mut file = ModelFile::new();
    for (key, info) in checkpoint.tensors() {
        let renamed = prefixes.iter().find_map(|(old, new)| Some((new, key.strip_prefix(old)?)));
        let Some((new, rest)) = renamed else { continue };
        let bytes = checkpoint.bytes(key).unwrap();
        file.add_bytes(&format!("{new}{rest}"), info.dtype, &info.shape, &bytes);
    }
    file.write(to);
}

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";

/// The shipped checkpoint whole and in parts.
fn shipped() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    let from = repository().join("models/checkpoints/tiny-shapes.safetensors");
    std::fs::create_dir_all(models.join("checkpoints")).unwrap();
    std::fs::copy(&from, models.join("checkpoints/whole.safetensors")).unwrap();
    split(&from, &models.join("diffusion_models/unet.safetensors"), &[(UNET, "")]);
    split(&from, &models.join("unet/prefixed.safetensors"), &[(UNET, UNET)]);
    let clip = [("cond_stage_model.transformer.", "")];
    split(&from, &models.join("text_encoders/clip_l.safetensors"), &clip);
    split(&from, &models.join("vae/vae.safetensors"), &[(VAE, "")]);
    folder
}

/// A small model with random weights, whole and in parts: each text encoder with a file of its own. A width does not
/// tell CLIP-G where it is small, so that its file has its name in the keys.
fn small(configs: &distorch_checkpoint::family::Configs) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    let whole = models.join("checkpoints/whole.safetensors");
    small_models::write(&whole, configs);
    split(&whole, &models.join("diffusion_models/unet.safetensors"), &[(UNET, "")]);
    split(&whole, &models.join("vae/vae.safetensors"), &[(VAE, "")]);
    for (name, _) in &configs.text_encoders {
        let old = format!("text_encoders.{name}.transformer.");
        let new = if *name == "clip_g" { "clip_g.transformer." } else { "" };
        let path = models.join(format!("clip/{name}.safetensors"));
        split(&whole, &path, &[(&old, new)]);
    }
    folder
}

/// A picture of 64 × 64 pixels in two steps.
fn drawn(loaders: &[(&'static str, Json)], model: Json, clip: Json, vae: Json) -> Json {
    let text = |text: &str| node("CLIPTextEncode", json!({ "clip": clip, "text": text }));
    let empty = json!({ "width": 64, "height": 64, "batch_size": 1 });
    let sampler = json!({
        "model": model, "seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler",
        "scheduler": "simple", "positive": ["good", 0], "negative": ["bad", 0],
        "latent_image": ["empty", 0], "denoise": 1.0,
    });
    let of = |start: &str| loaders.iter().any(|(id, _)| id.starts_with(start));
    let channels = match (of("16"), of("128")) {
        (true, _) => "EmptySD3LatentImage",
        (_, true) => "EmptyFlux2LatentImage",
        _ => "EmptyLatentImage",
    };
    let rest = [
        ("good", text("a (red:1.2) circle")),
        ("bad", text("")),
        ("empty", node(channels, empty)),
        ("latent", node("KSampler", sampler)),
        ("picture", node("VAEDecode", json!({ "samples": ["latent", 0], "vae": vae }))),
    ];
    prompt(&[loaders, &rest].concat())
}

/// The picture of one file; an id that begins with 16 or 128 is for latents of so many channels.
fn whole(id: &'static str) -> Json {
    let loader = node("CheckpointLoaderSimple", json!({ "ckpt_name": "whole.safetensors" }));
    drawn(&[(id, loader)], json!([id, 0]), json!([id, 1]), json!([id, 2]))
}

fn separate(unet: Json, clip: Json, vae: Json, id: &'static str) -> Json {
    let loaders = [(id, unet), ("clip", clip), ("vae", vae)];
    drawn(&loaders, json!([id, 0]), json!(["clip", 0]), json!(["vae", 0]))
}

/// Keeps plans, and the nodes that use what is loaded.
#[derive(Default)]
struct Plans(Mutex<Vec<(String, Vec<Plan>)>>, Mutex<Vec<(String, Vec<String>)>>);

impl Observer for Plans {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Planned { model, plans, .. } => {
                self.0.lock().unwrap().push((model.to_owned(), plans.to_vec()));
            }
            Event::Overview { models, .. } => {
                let used = models.iter().map(|model| (model.model.clone(), model.used_by.clone()));
                self.1.lock().unwrap().extend(used);
            }
            _ => {}
        }
    }
}

fn pixels(executor: &mut Executor, prompt: &Json, observer: &dyn Observer) -> Vec<f32> {
    let prompt = Prompt::from_json(&prompt.to_string(), executor.registry()).unwrap();
    let report = executor.run_nodes(&prompt, &["picture"], observer);
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    match &report.values["picture"][0] {
        Value::Image(pictures) => pictures.values().to_vec(),
        other => panic!("{other:?} is no picture"),
    }
}

fn error(executor: &mut Executor, prompt: &Json) -> String {
    let prompt = Prompt::from_json(&prompt.to_string(), executor.registry()).unwrap();
    executor.run_nodes(&prompt, &["picture"], &Silent).unwrap_err().to_string()
}

fn unet(class: &str, more: Json) -> Json {
    loader(class, json!({ "unet_name": "unet.safetensors", "weight_dtype": "default" }), more)
}

fn vae(class: &str, more: Json) -> Json {
    loader(class, json!({ "vae_name": "vae.safetensors" }), more)
}

fn loader(class: &str, mut inputs: Json, more: Json) -> Json {
    for (name, value) in more.as_object().unwrap() {
        inputs[name] = value.clone();
    }
    node(class, inputs)
}

const DEVICES: &str = "cuda:0=2GiB,cuda:1=2GiB";

#[test]
fn parts_of_the_shipped_checkpoint_make_its_picture() {
    let folder = shipped();
    let clip = |class: &str, more: Json| {
        let inputs = json!({ "clip_name": "clip_l.safetensors", "type": "stable_diffusion" });
        loader(class, inputs, more)
    };
    let expected = pixels(&mut executor(folder.path(), DEVICES), &whole("whole"), &Silent);
    let none = json!({});
    let spread = json!({ "expert_mode_allocations": "cuda:0,30%;cuda:1,30%;cpu,40%" });
    let virtual_vram = json!({ "virtual_vram_gb": 0.1, "donor_device": "cuda:1" });
    for (unet, clip, vae) in [
        (
            unet("UNETLoader", none.clone()),
            clip("CLIPLoader", none.clone()),
            vae("VAELoader", none.clone()),
        ),
        (
            unet("UNETLoader", json!({ "unet_name": "prefixed.safetensors" })),
            clip("CLIPLoader", json!({ "device": "cpu" })),
            vae("VAELoaderMultiGPU", json!({ "device": "cuda:1" })),
        ),
        (
            unet("UNETLoaderMultiGPU", json!({ "device": "cuda:1" })),
            clip("CLIPLoaderMultiGPU", json!({ "device": "cpu" })),
            vae("VAELoaderMultiGPU", none.clone()),
        ),
        (
            unet("UNETLoaderDisTorch2MultiGPU", spread.clone()),
            clip("CLIPLoaderDisTorch2MultiGPU", virtual_vram.clone()),
            vae("VAELoaderDisTorch2MultiGPU", spread.clone()),
        ),
        (
            unet("UNETLoaderDisTorch2MultiGPU", virtual_vram.clone()),
            clip("CLIPLoaderDisTorch2MultiGPU", spread.clone()),
            vae("VAELoaderDisTorch2MultiGPU", virtual_vram.clone()),
        ),
        (
            node("UNetLoaderLP", json!({ "unet_name": "unet.safetensors" })),
            clip("CLIPLoaderDisTorch2MultiGPU", none.clone()),
            vae("VAELoader", none.clone()),
        ),
    ] {
        let prompt = separate(unet, clip, vae, "unet");
        assert_eq!(
            pixels(&mut executor(folder.path(), DEVICES), &prompt, &Silent),
            expected,
            "{prompt}"
        );
    }
}

#[test]
fn flux_and_its_encoders_from_two_files_in_any_order() {
    let folder = small(&small_models::flux());
    let expected = pixels(&mut executor(folder.path(), DEVICES), &whole("16"), &Silent);
    let spread = json!({ "expert_mode_allocations": "cuda:0,40%;cuda:1,30%;cpu,30%" });
    let names = ["clip_l.safetensors", "t5xxl.safetensors"];
    for (class, unet_class, more, [first, second]) in [
        ("DualCLIPLoader", "UNETLoader", json!({}), names),
        ("DualCLIPLoader", "UNETLoader", json!({}), [names[1], names[0]]),
        ("DualCLIPLoaderDisTorch2MultiGPU", "UNETLoaderDisTorch2MultiGPU", spread, names),
    ] {
        let clip = json!({ "clip_name1": first, "clip_name2": second, "type": "flux" });
        let vae = vae("VAELoader", json!({}));
        let prompt = separate(unet(unet_class, more.clone()), loader(class, clip, more), vae, "16");
        assert_eq!(pixels(&mut executor(folder.path(), DEVICES), &prompt, &Silent), expected);
    }
    let clip = |first: &str, second: &str, kind: &str| {
        let clip = json!({ "clip_name1": first, "clip_name2": second, "type": kind });
        separate(
            unet("UNETLoader", json!({})),
            node("DualCLIPLoader", clip),
            vae("VAELoader", json!({})),
            "16",
        )
    };
    let mut executor = executor(folder.path(), DEVICES);
    let twice = error(&mut executor, &clip(names[0], names[0], "flux"));
    assert!(twice.contains("both hold the text encoder clip_l"), "{twice}");
    let other = error(&mut executor, &clip(names[0], names[1], "hunyuan_video"));
    assert!(
        other.contains("clip_l, t5xxl are of no model") && other.contains("hunyuan_video"),
        "{other}"
    );
}

#[test]
fn sd3_and_its_encoders_from_three_files() {
    let folder = small(&small_models::sd3());
    let expected = pixels(&mut executor(folder.path(), DEVICES), &whole("16"), &Silent);
    let names = json!({
        "clip_name1": "t5xxl.safetensors", "clip_name2": "clip_l.safetensors",
        "clip_name3": "clip_g.safetensors",
    });
    let spread = json!({ "expert_mode_allocations": "cuda:0,40%;cuda:1,30%;cpu,30%" });
    for (class, more) in
        [("TripleCLIPLoader", json!({})), ("TripleCLIPLoaderDisTorch2MultiGPU", spread.clone())]
    {
        let clip = loader(class, names.clone(), more);
        let unet = unet("UNETLoaderDisTorch2MultiGPU", spread.clone());
        let prompt = separate(unet, clip, vae("VAELoaderMultiGPU", json!({})), "16");
        assert_eq!(pixels(&mut executor(folder.path(), DEVICES), &prompt, &Silent), expected);
    }
}

/// Z-Image and Flux.2 Klein: three files through the three DisTorch2 loaders.
#[test]
fn models_with_a_language_model_as_their_encoder() {
    let models =
        [(small_models::z_image(), "16", "lumina2"), (small_models::klein(), "128", "flux2")];
    for (configs, id, kind) in models {
        let folder = small(&configs);
        let expected = pixels(&mut executor(folder.path(), DEVICES), &whole(id), &Silent);
        let clip = json!({ "clip_name": "qwen3.safetensors", "type": kind });
        for more in [
            json!({ "virtual_vram_gb": 0.0 }),
            json!({ "expert_mode_allocations": "cuda:0,40%;cuda:1,30%;cpu,30%" }),
        ] {
            let prompt = separate(
                unet("UNETLoaderDisTorch2MultiGPU", more.clone()),
                loader("CLIPLoaderDisTorch2MultiGPU", clip.clone(), more.clone()),
                vae("VAELoaderDisTorch2MultiGPU", more),
                id,
            );
            let found = pixels(&mut executor(folder.path(), DEVICES), &prompt, &Silent);
            assert_eq!(found, expected, "{kind}");
        }
    }
}

#[test]
fn sdxl_and_its_encoders_from_two_files() {
    let folder = small(&small_models::sdxl());
    let expected = pixels(&mut executor(folder.path(), DEVICES), &whole("whole"), &Silent);
    let names = ["clip_g.safetensors", "clip_l.safetensors"];
    let clip = json!({ "clip_name1": names[0], "clip_name2": names[1], "type": "sdxl" });
    let clip = node("DualCLIPLoader", clip);
    let prompt = separate(unet("UNETLoader", json!({})), clip, vae("VAELoader", json!({})), "unet");
    assert_eq!(pixels(&mut executor(folder.path(), DEVICES), &prompt, &Silent), expected);
}

#[test]
fn loaders_compute_where_they_are_told() {
    let folder = shipped();
    let clip = |class: &str, more: Json| {
        let inputs = json!({ "clip_name": "clip_l.safetensors", "type": "stable_diffusion" });
        loader(class, inputs, more)
    };
    let expert = json!({ "device": "cuda:1", "expert_mode_allocations": "cuda:0,1%;cpu,99%" });
    for (clip, device, elsewhere) in [
        (clip("CLIPLoader", json!({})), "cuda:0", false),
        (clip("CLIPLoader", json!({ "device": "cpu" })), "cpu", false),
        (clip("CLIPLoaderMultiGPU", json!({ "device": "cuda:1" })), "cuda:1", false),
        (clip("CLIPLoaderDisTorch2MultiGPU", expert), "cuda:1", true),
    ] {
        let unet = unet("UNETLoaderMultiGPU", json!({ "device": "cuda:1" }));
        let prompt = separate(unet, clip, vae("VAELoader", json!({})), "unet");
        let plans = Plans::default();
        pixels(&mut executor(folder.path(), DEVICES), &prompt, &plans);
        let plans = plans.0.into_inner().unwrap();
        let of = |name: &str| {
            let (_, plans) = plans.iter().find(|(model, _)| model == name).unwrap();
            let [plan] = plans.as_slice() else { panic!("{name} has {} plans", plans.len()) };
            plan.clone()
        };
        let clip = of("clip_l.safetensors");
        assert_eq!(clip.component, "clip");
        assert_eq!(clip.compute_device.to_string(), device);
        let cuda0: DeviceId = "cuda:0".parse().unwrap();
        assert_eq!(clip.bytes_on(DeviceId::CPU) > 0 && clip.bytes_on(cuda0) > 0, elsewhere);
        assert_eq!(of("unet.safetensors").compute_device.to_string(), "cuda:1");
        assert_eq!(of("vae.safetensors").compute_device.to_string(), "cuda:0");
    }
}

/// One ledger for all files: what a file before is promised is not there for the next one, though its loader ejects
/// other models.
#[test]
fn all_files_of_a_workflow_share_a_ledger() {
    let folder = shipped();
    let clip = json!({ "clip_name": "clip_l.safetensors", "type": "stable_diffusion" });
    let unet = unet("UNETLoaderDisTorch2MultiGPU", json!({ "virtual_vram_gb": 0.0 }));
    let clip = node("CLIPLoaderMultiGPU", clip);
    let prompt = separate(unet, clip, vae("VAELoaderMultiGPU", json!({})), "unet");
    let mut executor = executor(folder.path(), DEVICES);
    let parsed = Prompt::from_json(&prompt.to_string(), executor.registry()).unwrap();
    let plans = Plans::default();
    executor.dry_run(&parsed, &["picture".to_owned()], &plans).unwrap();
    let Plans(plans, used) = plans;
    let plans = plans.into_inner().unwrap();
    assert_eq!(plans.len(), 3);
    let mut promised = 0;
    for (model, plans) in &plans {
        assert_eq!(plans[0].available_bytes, (2 << 30) - promised, "{model}");
        promised += plans[0].resident_bytes;
    }
    assert!(promised > 0);
    let mut used = used.into_inner().unwrap();
    used.sort();
    let nodes = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = [
        ("clip_l.safetensors".to_owned(), nodes(&["bad", "good"])),
        ("unet.safetensors".to_owned(), nodes(&["latent"])),
        ("vae.safetensors".to_owned(), nodes(&["picture"])),
    ];
    assert_eq!(used, expected);
}

/// T5's prompts are filled up as a node says: without it, to Flux's 256 tokens.
#[test]
fn prompts_for_t5_are_filled_up_as_a_node_says() {
    let folder = small(&small_models::flux());
    let mut executor = executor(folder.path(), DEVICES);
    let mut tokens = |padding: Option<[usize; 2]>| {
        let mut nodes = vec![
            ("clip", node("CheckpointLoaderSimple", json!({ "ckpt_name": "whole.safetensors" }))),
            ("text", node("CLIPTextEncode", json!({ "clip": ["clip", 1], "text": "a" }))),
        ];
        if let Some([padding, length]) = padding {
            let options =
                json!({ "clip": ["clip", 1], "min_padding": padding, "min_length": length });
            nodes.push(("options", node("T5TokenizerOptions", options)));
            nodes[1].1["inputs"]["clip"] = json!(["options", 0]);
        }
        let prompt = Prompt::from_json(&prompt(&nodes).to_string(), executor.registry()).unwrap();
        let report = executor.run_nodes(&prompt, &["text"], &Silent).unwrap();
        match &report.values["text"][0] {
            Value::Conditioning(conditioning) => conditioning.conds()[0].context.dims()[1],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tokens(None), 256);
    // One token and the end.
    let plain = tokens(Some([0, 0]));
    assert!(plain < 4, "{plain}");
    assert_eq!(tokens(Some([5, 0])), plain + 5);
    assert_eq!(tokens(Some([5, 20])), 20);
    assert_eq!(tokens(Some([0, 300])), 300);
}

/// The weights in 8 bits are those that PyTorch's rounding gives, and take half the bytes.
#[test]
fn weights_are_rounded_to_8_bits_where_that_is_asked_for() {
    let folder = shipped();
    let path = folder.path().join("models/diffusion_models");
    let half = Checkpoint::open(&path.join("unet.safetensors")).unwrap();
    for (name, dtype) in [("fp8_e4m3fn", Dtype::F8E4M3), ("fp8_e5m2", Dtype::F8E5M2)] {
        let mut file = ModelFile::new();
        for (key, info) in half.tensors() {
            let values = to_f32(&half.bytes(key).unwrap(), info.dtype);
            file.add_bytes(key, dtype, &info.shape, &to_fp8(&values, dtype));
        }
        file.write(&path.join(format!("{name}.safetensors")));
        let clip = json!({ "clip_name": "clip_l.safetensors", "type": "stable_diffusion" });
        let picture = |inputs: Json| {
            let unet = unet("UNETLoaderDisTorch2MultiGPU", inputs);
            let clip = node("CLIPLoader", clip.clone());
            let prompt = separate(unet, clip, vae("VAELoader", json!({})), "unet");
            let plans = Plans::default();
            let pixels = pixels(&mut executor(folder.path(), DEVICES), &prompt, &plans);
            let plans = plans.0.into_inner().unwrap();
            let bytes = plans.iter().flat_map(|(_, plans)| plans);
            let bytes = bytes.filter(|plan| plan.component == "unet").map(|plan| plan.bytes).sum();
            (pixels, bytes)
        };
        let allocation = "cuda:0,50%;cpu,50%";
        let of_file = json!({
            "unet_name": format!("{name}.safetensors"), "expert_mode_allocations": allocation,
        });
        let asked = json!({ "weight_dtype": name, "expert_mode_allocations": allocation });
        let (expected, bytes): (Vec<f32>, u64) = picture(of_file);
        assert_eq!(picture(asked), (expected.clone(), bytes));
        let (plain, twice) = picture(json!({}));
        assert_eq!(twice, 2 * bytes);
        assert!(plain != expected);
    }
}

#[test]
fn what_a_file_lacks_is_told_by_its_input() {
    let folder = shipped();
    let models = folder.path().join("models");
    std::fs::copy(models.join("vae/vae.safetensors"), models.join("unet/no_unet.safetensors"))
        .unwrap();
    std::fs::copy(
        models.join("vae/vae.safetensors"),
        models.join("text_encoders/no_clip.safetensors"),
    )
    .unwrap();
    let mut executor = executor(folder.path(), DEVICES);
    let clip =
        |name: &str| node("CLIPLoader", json!({ "clip_name": name, "type": "stable_diffusion" }));
    let unet_of_vae = unet("UNETLoader", json!({ "unet_name": "no_unet.safetensors" }));
    let prompt =
        separate(unet_of_vae, clip("clip_l.safetensors"), vae("VAELoader", json!({})), "unet");
    let text = error(&mut executor, &prompt);
    assert!(
        text.contains("`unet_name`: `no_unet.safetensors` has no diffusion model; it is VAE"),
        "{text}"
    );
    let prompt = separate(
        unet("UNETLoader", json!({})),
        clip("no_clip.safetensors"),
        vae("VAELoader", json!({})),
        "unet",
    );
    let text = error(&mut executor, &prompt);
    assert!(text.contains("`clip_name`: `no_clip.safetensors` has no text encoder"), "{text}");
    let wrong =
        unet("UNETLoaderDisTorch2MultiGPU", json!({ "expert_mode_allocations": "cuda:7,1gb" }));
    let prompt = separate(wrong, clip("clip_l.safetensors"), vae("VAELoader", json!({})), "unet");
    let text = error(&mut executor, &prompt);
    assert!(text.contains("expert_mode_allocations") && !text.contains("unet_expert"), "{text}");
}

#[test]
fn a_gguf_loader_says_what_to_take_instead() {
    let folder = shipped();
    let mut executor = executor(folder.path(), DEVICES);
    let clip = node(
        "CLIPLoader",
        json!({ "clip_name": "clip_l.safetensors", "type": "stable_diffusion" }),
    );
    let unet =
        node("UnetLoaderGGUFDisTorch2MultiGPU", json!({ "unet_name": "flux1-dev-Q8_0.gguf" }));
    let text =
        error(&mut executor, &separate(unet, clip.clone(), vae("VAELoader", json!({})), "unet"));
    assert!(
        text.contains("`flux1-dev-Q8_0.gguf` is a GGUF file, and these are not read yet"),
        "{text}"
    );
    assert!(text.contains("UNETLoader"), "{text}");
    let dual = json!({ "clip_name1": "a.gguf", "clip_name2": "b.gguf", "type": "flux" });
    let dual = node("DualCLIPLoaderGGUF", dual);
    let unet =
        node("UNETLoader", json!({ "unet_name": "unet.safetensors", "weight_dtype": "default" }));
    let text = error(&mut executor, &separate(unet, dual, vae("VAELoader", json!({})), "unet"));
    assert!(text.contains("`a.gguf`, `b.gguf` are GGUF files"), "{text}");
}

#[test]
fn a_device_comes_from_a_node() {
    let folder = shipped();
    let device = node("DeviceSelectorMultiGPU", json!({ "device": "cuda:1" }));
    let clip = json!({ "clip_name": "clip_l.safetensors", "type": "stable_diffusion" });
    let loaders = [
        ("device", device),
        ("unet", unet("UNETLoaderMultiGPU", json!({ "device": ["device", 0] }))),
        ("clip", node("CLIPLoader", clip)),
        ("vae", vae("VAELoader", json!({}))),
    ];
    let prompt = drawn(&loaders, json!(["unet", 0]), json!(["clip", 0]), json!(["vae", 0]));
    let plans = Plans::default();
    pixels(&mut executor(folder.path(), DEVICES), &prompt, &plans);
    let plans = plans.0.into_inner().unwrap();
    let (_, unet) = plans.iter().find(|(model, _)| model == "unet.safetensors").unwrap();
    assert_eq!(unet[0].compute_device.to_string(), "cuda:1");
}

/// The inputs that the pack's forms add, in its order, with its defaults and ranges.
#[test]
fn the_forms_have_the_inputs_of_the_pack() {
    let folder = tempfile::tempdir().unwrap();
    let executor = executor(folder.path(), DEVICES);
    let info = describe::object_info(executor.registry(), executor.environment());
    for (core, device, ejects) in [
        ("UNETLoader", "compute_device", true),
        ("VAELoader", "compute_device", true),
        ("DiffusersLoader", "compute_device", true),
        ("CLIPLoader", "device", false),
        ("DualCLIPLoader", "device", false),
        ("TripleCLIPLoader", "device", false),
        ("QuadrupleCLIPLoader", "device", false),
        ("UnetLoaderGGUF", "compute_device", true),
        ("UnetLoaderGGUFAdvanced", "compute_device", true),
        ("CLIPLoaderGGUF", "device", false),
        ("DualCLIPLoaderGGUF", "device", false),
        ("TripleCLIPLoaderGGUF", "device", false),
        ("QuadrupleCLIPLoaderGGUF", "device", false),
    ] {
        let base = &info[core];
        let on_device = &info[format!("{core}MultiGPU").as_str()];
        let spread = &info[format!("{core}DisTorch2MultiGPU").as_str()];
        for form in [on_device, spread] {
            assert_eq!(form["input"]["required"], base["input"]["required"], "{core}");
            assert_eq!(form["input_order"]["required"], base["input_order"]["required"], "{core}");
            assert_eq!(form["output"], base["output"], "{core}");
        }
        assert_eq!(on_device["input_order"]["optional"], json!(["device"]), "{core}");
        assert_eq!(on_device["category"], "multigpu");
        assert_eq!(spread["category"], "multigpu/distorch_2");
        let names = ["virtual_vram_gb", "donor_device", "expert_mode_allocations", "eject_models"];
        let order: Vec<&str> = [device].into_iter().chain(names).collect();
        assert_eq!(spread["input_order"]["optional"], json!(order), "{core}");
        let optional = &spread["input"]["optional"];
        // The default is the second of ComfyUI's list, whose first is the CPU: here it is the first.
        assert_eq!(optional[device][0], json!(["cuda:0", "cuda:1", "cpu"]), "{core}");
        let range = &optional["virtual_vram_gb"][1];
        assert_eq!(
            [&range["default"], &range["min"], &range["max"], &range["step"]],
            [&json!(4.0), &json!(0.0), &json!(128.0), &json!(0.1)],
            "{core}"
        );
        assert_eq!(optional["donor_device"][0][0], "cpu", "{core}");
        assert_eq!(optional["expert_mode_allocations"][1]["default"], "", "{core}");
        assert_eq!(optional["eject_models"][1]["default"], ejects, "{core}");
    }
    let types = &info["CLIPLoader"]["input"]["required"]["type"][0];
    assert!(
        ["stable_diffusion", "sd3", "lumina2", "qwen_image", "flux2"]
            .iter()
            .all(|name| { types.as_array().unwrap().contains(&json!(name)) })
    );
    let dtypes = json!(["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]);
    assert_eq!(info["UNETLoader"]["input"]["required"]["weight_dtype"][0], dtypes);
    assert_eq!(info["DeviceSelectorMultiGPU"]["output"], json!(["MULTIGPUDEVICE"]));
}

/// A pipeline as diffusers saves it: the VAE and the text encoder under the names that they have there already, the
/// UNet under diffusers' (`crates/checkpoint/tests/separate.rs` has where these come from).
#[test]
fn a_folder_of_diffusers_gives_all_three() {
    let folder = shipped();
    let models = folder.path().join("models");
    let pipeline = models.join("diffusers/shapes");
    let part = |from: &str, to: &str| {
        let to = pipeline.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(models.join(from), to).unwrap();
    };
    part("diffusion_models/unet.safetensors", "unet/diffusion_pytorch_model.safetensors");
    part("text_encoders/clip_l.safetensors", "text_encoder/model.safetensors");
    part("vae/vae.safetensors", "vae/diffusion_pytorch_model.safetensors");
    std::fs::write(pipeline.join("model_index.json"), "{}").unwrap();
    let mut executor = executor(folder.path(), DEVICES);
    let expected = pixels(&mut executor, &whole("whole"), &Silent);
    for (class, more) in [
        ("DiffusersLoader", json!({})),
        ("DiffusersLoaderMultiGPU", json!({ "device": "cuda:1" })),
        (
            "DiffusersLoaderDisTorch2MultiGPU",
            json!({ "expert_mode_allocations": "cuda:0,50%;cpu,50%" }),
        ),
    ] {
        let all = loader(class, json!({ "model_path": "shapes" }), more);
        let prompt =
            drawn(&[("all", all)], json!(["all", 0]), json!(["all", 1]), json!(["all", 2]));
        assert_eq!(pixels(&mut executor, &prompt, &Silent), expected, "{class}");
    }
}
