//! Pictures made on `vulkan:0`, beside the CPU's.
//!
//! Where the environment promises a Vulkan driver, as CI's does with Mesa's software driver
//! (`DISTORCH_EXPECT_VULKAN`); elsewhere these do nothing.

#![cfg(feature = "vulkan")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

const STEPS: &str = "4";

fn promised() -> bool {
    std::env::var_os("DISTORCH_EXPECT_VULKAN").is_some()
}

fn distorch() -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::cargo_bin("distorch").unwrap();
    // In the project's folder the kernels that were found fastest are kept for the next run.
    command.env_remove("COMFYUI_PATH").current_dir(root);
    command
}

/// The 8-bit values of a small picture, made with these options, and what was printed.
fn picture(folder: &TempDir, options: &[&str]) -> (Vec<u8>, String) {
    let path = folder.path().join(format!("{}.png", options.join(" ").replace('/', "_")));
    let mut command = distorch();
    command.args(["generate", "--ckpt", "tiny-shapes.safetensors", "--seed", "3", "--cfg", "2"]);
    command.args(["--prompt", "a red circle on a (white background:1.2)", "--steps", STEPS]);
    command.args(["--width", "64", "--height", "72", "-o"]).arg(&path).args(options);
    let output = command.assert().success().get_output().stdout.clone();
    (pixels(&path), String::from_utf8(output).unwrap())
}

fn pixels(path: &Path) -> Vec<u8> {
    let decoder = png::Decoder::new(BufReader::new(File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

/// The largest difference of two pictures' values, and the mean one.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (differences.max().unwrap(), sum as f64 / a.len() as f64)
}

/// In f32, whether the weights are all there or most come from the file as they are needed, the picture
/// is the CPU's but for what rounding makes of the sums' order.
#[test]
fn f32_makes_the_cpus_picture_with_weights_at_home_or_streamed() {
    if !promised() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (cpu, _) = picture(&folder, &["--device", "cpu"]);
    let vulkan = ["--device", "vulkan:0", "--dtype", "f32"];
    let streamed = [&vulkan[..], &["--virtual-vram-gb", "0.004", "--donor-device", "cpu"]].concat();
    let expert = ["--expert-mode-allocations", "vulkan:0,20%;cpu,80%"];
    for options in [&vulkan[..], &streamed, &[&vulkan[..], &expert].concat()] {
        let (there, told) = picture(&folder, options);
        let (most, mean) = difference(&cpu, &there);
        println!("{options:?}: {most} at most, {mean:.5} on average\n{told}");
        assert!(most <= 1 && mean < 0.01, "{options:?}: {most}, {mean}");
        assert!(told.contains("vulkan:0"), "{told}");
    }
}

/// In f16, where the driver has it, the picture is near: 11 bits of each value through 4 steps.
#[test]
fn f16_makes_nearly_the_cpus_picture() {
    if !promised() {
        return;
    }
    let output = distorch().args(["devices", "--json"]).assert().success().get_output().clone();
    let devices: Value = serde_json::from_slice(&output.stdout).unwrap();
    let device = devices["devices"].as_array().unwrap().iter().find(|d| d["id"] == "vulkan:0");
    let has_f16 = device.unwrap()["dtypes"].as_array().unwrap().iter().any(|d| d == "f16");
    if !has_f16 {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (cpu, _) = picture(&folder, &["--device", "cpu"]);
    let (there, _) = picture(&folder, &["--device", "vulkan:0", "--dtype", "f16"]);
    let (most, mean) = difference(&cpu, &there);
    println!("f16: {most} at most, {mean:.5} on average");
    assert!(mean < 1.0, "{most}, {mean}");
}
