//! Nodes of custom sampling and of changed models, run on a small model with seeded weights: what
//! must give the same latent does, and what must not does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::tensors::distance;
use distorch_workflow::value::Value;
use serde_json::{Value as Json, json};

/// What every prompt here begins with.
fn base() -> Vec<(&'static str, Json)> {
    let text = |text: &str| node("CLIPTextEncode", json!({ "clip": ["ckpt", 1], "text": text }));
    vec![
        ("ckpt", node("CheckpointLoaderSimple", json!({ "ckpt_name": "tiny.safetensors" }))),
        ("good", text("a red circle")),
        ("bad", text("blurry")),
        ("empty", node("EmptyLatentImage", json!({ "width": 64, "height": 96, "batch_size": 2 }))),
    ]
}

fn with(nodes: &[(&'static str, Json)]) -> Json {
    prompt(&[base(), nodes.to_vec()].concat())
}

/// A KSampler of this model.
fn k_sampler(model: &Json) -> Json {
    node(
        "KSampler",
        json!({
            "model": model, "seed": 7, "steps": 4, "cfg": 5.0, "sampler_name": "euler",
            "scheduler": "normal", "positive": ["good", 0], "negative": ["bad", 0],
            "latent_image": ["empty", 0], "denoise": 1.0,
        }),
    )
}

/// The parts of the same run.
fn parts() -> Vec<(&'static str, Json)> {
    let scheduler = json!({
        "model": ["ckpt", 0], "scheduler": "normal", "steps": 4, "denoise": 1.0,
    });
    vec![
        ("sigmas", node("BasicScheduler", scheduler)),
        ("sampler", node("KSamplerSelect", json!({ "sampler_name": "euler" }))),
        ("noise", node("RandomNoise", json!({ "noise_seed": 7 }))),
        (
            "guider",
            node(
                "CFGGuider",
                json!({
                    "model": ["ckpt", 0], "positive": ["good", 0], "negative": ["bad", 0],
                    "cfg": 5.0,
                }),
            ),
        ),
    ]
}

fn custom(add_noise: bool, sigmas: &Json, latent: &Json) -> Json {
    node(
        "SamplerCustom",
        json!({
            "model": ["ckpt", 0], "add_noise": add_noise, "noise_seed": 7, "cfg": 5.0,
            "positive": ["good", 0], "negative": ["bad", 0], "sampler": ["sampler", 0],
            "sigmas": sigmas, "latent_image": latent,
        }),
    )
}

fn advanced(noise: &str, guider: &str) -> Json {
    node(
        "SamplerCustomAdvanced",
        json!({
            "noise": [noise, 0], "guider": [guider, 0], "sampler": ["sampler", 0],
            "sigmas": ["sigmas", 0], "latent_image": ["empty", 0],
        }),
    )
}

#[test]
fn a_run_put_together_is_the_run_of_the_k_sampler() {
    let mut harness = Harness::sd1();
    let mut nodes = parts();
    nodes.extend([
        ("k", k_sampler(&json!(["ckpt", 0]))),
        ("custom", custom(true, &json!(["sigmas", 0]), &json!(["empty", 0]))),
        ("advanced", advanced("noise", "guider")),
    ]);
    let prompt = with(&nodes);
    let whole = harness.latent(&prompt, "k", 0);
    assert_eq!(whole.len(), 2 * 4 * 12 * 8);
    assert!(whole.iter().all(|value| value.is_finite()));
    assert_eq!(harness.latent(&prompt, "custom", 0), whole);
    assert_eq!(harness.latent(&prompt, "advanced", 0), whole);
    // The last step of Euler's method ends at its guess.
    let denoised = harness.latent(&prompt, "advanced", 1);
    assert!(distance(&denoised, &whole) < 1e-3, "{}", distance(&denoised, &whole));
}

#[test]
fn a_run_cut_in_two_is_the_whole_run() {
    let mut harness = Harness::sd1();
    let mut nodes = parts();
    nodes.extend([
        ("split", node("SplitSigmas", json!({ "sigmas": ["sigmas", 0], "step": 2 }))),
        ("whole", custom(true, &json!(["sigmas", 0]), &json!(["empty", 0]))),
        ("first", custom(true, &json!(["split", 0]), &json!(["empty", 0]))),
        ("second", custom(false, &json!(["split", 1]), &json!(["first", 0]))),
    ]);
    let prompt = with(&nodes);
    let whole = harness.latent(&prompt, "whole", 0);
    let second = harness.latent(&prompt, "second", 0);
    let scale = whole.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!(distance(&second, &whole) < 1e-4 * scale, "{}", distance(&second, &whole));
    let (noisy, guess) = (harness.latent(&prompt, "first", 0), harness.latent(&prompt, "first", 1));
    assert!(distance(&noisy, &guess) > 0.1);
}

#[test]
fn without_noise_or_guidance_the_parts_are_left_out() {
    let mut harness = Harness::sd1();
    let basic = json!({ "model": ["ckpt", 0], "conditioning": ["good", 0] });
    let unguided = json!({
        "model": ["ckpt", 0], "positive": ["good", 0], "negative": ["bad", 0], "cfg": 1.0,
    });
    let mut nodes = parts();
    nodes.extend([
        ("basic", node("BasicGuider", basic)),
        ("unguided", node("CFGGuider", unguided)),
        ("silence", node("DisableNoise", json!({}))),
        ("a", advanced("noise", "basic")),
        ("b", advanced("noise", "unguided")),
        ("c", advanced("silence", "basic")),
    ]);
    let prompt = with(&nodes);
    let basic = harness.latent(&prompt, "a", 0);
    assert_eq!(harness.latent(&prompt, "b", 0), basic);
    assert!(distance(&harness.latent(&prompt, "c", 0), &basic) > 0.1);
}

#[test]
fn sigmas_are_cut_turned_and_set() {
    let mut harness = Harness::sd1();
    let sigmas = json!(["karras", 0]);
    let karras = json!({ "steps": 3, "sigma_max": 10.0, "sigma_min": 0.1, "rho": 7.0 });
    let prompt = with(&[
        ("karras", node("KarrasScheduler", karras)),
        ("flip", node("FlipSigmas", json!({ "sigmas": sigmas }))),
        ("set", node("SetFirstSigma", json!({ "sigmas": sigmas, "sigma": 136.0 }))),
        ("share", node("SplitSigmasDenoise", json!({ "sigmas": sigmas, "denoise": 0.34 }))),
        ("split", node("SplitSigmas", json!({ "sigmas": sigmas, "step": 9 }))),
        (
            "basic",
            node(
                "BasicScheduler",
                json!({
                    "model": ["ckpt", 0], "scheduler": "ddim_uniform", "steps": 15,
                    "denoise": 0.5,
                }),
            ),
        ),
        (
            "none",
            node(
                "BasicScheduler",
                json!({
                    "model": ["ckpt", 0], "scheduler": "karras", "steps": 15, "denoise": 0.0,
                }),
            ),
        ),
    ]);
    let mut run = |target: &str, slot: usize| match &harness.run(&prompt, target)[slot] {
        Value::Sigmas(sigmas) => sigmas.to_vec(),
        other => panic!("{other:?}"),
    };
    let all = run("karras", 0);
    assert_eq!((all.len(), all[0], all[3]), (4, 10.0, 0.0));
    let least = f64::from(0.0001_f32);
    assert_eq!(run("flip", 0), [least, all[2], all[1], all[0]]);
    assert_eq!(run("set", 0), [136.0, all[1], all[2], all[3]]);
    assert_eq!(run("share", 1), all[2..]);
    assert_eq!(run("share", 0), all[..3]);
    assert_eq!((run("split", 0), run("split", 1)), (all, vec![]));
    assert_eq!(run("basic", 0).len(), 16);
    assert!(run("none", 0).is_empty());
}

#[test]
fn a_schedule_of_no_sigmas_changes_nothing() {
    let mut harness = Harness::sd1();
    let none = json!({ "model": ["ckpt", 0], "scheduler": "karras", "steps": 3, "denoise": 0.0 });
    let mut nodes = parts();
    nodes.extend([
        ("none", node("BasicScheduler", none)),
        ("idle", custom(true, &json!(["none", 0]), &json!(["empty", 0]))),
    ]);
    assert!(harness.latent(&with(&nodes), "idle", 0).iter().all(|value| *value == 0.0));
}

#[test]
fn wrong_numbers_of_a_schedule_are_errors_that_name_the_input() {
    let mut harness = Harness::sd1();
    let exponential = json!({ "steps": 3, "sigma_max": 10.0, "sigma_min": 0.0 });
    let karras = json!({ "steps": 3, "sigma_max": 10.0, "sigma_min": 0.1, "rho": 0.0 });
    let prompt = with(&[
        ("exponential", node("ExponentialScheduler", exponential)),
        ("karras", node("KarrasScheduler", karras)),
    ]);
    for (id, input) in [("exponential", "sigma_min"), ("karras", "rho")] {
        let error = harness.try_run(&prompt, id).unwrap_err().to_string();
        assert!(error.contains(input), "{error}");
    }
}

/// The latent of a KSampler whose model went through this node.
fn changed(harness: &mut Harness, class: &str, numbers: &Json) -> Vec<f32> {
    let mut inputs = numbers.clone();
    inputs["model"] = json!(["ckpt", 0]);
    let nodes = [("change", node(class, inputs)), ("k", k_sampler(&json!(["change", 0])))];
    harness.latent(&with(&nodes), "k", 0)
}

#[test]
fn a_changed_model_samples_another_way() {
    let mut harness = Harness::sd1();
    let plain = harness.latent(&with(&[("k", k_sampler(&json!(["ckpt", 0])))]), "k", 0);
    let scale = plain.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let freeu = |b: f64, s: f64| json!({ "b1": b, "b2": b, "s1": s, "s2": s });
    let discrete = |sampling: &str, zsnr: bool| json!({ "sampling": sampling, "zsnr": zsnr });
    for (class, numbers, same) in [
        ("RescaleCFG", json!({ "multiplier": 0.0 }), true),
        ("RescaleCFG", json!({ "multiplier": 0.7 }), false),
        ("FreeU", freeu(1.0, 1.0), true),
        ("FreeU", freeu(1.1, 0.9), false),
        ("FreeU_V2", freeu(1.0, 1.0), true),
        ("FreeU_V2", freeu(1.3, 0.2), false),
        ("ModelSamplingDiscrete", discrete("eps", false), true),
        ("ModelSamplingDiscrete", discrete("v_prediction", false), false),
        ("ModelSamplingDiscrete", discrete("v_prediction", true), false),
        ("ModelSamplingDiscrete", discrete("lcm", false), false),
        ("ModelSamplingDiscrete", discrete("x0", false), false),
        ("ModelSamplingDiscrete", discrete("img_to_img", false), false),
        ("ModelSamplingSD3", json!({ "shift": 3.0 }), false),
    ] {
        let latent = changed(&mut harness, class, &numbers);
        let off = distance(&latent, &plain) / scale;
        assert!(off.is_finite() && (off < 1e-4) == same, "{class} {numbers}: {off}");
    }
}

/// `3t / (1 + 2t)` at t of 1, 3/4, 1/2 and 1/4; without a shift, t itself.
#[test]
fn a_shift_moves_the_noise_levels_of_a_flow() {
    let mut harness = Harness::sd1();
    for (shift, expected) in [(3.0, [1.0, 0.9, 0.75, 0.5, 0.0]), (1.0, [1.0, 0.75, 0.5, 0.25, 0.0])]
    {
        let scheduler = json!({
            "model": ["shifted", 0], "scheduler": "simple", "steps": 4, "denoise": 1.0,
        });
        let nodes = [
            ("shifted", node("ModelSamplingSD3", json!({ "model": ["ckpt", 0], "shift": shift }))),
            ("sigmas", node("BasicScheduler", scheduler)),
        ];
        let sigmas = match &harness.run(&with(&nodes), "sigmas")[0] {
            Value::Sigmas(sigmas) => sigmas.to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(sigmas.len(), expected.len());
        for (sigma, expected) in sigmas.iter().zip(expected) {
            assert!((sigma - expected).abs() < 1e-6, "{shift}: {sigmas:?}");
        }
    }
}

/// CFG++ steps from the guided guess along the noise that the unconditional one leaves:
/// `D + next·(x - U) / sigma`, where `U` is computed at scale 1 too and 0 without a negative
/// conditioning. Each part of it from a run of its own.
#[test]
fn cfg_pp_has_the_unconditional_guess_of_every_guider() {
    let mut harness = Harness::sd1();
    let basic = |text: &str| {
        node("BasicGuider", json!({ "model": ["ckpt", 0], "conditioning": [text, 0] }))
    };
    let unguided = json!({
        "model": ["ckpt", 0], "positive": ["good", 0], "negative": ["bad", 0], "cfg": 1.0,
    });
    let run = |guider: &str, sampler: &str, sigmas: &str| {
        node(
            "SamplerCustomAdvanced",
            json!({
                "noise": ["noise", 0], "guider": [guider, 0], "sampler": [sampler, 0],
                "sigmas": [sigmas, 0], "latent_image": ["empty", 0],
            }),
        )
    };
    let split = |step: u32| node("SplitSigmas", json!({ "sigmas": ["sigmas", 0], "step": step }));
    let mut nodes = parts();
    nodes.extend([
        ("one_sigma", split(0)),
        ("one_step", split(1)),
        ("pp", node("KSamplerSelect", json!({ "sampler_name": "euler_cfg_pp" }))),
        ("positive", basic("good")),
        ("negative", basic("bad")),
        ("unguided", node("CFGGuider", unguided)),
        ("start", run("positive", "sampler", "one_sigma")),
        ("bare", run("positive", "pp", "one_step")),
        ("both", run("unguided", "pp", "one_step")),
        ("unconditional", run("negative", "sampler", "one_step")),
    ]);
    let prompt = with(&nodes);
    let ratio = match &harness.run(&prompt, "one_step")[0] {
        Value::Sigmas(sigmas) => (sigmas[1] / sigmas[0]) as f32,
        other => panic!("{other:?}"),
    };
    let start = harness.latent(&prompt, "start", 0);
    let guess = harness.latent(&prompt, "unconditional", 1);
    let scale = start.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (id, negative) in [("bare", vec![0.0; start.len()]), ("both", guess)] {
        let guided = harness.latent(&prompt, id, 1);
        let expected: Vec<f32> = guided
            .iter()
            .zip(start.iter().zip(&negative))
            .map(|(guided, (x, negative))| guided + ratio * (x - negative))
            .collect();
        let off = distance(&harness.latent(&prompt, id, 0), &expected) / scale;
        assert!(off < 1e-5, "{id}: {off}");
    }
}
