//! Nodes that load, save and change latents.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::{fixtures, latent};
use distorch_test_support::runs::Harness;
use distorch_workflow::value::Value;
use safetensors::SafeTensors;
use serde_json::{Value as Json, json};

/// The value of `new.latent` and `old.latent` at `[batch, channel, y, x]`; they are
/// `[2, 4, 3, 5]`.
fn stored(batch: usize, channel: usize, y: usize, x: usize) -> f32 {
    (((batch * 4 + channel) * 3 + y) * 5 + x) as f32 / 64.0 - 1.0
}

fn load(name: &str) -> Json {
    json!({"1": {"class_type": "LoadLatent", "inputs": {"latent": name}}})
}

/// Node 2 of this class, of the latents of `new.latent`.
fn changed(class: &str, inputs: &Json) -> Json {
    let mut prompt = load("new.latent");
    let mut inputs = inputs.clone();
    inputs["samples"] = json!(["1", 0]);
    prompt["2"] = json!({"class_type": class, "inputs": inputs});
    prompt
}

fn harness() -> Harness {
    let harness = Harness::empty();
    harness.put(&fixtures().join("latents/new.latent"));
    harness
}

/// Latents that hold `value(batch, channel, y, x)`.
fn assert_holds(
    given: &Value,
    shape: [usize; 4],
    value: impl Fn(usize, usize, usize, usize) -> f32,
) {
    let (_, dims, values) = latent(given);
    assert_eq!(dims, shape);
    let [_, channels, height, width] = shape;
    for (place, found) in values.iter().enumerate() {
        let (x, rest) = (place % width, place / width);
        let (y, rest) = (rest % height, rest / height);
        let expected = value(rest / channels, rest % channels, y, x);
        assert!((found - expected).abs() < 1e-5, "{place}: {found}, not {expected}");
    }
}

/// The files are safetensors' own (`tools/reference/make_workflow_files.py`).
#[test]
fn latents_are_loaded_from_files() {
    let mut harness = harness();
    let names = ["latents/old.latent", "latents/three.latent", "latents/other.latent"];
    let [old, three, other] = names.map(|name| harness.put(&fixtures().join(name)));
    assert_holds(&harness.run(&load("new.latent"), "1")[0], [2, 4, 3, 5], stored);
    assert_holds(&harness.run(&load(&old), "1")[0], [2, 4, 3, 5], |b, c, y, x| {
        stored(b, c, y, x) / 0.18215
    });
    assert!(harness.fail(&load(&three), "1").contains("the shape [4, 3, 5]"));
    assert!(harness.fail(&load(&other), "1").contains("has no tensor `latent_tensor`"));
    assert!(harness.fail(&load("now.latent"), "1").contains("near: `new.latent`"));
    let whole = fs::read(harness.path("input/new.latent")).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(harness.path("input/cut.latent"), &whole[..length]).unwrap();
        let error = harness.fail(&load("cut.latent"), "1");
        assert!(error.contains("cut.latent") && !error.contains("internal"), "{error}");
    }
}

#[test]
fn latents_are_saved_with_what_made_them_and_load_again() {
    let mut harness = harness();
    let save = changed("SaveLatent", &json!({"filename_prefix": "latents/ComfyUI"}));
    let report = harness.report(&save, "2").unwrap();
    let saved = json!({"filename": "ComfyUI_00001_.latent", "subfolder": "latents",
                       "type": "output"});
    assert_eq!(report.outputs["2"], json!({"latents": [saved]}));
    let bytes = fs::read(harness.path("output/latents/ComfyUI_00001_.latent")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("latent_tensor").unwrap().shape(), [2, 4, 3, 5]);
    assert_eq!(tensors.tensor("latent_format_version_0").unwrap().shape(), [0]);
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let prompt = &metadata.metadata().as_ref().unwrap()["prompt"];
    assert_eq!(serde_json::from_str::<Json>(prompt).unwrap(), save);
    let again = harness.run(&load("latents/ComfyUI_00001_.latent [output]"), "1");
    assert_holds(&again[0], [2, 4, 3, 5], stored);

    let other = changed("SaveLatent", &json!({"filename_prefix": "latents\\ComfyUI"}));
    harness.try_run(&other, "2").unwrap();
    assert!(harness.path("output/latents/ComfyUI_00002_.latent").is_file());
    let outside = changed("SaveLatent", &json!({"filename_prefix": "../x"}));
    assert!(harness.fail(&outside, "2").contains("leads out of the output folder"));
}

