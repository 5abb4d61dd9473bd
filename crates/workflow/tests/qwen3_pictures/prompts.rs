//! Prompts with pictures: a small Qwen-Image-Edit through this program and through transformers' and diffusers' classes
//! (`tools/reference/make_qwen_image_edit_pipeline.py`), and the nodes that put pictures into prompts.

use std::collections::HashMap;

use distorch_pipeline::image::Pictures;
use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::small_models::{qwen_image, qwen_image_edit};
use distorch_test_support::tensors::{max_error, values};
use distorch_workflow::value::Value;
use safetensors::SafeTensors;
use serde_json::{Value as Json, json};

use super::{TOLERANCE, loader, spread};

const FILE: &str = "qwen_image_edit.safetensors";

struct Reference {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Reference {
    fn open() -> Self {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen_image_edit.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        Self { bytes, metadata }
    }

    fn json(&self, key: &str) -> Json {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).unwrap();
        (view.shape().to_vec(), view.data().to_vec())
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let (_, bytes) = self.bytes(name);
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Puts its pictures where `LoadImage` finds them.
    fn put_pictures(&self, harness: &Harness) {
        for number in 0..2 {
            let (shape, bytes) = self.bytes(&format!("input.{number}"));
            let values = bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect();
            let pictures = Pictures::new([1, shape[0], shape[1], 3], values).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(format!("{number}.png"));
            pictures.save_png(0, &path, &[]).unwrap();
            harness.put(&path);
        }
    }

