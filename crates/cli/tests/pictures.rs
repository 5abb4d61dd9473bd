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

fn pixels(path: &Path) -> Vec<u8> {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut bytes).unwrap();
    bytes
}

/// Products of bf16 change a picture little, and those of f16 weights in f32 nothing at all: the shipped
/// checkpoint is in f16.
#[test]
fn sixteen_bits_on_the_cpu_are_near_f32() {
    let folder = tempfile::tempdir().unwrap();
    let picture = |dtype: &str| {
        let file = format!("{dtype}.png");
        let mut command = distorch(folder.path());
        command.args(["generate", "--ckpt", CKPT, "--prompt", "a blue square", "--seed", "11"]);
        command.args(["--steps", "6", "--dtype", dtype, "-o", &file]).assert().success();
        pixels(&folder.path().join(file))
    };
    let full = picture("f32");
    let apart = |other: &[u8]| {
        assert_eq!(other.len(), full.len());
        let sum: u64 = full.iter().zip(other).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / full.len() as f64
    };
    // Of 255; measured: 0.2.
    let distance = apart(&picture("bf16"));
    assert!(distance < 1.0, "{distance}");
    let distance = apart(&picture("f16"));
    assert!(distance < 0.05, "{distance}");
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
fn files_that_are_there_stay_unless_they_are_to_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let generate = |more: &[&str]| {
        let mut command = distorch(folder.path());
        command.args(["generate", "--ckpt", CKPT, "--prompt", "a", "--steps", "1"]);
        command.args(["--width", "64", "--height", "64", "-o", "x.png"]).args(more);
        let output = command.assert().success();
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    fs::write(folder.path().join("x.png"), "mine").unwrap();
    assert!(generate(&[]).contains("saved x_00001.png"));
    assert!(generate(&["--batch", "2"]).contains("saved x_00003.png"));
    assert_eq!(fs::read(folder.path().join("x.png")).unwrap(), b"mine");
    assert!(generate(&["--overwrite"]).contains("saved x.png"));
    assert_ne!(fs::read(folder.path().join("x.png")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn an_output_folder_that_cannot_be_is_told_before_sampling() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("file");
    fs::write(&output, "x").unwrap();
    let workflow = root().join("examples/txt2img_distorch2.json");
    for more in [&[][..], &["--dry-run"]] {
        let mut command = distorch(folder.path());
        command.arg("run").arg(&workflow).arg("--output-dir").arg(&output).args(more);
        let output = command.assert().code(2);
        let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(stderr.contains("file` is not a folder"), "{stderr}");
        assert!(!stderr.contains("loading") && !stderr.contains("step 1"), "{stderr}");
    }
}

#[test]
fn pictures_of_every_kind_run_when_they_carry_a_workflow() {
    let folder = tempfile::tempdir().unwrap();
    let carried = root().join("crates/workflow/tests/fixtures/carried");
    let run = |name: &str| {
        let mut command = distorch(folder.path());
        command.arg("run").arg(carried.join(name)).args(["--output-dir", "out"]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let with = ["both.webp", "workflow.webp", "prompt.jpg", "comment.jpg", "behind.png"];
    for (place, name) in with.into_iter().enumerate() {
        assert_eq!(run(name).0, Some(0), "{name}: {}", run(name).1);
        let saved = folder.path().join(format!("out/é_0000{}_.png", place + 1));
        assert!(saved.is_file(), "{name}");
    }
    for name in ["none.webp", "other.jpg"] {
        let (code, stderr) = run(name);
        assert_eq!(code, Some(2), "{name}");
        assert!(stderr.contains("carries no workflow"), "{name}: {stderr}");
    }
}

/// Opening a pipe that nobody writes to would wait for ever, and a device has no end.
#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_where_a_file_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.as_path(), Path::new("/dev/zero")] {
        for args in [
            vec!["inspect"],
            vec!["models", "--extra-model-paths"],
            vec!["generate", "--ckpt", CKPT, "--prompt", "a", "--steps", "1", "--image"],
        ] {
            let mut command = distorch(folder.path());
            let output = command.args(&args).arg(path).timeout(std::time::Duration::from_secs(60));
            let output = output.output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{args:?} {path:?}: {stderr}");
            assert!(stderr.contains("pipe") || stderr.contains("file"), "{args:?}: {stderr}");
        }
    }
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
    let words = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("layout distorch2, chosen by auto: the window has its full size"),
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
    let simple = &info["CheckpointLoaderSimpleDisTorch2MultiGPU"]["input_order"];
    assert_eq!(simple["required"], json!(["ckpt_name"]));
    assert_eq!(simple["optional"][1], "virtual_vram_gb");
    let save = &info["SaveImage"];
    assert_eq!(
        save["input"]["hidden"],
        json!({"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"})
    );
    assert_eq!((&save["output"], &save["output_name"]), (&json!(["IMAGE"]), &json!(["images"])));
    assert_eq!(save["deprecated"], false);
    assert_eq!(info["ImageBatch"]["deprecated"], true);
    let tiled = &info["VAEDecodeTiled"];
    assert_eq!(
        (&tiled["category"], &tiled["output_node"]),
        (&json!("model/latent"), &json!(false))
    );
    let tile = &tiled["input"]["required"]["tile_size"][1];
    assert_eq!((&tile["step"], &tile["advanced"]), (&json!(32), &json!(true)));
    let index = &info["LatentFromBatch"]["input"]["required"]["batch_index"][1];
    assert_eq!((&index["min"], &index["max"]), (&json!(-16384), &json!(16384)));
    let output = distorch(folder.path()).args(["nodes", "KSamplr"]).assert().code(2);
    let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("did you mean `KSampler`"), "{stderr}");
}
