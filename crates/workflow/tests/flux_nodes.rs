//! Nodes of Flux, run on small models with seeded weights: what each of them changes about a sample.
//!
//! Prompts come from a small CLIP; a Flux transformer of its width reads them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distorch_checkpoint::config::{
    DiffusionConfig, FluxConfig, T5Config, TextEncoderConfig, VaeConfig,
};
use distorch_checkpoint::family::Configs;
use distorch_models::network::ReferenceMethod;
use distorch_pipeline::diffusion::conditioning::{Cond, Guidance};
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::seeded;
use distorch_test_support::small_models::{sd1, vae, write};
use distorch_test_support::tensors::{distance, values};
use distorch_workflow::value::Value;
use serde_json::{Value as Json, json};

/// Flux dev that takes so many latents' channels, one for each.
fn flux(inputs: usize) -> Configs {
    let config = FluxConfig {
        in_channels: 64 * inputs,
        out_channels: 64,
        width: 64,
        heads: 2,
        context_dim: 32,
        vec_dim: 32,
        depth: 1,
        depth_single: 1,
        mlp_width: 256,
        guidance_embed: true,
    };
    let vae = VaeConfig {
        latent_channels: 16,
        quant_conv: false,
        scaling_factor: 0.3611,
        shift_factor: 0.1159,
        ..vae()
    };
    Configs {
        diffusion: Some(DiffusionConfig::Flux(config)),
        text_encoders: Vec::new(),
        vae: Some(vae),
    }
}

/// SD's small checkpoint for its text encoder, and a Flux.
fn harness(inputs: usize) -> Harness {
    let harness = Harness::sd1();
    write(&harness.model_path("checkpoints/flux.safetensors"), &flux(inputs));
    harness
}

fn loader(name: &str) -> Json {
    node("CheckpointLoaderSimple", json!({ "ckpt_name": name }))
}