#[test]
fn latents_are_resized() {
    let mut harness = harness();
    let mut shape =
        |class: &str, inputs: Json| latent(&harness.run(&changed(class, &inputs), "2")[0]).1;
    let upscale = |width: u64, height: u64, crop: &str| json!({"upscale_method": "bislerp", "width": width, "height": height, "crop": crop});
    assert_eq!(shape("LatentUpscale", upscale(160, 104, "disabled")), [2, 4, 13, 20]);
    assert_eq!(shape("LatentUpscale", upscale(8, 104, "center")), [2, 4, 13, 8]); // 64 at least
    assert_eq!(shape("LatentUpscale", upscale(0, 120, "disabled")), [2, 4, 15, 25]);
    assert_eq!(shape("LatentUpscale", upscale(200, 0, "disabled")), [2, 4, 15, 25]);
    assert_eq!(shape("LatentUpscale", upscale(0, 0, "disabled")), [2, 4, 3, 5]);
    let by = |factor: f64| json!({"upscale_method": "area", "scale_by": factor});
    assert_eq!(shape("LatentUpscaleBy", by(1.5)), [2, 4, 4, 8]); // 4.5 and 7.5 go to even
    let twice = json!({"upscale_method": "nearest-exact", "scale_by": 2.0});
    let twice = harness.run(&changed("LatentUpscaleBy", &twice), "2");
    assert_holds(&twice[0], [2, 4, 6, 10], |b, c, y, x| stored(b, c, y / 2, x / 2));
}

#[test]
fn latents_are_turned_mirrored_and_cut() {
    let mut harness = harness();
    let mut run = |class: &str, inputs: Json| harness.run(&changed(class, &inputs), "2").remove(0);
    let flip = |method: &str| json!({ "flip_method": method });
    let (whole, turned) = ([2, 4, 3, 5], [2, 4, 5, 3]);
    assert_holds(&run("LatentFlip", flip("x-axis: vertically")), whole, |b, c, y, x| {
        stored(b, c, 2 - y, x)
    });
    assert_holds(&run("LatentFlip", flip("y-axis: horizontally")), whole, |b, c, y, x| {
        stored(b, c, y, 4 - x)
    });
    let rotate = |by: &str| json!({ "rotation": by });
    assert_holds(&run("LatentRotate", rotate("none")), whole, stored);
    assert_holds(&run("LatentRotate", rotate("90 degrees")), turned, |b, c, y, x| {
        stored(b, c, 2 - x, y)
    });
    assert_holds(&run("LatentRotate", rotate("180 degrees")), whole, |b, c, y, x| {
        stored(b, c, 2 - y, 4 - x)
    });
    assert_holds(&run("LatentRotate", rotate("270 degrees")), turned, |b, c, y, x| {
        stored(b, c, x, 4 - y)
    });

    let crop = json!({"width": 72, "height": 64, "x": 16, "y": 800, "samples": ["3", 0]});
    let mut prompt =
        changed("LatentUpscaleBy", &json!({"upscale_method": "nearest-exact", "scale_by": 4.0}));
    prompt["3"] = json!({"class_type": "LatentCrop", "inputs": crop});
    prompt["3"]["inputs"]["samples"] = json!(["2", 0]);
    let cut = harness.run(&prompt, "3");
    assert_holds(&cut[0], [2, 4, 8, 9], |b, c, y, x| stored(b, c, (y + 4) / 4, (x + 2) / 4));
}

