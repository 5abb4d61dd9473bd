//! What is printed fits the terminal, and a pipe gets all of it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::{base_with, distorch};
use distorch_checkpoint::Dtype;
use unicode_width::UnicodeWidthStr;

/// Standard output on a terminal of so many columns.
fn on(columns: usize, args: &[&str]) -> String {
    let columns = columns.to_string();
    let output = distorch(args).env("COLUMNS", columns).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

/// Standard output in a pipe.
fn piped(args: &[&str]) -> String {
    let output = distorch(args).env_remove("COLUMNS").assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn widest(text: &str) -> usize {
    text.lines().map(UnicodeWidthStr::width).max().unwrap_or(0)
}

/// A base folder with models whose names and folder are long.
fn models() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix(&"long".repeat(20)).tempdir().unwrap();
    for name in ["checkpoints/a-rather-long-name-v12-pruned.safetensors", "text_encoders/t5.sft"] {
        let path = dir.path().join("models").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    dir
}

#[test]
fn tables_fit_narrow_terminals() {
    let (models, model) = (models(), base_with("tiny-sdxl", Dtype::F16));
    let models = ["models", "--base-dir", models.path().to_str().unwrap()];
    let simulate = "cuda:0=24GiB@12.5GB/s,cuda:1=8GiB@6GB/s,cpu=64GiB";
    let devices = ["devices", "--simulate", simulate];
    let base = model.path().to_str().unwrap();
    let layers = ["inspect", "real/model.safetensors", "--base-dir", base, "--layers"];
    for (args, kept) in [
        (&models[..], &["checkpoints", "text_encoders", "a-rather-long-name", "t5.sft"][..]),
        (&devices, &["cuda:0 (simulated)", "24.00 GiB", "cpu (simulated)", "64.00 GiB"]),
        (&layers, &["diffusion model", "text encoders", "F16", "clip_l.text_model"]),
        (&["nodes"], &["CheckpointLoaderAdvancedDisTorch2MultiGPU", "KSampler", "SaveImage"]),
    ] {
        let whole = piped(args);
        for columns in [60, 80, 120] {
            let text = on(columns, args);
            let table: String = text
                .lines()
                .filter(|l| l.starts_with(['┌', '│', '╞', '└']))
                .fold(String::new(), |all, line| all + line + "\n");
            assert!(widest(&table) <= columns, "{columns}: {text}");
            for word in kept {
                assert!(text.contains(word), "{columns}, {word}: {text}");
            }
        }
        assert_eq!(on(1000, args), whole);
    }
    let folder = Path::new(models[2]).display().to_string();
    assert!(piped(&models).contains(&folder), "a pipe gets every column");
}

#[test]
fn a_node_is_described_within_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_str().unwrap();
    let list = piped(&["nodes", "--base-dir", base]);
    let classes: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("│ ")?.split_whitespace().next())
        .filter(|class| *class != "class")
        .collect();
    assert!(classes.len() > 50, "{list}");
    // The widest of them at every width, the others at one.
    for columns in [60, 80, 120] {
        let text = on(columns, &["nodes", "KSampler", "--base-dir", base]);
        assert!(widest(&text) <= columns.min(100), "{text}");
        for word in ["sampler_name", "dpmpp_2m", "lcm", "LATENT", "18446744073709551615"] {
            assert!(text.contains(word), "{text}");
        }
    }
    for class in classes.into_iter().step_by(4) {
        let text = on(60, &["nodes", class, "--base-dir", base]);
        assert!(widest(&text) <= 60, "{text}");
    }
}