    /// Two pictures in the prompt, of which the transformer looks at the first one.
    fn workflow(&self, loader: Json, method: &str, steps: &Json) -> Json {
        let (texts, run) = (self.json("prompts"), self.json("run"));
        let text = |text: &Json| {
            let inputs = json!({
                "clip": ["file", 1], "prompt": text, "image1": ["first", 0], "image2": ["second", 0],
            });
            node("TextEncodeQwenImageEditPlus", inputs)
        };
        let looking = |at: &str| {
            let inputs = json!({ "conditioning": [at, 0], "latent": ["reference", 0] });
            node("ReferenceLatent", inputs)
        };
        let placed = |at: &str| {
            let inputs = json!({ "conditioning": [at, 0], "reference_latents_method": method });
            node("FluxKontextMultiReferenceLatentMethod", inputs)
        };
        let size =
            json!({ "width": run["width"], "height": run["height"], "batch_size": 1, "color": 0 });
        let encode =
            |pixels: &str| node("VAEEncode", json!({ "pixels": [pixels, 0], "vae": ["file", 2] }));
        let sampler = json!({
            "model": ["file", 0], "seed": run["seed"], "steps": steps, "cfg": run["cfg"],
            "sampler_name": "euler", "scheduler": "simple", "positive": ["placed positive", 0],
            "negative": ["placed negative", 0], "latent_image": ["empty", 0], "denoise": 1.0,
        });
        let decode = json!({ "samples": ["sampler", 0], "vae": ["file", 2] });
        prompt(&[
            ("file", loader),
            ("first", node("LoadImage", json!({ "image": "0.png" }))),
            ("second", node("LoadImage", json!({ "image": "1.png" }))),
            ("reference", encode("first")),
            ("positive", text(&texts[0])),
            ("negative", text(&texts[1])),
            ("looking positive", looking("positive")),
            ("looking negative", looking("negative")),
            ("placed positive", placed("looking positive")),
            ("placed negative", placed("looking negative")),
            ("pixels", node("EmptyImage", size)),
            ("empty", encode("pixels")),
            ("sampler", node("KSampler", sampler)),
            ("picture", node("VAEDecode", decode)),
        ])
    }
}

#[test]
fn latents_and_pictures_of_qwen_image_edit_are_diffusers() {
    let reference = Reference::open();
    let mut harness = Harness::with(&format!("checkpoints/{FILE}"), &qwen_image_edit());
    reference.put_pictures(&harness);
    let mut latents = Vec::new();
    for method in ["index", "index_timestep_zero"] {
        let steps = reference.json("run")["steps"].clone();
        let workflow = reference.workflow(loader(FILE), method, &steps);
        let found = harness.latent(&workflow, "sampler", 0);
        let error = max_error(&found, &reference.floats(&format!("latent.{method}")));
        println!("{method}: {error:.1e}");
        assert!(error < TOLERANCE, "{method}: {error}");
        let Value::Image(pictures) = &harness.run(&workflow, "picture")[0] else {
            panic!("no picture")
        };
        let found_bytes = pictures.values().iter().map(|value| (value * 255.0) as u8);
        let (_, expected) = reference.bytes(&format!("picture.{method}"));
        assert_eq!(pictures.values().len(), expected.len());
        let furthest = found_bytes.zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(furthest <= 1, "{method}: {furthest}");
        latents.push(found);
    }
    // The methods are further apart than what is let pass.
    assert!(max_error(&latents[0], &latents[1]) > 4.0 * TOLERANCE);
}

/// The encoder of pictures is spread and streamed with its language model, the transformer that looks at a reference too.
#[test]
fn pictures_in_prompts_are_the_same_for_every_allocation() {
    let reference = Reference::open();
    let latent = |harness: &mut Harness, loader: Json| {
        reference.put_pictures(harness);
        let workflow = reference.workflow(loader, "index_timestep_zero", &json!(1));
        harness.latent(&workflow, "sampler", 0)
    };
    let mut plain = Harness::with(&format!("checkpoints/{FILE}"), &qwen_image_edit());
    let expected = latent(&mut plain, loader(FILE));
    for allocations in [
        ["", "cuda:0,20%;cuda:1,30%;cpu,50%"],
        ["cuda:0,200kb;cuda:1,100kb;cpu,*", "cuda:1,20mb;cuda:0,200kb;cpu,*"],
    ] {
        let (mut harness, loader) = spread(FILE, &qwen_image_edit(), allocations);
        assert!(latent(&mut harness, loader) == expected, "{allocations:?}");
    }
}

/// What the autoencoder sees is what `ImageScale` makes by averaging, the sides as ComfyUI rounds them; the text encoder's
/// tokens are those of 28 pixels along a side.
#[test]
fn references_are_encoded_at_a_megapixel() {
    let reference = Reference::open();
    let mut harness = Harness::with(&format!("checkpoints/{FILE}"), &qwen_image_edit());
    reference.put_pictures(&harness);
    // 40×48: √(1048576 / 1920) is 23.369.
    let [edit, plus] = [[935, 1122], [936, 1120]];
    let scaled = |[width, height]: [usize; 2]| {
        let inputs = json!({
            "image": ["picture", 0], "upscale_method": "area", "width": width, "height": height,
            "crop": "disabled",
        });
        node("ImageScale", inputs)
    };
    let encoded =
        |pixels: &str| node("VAEEncode", json!({ "pixels": [pixels, 0], "vae": ["file", 2] }));
    let text = |suffix: &str, image: &str| {
        let mut inputs = json!({ "clip": ["file", 1], "prompt": "a cat", "vae": ["file", 2] });
        inputs[image] = json!(["picture", 0]);
        node(&format!("TextEncodeQwenImageEdit{suffix}"), inputs)
    };
    let bare = json!({ "clip": ["file", 1], "prompt": "a cat", "vae": ["file", 2] });
    let workflow = prompt(&[
        ("file", loader(FILE)),
        ("picture", node("LoadImage", json!({ "image": "1.png" }))),
        ("edit", text("", "image")),
        ("plus", text("Plus", "image2")),
        ("bare edit", node("TextEncodeQwenImageEdit", bare.clone())),
        ("bare plus", node("TextEncodeQwenImageEditPlus", bare)),
        ("plain", node("CLIPTextEncode", json!({ "clip": ["file", 1], "text": "a cat" }))),
        ("scaled edit", scaled(edit)),
        ("scaled plus", scaled(plus)),
        ("encoded edit", encoded("scaled edit")),
        ("encoded plus", encoded("scaled plus")),
    ]);
    let tokens = |harness: &mut Harness, name: &str| {
        let cond = harness.conds(&workflow, name).remove(0);
        (cond.context.dims()[1], values(&cond.context))
    };
    let (words, plain) = tokens(&mut harness, "plain");
    for (name, tokens, of_text) in [
        // 1122 and 935 pixels are 40 and 33 tokens; a beginning and an end of the picture.
        ("edit", 40 * 33, 2),
        // √(147456 / 1920) is 8.763: 351 by 421 pixels, 13 by 15 tokens; `Picture 2: ` is 5 more.
        ("plus", 13 * 15, 7),
    ] {
        let cond = harness.conds(&workflow, name).remove(0);
        assert_eq!(cond.context.dims()[1], words + tokens + of_text, "{name}");
        let [latent] = &cond.reference_latents[..] else { panic!("one reference") };
        let expected = harness.latent(&workflow, &format!("encoded {name}"), 0);
        assert!(values(latent) == expected, "{name}");
    }
    // Without pictures, the one is a prompt as any other; the other tells the model to edit.
    let (count, bare) = tokens(&mut harness, "bare edit");
    assert!((count, bare) == (words, plain.clone()));
    let (count, bare) = tokens(&mut harness, "bare plus");
    assert!(count == words && bare != plain);
    assert!(harness.conds(&workflow, "bare plus")[0].reference_latents.is_empty());
}

#[test]
fn a_text_encoder_that_sees_no_pictures_says_so() {
    let reference = Reference::open();
    let mut harness = Harness::with(&format!("checkpoints/{FILE}"), &qwen_image());
    reference.put_pictures(&harness);
    let workflow = reference.workflow(loader(FILE), "index", &json!(1));
    let problem = harness.fail(&workflow, "positive");
    assert!(problem.contains("see no pictures"), "{problem}");
}