#[test]
fn one_latent_goes_on_another() {
    let mut harness = harness();
    let composite = |x: u64, y: u64, feather: u64| {
        json!({
            "1": {"class_type": "LoadLatent", "inputs": {"latent": "new.latent"}},
            "2": {"class_type": "LatentFromBatch",
                  "inputs": {"samples": ["1", 0], "batch_index": 1, "length": 1}},
            "3": {"class_type": "LatentUpscaleBy", "inputs":
                  {"samples": ["1", 0], "upscale_method": "nearest-exact", "scale_by": 3.0}},
            "4": {"class_type": "LatentComposite", "inputs":
                  {"samples_to": ["3", 0], "samples_from": ["2", 0], "x": x, "y": y,
                   "feather": feather}},
        })
    };
    let whole = [2, 4, 9, 15];
    let below = |b: usize, c: usize, y: usize, x: usize| stored(b, c, y / 3, x / 3);
    let placed = harness.run(&composite(24, 8, 0), "4");
    assert_holds(&placed[0], whole, |b, c, y, x| match (y, x) {
        (1..4, 3..8) => stored(1, c, y - 1, x - 3),
        _ => below(b, c, y, x),
    });
    // At the left edge, over the bottom one: only the top and the right fade.
    let faded = harness.run(&composite(0, 56, 16), "4");
    assert_holds(&faded[0], whole, |b, c, y, x| match (y, x) {
        (7.., 0..5) => {
            let share = [0.5, 1.0][y - 7] * [1.0, 1.0, 1.0, 1.0, 0.5][x];
            stored(1, c, y - 7, x) * share + below(b, c, y, x) * (1.0 - share)
        }
        _ => below(b, c, y, x),
    });
    assert_holds(&harness.run(&composite(4096, 0, 8), "4")[0], whole, below);
}

#[test]
fn a_part_of_a_batch_keeps_its_noise_and_mask() {
    let mut harness = harness();
    let prompt = json!({
        "1": {"class_type": "LoadLatent", "inputs": {"latent": "new.latent"}},
        "2": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 3, "height": 2}},
        "3": {"class_type": "SetLatentNoiseMask",
              "inputs": {"samples": ["1", 0], "mask": ["2", 0]}},
        "4": {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["3", 0], "amount": 3}},
        "5": {"class_type": "LatentFromBatch",
              "inputs": {"samples": ["4", 0], "batch_index": 3, "length": 64}},
        "6": {"class_type": "LatentFromBatch",
              "inputs": {"samples": ["5", 0], "batch_index": 1, "length": 1}},
        "7": {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["5", 0], "amount": 2}},
        "8": {"class_type": "LatentFromBatch",
              "inputs": {"samples": ["1", 0], "batch_index": 63, "length": 2}},
    });
    let repeated = &harness.run(&prompt, "4")[0];
    assert_holds(repeated, [6, 4, 3, 5], |b, c, y, x| stored(b % 2, c, y, x));
    assert!(latent(repeated).0.batch_index.is_none());
    let mut part = |id: &str| {
        let values = harness.run(&prompt, id);
        let (latent, shape, _) = latent(&values[0]);
        let mask = latent.noise_mask.map(|mask| mask.shape());
        (values, shape[0], latent.batch_index.unwrap().to_vec(), mask)
    };
    let (values, count, index, mask) = part("5");
    assert_holds(&values[0], [3, 4, 3, 5], |b, c, y, x| stored((b + 1) % 2, c, y, x));
    assert_eq!((count, index, mask), (3, vec![3, 4, 5], Some([1, 2, 3])));
    let (_, count, index, _) = part("6");
    assert_eq!((count, index), (1, vec![4]));
    let (_, count, index, _) = part("7");
    assert_eq!((count, index), (6, vec![3, 4, 5, 6, 7, 8]));
    let (values, count, index, mask) = part("8");
    assert_holds(&values[0], [1, 4, 3, 5], |_, c, y, x| stored(1, c, y, x));
    assert_eq!((count, index, mask), (1, vec![1], None));
}

