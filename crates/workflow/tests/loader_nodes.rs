//! Loaders of LoRAs and VAEs, and prompts with notes in them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod small_models;

use std::sync::Mutex;

use distorch_checkpoint::family::Configs;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::{Event, Observer};
use distorch_workflow::validate::validate;
use distorch_workflow::value::Value;
use serde_json::{Value as Json, json};
use small_models::{Studio, distance, node, prompt, sd1, values, weight, write, write_tensors};

fn base() -> Vec<(&'static str, Json)> {
    let empty = json!({ "width": 64, "height": 64, "batch_size": 1 });
    vec![
        ("ckpt", node("CheckpointLoaderSimple", json!({ "ckpt_name": "tiny.safetensors" }))),
        ("empty", node("EmptyLatentImage", empty)),
    ]
}

fn with(nodes: &[(&'static str, Json)]) -> Json {
    prompt(&[base(), nodes.to_vec()].concat())
}

/// A LoRA of a layer of the UNet and one of the text encoder, and a key of something else.
fn write_lora(studio: &Studio, name: &str) {
    let tensors = [
        ("lora_unet_down_blocks_1_attentions_0_proj_in.lora_up.weight", vec![64, 2, 1, 1]),
        ("lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight", vec![2, 64, 1, 1]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", vec![64, 2]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", vec![2, 32]),
        ("lora_unet_nowhere.lora_up.weight", vec![4, 2]),
        ("lora_unet_nowhere.lora_down.weight", vec![2, 4]),
    ];
    let tensors = tensors.into_iter().map(|(key, shape)| {
        let values = weight(&format!("{name} {key}"), &shape);
        (key.to_owned(), shape, values)
    });
    write_tensors(&studio.model_path(&format!("loras/{name}.safetensors")), tensors);
}

fn lora(from: &str, name: &str, strengths: [f64; 2]) -> Json {
    let [model, clip] = strengths;
    let clip_slot = 1;
    node(
        "LoraLoader",
        json!({
            "model": [from, 0], "clip": [from, clip_slot],
            "lora_name": format!("{name}.safetensors"),
            "strength_model": model, "strength_clip": clip,
        }),
    )
}

fn text(clip: &str) -> Json {
    node("CLIPTextEncode", json!({ "clip": [clip, 1], "text": "a red circle" }))
}

fn sampled(model: &str, positive: &str) -> Json {
    node(
        "KSampler",
        json!({
            "model": [model, 0], "seed": 7, "steps": 2, "cfg": 1.0, "sampler_name": "euler",
            "scheduler": "normal", "positive": [positive, 0], "negative": [positive, 0],
            "latent_image": ["empty", 0], "denoise": 1.0,
        }),
    )
}

#[test]
fn loras_change_what_their_strengths_say_and_come_off_again() {
    let mut studio = Studio::sd1();
    write_lora(&studio, "a");
    write_lora(&studio, "b");
    let only = json!({
        "model": ["ckpt", 0], "lora_name": "a.safetensors", "strength_model": 1.0,
    });
    let prompt = with(&[
        ("plain", text("ckpt")),
        ("a", lora("ckpt", "a", [1.0, 1.0])),
        ("ab", lora("a", "b", [0.5, 0.5])),
        ("b", lora("ckpt", "b", [0.5, 0.5])),
        ("ba", lora("b", "a", [1.0, 1.0])),
        ("off", lora("ckpt", "a", [0.0, 0.0])),
        ("undone", lora("a", "a", [-1.0, -1.0])),
        ("clip_only", lora("ckpt", "a", [0.0, 1.0])),
        ("model_only", node("LoraLoaderModelOnly", only)),
        ("text_a", text("a")),
        ("text_off", text("off")),
        ("text_undone", text("undone")),
        ("k", sampled("ckpt", "plain")),
        ("k_a", sampled("a", "plain")),
        ("k_ab", sampled("ab", "plain")),
        ("k_ba", sampled("ba", "plain")),
        ("k_undone", sampled("undone", "plain")),
        ("k_clip_only", sampled("clip_only", "plain")),
        ("k_model_only", sampled("model_only", "plain")),
        ("k_again", {
            // Of another seed's cache, so that it runs after the LoRAs did.
            let mut node = sampled("ckpt", "plain");
            node["inputs"]["denoise"] = json!(0.99999);
            node
        }),
    ]);
    let mut context = |id: &str| values(&studio.conds(&prompt, id).remove(0).context);
    let plain = context("plain");
    assert!(distance(&context("text_a"), &plain) > 1e-3);
    assert_eq!(context("text_off"), plain);
    assert!(distance(&context("text_undone"), &plain) < 1e-4);

    let k = studio.latent(&prompt, "k", 0);
    let a = studio.latent(&prompt, "k_a", 0);
    let moved = distance(&a, &k);
    assert!(moved > 1e-3, "{moved}");
    let ab = studio.latent(&prompt, "k_ab", 0);
    assert!(distance(&ab, &a) > 1e-2 * moved);
    assert!(distance(&studio.latent(&prompt, "k_ba", 0), &ab) < 1e-2 * moved);
    assert!(distance(&studio.latent(&prompt, "k_undone", 0), &k) < 1e-2 * moved);
    assert_eq!(studio.latent(&prompt, "k_clip_only", 0), k);
    assert_eq!(studio.latent(&prompt, "k_model_only", 0), a);
    assert_eq!(studio.latent(&prompt, "k_again", 0), k);
}

/// Keeps warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning { text, .. } = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

#[test]
fn keys_that_mean_nothing_are_told_and_files_that_are_none_are_errors() {
    let mut studio = Studio::sd1();
    write_lora(&studio, "a");
    let other = |path: &std::path::Path| {
        write_tensors(path, [("x".to_owned(), vec![1], vec![0.0])].into_iter());
    };
    other(&studio.model_path("loras/none.safetensors"));
    let prompt = with(&[
        ("a", lora("ckpt", "a", [1.0, 1.0])),
        ("none", lora("ckpt", "none", [1.0, 1.0])),
        ("missing", lora("ckpt", "missing", [1.0, 1.0])),
    ]);
    let (parsed, warnings) = (Prompt::from_json(&prompt.to_string()).unwrap(), Warnings::default());
    studio.executor.run_nodes(&parsed, &["a"], &warnings).unwrap();
    let warnings = warnings.0.into_inner().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("lora_unet_nowhere"), "{warnings:?}");
    let error = studio.try_run(&prompt, "none").unwrap_err().to_string();
    assert!(error.contains("`lora_name`") && error.contains("no LoRA"), "{error}");
    let error = studio.try_run(&prompt, "missing").unwrap_err().to_string();
    assert!(error.contains("a.safetensors"), "{error}");
}

#[test]
fn a_vae_of_its_own_decodes_as_that_of_a_checkpoint() {
    let mut studio = Studio::sd1();
    let vae = Configs { vae: sd1().vae, ..Configs::default() };
    write(&studio.model_path("vae/alone.safetensors"), &vae);
    let unet = Configs { diffusion: sd1().diffusion, ..Configs::default() };
    write(&studio.model_path("vae/unet.safetensors"), &unet);
    let decode = |vae: Json| node("VAEDecode", json!({ "samples": ["noisy", 0], "vae": vae }));
    let load = |name: &str| json!({ "vae_name": name });
    let multi = json!({ "vae_name": "alone.safetensors", "device": "cpu" });
    let prompt = with(&[
        ("plain", text("ckpt")),
        ("noisy", sampled("ckpt", "plain")),
        ("alone", node("VAELoader", load("alone.safetensors"))),
        ("multi", node("VAELoaderMultiGPU", multi)),
        ("checkpoint", decode(json!(["ckpt", 2]))),
        ("a", decode(json!(["alone", 0]))),
        ("b", decode(json!(["multi", 0]))),
        ("none", node("VAELoader", load("unet.safetensors"))),
    ]);
    let mut picture = |id: &str| match &studio.run(&prompt, id)[0] {
        Value::Image(pictures) => pictures.clone(),
        other => panic!("{other:?}"),
    };
    let expected = picture("checkpoint");
    assert_eq!(expected.shape(), [1, 64, 64, 3]);
    assert_eq!(picture("a"), expected);
    assert_eq!(picture("b"), expected);
    let error = studio.try_run(&prompt, "none").unwrap_err().to_string();
    assert!(error.contains("has no VAE") && error.contains("unet.safetensors"), "{error}");
}

#[test]
fn a_checkpoint_without_encoders_or_vae_gives_the_rest() {
    let mut studio = Studio::sd1();
    let unet = Configs { diffusion: sd1().diffusion, ..Configs::default() };
    write(&studio.model_path("checkpoints/unet.safetensors"), &unet);
    let vae = Configs { vae: sd1().vae, ..Configs::default() };
    write(&studio.model_path("checkpoints/vae.safetensors"), &vae);
    let load = |name: &str| node("CheckpointLoaderSimple", json!({ "ckpt_name": name }));
    let decode = json!({ "samples": ["k", 0], "vae": ["unet", 2] });
    let prompt = with(&[
        ("unet", load("unet.safetensors")),
        ("vae", load("vae.safetensors")),
        ("text", text("ckpt")),
        ("k", sampled("unet", "text")),
        ("k_whole", sampled("ckpt", "text")),
        ("encode", text("unet")),
        ("decode", node("VAEDecode", decode)),
    ]);
    let (parsed, warnings) = (Prompt::from_json(&prompt.to_string()).unwrap(), Warnings::default());
    studio.executor.run_nodes(&parsed, &["unet"], &warnings).unwrap();
    let warnings = warnings.0.into_inner().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(studio.latent(&prompt, "k", 0), studio.latent(&prompt, "k_whole", 0));
    let mut error = |id: &str| studio.try_run(&prompt, id).unwrap_err().to_string();
    let (encode, decode, vae) = (error("encode"), error("decode"), error("vae"));
    assert!(encode.contains("`clip`: `unet.safetensors` has no text encoder"), "{encode}");
    assert!(decode.contains("`vae`: `unet.safetensors` has no VAE"), "{decode}");
    assert!(decode.contains("VAELoader"), "{decode}");
    assert!(vae.contains("`ckpt_name`: `vae.safetensors` has no diffusion model"), "{vae}");
}

#[test]
fn notes_are_left_out_but_other_unknown_classes_are_not() {
    let mut studio = Studio::sd1();
    let decode = json!({ "samples": ["empty", 0], "vae": ["ckpt", 2] });
    let mut nodes = vec![
        ("decode", node("VAEDecode", decode)),
        ("show", node("PreviewImage", json!({ "images": ["decode", 0] }))),
        ("note", node("Note", json!({ "text": "to whom it may concern" }))),
        ("words", node("MarkdownNote", json!({ "": "# words" }))),
    ];
    let parse =
        |nodes: &[(&'static str, Json)]| Prompt::from_json(&with(nodes).to_string()).unwrap();
    let environment = studio.executor.environment();
    assert_eq!(validate(&parse(&nodes), environment).unwrap().outputs, ["show"]);
    let report = studio.executor.run(&parse(&nodes), &Warnings::default()).unwrap();
    assert!(report.executed.iter().all(|id| id != "note" && id != "words"));
    nodes[0].1["inputs"]["samples"] = json!(["note", 0]);
    let invalid = validate(&parse(&nodes), studio.executor.environment()).unwrap_err();
    assert!(invalid.to_string().contains("node note (Note) has no outputs"), "{invalid}");
    nodes.push(("odd", node("Note!", json!({}))));
    let invalid = validate(&parse(&nodes), studio.executor.environment()).unwrap_err();
    assert_eq!(invalid.error.kind, "missing_node_type");
}
