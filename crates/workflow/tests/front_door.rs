//! The pipeline's requests make the pictures that workflows make, bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use distorch_allocation::{Allocation, VirtualVram};
use distorch_pipeline::image::decode::load;
use distorch_pipeline::image::{Mask, Pictures};
use distorch_pipeline::request::{ComponentPlacement, Placement};
use distorch_pipeline::{ImageToImage, Lora, TextToImage};
use distorch_test_support::repository;
use distorch_test_support::runs::Harness;
use distorch_workflow::value::Value;
use serde_json::{Value as Json, json};

const CKPT: &str = "tiny-shapes.safetensors";

/// The pictures that a workflow decodes at node 8.
fn by_workflow(harness: &mut Harness, workflow: &Json) -> Pictures {
    let Value::Image(pictures) = harness.run(workflow, "8").remove(0) else { panic!("no picture") };
    pictures
}

/// An example with changed inputs.
fn example(name: &str, changes: &[(&str, &str, Json)]) -> Json {
    let path = repository().join("examples").join(format!("{name}.json"));
    let mut workflow: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (node, input, value) in changes {
        workflow[node]["inputs"][input] = value.clone();
    }
    workflow
}

fn request(harness: &Harness, request: TextToImage) -> Pictures {
    let session = &harness.environment().session;
    session.text_to_image(request).unwrap().run().unwrap().pictures
}

/// A few steps of a small picture, as the changed examples have them.
fn small(prompt: &str, seed: u64) -> TextToImage {
    let (width, height) = (Some(64), Some(96));
    TextToImage { seed, steps: 3, cfg: 2.0, width, height, ..TextToImage::new(CKPT, prompt) }
}

fn quick() -> Vec<(&'static str, &'static str, Json)> {
    vec![("3", "steps", json!(3)), ("5", "width", json!(64)), ("5", "height", json!(96))]
}

#[test]
fn text_to_image() {
    let mut harness = Harness::shipped();
    let made = by_workflow(&mut harness, &example("txt2img_distorch2", &quick()));
    assert_eq!(made.shape(), [1, 96, 64, 3]);
    let prompt = "a red circle on a white background";
    assert_eq!(request(&harness, small(prompt, 6)), made);
    // As the example's loader has it.
    let mut placement = Placement::on("cpu".parse().unwrap());
    placement.diffusion_model.virtual_vram = VirtualVram::gigabytes(4.0).unwrap();
    placement.text_encoders.virtual_vram = VirtualVram::gigabytes(2.0).unwrap();
    assert_eq!(request(&harness, TextToImage { placement, ..small(prompt, 6) }), made);

    // Every other option, in both ways.
    let mut changes = quick();
    changes.extend([
        ("3", "sampler_name", json!("dpmpp_2m_sde")),
        ("3", "scheduler", json!("karras")),
        ("3", "denoise", json!(0.8)),
        ("5", "batch_size", json!(2)),
        ("7", "text", json!("a (blue:1.2) square")),
    ]);
    let mut workflow = example("txt2img_distorch2", &changes);
    workflow["11"] = json!({ "class_type": "CLIPSetLastLayer", "inputs": {
        "clip": ["4", 1], "stop_at_clip_layer": -2,
    }});
    for encode in ["6", "7"] {
        workflow[encode]["inputs"]["clip"] = json!(["11", 0]);
    }
    let made = by_workflow(&mut harness, &workflow);
    let wanted = TextToImage {
        negative_prompt: "a (blue:1.2) square".to_owned(),
        sampler: "dpmpp_2m_sde".to_owned(),
        scheduler: "karras".to_owned(),
        denoise: 0.8,
        batch: 2,
        clip_skip: Some(2),
        ..small(prompt, 6)
    };
    let of_request = request(&harness, wanted);
    assert_eq!(of_request.shape(), [2, 96, 64, 3]);
    assert_eq!(of_request, made);
}