fn base(nodes: &[(&'static str, Json)]) -> Json {
    let empty = json!({ "width": 72, "height": 64, "batch_size": 1 });
    let picture = |color: i64| {
        node("EmptyImage", json!({ "width": 72, "height": 64, "batch_size": 1, "color": color }))
    };
    let encode =
        |picture: &str| node("VAEEncode", json!({ "pixels": [picture, 0], "vae": ["flux", 2] }));
    let mut all = vec![
        ("sd", loader("tiny.safetensors")),
        ("flux", loader("flux.safetensors")),
        ("text", node("CLIPTextEncode", json!({ "clip": ["sd", 1], "text": "a red circle" }))),
        ("empty", node("EmptySD3LatentImage", empty)),
        ("red", picture(0x00ff_0000)),
        ("blue", picture(0xff)),
        ("encoded red", encode("red")),
        ("encoded blue", encode("blue")),
    ];
    all.extend_from_slice(nodes);
    prompt(&all)
}

fn sampled(model: &str, positive: &str, latent: (&str, usize)) -> Json {
    node(
        "KSampler",
        json!({
            "model": [model, 0], "seed": 7, "steps": 2, "cfg": 1.0, "sampler_name": "euler",
            "scheduler": "simple", "positive": [positive, 0], "negative": [positive, 0],
            "latent_image": [latent.0, latent.1], "denoise": 1.0,
        }),
    )
}

/// A node that changes a conditioning.
fn of(class: &str, conditioning: &str, more: Json) -> Json {
    let mut node = node(class, more);
    node["inputs"]["conditioning"] = json!([conditioning, 0]);
    node
}

fn differ(one: &[f32], other: &[f32]) {
    let distance = distance(one, other);
    assert!(distance > 1e-4 && distance.is_finite(), "{distance}");
}

#[test]
fn guidance_is_set_and_left_out() {
    let mut harness = harness(1);
    let guided = |guidance: f64| of("FluxGuidance", "text", json!({ "guidance": guidance }));
    let prompt = base(&[
        ("usual", guided(3.5)),
        ("strong", guided(30.0)),
        ("off", of("FluxDisableGuidance", "strong", json!({}))),
        ("as it is", sampled("flux", "text", ("empty", 0))),
        ("with the usual", sampled("flux", "usual", ("empty", 0))),
        ("with more", sampled("flux", "strong", ("empty", 0))),
        ("without", sampled("flux", "off", ("empty", 0))),
    ]);
    let guidance = |harness: &mut Harness, name: &str| harness.conds(&prompt, name)[0].guidance;
    assert_eq!(guidance(&mut harness, "text"), Guidance::Usual);
    assert_eq!(guidance(&mut harness, "strong"), Guidance::Strength(30.0));
    assert_eq!(guidance(&mut harness, "off"), Guidance::Off);
    let mut latent = |name: &str| harness.latent(&prompt, name, 0);
    let (usual, strong, off) = (latent("as it is"), latent("with more"), latent("without"));
    assert_eq!(usual, latent("with the usual"));
    assert_eq!(usual.len(), 16 * 8 * 9);
    differ(&usual, &strong);
    differ(&usual, &off);
    differ(&strong, &off);
}

/// CLIP's pooled output is that of the one text, T5's states are those of the other.
#[test]
fn each_encoder_has_a_prompt_of_its_own() {
    let t5 = T5Config {
        vocab_size: 32128,
        width: 32,
        layers: 1,
        heads: 2,
        head_dim: 16,
        intermediate: 64,
        relative_buckets: 32,
    };
    let mut text_encoders = sd1().text_encoders;
    text_encoders.push(("t5xxl", TextEncoderConfig::T5(t5)));
    let configs = Configs { text_encoders, ..flux(1) };
    let mut harness = Harness::with("checkpoints/flux.safetensors", &configs);
    let same = |text: &str| node("CLIPTextEncode", json!({ "clip": ["flux", 1], "text": text }));
    let both = json!({
        "clip": ["flux", 1], "clip_l": "a red circle", "t5xxl": "a blue square", "guidance": 2.5,
    });
    let prompt = prompt(&[
        ("flux", loader("flux.safetensors")),
        ("red", same("a red circle")),
        ("blue", same("a blue square")),
        ("both", node("CLIPTextEncodeFlux", both)),
    ]);
    let mut cond = |name: &str| harness.conds(&prompt, name).remove(0);
    let (red, blue, both) = (cond("red"), cond("blue"), cond("both"));
    assert_eq!(both.guidance, Guidance::Strength(2.5));
    assert_eq!(values(&both.context), values(&blue.context));
    let pooled = |cond: &Cond| values(cond.pooled.as_ref().unwrap());
    assert_eq!(pooled(&both), pooled(&red));
    differ(&pooled(&both), &pooled(&blue));
    differ(&values(&both.context), &values(&red.context));
}

#[test]
fn noise_is_shifted_by_the_size_of_the_picture() {
    let mut harness = harness(1);
    let shifted = |side: i64| {
        let inputs = json!({
            "model": ["flux", 0], "max_shift": 1.15, "base_shift": 0.5, "width": side, "height": side,
        });
        node("ModelSamplingFlux", inputs)
    };
    let prompt = base(&[
        ("large", shifted(1024)),
        ("small", shifted(256)),
        ("as it is", sampled("flux", "text", ("empty", 0))),
        ("of the large", sampled("large", "text", ("empty", 0))),
        ("of the small", sampled("small", "text", ("empty", 0))),
    ]);
    let mut sigma = |name: &str, percent: f64| match &harness.run(&prompt, name)[0] {
        Value::Model(model) => model.sampling().percent_to_sigma(percent),
        other => panic!("{other:?}"),
    };
    // e^mu / (e^mu + 1) in the middle: mu is 1.15 at 4096 patches and 0.5 at 256.
    assert!((sigma("large", 0.5) - 0.759_510_916_949).abs() < 1e-9);
    assert!((sigma("small", 0.5) - 0.622_459_331_202).abs() < 1e-9);
    let usual = harness.latent(&prompt, "as it is", 0);
    let large = harness.latent(&prompt, "of the large", 0);
    assert!(distance(&usual, &large) < 1e-5);
    differ(&usual, &harness.latent(&prompt, "of the small", 0));
}

#[test]
fn references_are_looked_at_where_they_are_placed() {
    let mut harness = harness(1);
    let with = |conditioning: &str, latent: &str| {
        of("ReferenceLatent", conditioning, json!({ "latent": [latent, 0] }))
    };
    let placed = |method: &str| {
        let method = json!({ "reference_latents_method": method });
        of("FluxKontextMultiReferenceLatentMethod", "both", method)
    };
    let prompt = base(&[
        ("none", of("ReferenceLatent", "text", json!({}))),
        ("one", with("text", "encoded red")),
        ("both", with("one", "encoded blue")),
        ("offset", placed("offset")),
        ("index", placed("index")),
        ("row", placed("uxo/uno")),
        ("qwen", placed("index_timestep_zero")),
        ("sampled text", sampled("flux", "text", ("empty", 0))),
        ("sampled none", sampled("flux", "none", ("empty", 0))),
        ("sampled one", sampled("flux", "one", ("empty", 0))),
        ("sampled both", sampled("flux", "both", ("empty", 0))),
        ("sampled offset", sampled("flux", "offset", ("empty", 0))),
        ("sampled index", sampled("flux", "index", ("empty", 0))),
        ("sampled row", sampled("flux", "row", ("empty", 0))),
        ("sampled qwen", sampled("flux", "qwen", ("empty", 0))),
    ]);
    let [red, blue] = ["encoded red", "encoded blue"].map(|name| harness.latent(&prompt, name, 0));
    let both = harness.conds(&prompt, "both").remove(0);
    let found: Vec<_> = both.reference_latents.iter().map(values).collect();
    assert_eq!(found, [red, blue]);
    assert_eq!(both.reference_method, ReferenceMethod::Own);
    let row = harness.conds(&prompt, "row").remove(0);
    assert_eq!(row.reference_method, ReferenceMethod::Diagonal);
    let qwen = harness.conds(&prompt, "qwen").remove(0);
    assert_eq!(qwen.reference_method, ReferenceMethod::IndexAtZero);
    let error = harness.try_run(&prompt, "sampled qwen").unwrap_err().to_string();
    assert!(error.contains("index_timestep_zero") && error.contains("offset"), "{error}");

    let mut latent = |name: &str| harness.latent(&prompt, &format!("sampled {name}"), 0);
    let none = latent("text");
    assert_eq!(none, latent("none"));
    let (one, both) = (latent("one"), latent("both"));
    differ(&none, &one);
    differ(&one, &both);
    assert_eq!(both, latent("offset"));
    differ(&both, &latent("index"));
    differ(&both, &latent("row"));
}

/// The text with a control picture.
fn control(pixels: &str) -> Json {
    let inputs = json!({
        "positive": ["text", 0], "negative": ["text", 0], "vae": ["flux", 2], "pixels": [pixels, 0],
    });
    node("InstructPixToPixConditioning", inputs)
}

#[test]
fn control_models_read_a_picture() {
    let mut harness = harness(2);
    let prompt = base(&[
        ("of red", control("red")),
        ("of blue", control("blue")),
        ("sampled", sampled("flux", "text", ("empty", 0))),
        ("sampled red", sampled("flux", "of red", ("of red", 2))),
        ("sampled blue", sampled("flux", "of blue", ("of blue", 2))),
    ]);
    let empty = harness.latent(&prompt, "of red", 2);
    assert!(empty.len() == 16 * 8 * 9 && empty.iter().all(|value| *value == 0.0));
    let picture = harness.conds(&prompt, "of red")[0].picture.clone().unwrap();
    assert!(picture.mask.is_none());
    let encoded = harness.latent(&prompt, "encoded red", 0);
    assert_eq!(values(&picture.latent.samples), encoded);
    let mut latent = |name: &str| harness.latent(&prompt, name, 0);
    let (none, red, blue) = (latent("sampled"), latent("sampled red"), latent("sampled blue"));
    differ(&none, &red);
    differ(&red, &blue);
}

/// A control LoRA in Black Forest Labs' layout for the model of [`flux`]: it widens `img_in` and sets norms.
fn control_lora() -> ModelFile {
    let norms = ["double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0"];
    let scales = norms.iter().flat_map(|block| {
        ["query_norm", "key_norm"].map(|norm| (format!("{block}.norm.{norm}.scale"), vec![32]))
    });
    let low_rank = [
        ("img_in.lora_A.weight", vec![4, 128]),
        ("img_in.lora_B.weight", vec![64, 4]),
        ("img_in.lora_B.bias", vec![64]),
        ("single_blocks.0.linear2.lora_A.weight", vec![4, 320]),
        ("single_blocks.0.linear2.lora_B.weight", vec![64, 4]),
    ];
    let tensors = scales.chain(low_rank.map(|(key, shape)| (key.to_owned(), shape)));
    ModelFile::of_values(tensors.map(|(key, shape)| {
        let values = seeded::weight(&key, &shape, 1);
        (key, shape, values)
    }))
}

/// As the model of the same weights that takes two latents, wherever the widened layer lives.
#[test]
fn a_control_lora_makes_a_model_read_a_picture() {
    let mut harness = Harness::empty_on("cuda:0=1GiB,cuda:1=1GiB@8GB/s");
    write(&harness.model_path("checkpoints/tiny.safetensors"), &sd1());
    write(&harness.model_path("checkpoints/flux.safetensors"), &flux(1));
    control_lora().write(&harness.model_path("loras/control.safetensors"));
    let offloaded = |allocation: &str| {
        let inputs = json!({
            "ckpt_name": "flux.safetensors", "unet_compute_device": "cuda:0",
            "unet_virtual_vram_gb": 0.0, "unet_donor_device": "cpu", "clip_compute_device": "cpu",
            "clip_virtual_vram_gb": 0.0, "clip_donor_device": "cpu", "vae_device": "cpu",
            "unet_expert_mode_allocations": allocation, "clip_expert_mode_allocations": "",
            "high_precision_loras": true, "eject_models": true,
        });
        node("CheckpointLoaderAdvancedDisTorch2MultiGPU", inputs)
    };
    let lora = |model: &str, strength: f64| {
        let inputs = json!({
            "model": [model, 0], "lora_name": "control.safetensors", "strength_model": strength,
        });
        node("LoraLoaderModelOnly", inputs)
    };
    let prompt = base(&[
        ("of red", control("red")),
        ("of blue", control("blue")),
        ("controlled", lora("flux", 0.75)),
        ("off", lora("flux", 0.0)),
        ("away", offloaded("cpu,100%")),
        ("away controlled", lora("away", 0.75)),
        ("apart", offloaded("cuda:0,30%;cuda:1,70%")),
        ("apart controlled", lora("apart", 0.75)),
        ("sampled", sampled("flux", "text", ("empty", 0))),
        ("sampled off", sampled("off", "of red", ("of red", 2))),
        ("sampled red", sampled("controlled", "of red", ("of red", 2))),
        ("sampled blue", sampled("controlled", "of blue", ("of blue", 2))),
        ("sampled away", sampled("away controlled", "of red", ("of red", 2))),
        ("sampled apart", sampled("apart controlled", "of red", ("of red", 2))),
        ("sampled again", sampled("flux", "of red", ("of red", 2))),
    ]);
    let mut latent = |name: &str| harness.latent(&prompt, name, 0);
    let (plain, red, blue) = (latent("sampled"), latent("sampled red"), latent("sampled blue"));
    differ(&plain, &red);
    differ(&red, &blue);
    assert_eq!(plain, latent("sampled off"), "a picture means nothing without the LoRA");
    assert_eq!(plain, latent("sampled again"), "the base comes back");
    assert_eq!(red, latent("sampled away"));
    assert_eq!(red, latent("sampled apart"));
}

/// Sixteen channels of noise and of the picture, and the mask's 64.
#[test]
fn fill_reads_a_picture_and_a_mask_of_every_pixel() {
    let mut harness = harness(6);
    let fill = |pixels: &str, mask: &str| {
        let inputs = json!({
            "positive": ["text", 0], "negative": ["text", 0], "vae": ["flux", 2],
            "pixels": [pixels, 0], "mask": [mask, 0], "noise_mask": false,
        });
        node("InpaintModelConditioning", inputs)
    };
    let mask = |value: f64| node("SolidMask", json!({ "value": value, "width": 72, "height": 64 }));
    let prompt = base(&[
        ("all", mask(1.0)),
        ("little", mask(0.2)),
        ("red all", fill("red", "all")),
        ("red little", fill("red", "little")),
        ("blue little", fill("blue", "little")),
        ("sampled", sampled("flux", "text", ("empty", 0))),
        ("sampled red all", sampled("flux", "red all", ("empty", 0))),
        ("sampled red little", sampled("flux", "red little", ("empty", 0))),
        ("sampled blue little", sampled("flux", "blue little", ("empty", 0))),
    ]);
    let mut latent = |name: &str| harness.latent(&prompt, name, 0);
    let all = latent("sampled red all");
    let (red, blue) = (latent("sampled red little"), latent("sampled blue little"));
    // Without a picture, the mask is all and the picture's latent nothing.
    differ(&all, &latent("sampled"));
    differ(&all, &red);
    differ(&red, &blue);
}
