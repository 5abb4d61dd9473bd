//! Loaders of LoRAs and VAEs, and prompts with notes in them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "loader_nodes/tiny_vae.rs"]
mod tiny_vae;

use std::sync::Mutex;

use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::config::VaeConfig;
use distorch_checkpoint::decode::to_f32;
use distorch_checkpoint::family::Configs;
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::seeded;
use distorch_test_support::small_models::{sd1, vae, write};
use distorch_test_support::tensors::{distance, values};
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::{Event, Observer, Silent};
use distorch_workflow::value::Value;
use distorch_workflow::{ExecutionError, NodeError, nodes};
use serde_json::{Value as Json, json};

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
fn write_lora(harness: &Harness, name: &str) {
    let tensors = [
        ("lora_unet_down_blocks_1_attentions_0_proj_in.lora_up.weight", vec![64, 2, 1, 1]),
        ("lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight", vec![2, 64, 1, 1]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", vec![64, 2]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", vec![2, 32]),
        ("lora_unet_nowhere.lora_up.weight", vec![4, 2]),
        ("lora_unet_nowhere.lora_down.weight", vec![2, 4]),
    ];
    let tensors = tensors.into_iter().map(|(key, shape)| {
        let values = seeded::weight(&format!("{name} {key}"), &shape, 0);
        (key.to_owned(), shape, values)
    });
    ModelFile::of_values(tensors).write(&harness.model_path(&format!("loras/{name}.safetensors")));
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
    let mut harness = Harness::sd1();
    write_lora(&harness, "a");
    write_lora(&harness, "b");
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
    let mut context = |id: &str| values(&harness.conds(&prompt, id).remove(0).context);
    let plain = context("plain");
    assert!(distance(&context("text_a"), &plain) > 1e-3);
    assert_eq!(context("text_off"), plain);
    assert!(distance(&context("text_undone"), &plain) < 1e-4);

    let k = harness.latent(&prompt, "k", 0);
    let a = harness.latent(&prompt, "k_a", 0);
    let moved = distance(&a, &k);
    assert!(moved > 1e-3, "{moved}");
    let ab = harness.latent(&prompt, "k_ab", 0);
    assert!(distance(&ab, &a) > 1e-2 * moved);
    assert!(distance(&harness.latent(&prompt, "k_ba", 0), &ab) < 1e-2 * moved);
    assert!(distance(&harness.latent(&prompt, "k_undone", 0), &k) < 1e-2 * moved);
    assert_eq!(harness.latent(&prompt, "k_clip_only", 0), k);
    assert_eq!(harness.latent(&prompt, "k_model_only", 0), a);
    assert_eq!(harness.latent(&prompt, "k_again", 0), k);
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
    let mut harness = Harness::sd1();
    write_lora(&harness, "a");
    let other = |path: &std::path::Path| {
        ModelFile::of_values([("x".to_owned(), vec![1], vec![0.0])]).write(path);
    };
    other(&harness.model_path("loras/none.safetensors"));
    let prompt = with(&[
        ("a", lora("ckpt", "a", [1.0, 1.0])),
        ("none", lora("ckpt", "none", [1.0, 1.0])),
        ("missing", lora("ckpt", "missing", [1.0, 1.0])),
    ]);
    let (parsed, warnings) =
        (Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap(), Warnings::default());
    harness.executor.run_nodes(&parsed, &["a"], &warnings).unwrap();
    let warnings = warnings.0.into_inner().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("lora_unet_nowhere"), "{warnings:?}");
    let error = harness.try_run(&prompt, "none").unwrap_err().to_string();
    assert!(error.contains("`lora_name`") && error.contains("no LoRA"), "{error}");
    let error = harness.try_run(&prompt, "missing").unwrap_err().to_string();
    assert!(error.contains("a.safetensors"), "{error}");
}

