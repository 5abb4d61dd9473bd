//! What moves when a workflow runs again, and what stays promised.

use std::collections::BTreeMap;
use std::sync::Mutex;

use distorch_allocation::Plan;
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::runs::node;
use distorch_workflow::Executor;
use distorch_workflow::observe::{Event, Observer};
use serde_json::{Value as Json, json};

use super::{DEVICES, Plans, executor, pixels, separate, shipped, unet, vae};

/// Hears what is loaded.
#[derive(Default)]
struct Loads(Mutex<Vec<String>>);

impl Observer for Loads {
    fn event(&self, event: Event<'_>) {
        if let Event::Loading { what, .. } = event {
            let mut heard = self.0.lock().unwrap();
            if heard.last().is_none_or(|last| last != what) {
                heard.push(what.to_owned());
            }
        }
    }
}

/// Bytes that passed through the compute device for each file so far.
fn moved(executor: &Executor) -> BTreeMap<String, u64> {
    let stats = executor.environment().session.models.stats();
    stats.into_iter().map(|(part, stats)| (part.file().name.clone(), stats.bytes_moved)).collect()
}

/// What a run loads, and what passes through the compute device for each file.
fn run(executor: &mut Executor, prompt: &Json) -> (Vec<String>, BTreeMap<String, u64>) {
    let (before, loads) = (moved(executor), Loads::default());
    pixels(executor, prompt, &loads);
    let mut after = moved(executor);
    for (file, bytes) in &mut after {
        *bytes -= before.get(file).copied().unwrap_or(0);
    }
    (loads.0.into_inner().unwrap(), after)
}

/// A LoRA of one layer of the UNet.
fn lora() -> ModelFile {
    let name = "lora_unet_mid_block_attentions_0_proj_in";
    let shapes = [
        (format!("{name}.lora_up.weight"), vec![64, 1, 1, 1]),
        (format!("{name}.lora_down.weight"), vec![1, 64, 1, 1]),
    ];
    ModelFile::of_values(shapes.map(|(name, shape)| {
        let count = shape.iter().product();
        (name, shape, vec![0.01; count])
    }))
}

/// The diffusion model streams from the host, the text encoder and the VAE are at home on the device: a second seed loads
/// nothing and streams no more than its evaluations need, a second prompt loads no layer of the text encoder either; another
/// strength of a LoRA loads no file anew.
#[test]
fn a_second_run_moves_what_it_must() {
    let folder = shipped();
    lora().write(&folder.path().join("models/loras/one.safetensors"));
    let clip = json!({ "clip_name": "clip_l.safetensors", "type": "stable_diffusion" });
    let spread = json!({ "virtual_vram_gb": 4.0, "donor_device": "cpu", "eject_models": false });
    let unet = unet("UNETLoaderDisTorch2MultiGPU", spread);
    let mut prompt = separate(
        unet,
        node("CLIPLoaderMultiGPU", clip),
        vae("VAELoaderMultiGPU", json!({})),
        "unet",
    );
    prompt["lora"] = node(
        "LoraLoaderModelOnly",
        json!({ "model": ["unet", 0], "lora_name": "one.safetensors", "strength_model": 0.5 }),
    );
    prompt["latent"]["inputs"]["model"] = json!(["lora", 0]);
    let mut executor = executor(folder.path(), DEVICES);
    let (loads, first) = run(&mut executor, &prompt);
    assert_eq!(loads.len(), 3, "{loads:?}");
    let models = &executor.environment().session.models;
    let away = models.stats().into_iter().find(|(part, _)| part.file().name == "unet.safetensors");
    let away = away.map(|(part, _)| part.plan().bytes_elsewhere()).unwrap();
    // Two steps of two evaluations each, for the prompt and against the empty one: no layer comes more often. How many come less
    // often depends on how far the loader is when an evaluation ends.
    let unet_streams = |moved: &BTreeMap<String, u64>| {
        let streamed = moved["unet.safetensors"];
        assert!(streamed > 0 && streamed <= 4 * away, "{streamed} of {away}");
        assert_eq!((moved["clip_l.safetensors"], moved["vae.safetensors"]), (0, 0));
    };
    unet_streams(&first);

    prompt["latent"]["inputs"]["seed"] = json!(8);
    let (loads, second) = run(&mut executor, &prompt);
    assert_eq!(loads, Vec::<String>::new());
    unet_streams(&second);

    prompt["good"]["inputs"]["text"] = json!("a blue square");
    let (loads, third) = run(&mut executor, &prompt);
    assert_eq!(loads, Vec::<String>::new());
    unet_streams(&third);

    prompt["lora"]["inputs"]["strength_model"] = json!(0.75);
    let (loads, fourth) = run(&mut executor, &prompt);
    assert_eq!(loads, Vec::<String>::new());
    unet_streams(&fourth);

    // Nothing at all where nothing changes.
    let (loads, last) = run(&mut executor, &prompt);
    assert_eq!(loads, Vec::<String>::new());
    assert!(last.values().all(|bytes| *bytes == 0), "{last:?}");
}

/// A loader whose result is there already keeps what it is promised when another one ejects models, and is promised it
/// again where it had been given up.
#[test]
fn a_loader_that_need_not_run_keeps_its_promise() {
    let folder = shipped();
    let clip = json!({ "clip_name": "clip_l.safetensors", "type": "stable_diffusion" });
    let whole = json!({ "virtual_vram_gb": 0.0, "eject_models": true });
    let prompt = |name: &str, seed: u64, vae: Json| {
        let mut unet = unet("UNETLoaderDisTorch2MultiGPU", whole.clone());
        unet["inputs"]["unet_name"] = json!(name);
        let clip = node("CLIPLoaderMultiGPU", clip.clone());
        let mut prompt = separate(unet, clip, vae, "unet");
        prompt["latent"]["inputs"]["seed"] = json!(seed);
        prompt
    };
    let mut executor = executor(folder.path(), DEVICES);
    let mut run = |prompt: &Json| {
        let plans = Plans::default();
        pixels(&mut executor, prompt, &plans);
        plans.0.into_inner().unwrap()
    };
    let promised = |plans: &[(String, Vec<Plan>)], name: &str| {
        let (_, plans) = plans.iter().find(|(model, _)| model == name).unwrap();
        plans[0].promised().map(|(_, bytes)| bytes).sum::<u64>()
    };
    let multi = || vae("VAELoaderMultiGPU", json!({}));
    let first = run(&prompt("unet.safetensors", 1, multi()));
    let (of_unet, of_vae) =
        (promised(&first, "unet.safetensors"), promised(&first, "vae.safetensors"));
    assert!(of_unet > 0 && of_vae > 0);
    // The texts are encoded, so that of the loaders before only the VAE's counts.
    let second = run(&prompt("prefixed.safetensors", 2, multi()));
    let of_second = promised(&second, "prefixed.safetensors");
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].1[0].available_bytes, (2 << 30) - of_vae);
    // The first model, whose promise the second one's loader took, is there still and used again.
    let third = run(&prompt("unet.safetensors", 3, vae("VAELoader", json!({}))));
    assert_eq!(third.len(), 1);
    assert_eq!(third[0].0, "vae.safetensors");
    assert_eq!(third[0].1[0].available_bytes, (2 << 30) - of_unet - of_second);
}
