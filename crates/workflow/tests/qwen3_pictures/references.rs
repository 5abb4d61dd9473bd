//! Qwen-Image 2.1 with a picture in the prompt and as a reference: a small model through this program and through transformers'
//! and diffusers' classes (`tools/reference/make_qwen_image21_pipeline.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::small_models::qwen_image21;
use distorch_test_support::tensors::max_error;
use distorch_workflow::value::Value;
use safetensors::SafeTensors;
use serde_json::{Value as Json, json};

use super::{TOLERANCE, floats, loader, spread};

const FILE: &str = "qwen_image21.safetensors";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The file with what the reference makes, and what it says of it.
fn reference() -> (Vec<u8>, HashMap<String, String>) {
    let bytes = std::fs::read(fixture(FILE)).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    (bytes, metadata)
}

/// The picture as the node's first, which is a reference where there is a VAE.
fn workflow(loader: Json, picture: &str, about: &HashMap<String, String>, steps: &Json) -> Json {
    let run: Json = serde_json::from_str(&about["run"]).unwrap();
    let both = json!({
        "clip": ["file", 1], "vae": ["file", 2], "prompt": about["edit"], "negative_prompt": "",
        "resolution": 0, "images.image_1": ["picture", 0],
    });
    let sampler = json!({
        "model": ["file", 0], "seed": run["seed"], "steps": steps, "cfg": 3.0,
        "sampler_name": "euler", "scheduler": "simple", "positive": ["both", 0],
        "negative": ["both", 1], "latent_image": ["both", 2], "denoise": 1.0,
    });
    prompt(&[
        ("file", loader),
        ("picture", node("LoadImage", json!({ "image": picture }))),
        ("both", node("TextEncodeQwenImage21", both)),
        ("sampler", node("KSampler", sampler)),
    ])
}

/// A picture in the prompt and as a reference where the prompt has it; without a VAE, in the prompt alone.
#[test]
fn edited_latents_of_qwen_image_2_1_are_diffusers() {
    let (bytes, about) = reference();
    let run: Json = serde_json::from_str(&about["run"]).unwrap();
    let mut harness = Harness::with(&format!("checkpoints/{FILE}"), &qwen_image21());
    let picture = harness.put(&fixture("qwen_image21.png"));
    let mut graph = workflow(loader(FILE), &picture, &about, &run["steps"]);
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let expected = floats(&reference, "edited");
    let found = harness.latent(&graph, "sampler", 0);
    let error = max_error(&found, &expected);
    println!("edited: {error:.1e}");
    assert!(error < TOLERANCE, "{error}");
    let cond = |harness: &mut Harness, graph: &Json| match &harness.run(graph, "both")[0] {
        Value::Conditioning(conditioning) => conditioning.conds()[0].clone(),
        other => panic!("{other:?}"),
    };
    let with = cond(&mut harness, &graph);
    assert_eq!((with.reference_latents.len(), with.reference_slots.len()), (1, 1));
    let vae = graph["both"]["inputs"].as_object_mut().unwrap().remove("vae").unwrap();
    let without = cond(&mut harness, &graph);
    assert_eq!((without.reference_latents.len(), without.reference_slots.len()), (0, 0));
    // The encoder of pictures brings 64×32 pixels to 96×64, of which it makes six tokens.
    assert_eq!(without.context.dims()[1], with.context.dims()[1] + 6);
    graph["both"]["inputs"]["vae"] = vae;
    graph["both"]["inputs"]["resolution"] = json!(96);
    assert_eq!(cond(&mut harness, &graph).reference_latents[0].dims(), [1, 64, 4, 8]);
}

/// The encoder of pictures, its language model and the transformer that looks at the picture, over three devices.
#[test]
fn a_reference_is_looked_at_the_same_for_every_allocation() {
    let (_, about) = reference();
    let latent = |harness: &mut Harness, loader: Json| {
        let picture = harness.put(&fixture("qwen_image21.png"));
        harness.latent(&workflow(loader, &picture, &about, &json!(2)), "sampler", 0)
    };
    let mut plain = Harness::with(&format!("checkpoints/{FILE}"), &qwen_image21());
    let expected = latent(&mut plain, loader(FILE));
    for allocations in [
        ["cuda:0,40%;cuda:1,30%;cpu,30%", "cuda:0,20%;cuda:1,30%;cpu,50%"],
        ["cuda:0,200kb;cuda:1,100kb;cpu,*", "cuda:1,20mb;cuda:0,200kb;cpu,*"],
    ] {
        let (mut harness, loader) = spread(FILE, &qwen_image21(), allocations);
        assert!(latent(&mut harness, loader) == expected, "{allocations:?}");
    }
}