/// An index below 0 counts from the end; one outside of the batch is the nearest inside.
#[test]
fn latents_are_counted_from_the_end_too() {
    let mut harness = harness();
    let batch = 6_i64;
    for (first, length) in [(-1, 1), (-3, 2), (-6, 64), (-7, 2), (-16384, 1), (5, 3), (16384, 1)] {
        let prompt = json!({
            "1": {"class_type": "LoadLatent", "inputs": {"latent": "new.latent"}},
            "2": {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["1", 0], "amount": 3}},
            "3": {"class_type": "LatentFromBatch",
                  "inputs": {"samples": ["2", 0], "batch_index": first, "length": length}},
        });
        let begin =
            usize::try_from(if first < 0 { batch + first } else { first }.clamp(0, 5)).unwrap();
        let count = length.min(6 - begin);
        let values = harness.run(&prompt, "3");
        assert_holds(&values[0], [count, 4, 3, 5], |b, c, y, x| stored((begin + b) % 2, c, y, x));
        let index = latent(&values[0]).0.batch_index.unwrap();
        assert_eq!(index.to_vec(), (begin..begin + count).collect::<Vec<_>>(), "{first}");
    }
}

/// What saves or shows something hands it on.
#[test]
fn output_nodes_hand_on_what_they_are_given() {
    let mut harness = harness();
    let prompt = json!({
        "1": {"class_type": "LoadLatent", "inputs": {"latent": "new.latent"}},
        "2": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "x"}},
        "3": {"class_type": "LatentFlip",
              "inputs": {"samples": ["2", 0], "flip_method": "y-axis: horizontally"}},
        "4": {"class_type": "EmptyImage",
              "inputs": {"width": 3, "height": 2, "batch_size": 2, "color": 0x33_66_cc}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "y"}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
        "7": {"class_type": "ImageInvert", "inputs": {"image": ["6", 0]}},
    });
    let flipped = harness.run(&prompt, "3");
    assert_holds(&flipped[0], [2, 4, 3, 5], |b, c, y, x| stored(b, c, y, 4 - x));
    let Value::Image(inverted) = &harness.run(&prompt, "7")[0] else { panic!("no picture") };
    assert_eq!(inverted.shape(), [2, 2, 3, 3]);
    assert!((inverted.at(1, 1, 2, 2) - 0.2).abs() < 1e-6, "{}", inverted.at(1, 1, 2, 2));
    assert!(harness.path("output/y_00001_.png").is_file());
}

/// One mask for each picture stays with its picture.
#[test]
fn masks_of_a_batch_go_with_their_latents() {
    let mut harness = harness();
    harness.put(&fixtures().join("pictures/alpha.apng"));
    let prompt = json!({
        "1": {"class_type": "LoadLatent", "inputs": {"latent": "new.latent"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "alpha.apng"}},
        "3": {"class_type": "ImageToMask", "inputs": {"image": ["2", 0], "channel": "red"}},
        "4": {"class_type": "SetLatentNoiseMask",
              "inputs": {"samples": ["1", 0], "mask": ["3", 0]}},
        "5": {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["4", 0], "amount": 2}},
        "6": {"class_type": "LatentFromBatch",
              "inputs": {"samples": ["5", 0], "batch_index": 1, "length": 2}},
    });
    let masks = |value: &Value| latent(value).0.noise_mask.unwrap();
    let all = masks(&harness.run(&prompt, "4")[0]);
    let part = masks(&harness.run(&prompt, "6")[0]);
    assert_eq!((all.shape()[0], part.shape()[0]), (3, 2));
    assert_eq!(part, all.select([1, 0]));
}

#[test]
fn empty_latents_have_the_channels_of_their_family() {
    let mut harness = Harness::empty();
    for (class, channels) in [("EmptyLatentImage", 4), ("EmptySD3LatentImage", 16)] {
        let inputs = json!({ "width": 80, "height": 48, "batch_size": 3 });
        let prompt = json!({ "1": { "class_type": class, "inputs": inputs } });
        let given = harness.run(&prompt, "1");
        assert_holds(&given[0], [3, channels, 6, 10], |_, _, _, _| 0.0);
    }
}
