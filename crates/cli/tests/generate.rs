//! What `generate` makes of its options.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::distorch;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn shipped() -> PathBuf {
    root().join("models/checkpoints/tiny-shapes.safetensors")
}

/// Standard output of one step of `generate` in a folder; the picture is `x.png`, instead of an earlier one,
/// which would not be replaced.
fn generate(folder: &Path, args: &[&str]) -> String {
    let _ = fs::remove_file(folder.join("x.png"));
    let output = distorch(&["generate", "-p", "a red circle", "--steps", "1", "-o", "x.png"])
        .args(args)
        .current_dir(folder)
        .assert()
        .success();
    String::from_utf8(output.get_output().stdout.clone()).unwrap()
}

/// The size of `x.png` and its texts.
fn picture(folder: &Path) -> ((u32, u32), HashMap<String, String>) {
    let file = fs::File::open(folder.join("x.png")).unwrap();
    let reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let texts = reader.info().uncompressed_latin1_text.iter();
    (reader.info().size(), texts.map(|t| (t.keyword.clone(), t.text.clone())).collect())
}

/// The pixels of `x.png`.
fn pixels(folder: &Path) -> Vec<u8> {
    let file = fs::File::open(folder.join("x.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

/// The inputs of a node of the workflow in `x.png`.
fn inputs(folder: &Path, node: &str) -> Value {
    let prompt: Value = serde_json::from_str(&picture(folder).1["prompt"]).unwrap();
    prompt[node]["inputs"].clone()
}

/// The shipped checkpoint with other metadata.
fn with_metadata(path: &Path, metadata: &Value) {
    let file = fs::read(shipped()).unwrap();
    let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    header["__metadata__"] = metadata.clone();
    let header = serde_json::to_vec(&header).unwrap();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.extend(&file[8 + length..]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, out).unwrap();
}

#[test]
fn a_checkpoint_and_a_lora_by_path() {
    let dir = tempfile::tempdir().unwrap();
    // Another file of the same name in the model folders is not what was meant.
    fs::create_dir_all(dir.path().join("models/checkpoints")).unwrap();
    fs::write(dir.path().join("models/checkpoints/mine.safetensors"), "no model").unwrap();
    fs::create_dir_all(dir.path().join("down")).unwrap();
    fs::copy(shipped(), dir.path().join("down/mine.safetensors")).unwrap();
    let lora = root().join("models/loras/tiny-outlines.safetensors");
    fs::copy(&lora, dir.path().join("down/ink.safetensors")).unwrap();

    let ckpt = ["--ckpt", "./down/mine.safetensors", "--lora", "./down/ink.safetensors:0.5"];
    generate(dir.path(), &ckpt);
    let by_path = fs::read(dir.path().join("x.png")).unwrap();
    assert_eq!(inputs(dir.path(), "4")["ckpt_name"], "mine.safetensors");
    assert_eq!(inputs(dir.path(), "20")["lora_name"], "ink.safetensors");
    let text = &picture(dir.path()).1["parameters"];
    assert!(text.contains("Model: mine.safetensors") && text.contains("ink.safetensors:0.5"));

    // A path without dots, and an absolute one; in the model folders the name is the rest of it.
    generate(
        dir.path(),
        &["--ckpt", "down/mine.safetensors", "--lora", "down/ink.safetensors:0.5"],
    );
    assert_eq!(fs::read(dir.path().join("x.png")).unwrap(), by_path);
    let absolute = shipped();
    let base = root();
    let in_folders = ["--ckpt", absolute.to_str().unwrap(), "--base-dir", base.to_str().unwrap()];
    generate(dir.path(), &in_folders);
    assert_eq!(inputs(dir.path(), "4")["ckpt_name"], "tiny-shapes.safetensors");
    // The picture is the same as by name.
    let by_path = fs::read(dir.path().join("x.png")).unwrap();
    let by_name = ["--ckpt", "tiny-shapes.safetensors", "--base-dir", base.to_str().unwrap()];
    generate(dir.path(), &by_name);
    assert_eq!(fs::read(dir.path().join("x.png")).unwrap(), by_path);
}

#[test]
fn the_size_that_the_checkpoint_was_made_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    for (metadata, size) in [
        (json!({ "modelspec.resolution": "96x64" }), (96, 64)),
        (json!({ "ss_resolution": "(64, 80)" }), (64, 80)),
    ] {
        with_metadata(&path, &metadata);
        generate(dir.path(), &["--ckpt", "./m.safetensors"]);
        assert_eq!(picture(dir.path()).0, size, "{metadata}");
        let text = picture(dir.path()).1["parameters"].clone();
        assert!(text.contains(&format!("Size: {}x{}", size.0, size.1)), "{text}");
    }
    // What is asked for goes before.
    generate(dir.path(), &["--ckpt", "./m.safetensors", "--width", "72"]);
    assert_eq!(picture(dir.path()).0, (72, 80));
    let report = common::json(&["inspect", path.to_str().unwrap(), "--json"]);
    assert_eq!(report["trained_resolution"], json!([64, 80]));
    assert!(common::stdout(&["inspect", path.to_str().unwrap()]).contains("made for 64×80"));
    // A plan is for such a picture too.
    let plan = |args: &[&str]| {
        let begin = ["plan", path.to_str().unwrap(), "--json"];
        let plan = common::json(&[&begin[..], args].concat());
        plan["components"][0]["activation_bytes"].as_u64().unwrap()
    };
    assert_eq!(plan(&[]), plan(&["--width", "64", "--height", "80"]));
    assert!(plan(&[]) < plan(&["--width", "512", "--height", "512"]));
    // Without metadata it is the family's.
    with_metadata(&path, &json!({}));
    let report = common::json(&["inspect", path.to_str().unwrap(), "--json"]);
    assert_eq!(report["trained_resolution"], Value::Null);
}

#[test]
fn one_side_of_a_picture_to_start_from() {
    let dir = tempfile::tempdir().unwrap();
    let image = root().join("input/blue_square.png");
    let ckpt = shipped();
    let args = ["--ckpt", ckpt.to_str().unwrap(), "--image", image.to_str().unwrap()];
    generate(dir.path(), &[&args[..], &["--denoise", "0.5", "--width", "64"]].concat());
    let ((width, height), texts) = picture(dir.path());
    assert_eq!((width, height), (64, 64), "the picture is square");
    assert!(texts["parameters"].contains("Size: 64x64"), "{}", texts["parameters"]);
}

#[test]
fn a_random_seed_is_told_and_repeats_the_picture() {
    let dir = tempfile::tempdir().unwrap();
    let ckpt = shipped();
    let args = ["--ckpt", ckpt.to_str().unwrap(), "--width", "64", "--height", "64", "--seed"];
    let mut seeds = Vec::new();
    for random in ["random", "-1"] {
        let text = generate(dir.path(), &[&args[..], &[random]].concat());
        let seed = text.lines().find_map(|line| line.strip_prefix("seed ")).unwrap().to_owned();
        assert_eq!(inputs(dir.path(), "3")["seed"].to_string(), seed);
        assert!(picture(dir.path()).1["parameters"].contains(&format!("Seed: {seed},")));
        // Programs that read JSON numbers as floats keep it.
        assert!(seed.parse::<u64>().unwrap() < 1 << 53);
        let drawn = fs::read(dir.path().join("x.png")).unwrap();
        let text = generate(dir.path(), &[&args[..], &[&seed]].concat());
        assert!(!text.contains("seed "), "{text}");
        assert_eq!(fs::read(dir.path().join("x.png")).unwrap(), drawn);
        seeds.push(seed);
    }
    assert_ne!(seeds[0], seeds[1]);
    // The largest seed that ComfyUI takes.
    generate(dir.path(), &[&args[..], &["18446744073709551615"]].concat());
    assert_eq!(inputs(dir.path(), "3")["seed"], u64::MAX);
}

#[test]
fn weights_elsewhere_without_naming_the_device_that_computes() {
    let dir = tempfile::tempdir().unwrap();
    let ckpt = shipped();
    let args = ["--ckpt", ckpt.to_str().unwrap(), "--width", "64", "--height", "64"];
    generate(dir.path(), &args);
    let alone = pixels(dir.path());
    for (spread, device) in [
        (&["--virtual-vram-gb", "4"][..], "cpu"),
        (&["--donor-device", "cpu"], "cpu"),
        (&["--virtual-vram-gb", "4", "--simulate", "cuda:0=1GiB"], "cuda:0"),
        (&["--donor-device", "cuda:1", "--simulate", "cuda:0=1GiB,cuda:1=1GiB"], "cuda:0"),
        (
            &[
                "--expert-mode-allocations",
                "cuda:0,70%;cuda:1,30%",
                "--simulate",
                "cuda:0=1GiB,cuda:1=1GiB",
            ],
            "cuda:0",
        ),
    ] {
        let text = generate(dir.path(), &[&args[..], spread].concat());
        assert_eq!(inputs(dir.path(), "4")["compute_device"], device, "{spread:?}");
        assert!(text.contains(device), "{text}");
        // The same picture, wherever the weights are.
        assert_eq!(pixels(dir.path()), alone, "{spread:?}");
    }
}

#[test]
fn a_distilled_guidance_stands_in_the_workflow() {
    let dir = tempfile::tempdir().unwrap();
    let ckpt = shipped();
    let base = ["--ckpt", ckpt.to_str().unwrap()];
    generate(dir.path(), &base);
    let plain = pixels(dir.path());
    generate(dir.path(), &[&base[..], &["--guidance", "2.5"]].concat());
    // The shipped checkpoint reads none: the picture is the same.
    assert_eq!(pixels(dir.path()), plain);
    for (input, node, prompt) in [("positive", "14", "6"), ("negative", "15", "7")] {
        assert_eq!(inputs(dir.path(), "3")[input], json!([node, 0]));
        let expected = json!({ "conditioning": [prompt, 0], "guidance": 2.5 });
        assert_eq!(inputs(dir.path(), node), expected);
    }
}
