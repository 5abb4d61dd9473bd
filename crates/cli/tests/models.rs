//! `distorch models`.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::{distorch, json, refused, stdout};

fn touch(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, b"x").unwrap();
}

#[test]
fn lists_what_the_folders_and_the_extra_paths_hold() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    touch(&base.join("models/checkpoints/sd/a.safetensors"));
    touch(&base.join("models/checkpoints/B.CKPT"));
    touch(&base.join("models/checkpoints/readme.txt"));
    touch(&dir.path().join("other/loras/l.safetensors"));
    let yaml = dir.path().join("extra.yaml");
    fs::write(&yaml, "mine:\n  base_path: other\n  loras: loras\n").unwrap();
    let base = base.to_str().unwrap();

    let found = json(&["models", "checkpoints", "--base-dir", base, "--json"]);
    let names: Vec<_> =
        found[0]["entries"].as_array().unwrap().iter().map(|e| e["name"].clone()).collect();
    assert_eq!(names, ["B.CKPT", "sd/a.safetensors"]);

    let extra = ["--extra-model-paths", yaml.to_str().unwrap()];
    let text = stdout(&[&["models", "--base-dir", base], &extra[..]].concat());
    for name in ["B.CKPT", "sd/a.safetensors", "l.safetensors"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn nothing_found_says_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let text = stdout(&["models", "loras", "--base-dir", dir.path().to_str().unwrap()]);
    assert!(text.contains("no models found") && text.contains("models/loras"), "{text}");
}

#[test]
fn comfyui_path_is_the_base_where_the_working_directory_has_no_models() {
    let dir = tempfile::tempdir().unwrap();
    let (comfyui, work) = (dir.path().join("ComfyUI"), dir.path().join("work"));
    touch(&comfyui.join("models/vae/v.pt"));
    fs::create_dir_all(&work).unwrap();
    let output = distorch(&["models", "vae"])
        .current_dir(&work)
        .env("COMFYUI_PATH", &comfyui)
        .assert()
        .success();
    assert!(String::from_utf8_lossy(&output.get_output().stdout).contains("v.pt"));
}

#[test]
fn bad_input_is_refused() {
    let error = refused(&["models", "checkpoint"]);
    assert!(error.contains("checkpoints"), "{error}");
    let error = refused(&["models", "--base-dir", "/nowhere/at/all"]);
    assert!(error.contains("/nowhere/at/all"), "{error}");
}
