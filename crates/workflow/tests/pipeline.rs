//! The shipped checkpoint through this program and through PyTorch: the same latents, the same
//! pictures. The reference is made by `tools/reference/make_pipeline.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod shipped;

use distorch_test_support::runs::Harness;
use distorch_workflow::graph::Prompt;
use distorch_workflow::nodes;
use distorch_workflow::observe::Silent;
use distorch_workflow::value::Value;
use safetensors::SafeTensors;
use serde_json::json;
use shipped::floats;

/// Of the largest value of the reference: 40 evaluations in f32 in another order of additions.
const TOLERANCE: f32 = 1e-3;

fn fixture() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pipeline.safetensors"))
        .unwrap()
}

/// Values of the latents that a KSampler gives.
fn latent(harness: &mut Harness, prompt: &Prompt, node: &str) -> Vec<f32> {
    let report = harness.executor.run_nodes(prompt, &[node], &Silent).unwrap();
    match &report.values[node][0] {
        Value::Latent(latent) => latent.samples.clone().into_data().to_vec().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn latents_of_every_sampler_without_noise() {
    let bytes = fixture();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let mut harness = Harness::shipped();
    let (mut compared, mut worst) = (0, 0.0_f32);
    for name in reference.names() {
        let Some(what) = name.strip_prefix("latent.") else { continue };
        let (sampler, scheduler) = what.split_once('.').unwrap();
        let mut prompt = harness.example("txt2img_distorch2");
        prompt.set(&format!("3.sampler_name={sampler}"), &nodes::all()).unwrap();
        prompt.set(&format!("3.scheduler={scheduler}"), &nodes::all()).unwrap();
        let found = latent(&mut harness, &prompt, "3");
        let expected = floats(reference.tensor(name).unwrap().data());
        let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        let pairs = found.iter().zip(&expected);
        let error = pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest;
        println!("{what}: {error:.1e}");
        assert_eq!(found.len(), expected.len(), "{what}");
        worst = worst.max(error);
        compared += 1;
    }
    assert!(worst < TOLERANCE, "{worst}");
    assert!(compared >= 14, "{compared}");
}

#[test]
fn pictures_of_the_examples() {
    let bytes = fixture();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let mut harness = Harness::shipped();
    for example in ["txt2img_distorch2", "img2img"] {
        let prompt = harness.example(example);
        let report = harness.executor.run(&prompt, &Silent).unwrap();
        let found = harness.saved(&report.outputs["9"])[0].clone();
        let found = image::open(found).unwrap().into_rgb8().into_raw();
        let expected = reference.tensor(&format!("picture.{example}")).unwrap().data().to_vec();
        assert_eq!(found.len(), expected.len());
        let far = found.iter().zip(&expected).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        println!("{example}: {far} of {} values differ by more than 1", found.len());
        assert!(far * 1000 <= found.len(), "{example}: {far} of {}", found.len());
    }
}

/// Another seed loads nothing and encodes nothing again; the same prompt runs nothing at all.
#[test]
fn results_are_kept_between_runs() {
    let mut harness = Harness::shipped();
    let mut prompt = harness.example("txt2img_distorch2");
    prompt.set("3.steps=2", &nodes::all()).unwrap();
    let first = harness.executor.run(&prompt, &Silent).unwrap();
    assert_eq!(first.executed.len(), 7);
    let again = harness.executor.run(&prompt, &Silent).unwrap();
    assert_eq!((again.executed.len(), again.outputs), (0, first.outputs.clone()));
    prompt.set("3.seed=99", &nodes::all()).unwrap();
    let other = harness.executor.run(&prompt, &Silent).unwrap();
    assert_eq!(other.executed, ["3", "8", "9"]);
    assert_ne!(other.outputs, first.outputs);
    prompt.set("6.text=a blue square", &nodes::all()).unwrap();
    let other = harness.executor.run(&prompt, &Silent).unwrap();
    assert_eq!(other.executed, ["6", "3", "8", "9"]);
    // As does a bounded cache that holds nothing.
    harness.executor.cache().clear();
    let all = harness.executor.run(&prompt, &Silent).unwrap();
    assert_eq!(all.executed.len(), 7);
}

/// Every allocation gives the same bits, with weights that stream from simulated devices.
#[test]
fn every_allocation_gives_the_same_latents() {
    let mut expected = None;
    for (simulate, inputs) in [
        ("", json!({})),
        ("cuda:0=600MiB", json!({"unet_compute_device": "cuda:0", "unet_virtual_vram_gb": 0.002})),
        ("cuda:0=600MiB", json!({"unet_compute_device": "cuda:0", "unet_virtual_vram_gb": 1.0})),
        (
            "cuda:0=600MiB,cuda:1=1GiB@1GB/s",
            json!({"unet_compute_device": "cuda:0", "clip_compute_device": "cuda:1",
                   "unet_expert_mode_allocations": "cuda:0,40%;cuda:1,40%;cpu,20%"}),
        ),
        (
            "cuda:0=600MiB,cuda:1=1GiB",
            json!({"unet_compute_device": "cuda:0",
                   "unet_expert_mode_allocations": "cuda:0,1mb;cuda:1,2mb;cpu,*"}),
        ),
        (
            "cuda:0=600MiB,cuda:1=1GiB",
            json!({"unet_compute_device": "cuda:0",
                   "unet_expert_mode_allocations": "cuda:0,0.002;cuda:1,0.001"}),
        ),
    ] {
        let mut harness = Harness::shipped_on(simulate);
        let mut prompt = harness.example("txt2img_distorch2");
        prompt.set("3.steps=3", &nodes::all()).unwrap();
        for (name, value) in inputs.as_object().unwrap() {
            prompt.set(&format!("4.{name}={value}"), &nodes::all()).unwrap();
        }
        let found = latent(&mut harness, &prompt, "3");
        match &expected {
            None => expected = Some(found),
            Some(expected) => assert!(found == *expected, "{inputs}"),
        }
    }
}
