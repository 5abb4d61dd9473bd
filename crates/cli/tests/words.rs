//! What is wrong, in words: on standard error, after `error:`, with the way out after `hint:`, and the exit
//! code that says whose fault it is.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{distorch, refused};
use serde_json::Value;

const CKPT: &str = "tiny-shapes.safetensors";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Standard error of `generate` on the shipped checkpoint with these options, which are wrong.
fn generate_refused(args: &[&str]) -> String {
    let root = root();
    let base = ["--base-dir", root.to_str().unwrap()];
    let begin = ["generate", "--ckpt", CKPT, "--prompt", "a"];
    let error = refused(&[&begin[..], &base, args].concat());
    assert!(error.starts_with("error: "), "{error}");
    assert!(!error.contains("loading"), "{error}");
    error
}

#[test]
fn numbers_are_checked_before_anything_is_opened() {
    for (args, says) in [
        (["--seed", "-2"], "a whole number from 0 to 18446744073709551615, or `random`"),
        (["--seed", "18446744073709551616"], "a whole number from 0 to 18446744073709551615"),
        (["--seed", "x"], "or `random`"),
        (["--cfg", "nan"], "a number from 0 to 100"),
        (["--cfg", "inf"], "a number from 0 to 100"),
        (["--cfg", "-inf"], "a number from 0 to 100"),
        (["--cfg", "-1"], "a number from 0 to 100"),
        (["--cfg", "7,5"], "a dot before its decimals"),
        (["--denoise", "1.5"], "a number from 0 to 1"),
        (["--denoise", "-0.1"], "a number from 0 to 1"),
        (["--denoise", "NaN"], "a number from 0 to 1"),
        (["--steps", "0"], "a whole number from 1 to 10000"),
        (["--steps", "2.5"], "a whole number from 1 to 10000"),
        (["--width", "100"], "try 96 or 104"),
        (["--height", "511"], "try 504 or 512"),
        (["--width", "-64"], "a multiple of 8 from 16 to 16384"),
        (["--height", "99999"], "a multiple of 8 from 16 to 16384"),
        (["--batch", "0"], "a whole number from 1 to 4096"),
        (["--guidance", "-1"], "a number from 0 to 100"),
        (["--clip-skip", "-1"], "a whole number from 1 to 24"),
        (["--virtual-vram-gb", "-1"], "a number from 0 to 128"),
        (["--virtual-vram-gb", "nan"], "a number from 0 to 128"),
        (["--lora", "x.safetensors:nan"], "a number from -100 to 100"),
        (["--lora", "x.safetensors:1000"], "a number from -100 to 100"),
    ] {
        // The checkpoint is not there: the number is told first.
        let begin = ["generate", "--ckpt", "/nowhere.safetensors", "--prompt", "a"];
        let error = refused(&[&begin[..], &args].concat());
        let [option, value] = args;
        assert!(error.contains(says) && error.contains(option), "{args:?}: {error}");
        assert!(error.contains(&format!("'{value}'")), "{args:?}: {error}");
    }
}

#[test]
fn generate_speaks_of_its_options_not_of_nodes() {
    for (args, option, says) in [
        (["--sampler", "eulr"], "`--sampler`", "near: euler"),
        (["--scheduler", "karas"], "`--scheduler`", "karras"),
        (["--lora", "none.safetensors"], "no LoRA `none.safetensors`", "hint: put the file into"),
        (["--device", "cuda:5"], "`--device`", "--simulate cuda:5=8GiB"),
        (["--donor-device", "cuda:6"], "`--donor-device`", "--simulate cuda:6=8GiB"),
        (
            ["--expert-mode-allocations", "cuda:7,50%;cpu,50%"],
            "`--expert-mode-allocations`, entry 1",
            "--simulate cuda:7=8GiB",
        ),
        (["--expert-mode-allocations", "cpu,half"], "`--expert-mode-allocations`, entry 1", "half"),
    ] {
        let error = generate_refused(&args);
        assert!(error.contains(option) && error.contains(says), "{args:?}: {error}");
        let inputs = ["node 3", "unet_", "sampler_name", "compute_device"];
        assert!(inputs.iter().all(|input| !error.contains(input)), "{args:?}: {error}");
    }
}

#[test]
fn an_absent_device_names_what_declares_it() {
    let root = root();
    let base = ["--base-dir", root.to_str().unwrap()];
    let workflow = root.join("examples/two_gpus.json");
    let run = refused(&[&["run", workflow.to_str().unwrap()], &base[..]].concat());
    assert!(run.contains("hint: ") && run.contains("--simulate cuda:0=8GiB,cuda:1=8GiB"), "{run}");
    let plan = refused(&[&["plan", CKPT, "--vae-device", "cuda:3"], &base[..]].concat());
    assert!(plan.contains("hint: ") && plan.contains("--simulate cuda:3=8GiB"), "{plan}");
    let bench = refused(&["bench", "--random", "sd15", "--device", "cuda:4"]);
    assert!(bench.contains("hint: ") && bench.contains("--simulate cuda:4=8GiB"), "{bench}");
}