#[test]
fn a_vae_of_its_own_decodes_as_that_of_a_checkpoint() {
    let mut harness = Harness::sd1();
    let vae = Configs { vae: sd1().vae, ..Configs::default() };
    write(&harness.model_path("vae/alone.safetensors"), &vae);
    let unet = Configs { diffusion: sd1().diffusion, ..Configs::default() };
    write(&harness.model_path("vae/unet.safetensors"), &unet);
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
    let mut picture = |id: &str| match &harness.run(&prompt, id)[0] {
        Value::Image(pictures) => pictures.clone(),
        other => panic!("{other:?}"),
    };
    let expected = picture("checkpoint");
    assert_eq!(expected.shape(), [1, 64, 64, 3]);
    assert_eq!(picture("a"), expected);
    assert_eq!(picture("b"), expected);
    let error = harness.try_run(&prompt, "none").unwrap_err().to_string();
    assert!(error.contains("has no VAE") && error.contains("unet.safetensors"), "{error}");
}

#[test]
fn a_checkpoint_without_encoders_or_vae_gives_the_rest() {
    let mut harness = Harness::sd1();
    let unet = Configs { diffusion: sd1().diffusion, ..Configs::default() };
    write(&harness.model_path("checkpoints/unet.safetensors"), &unet);
    let vae = Configs { vae: sd1().vae, ..Configs::default() };
    write(&harness.model_path("checkpoints/vae.safetensors"), &vae);
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
    let (parsed, warnings) =
        (Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap(), Warnings::default());
    harness.executor.run_nodes(&parsed, &["unet"], &warnings).unwrap();
    let warnings = warnings.0.into_inner().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(harness.latent(&prompt, "k", 0), harness.latent(&prompt, "k_whole", 0));
    let mut error = |id: &str| harness.try_run(&prompt, id).unwrap_err().to_string();
    let (encode, decode, vae) = (error("encode"), error("decode"), error("vae"));
    assert!(encode.contains("`clip`: `unet.safetensors` has no text encoder"), "{encode}");
    assert!(decode.contains("`vae`: `unet.safetensors` has no VAE"), "{decode}");
    assert!(decode.contains("VAELoader"), "{decode}");
    assert!(vae.contains("`ckpt_name`: `vae.safetensors` has no diffusion model"), "{vae}");
}

#[test]
fn notes_are_left_out_but_other_unknown_classes_are_not() {
    let mut harness = Harness::sd1();
    let decode = json!({ "samples": ["empty", 0], "vae": ["ckpt", 2] });
    let mut nodes = vec![
        ("decode", node("VAEDecode", decode)),
        ("show", node("PreviewImage", json!({ "images": ["decode", 0] }))),
        ("note", node("Note", json!({ "text": "to whom it may concern" }))),
        ("words", node("MarkdownNote", json!({ "": "# words" }))),
    ];
    let parse = |nodes: &[(&'static str, Json)]| {
        Prompt::from_json(&with(nodes).to_string(), &nodes::all()).unwrap()
    };
    assert_eq!(harness.executor.validate(&parse(&nodes)).unwrap().outputs, ["show"]);
    let report = harness.executor.run(&parse(&nodes), &Warnings::default()).unwrap();
    assert!(report.executed.iter().all(|id| id != "note" && id != "words"));
    nodes[0].1["inputs"]["samples"] = json!(["note", 0]);
    let invalid = harness.executor.validate(&parse(&nodes)).unwrap_err();
    assert!(invalid.to_string().contains("node note (Note) has no outputs"), "{invalid}");
    nodes.push(("odd", node("Note!", json!({}))));
    let invalid = harness.executor.validate(&parse(&nodes)).unwrap_err();
    assert_eq!(invalid.error.kind, "missing_node_type");
}

#[test]
fn a_lora_for_another_model_is_an_error_before_anything_is_loaded() {
    let mut harness = Harness::sd1();
    let of_sdxl = [
        (
            "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k.lora_up.weight",
            vec![1280, 2],
        ),
        (
            "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k.lora_down.weight",
            vec![2, 2048],
        ),
    ];
    let text_only = [
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", vec![64, 2]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", vec![2, 32]),
    ];
    for (name, tensors) in [("xl", of_sdxl), ("text", text_only)] {
        let tensors = tensors
            .into_iter()
            .map(|(key, shape)| (key.to_owned(), shape.clone(), vec![0.5; shape.iter().product()]));
        ModelFile::of_values(tensors)
            .write(&harness.model_path(&format!("loras/{name}.safetensors")));
    }
    let model_only = |name: &str| {
        let inputs = json!({
            "model": ["ckpt", 0], "lora_name": format!("{name}.safetensors"), "strength_model": 1.0,
        });
        node("LoraLoaderModelOnly", inputs)
    };
    let prompt = with(&[
        ("xl", lora("ckpt", "xl", [1.0, 1.0])),
        ("xl_model", model_only("xl")),
        ("xl_off", lora("ckpt", "xl", [0.0, 0.0])),
        ("text", lora("ckpt", "text", [1.0, 1.0])),
        ("text_model", model_only("text")),
    ]);
    for node in ["xl", "xl_model"] {
        let error = harness.try_run(&prompt, node).unwrap_err().to_string();
        for part in ["`lora_name`", "xl.safetensors", "made for SDXL base", "fits SD 1.x"] {
            assert!(error.contains(part), "{error}");
        }
    }
    harness.run(&prompt, "xl_off");
    harness.run(&prompt, "text");
    let error = harness.try_run(&prompt, "text_model").unwrap_err().to_string();
    assert!(error.contains("another component"), "{error}");
}

