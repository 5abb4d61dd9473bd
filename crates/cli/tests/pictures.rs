//! `generate`, `run` and `nodes`, as a user calls them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};

const CKPT: &str = "tiny-shapes.safetensors";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The program in a folder of its own, with the shipped models.
fn distorch(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("distorch").unwrap();
    command.current_dir(folder).arg("--base-dir").arg(root());
    command
}

fn texts(path: &Path) -> Vec<(String, String)> {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    let reader = decoder.read_info().unwrap();
    let chunks = reader.info().uncompressed_latin1_text.iter();
    chunks.map(|chunk| (chunk.keyword.clone(), chunk.text.clone())).collect()
}

#[test]
fn generate_saves_a_picture_that_says_how_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = distorch(folder.path());
    command.args(["generate", "--ckpt", CKPT, "--prompt", "a red circle", "--steps", "2"]);
    let output =
        command.args(["--width", "64", "--height", "96", "-o", "x.png"]).assert().success();
    let stdout = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(stdout.contains("saved x.png") && stdout.contains("unet"), "{stdout}");
    let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("step 2 of 2"), "{stderr}");
    let texts = texts(&folder.path().join("x.png"));
    let text = |name: &str| &texts.iter().find(|(keyword, _)| keyword == name).unwrap().1;
    assert!(text("parameters").contains("Steps: 2") && text("parameters").contains("64x96"));
    let prompt: Value = serde_json::from_str(text("prompt")).unwrap();
    assert_eq!(prompt["3"]["class_type"], "KSampler");
    // Nothing else is left behind, and the prompt of the picture runs as it is.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::write(folder.path().join("w.json"), text("prompt")).unwrap();
    let out = folder.path().join("out");
    let mut command = distorch(folder.path());
    command.args(["run", "w.json", "--set", "3.steps=1", "--json", "--output-dir"]).arg(&out);
    let output = command.assert().success();
    let shown: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(shown["9"]["images"][0]["filename"], "ComfyUI_00001_.png");
    assert!(out.join("ComfyUI_00001_.png").is_file());
    // So does the picture itself.
    let mut command = distorch(folder.path());
    command.args(["run", "x.png", "--set", "3.steps=1", "--output-dir"]).arg(&out);
    command.assert().success();
    let saved = |n: u32| fs::read(out.join(format!("ComfyUI_0000{n}_.png"))).unwrap();
    assert_eq!(saved(1), saved(2));
}

#[test]
fn a_batch_has_numbered_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = distorch(folder.path());
    command.args(["generate", "--ckpt", CKPT, "--prompt", "a", "--steps", "1", "--batch", "2"]);
    command
        .args(["--width", "64", "--height", "64", "-o", "new/folder/out.png"])
        .assert()
        .success();
    assert!(folder.path().join("new/folder/out_00002.png").is_file());
}

#[test]
fn wrong_options_are_told_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    for (args, says) in [
        (vec!["--sampler", "eulr"], "euler"),
        (vec!["--output", "x.jpg"], ".png"),
        (vec!["--output", "/dev/null/x.png"], "`/dev/null`"),
        (vec!["--device", "cuda:5"], "cuda:5"),
        (vec!["--denoise", "2"], "denoise"),
    ] {
        let mut command = distorch(folder.path());
        command.args(["generate", "--ckpt", CKPT, "--prompt", "a"]).args(&args);
        let output = command.assert().code(2);
        let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(stderr.contains(says), "{args:?}: {stderr}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    let mut command = distorch(folder.path());
    let output = command.args(["generate", "--ckpt", "tiny-shape.safetensors", "-p", "a"]).assert();
    let stderr = String::from_utf8(output.code(2).get_output().stderr.clone()).unwrap();
    assert!(stderr.contains(CKPT), "{stderr}");
}

#[test]
fn a_dry_run_plans_and_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = distorch(folder.path());
    command.arg("run").arg(root().join("examples/two_gpus.json")).arg("--dry-run");
    let output = command.args(["--simulate", "cuda:0=1GiB,cuda:1=600MiB"]).assert().success();
    let output = output.get_output();
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        stdout.contains("cuda:1 (simulated)") && stdout.contains("nothing was loaded"),
        "{stdout}"
    );
    assert!(!String::from_utf8(output.stderr.clone()).unwrap().contains("loading"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn workflows_that_cannot_run_say_all_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let workflow = json!({
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 1, "height": 64}},
        "2": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "x"}},
    });
    let path = folder.path().join("w.json");
    fs::write(&path, workflow.to_string()).unwrap();
    let output = distorch(folder.path()).arg("run").arg(&path).assert().code(2);
    let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    for part in ["node 1 (EmptyLatentImage)", "width", "batch_size"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    fs::write(&path, r#"{"nodes": [7], "links": []}"#).unwrap();
    let output = distorch(folder.path()).arg("run").arg(&path).assert().code(2);
    assert!(
        String::from_utf8(output.get_output().stderr.clone()).unwrap().contains("Export (API)")
    );
}

#[test]
fn nodes_are_listed_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = distorch(folder.path()).args(args).assert().success();
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    assert!(run(&["nodes"]).contains("CheckpointLoaderAdvancedDisTorch2MultiGPU"));
    assert!(run(&["nodes", "KSampler"]).contains("sampler_name"));
    let info: Value = serde_json::from_str(&run(&["nodes", "--json"])).unwrap();
    let loader = &info["CheckpointLoaderAdvancedDisTorch2MultiGPU"];
    assert_eq!(loader["output"], json!(["MODEL", "CLIP", "VAE"]));
    assert_eq!(loader["input"]["required"]["unet_virtual_vram_gb"][1]["max"], 128.0);
    let output = distorch(folder.path()).args(["nodes", "KSamplr"]).assert().code(2);
    let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("did you mean `KSampler`"), "{stderr}");
}