#[test]
fn a_path_that_leads_nowhere_says_how_far_it_leads() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(path("models/old")).unwrap();
    fs::write(path("models/model.safetensors"), "x").unwrap();
    for command in [&["inspect"][..], &["plan"], &["generate", "-p", "a", "--ckpt"]] {
        let says = |name: &str| refused(&[command, &[path(name).as_str()]].concat());
        let typo = says("models/modle.safetensors");
        let near = format!("did you mean `{}`?", path("models/model.safetensors"));
        assert!(typo.contains("there is no file") && typo.contains(&near), "{typo}");
        let folder = says("modles/model.safetensors");
        let near = format!("no folder `{}`; did you mean `{}`?", path("modles"), path("models"));
        assert!(folder.contains(&near), "{folder}");
        let a_folder = says("models");
        assert!(a_folder.contains("is a folder") && a_folder.contains("model.safetensors"));
        let below_a_file = says("models/model.safetensors/x");
        assert!(below_a_file.contains("model.safetensors` is not a folder"), "{below_a_file}");
    }
    let root = refused(&["inspect", "/typo"]);
    assert_eq!(root, "error: there is no file `/typo`\n");
    let name =
        refused(&["inspect", "typo.safetensors", "--base-dir", dir.path().to_str().unwrap()]);
    assert!(name.contains("no checkpoint `typo.safetensors`") && name.contains("hint: "), "{name}");
    #[cfg(unix)]
    {
        let device = refused(&["inspect", "/dev/zero"]);
        assert!(device.contains("a device or a pipe"), "{device}");
    }
}

#[test]
fn long_values_are_cut() {
    // Close to the longest argument that Linux takes.
    let long = "x".repeat(120_000);
    let words = "a b ".repeat(30_000);
    let dir = tempfile::tempdir().unwrap();
    let workflow = dir.path().join("w.json");
    let text = r#"{"3": {"class_type": "KSampler", "inputs": {"sampler_name": "LONG", "seed": "LONG"}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": 1}}}"#;
    fs::write(&workflow, text.replace("LONG", &long)).unwrap();
    let workflow = workflow.to_str().unwrap();
    let shown = root().join("examples/txt2img_distorch2.json");
    let shown = shown.to_str().unwrap();
    for args in [
        &["inspect", &long][..],
        &["inspect", &words],
        &["generate", "--ckpt", &long, "-p", "a"],
        &["generate", "--ckpt", CKPT, "-p", &words, "--cfg", &words],
        &["generate", "--ckpt", CKPT, "-p", &words, "--sampler", &long],
        &["generate", "--ckpt", CKPT, "-p", "a", "--lora", &long],
        &["generate", "--ckpt", CKPT, "-p", "a", "--expert-mode-allocations", &long],
        &["generate", "--ckpt", CKPT, "-p", "a", "-o", &long],
        &["generate", "--ckpt", CKPT, "-p", "a", "--image", &words],
        &["generate", "--ckpt", CKPT, "-p", "a", &format!("--{long}")],
        &["plan", CKPT, "--unet-virtual-vram-gb", &long],
        &["plan", "--blocks", &long],
        &["run", &long],
        &["run", workflow],
        &["run", shown, "--set", &long],
        &["run", shown, "--set", &format!("4.ckpt_name={long}")],
        &["nodes", &long],
        &["models", &long],
        &["devices", "--simulate", &long],
        &["bench", "--random", &long],
        &[&long],
    ] {
        let root = root();
        let error = refused(&[args, &["--base-dir", root.to_str().unwrap()]].concat());
        let command = args[0].chars().take(20).collect::<String>();
        assert!(error.len() < 12_000, "{command}: {} bytes: {:.300}", error.len(), error);
        assert!(error.starts_with("error: "), "{command}: {error:.300}");
    }
}

#[test]
fn json_holds_errors_too() {
    let root = root();
    let base = ["--base-dir", root.to_str().unwrap()];
    let error = |args: &[&str]| -> Value {
        let output = distorch(&[args, &base[..]].concat()).assert().code(2).get_output().clone();
        assert!(output.stderr.starts_with(b"error: "));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let missing = error(&["inspect", "none.safetensors", "--json"]);
    assert_eq!(missing["error"]["type"], "bad_input");
    assert!(missing["error"]["message"].as_str().unwrap().contains("none.safetensors"));
    assert!(missing["error"]["details"].as_str().unwrap().contains("put the file into"));
    assert_eq!(missing["node_errors"], serde_json::json!({}));
    let usage = error(&["models", "--json", "--nonsense"]);
    assert!(usage["error"]["message"].as_str().unwrap().contains("--nonsense"), "{usage}");
    // Of a workflow, as ComfyUI answers it.
    let example = root.join("examples/txt2img_distorch2.json");
    let set = ["run", example.to_str().unwrap(), "--json", "--set", "3.sampler_name=eulr"];
    let invalid = error(&set);
    assert_eq!(invalid["error"]["type"], "prompt_outputs_failed_validation");
    assert_eq!(invalid["node_errors"]["3"]["class_type"], "KSampler");
    assert_eq!(invalid["node_errors"]["3"]["errors"][0]["type"], "value_not_in_list");
}

#[test]
fn a_failure_of_the_machine_has_exit_code_1() {
    // Computing finds that the simulated device is full.
    let dir = tempfile::tempdir().unwrap();
    let root = root();
    let output = distorch(&["generate", "--ckpt", CKPT, "-p", "a", "--steps", "1"])
        .args(["--base-dir", root.to_str().unwrap(), "--simulate", "cuda:0=1MiB"])
        .current_dir(dir.path())
        .assert()
        .code(1);
    let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(error.lines().any(|line| line.starts_with("error: ")), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn stopped_by_ctrl_c_has_exit_code_130() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let dir = tempfile::tempdir().unwrap();
    let root = root();
    let mut child = std::process::Command::new(distorch(&[]).get_program())
        .args(["generate", "--ckpt", CKPT, "-p", "a", "--steps", "10000"])
        .args(["--base-dir", root.to_str().unwrap()])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut rest = Vec::new();
    for line in lines.map(Result::unwrap) {
        if line.contains("step 1 of") {
            let id = child.id().to_string();
            let kill = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
            assert!(kill.success());
        }
        rest.push(line);
    }
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("error: stopped")), "{rest:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