/// The keys of an autoencoder as diffusers writes them, by the canonical ones.
fn diffusers_name(key: &str, older: bool) -> String {
    let mut name =
        key.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out");
    for half in ["encoder", "decoder"] {
        for (from, to) in [
            ("mid.block_1", "mid_block.resnets.0"),
            ("mid.block_2", "mid_block.resnets.1"),
            ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
        ] {
            name = name.replace(&format!("{half}.{from}"), &format!("{half}.{to}"));
        }
    }
    for (own, new, old) in [
        ("q", "to_q", "query"),
        ("k", "to_k", "key"),
        ("v", "to_v", "value"),
        ("proj_out", "to_out.0", "proj_attn"),
    ] {
        let to = if older { old } else { new };
        name =
            name.replace(&format!("mid.attn_1.{own}."), &format!("mid_block.attentions.0.{to}."));
    }
    for level in 0..4 {
        for block in 0..3 {
            let (down, up) =
                (format!("down.{level}.block.{block}"), format!("up.{level}.block.{block}"));
            name = name.replace(&down, &format!("down_blocks.{level}.resnets.{block}"));
            name = name.replace(&up, &format!("up_blocks.{}.resnets.{block}", 3 - level));
        }
        let (down, up) =
            (format!("down.{level}.downsample.conv"), format!("up.{level}.upsample.conv"));
        name = name.replace(&down, &format!("down_blocks.{level}.downsamplers.0.conv"));
        name = name.replace(&up, &format!("up_blocks.{}.upsamplers.0.conv", 3 - level));
    }
    name
}

