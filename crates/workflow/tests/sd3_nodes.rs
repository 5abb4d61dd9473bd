//! SD3's nodes, run on a small model with seeded weights.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::small_models::sd3;
use distorch_test_support::tensors::{distance, values};
use serde_json::{Value as Json, json};

fn harness() -> Harness {
    Harness::with("checkpoints/tiny.safetensors", &sd3())
}

fn with(nodes: &[(&'static str, Json)]) -> Json {
    let loader = json!({ "ckpt_name": "tiny.safetensors" });
    let base = vec![("ckpt", node("CheckpointLoaderSimple", loader))];
    prompt(&[base, nodes.to_vec()].concat())
}

fn text(text: &str) -> Json {
    node("CLIPTextEncode", json!({ "clip": ["ckpt", 1], "text": text }))
}

/// The clean latent that a model, changed by a node, guesses from noise alone: what one step of Euler's method goes to.
fn guess(harness: &mut Harness, change: Option<(&str, Json)>) -> Vec<f32> {
    let mut nodes = vec![
        ("good", text("a red circle")),
        (
            "empty",
            node("EmptySD3LatentImage", json!({ "width": 64, "height": 96, "batch_size": 2 })),
        ),
        ("sampler", node("KSamplerSelect", json!({ "sampler_name": "euler" }))),
        (
            "sigmas",
            node(
                "BasicScheduler",
                json!({ "model": ["ckpt", 0], "scheduler": "simple", "steps": 1, "denoise": 1.0 }),
            ),
        ),
    ];
    let model = match change {
        Some((class, mut inputs)) => {
            inputs["model"] = json!(["ckpt", 0]);
            nodes.push(("change", node(class, inputs)));
            "change"
        }
        None => "ckpt",
    };
    let sampler = json!({
        "model": [model, 0], "add_noise": true, "noise_seed": 7, "cfg": 1.0,
        "positive": ["good", 0], "negative": ["good", 0], "sampler": ["sampler", 0],
        "sigmas": ["sigmas", 0], "latent_image": ["empty", 0],
    });
    nodes.push(("run", node("SamplerCustom", sampler)));
    harness.latent(&with(&nodes), "run", 0)
}

fn sd3_guidance(layers: &str, scale: f64, start: f64, end: f64) -> (&'static str, Json) {
    let inputs = json!({
        "layers": layers, "scale": scale, "start_percent": start, "end_percent": end,
    });
    ("SkipLayerGuidanceSD3", inputs)
}

fn dit_guidance(double: &str, single: &str, rescale: f64) -> (&'static str, Json) {
    let inputs = json!({
        "double_layers": double, "single_layers": single, "scale": 1.0, "start_percent": 0.0,
        "end_percent": 1.0, "rescaling_scale": rescale,
    });
    ("SkipLayerGuidanceDiT", inputs)
}

/// `positive + scale·(positive - skipped)` is a straight line over the scale.
#[test]
fn skip_layer_guidance_steps_away_from_the_guess_without_blocks() {
    let mut harness = harness();
    let plain = guess(&mut harness, None);
    let mut at = |scale| guess(&mut harness, Some(sd3_guidance("0, 1", scale, 0.0, 1.0)));
    let (none, once, twice) = (at(0.0), at(1.0), at(2.0));
    let largest = plain.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert_eq!(none, plain);
    let step = distance(&once, &plain);
    assert!(step > 0.01 * largest, "{step} of {largest}");
    let line: Vec<f32> = plain.iter().zip(&once).map(|(zero, one)| 2.0 * one - zero).collect();
    assert!(distance(&line, &twice) < 1e-4 * largest);
}

/// The noise alone is at a sigma of 1, above that of 1 % of the way.
#[test]
fn skip_layer_guidance_acts_between_its_bounds_on_blocks_that_are_there() {
    let mut harness = harness();
    let plain = guess(&mut harness, None);
    for (change, same) in [
        (sd3_guidance("0, 1", 1.0, 0.01, 1.0), true),
        (sd3_guidance("0, 1", 1.0, 0.0, 0.0), true),
        (sd3_guidance("0, 1", 1.0, 0.0, 0.5), false),
        (sd3_guidance("3, 99", 1.0, 0.0, 1.0), true),
        (sd3_guidance("none", 1.0, 0.0, 1.0), true),
        (dit_guidance("", "0, 1", 0.0), true),
        (dit_guidance("0, 1", "", 0.0), false),
    ] {
        let changed = guess(&mut harness, Some(change.clone()));
        assert_eq!(changed == plain, same, "{change:?}");
    }
}

/// The guided guess is a line over cfg, from the negative guess without blocks to the positive one with all of them.
#[test]
fn the_negative_guess_alone_is_made_without_blocks() {
    let mut harness = harness();
    let mut at = |cfg: f64, layers: &str| {
        let simple = json!({
            "model": ["ckpt", 0], "double_layers": layers, "single_layers": "", "start_percent": 0.0,
            "end_percent": 1.0,
        });
        let sampler = json!({
            "model": ["change", 0], "add_noise": true, "noise_seed": 7, "cfg": cfg,
            "positive": ["good", 0], "negative": ["good", 0], "sampler": ["sampler", 0],
            "sigmas": ["sigmas", 0], "latent_image": ["empty", 0],
        });
        let schedule =
            json!({ "model": ["ckpt", 0], "scheduler": "simple", "steps": 1, "denoise": 1.0 });
        let nodes = [
            ("good", text("a red circle")),
            (
                "empty",
                node("EmptySD3LatentImage", json!({ "width": 64, "height": 64, "batch_size": 1 })),
            ),
            ("sampler", node("KSamplerSelect", json!({ "sampler_name": "euler" }))),
            ("sigmas", node("BasicScheduler", schedule)),
            ("change", node("SkipLayerGuidanceDiTSimple", simple)),
            ("run", node("SamplerCustom", sampler)),
        ];
        harness.latent(&with(&nodes), "run", 0)
    };
    let positive = at(1.0, "0, 1");
    // Both guesses are the same where no block is left out.
    assert!(distance(&at(3.0, ""), &positive) < 1e-4);
    let (twice, thrice) = (at(2.0, "0, 1"), at(3.0, "0, 1"));
    assert!(distance(&twice, &positive) > 1e-2);
    let line: Vec<f32> = positive.iter().zip(&twice).map(|(one, two)| 2.0 * two - one).collect();
    let largest = positive.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!(distance(&line, &thrice) < 1e-4 * largest.max(1.0), "{}", distance(&line, &thrice));
}

/// A scale of 1 brings the deviation of all values back to that of the positive guess, one half half the way.
#[test]
fn skip_layer_guidance_brings_contrast_back() {
    let mut harness = harness();
    let deviation = |latent: Vec<f32>| {
        let values: Vec<f64> = latent.iter().map(|value| f64::from(*value)).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
    };
    let plain = deviation(guess(&mut harness, None));
    let mut at = |rescale| deviation(guess(&mut harness, Some(dit_guidance("0, 1", "7", rescale))));
    let (raised, half, whole) = (at(0.0), at(0.5), at(1.0));
    assert!((raised / plain - 1.0).abs() > 1e-3, "{raised} {plain}");
    assert!((whole / plain - 1.0).abs() < 1e-5, "{whole} {plain}");
    assert!((half / ((plain + raised) / 2.0) - 1.0).abs() < 1e-5, "{half}");
}

/// As ComfyUI has it: an empty text is nothing, or what an empty prompt is; where one CLIP has a text, the other has an
/// empty prompt beside it.
#[test]
fn each_encoder_of_sd3_has_its_text() {
    let mut harness = harness();
    let each = |l: &str, g: &str, t5: &str, padding: &str| {
        let inputs = json!({
            "clip": ["ckpt", 1], "clip_l": l, "clip_g": g, "t5xxl": t5, "empty_padding": padding,
        });
        node("CLIPTextEncodeSD3", inputs)
    };
    let mut encode = |encoded: Json| {
        let conds = harness.conds(&with(&[("text", encoded)]), "text");
        let [cond] = conds.as_slice() else { panic!("{}", conds.len()) };
        let [_, tokens, _] = cond.context.dims();
        (tokens, values(&cond.context), values(cond.pooled.as_ref().unwrap()))
    };
    let circle = "a red circle";
    let same = encode(text(circle));
    assert_eq!(same.0, 77 + 77);
    assert_eq!(encode(each(circle, circle, circle, "none")), same);
    assert_eq!(encode(each("", "", "", "empty_prompt")), encode(text("")));

    let (tokens, _, pooled) = encode(each("", "", "", "none"));
    assert_eq!((tokens, pooled), (1, vec![0.0; 36]));
    let (tokens, context, pooled) = encode(each("", "", circle, "none"));
    assert_eq!((tokens, pooled), (77, vec![0.0; 36]));
    // T5's states are those behind CLIP's.
    assert_eq!(context, same.1[77 * 48..]);
    let (tokens, context, pooled) = encode(each(circle, "", "", "none"));
    assert_eq!(tokens, 77 + 1);
    let padded = encode(each(circle, "", "", "empty_prompt"));
    assert_eq!((&context[..77 * 48], &pooled), (&padded.1[..77 * 48], &padded.2));
    assert_ne!(encode(each(circle, "blurry", circle, "none")), same);
}

#[test]
fn text_encoders_of_another_family_do_not_read_three_prompts() {
    let mut harness = Harness::sd1();
    let inputs = json!({
        "clip": ["ckpt", 1], "clip_l": "a", "clip_g": "b", "t5xxl": "c", "empty_padding": "none",
    });
    let prompt = with(&[("text", node("CLIPTextEncodeSD3", inputs))]);
    let error = harness.try_run(&prompt, "text").unwrap_err().to_string();
    assert!(error.contains("clip") && error.contains("SD 1.x"), "{error}");
}
