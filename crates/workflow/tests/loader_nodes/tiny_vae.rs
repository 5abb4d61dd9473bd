//! Tiny autoencoders (TAESD) as VAEs and as decoders of previews. Their networks are held against diffusers' in the crate of
//! models.

use std::sync::{Arc, Mutex};

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::family::recognise;
use distorch_models::tiny_vae::TinyVae;
use distorch_pipeline::image::Pictures;
use distorch_runtime::tensor::cpu;
use distorch_runtime::{DType, Resident, Scope};
use distorch_test_support::model_file::ModelFile;
use distorch_test_support::runs::{Harness, node, prompt};
use distorch_test_support::seeded::weight;
use distorch_test_support::tensors::{distance, values};
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::{Event, Observer};
use distorch_workflow::value::Value;
use distorch_workflow::{describe, nodes};
use serde_json::json;

/// The parameters of a half of a tiny autoencoder of 8 channels, seeded.
fn tiny_half(half: &str) -> ModelFile {
    let (first, blocks, plain, last): (&str, &[usize], &[usize], &str) = match half {
        "encoder" => ("0", &[1, 3, 4, 5, 7, 8, 9, 11, 12, 13], &[2, 6, 10], "14"),
        _ => ("1", &[3, 4, 5, 8, 9, 10, 13, 14, 15, 18], &[7, 12, 17], "19"),
    };
    let (inputs, outputs) = if half == "encoder" { (3, 4) } else { (4, 3) };
    let mut shapes = vec![
        (format!("{first}.weight"), vec![8, inputs, 3, 3]),
        (format!("{first}.bias"), vec![8]),
        (format!("{last}.weight"), vec![outputs, 8, 3, 3]),
        (format!("{last}.bias"), vec![outputs]),
    ];
    for block in blocks {
        for conv in [0, 2, 4] {
            shapes.push((format!("{block}.conv.{conv}.weight"), vec![8, 8, 3, 3]));
            shapes.push((format!("{block}.conv.{conv}.bias"), vec![8]));
        }
    }
    shapes.extend(plain.iter().map(|place| (format!("{place}.weight"), vec![8, 8, 3, 3])));
    ModelFile::of_values(shapes.into_iter().map(|(name, shape)| {
        let values = weight(&name, &shape, 5);
        (name, shape, values)
    }))
}

/// Their halves see latents as the diffusion model does: SD 1.x's are 0.18215 times the autoencoder's.
#[test]
fn a_tiny_vae_sees_latents_as_the_model_does() {
    let mut harness = Harness::sd1();
    for half in ["encoder", "decoder"] {
        let path = format!("vae_approx/taesd_{half}.safetensors");
        tiny_half(half).write(&harness.model_path(&path));
    }
    let prompt = prompt(&[
        ("vae", node("VAELoader", json!({ "vae_name": "taesd" }))),
        (
            "grey",
            node(
                "EmptyImage",
                json!({ "width": 32, "height": 16, "batch_size": 2, "color": 0x40_80ff }),
            ),
        ),
        ("encoded", node("VAEEncode", json!({ "pixels": ["grey", 0], "vae": ["vae", 0] }))),
        ("decoded", node("VAEDecode", json!({ "samples": ["encoded", 0], "vae": ["vae", 0] }))),
    ]);
    let half = |half: &str| {
        let checkpoint = tiny_half(half).open(half);
        let model = recognise(&checkpoint).unwrap();
        let component = model.component(ComponentKind::Vae).unwrap();
        let resident = Resident::load(&checkpoint, component, cpu(), DType::F32, |_| {}).unwrap();
        TinyVae::load(&Scope::new(Arc::new(resident)), &model.tiny_vae.unwrap()).unwrap()
    };
    let picture = match &harness.run(&prompt, "grey")[0] {
        Value::Image(pictures) => pictures.channels_first(),
        other => panic!("{other:?}"),
    };
    let seen = half("encoder").encode(picture).unwrap();
    let expected: Vec<f32> = values(&seen).iter().map(|value| value / 0.18215).collect();
    assert!(distance(&harness.latent(&prompt, "encoded", 0), &expected) < 1e-4);
    let expected = Pictures::from_channels_first(half("decoder").decode(seen).unwrap()).unwrap();
    let decoded = match &harness.run(&prompt, "decoded")[0] {
        Value::Image(pictures) => pictures.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(decoded.shape(), [2, 16, 32, 3]);
    assert!(
        distance(decoded.values(), expected.map(|value| value.clamp(0.0, 1.0)).values()) < 1e-4
    );
    // Only the names of both halves are offered.
    let names = describe::describe(nodes::all().find("VAELoader").unwrap(), harness.environment());
    assert_eq!(names["input"]["required"]["vae_name"][0], json!(["taesd", "pixel_space"]));
}

/// Previews by a decoder are as large as the picture; by the table a pixel for one of the latent.
#[test]
fn previews_come_from_a_tiny_decoder_where_there_is_one() {
    struct Watching {
        decoded: bool,
        seen: Mutex<Vec<(usize, usize)>>,
        warnings: Mutex<Vec<String>>,
    }
    impl Observer for Watching {
        fn event(&self, event: Event<'_>) {
            match event {
                Event::Step { preview: Some(preview), .. } => {
                    assert_eq!(preview.rgb.len(), 3 * preview.width * preview.height);
                    self.seen.lock().unwrap().push((preview.width, preview.height));
                }
                Event::Warning { text, .. } => self.warnings.lock().unwrap().push(text.to_owned()),
                _ => {}
            }
        }
        fn wants_previews(&self) -> bool {
            true
        }
        fn wants_decoded_previews(&self) -> bool {
            self.decoded
        }
    }
    let mut harness = Harness::sd1();
    let run = |harness: &mut Harness, seed: u64, decoded: bool| {
        let prompt = prompt(&[
            ("ckpt", node("CheckpointLoaderSimple", json!({ "ckpt_name": "tiny.safetensors" }))),
            ("text", node("CLIPTextEncode", json!({ "clip": ["ckpt", 1], "text": "a fox" }))),
            (
                "empty",
                node("EmptyLatentImage", json!({ "width": 32, "height": 16, "batch_size": 1 })),
            ),
            (
                "sampled",
                node(
                    "KSampler",
                    json!({
                        "model": ["ckpt", 0], "positive": ["text", 0], "negative": ["text", 0],
                        "latent_image": ["empty", 0], "seed": seed, "steps": 2, "cfg": 2.0,
                        "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
                    }),
                ),
            ),
        ]);
        let parsed = Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap();
        let watching = Watching { decoded, seen: Mutex::default(), warnings: Mutex::default() };
        harness.executor.run_nodes(&parsed, &["sampled"], &watching).unwrap();
        (watching.seen.into_inner().unwrap(), watching.warnings.into_inner().unwrap())
    };
    let (table, decoder) = ([(4, 2); 2], [(32, 16); 2]);
    let (seen, warnings) = run(&mut harness, 1, true);
    assert_eq!(seen, table);
    assert!(warnings.iter().any(|text| text.contains("no `taesd_decoder`")), "{warnings:?}");
    tiny_half("decoder").write(&harness.model_path("vae_approx/taesd_decoder.safetensors"));
    let (seen, warnings) = run(&mut harness, 2, true);
    assert_eq!(seen, decoder, "{warnings:?}");
    assert_eq!(run(&mut harness, 3, false).0, table);
}