#[test]
fn a_vae_in_diffusers_layout_is_the_same_vae() {
    let mut harness = Harness::sd1();
    let vae = Configs {
        vae: Some(VaeConfig { channel_mult: vec![1, 2, 2, 3], ..vae() }),
        ..Configs::default()
    };
    let path = harness.model_path("vae/own.safetensors");
    write(&path, &vae);
    let own = Checkpoint::open(&path).unwrap();
    let prefix = "first_stage_model.";
    for (name, older, matrices) in
        [("new", false, true), ("old", true, true), ("conv", false, false)]
    {
        let tensors = own.tensors().map(|(key, info)| {
            let name = diffusers_name(key.strip_prefix(prefix).unwrap(), older);
            let mut shape = info.shape.clone();
            if matrices && name.contains(".attentions.") && shape.len() == 4 {
                shape.truncate(2);
            }
            (name, shape, to_f32(&own.bytes(key).unwrap(), info.dtype))
        });
        ModelFile::of_values(tensors)
            .write(&harness.model_path(&format!("vae/{name}.safetensors")));
    }
    let load = |name: &str| node("VAELoader", json!({ "vae_name": format!("{name}.safetensors") }));
    let decode = |vae: &str| node("VAEDecode", json!({ "samples": ["noisy", 0], "vae": [vae, 0] }));
    let encode = |vae: &str| node("VAEEncode", json!({ "pixels": ["d_own", 0], "vae": [vae, 0] }));
    let names = ["own", "new", "old", "conv"];
    let ids: Vec<[String; 2]> =
        names.iter().map(|name| [format!("d_{name}"), format!("e_{name}")]).collect();
    let mut prompt = with(&[("plain", text("ckpt")), ("noisy", sampled("ckpt", "plain"))]);
    for (name, [d, e]) in names.iter().zip(&ids) {
        prompt[*name] = load(name);
        prompt[d.as_str()] = decode(name);
        prompt[e.as_str()] = encode(name);
    }
    let mut picture = |id: &str| match &harness.run(&prompt, id)[0] {
        Value::Image(pictures) => pictures.values().to_vec(),
        Value::Latent(latent) => values(&latent.samples),
        other => panic!("{other:?}"),
    };
    for half in [0, 1] {
        let expected = picture(&ids[0][half]);
        for [d, e] in &ids[1..] {
            let id = if half == 0 { d } else { e };
            assert_eq!(picture(id), expected, "{id}");
        }
    }
}

#[test]
fn pixel_space_leaves_pictures_as_they_are() {
    let mut harness = Harness::sd1();
    let tensors = [("pixel_space_vae".to_owned(), vec![], vec![1.0])];
    ModelFile::of_values(tensors).write(&harness.model_path("vae/pixels.safetensors"));
    for file in ["taehv.safetensors", "taef1_decoder.pth"] {
        let tensors = [("1.weight".to_owned(), vec![1], vec![1.0])];
        ModelFile::of_values(tensors).write(&harness.model_path(&format!("vae_approx/{file}")));
    }
    let load = |name: &str| node("VAELoader", json!({ "vae_name": name }));
    let prompt = prompt(&[
        ("chosen", load("pixel_space")),
        ("file", load("pixels.safetensors")),
        ("videos", load("taehv.safetensors")),
        ("taef1", load("taef1")),
        (
            "grey",
            node(
                "EmptyImage",
                json!({ "width": 13, "height": 5, "batch_size": 2, "color": 0x40_80ff }),
            ),
        ),
        ("chosen_e", node("VAEEncode", json!({ "pixels": ["grey", 0], "vae": ["chosen", 0] }))),
        ("chosen_d", node("VAEDecode", json!({ "samples": ["chosen_e", 0], "vae": ["file", 0] }))),
        (
            "tiled",
            node(
                "VAEEncodeTiled",
                json!({
                    "pixels": ["grey", 0], "vae": ["chosen", 0], "tile_size": 64, "overlap": 64,
                    "temporal_size": 64, "temporal_overlap": 8,
                }),
            ),
        ),
        ("latent", node("EmptyLatentImage", json!({ "width": 64, "height": 64, "batch_size": 1 }))),
        ("wrong", node("VAEDecode", json!({ "samples": ["latent", 0], "vae": ["chosen", 0] }))),
    ]);
    let latent = harness.latent(&prompt, "chosen_e", 0);
    assert_eq!(latent.len(), 2 * 3 * 5 * 13);
    // From -1 to 1.
    let channel = |value: f32| value / 255.0 * 2.0 - 1.0;
    assert!((latent[0] - channel(64.0)).abs() < 1e-6, "{}", latent[0]);
    assert!((latent[2 * 5 * 13] - 1.0).abs() < 1e-6);
    assert_eq!(harness.latent(&prompt, "tiled", 0), latent);
    let mut pictures = |id: &str| match &harness.run(&prompt, id)[0] {
        Value::Image(pictures) => pictures.clone(),
        other => panic!("{other:?}"),
    };
    let (before, after) = (pictures("grey"), pictures("chosen_d"));
    assert_eq!(before.shape(), after.shape());
    assert!(distance(before.values(), after.values()) < 1e-6);
    let error = harness.try_run(&prompt, "wrong").unwrap_err().to_string();
    assert!(error.contains("latents of 4 channels, but this VAE decodes 3"), "{error}");
    // Chosen, a tiny autoencoder of videos says what it is; one of pictures without both files is no choice.
    let error = harness.try_run(&prompt, "videos").unwrap_err().to_string();
    assert!(error.contains("tiny autoencoder of videos"), "{error}");
    let parsed = Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap();
    let refused = harness.executor.run_nodes(&parsed, &["taef1"], &Silent).unwrap_err();
    let ExecutionError::Invalid(invalid) = refused else { panic!("{refused}") };
    let told = format!("{invalid:?}");
    assert!(told.contains("taef1") && told.contains("pixel_space"), "{told}");
}