#[test]
fn two_simulated_gpus_and_a_lora() {
    let mut harness = Harness::shipped_on("cuda:0=1GiB,cuda:1=600MiB");
    let expert = "cuda:0,60%;cuda:1,40%";
    let mut changes = quick();
    changes.extend([
        ("4", "unet_compute_device", json!("cuda:0")),
        ("4", "unet_expert_mode_allocations", json!(expert)),
        ("4", "clip_compute_device", json!("cuda:1")),
        ("10", "strength_model", json!(0.7)),
        ("10", "strength_clip", json!(-0.4)),
    ]);
    let made = by_workflow(&mut harness, &example("lora", &changes));
    let cuda = |name: &str| ComponentPlacement::on(name.parse().unwrap());
    let placement = Placement {
        diffusion_model: ComponentPlacement {
            expert: Allocation::parse(expert).unwrap(),
            ..cuda("cuda:0")
        },
        text_encoders: cuda("cuda:1"),
        vae: Some("cpu".parse().unwrap()),
    };
    let lora = Lora { strength_text: -0.4, ..Lora::new("tiny-outlines.safetensors", 0.7) };
    let loras = vec![lora];
    let wanted =
        TextToImage { loras, placement, ..small("a blue square on a yellow background", 7) };
    let of_request = request(&harness, wanted.clone());
    assert_eq!(of_request, made);
    let without = TextToImage { loras: Vec::new(), ..wanted };
    assert_ne!(request(&harness, without), made, "the LoRA counts");
}

#[test]
fn image_to_image_of_a_batch_at_another_size() {
    let mut harness = Harness::shipped();
    let mut workflow = example("img2img", &[("3", "steps", json!(3))]);
    workflow["12"] = json!({ "class_type": "ImageScale", "inputs": {
        "image": ["10", 0], "upscale_method": "lanczos", "width": 64, "height": 96,
        "crop": "center",
    }});
    workflow["5"]["inputs"]["pixels"] = json!(["12", 0]);
    workflow["13"] = json!({ "class_type": "RepeatLatentBatch", "inputs": {
        "samples": ["5", 0], "amount": 2,
    }});
    workflow["3"]["inputs"]["latent_image"] = json!(["13", 0]);
    let made = by_workflow(&mut harness, &workflow);
    assert_eq!(made.shape(), [2, 96, 64, 3]);
    let image = Pictures::open(&repository().join("input/blue_square.png")).unwrap();
    let request = TextToImage {
        denoise: 0.75,
        batch: 2,
        ..small("a green triangle on a white background", 7)
    };
    let session = &harness.environment().session;
    let generation = session.image_to_image(ImageToImage::new(request, image)).unwrap();
    assert_eq!(generation.run().unwrap().pictures, made);
}

#[test]
fn inpainting() {
    let mut harness = Harness::shipped();
    let mut workflow = example("inpaint", &[("3", "steps", json!(3))]);
    workflow["12"] =
        json!({ "class_type": "VAEEncode", "inputs": { "pixels": ["10", 0], "vae": ["4", 2] } });
    workflow["5"] = json!({ "class_type": "SetLatentNoiseMask", "inputs": {
        "samples": ["12", 0], "mask": ["10", 1],
    }});
    let made = by_workflow(&mut harness, &workflow);
    let loaded = load(&repository().join("input/blue_square_masked.png")).unwrap();
    let mask = loaded.mask();
    let request = TextToImage {
        width: None,
        height: None,
        ..small("a red circle on a yellow background", 3)
    };
    let inpaint = |mask: Option<Mask>| {
        let image = loaded.colours.clone();
        let request = ImageToImage { mask, ..ImageToImage::new(request.clone(), image) };
        let session = &harness.environment().session;
        session.image_to_image(request).unwrap().run().unwrap().pictures
    };
    assert_eq!(inpaint(Some(mask)), made);
    assert_ne!(inpaint(None), made, "the mask counts");
}