#[test]
fn pictures_and_latents_that_no_vae_takes_are_errors_of_their_input() {
    let mut harness = Harness::sd1();
    let image = |width: u32, height: u32| {
        node("EmptyImage", json!({ "width": width, "height": height, "batch_size": 1, "color": 0 }))
    };
    let encode =
        |pixels: &str| node("VAEEncode", json!({ "pixels": [pixels, 0], "vae": ["ckpt", 2] }));
    let tiled = |pixels: &str, tile: u32, overlap: u32| {
        node(
            "VAEEncodeTiled",
            json!({
                "pixels": [pixels, 0], "vae": ["ckpt", 2], "tile_size": tile, "overlap": overlap,
                "temporal_size": 64, "temporal_overlap": 8,
            }),
        )
    };
    let prompt = with(&[
        ("low", image(64, 7)),
        ("thin", image(1, 64)),
        ("dot", image(1, 1)),
        ("wide", image(200, 64)),
        ("just", image(8, 8)),
        ("e_low", encode("low")),
        ("e_thin", encode("thin")),
        ("e_dot", encode("dot")),
        ("e_just", encode("just")),
        ("t_low", tiled("low", 512, 64)),
        ("t_dot", tiled("dot", 64, 0)),
        ("t_just", tiled("just", 4096, 4096)),
        ("t_half", tiled("wide", 128, 64)),
        ("t_more", tiled("wide", 64, 300)),
        ("t_odd", tiled("wide", 100, 0)),
    ]);
    for id in ["e_low", "e_thin", "e_dot", "t_low", "t_dot"] {
        let error = harness.try_run(&prompt, id).unwrap_err().to_string();
        assert!(error.contains("`pixels`") && error.contains("scale it up"), "{id}: {error}");
    }
    assert_eq!(harness.latent(&prompt, "e_just", 0).len(), 4);
    assert_eq!(harness.latent(&prompt, "t_just", 0).len(), 4);
    for id in ["t_half", "t_more", "t_odd"] {
        let error = harness.try_run(&prompt, id).unwrap_err().to_string();
        assert!(error.contains("`tile_size`"), "{id}: {error}");
    }
}

#[test]
fn a_file_that_vae_loader_refuses_is_an_error_of_its_input() {
    let mut harness = Harness::sd1();
    std::fs::create_dir_all(harness.model_path("vae")).unwrap();
    std::fs::write(harness.model_path("vae/page.safetensors"), "<html>").unwrap();
    let other = [("a.b".to_owned(), vec![1], vec![0.0])];
    ModelFile::of_values(other).write(&harness.model_path("vae/other.safetensors"));
    let prompt = prompt(&[
        ("page", node("VAELoader", json!({ "vae_name": "page.safetensors" }))),
        ("other", node("VAELoader", json!({ "vae_name": "other.safetensors" }))),
    ]);
    for id in ["page", "other"] {
        let error = harness.try_run(&prompt, id).unwrap_err();
        let ExecutionError::Node { error: NodeError::Input { input, .. }, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(input, "vae_name");
    }
}
