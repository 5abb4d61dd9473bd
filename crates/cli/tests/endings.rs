//! How the program ends where memory, files or pipes give out, and where a model gives NaN: with a
//! sentence and an exit code, never by a signal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

#[allow(dead_code)] // The queue's tests restart it too.
#[path = "../../queue/tests/queue/postgres.rs"]
mod postgres;
#[path = "endings/queue.rs"]
mod queue;

const CKPT: &str = "tiny-shapes.safetensors";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The program under limits that `ulimit` sets, with the model folders of `base`.
fn limited(limits: &str, folder: &Path, base: &Path, args: &[&str]) -> Command {
    let program = assert_cmd::cargo::cargo_bin("distorch");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limits}; exec \"$0\" \"$@\"")]).arg(program).args(args);
    command.arg("--base-dir").arg(base).current_dir(folder).stdin(Stdio::null());
    // A trace is what nobody should see.
    command.env_remove("RUST_BACKTRACE").env_remove("COMFYUI_PATH");
    command
}

fn run(limits: &str, folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    ended(&limited(limits, folder, &root(), args).output().unwrap())
}

fn ended(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains("panicked") && !text.contains("internal error"), "{text}");
    (output.status.code(), text)
}

const GENERATE: [&str; 11] = [
    "generate",
    "--ckpt",
    CKPT,
    "--prompt",
    "a red circle",
    "--steps",
    "1",
    "--width",
    "64",
    "--height",
    "64",
];

#[test]
fn limits_of_the_process_are_the_hosts_memory() {
    let folder = tempfile::tempdir().unwrap();
    for limits in ["ulimit -v 3000000", "ulimit -d 3000000"] {
        let (code, text) = run(limits, folder.path(), &["devices", "--json"]);
        assert_eq!(code, Some(0), "{text}");
        let survey: Value = serde_json::from_str(&text).unwrap();
        let cpu = survey["devices"].as_array().unwrap().last().unwrap();
        let (total, free) = (cpu["total"].as_u64().unwrap(), cpu["free"].as_u64().unwrap());
        assert_eq!(total, 3_000_000 * 1024, "{limits}");
        assert!(free < total, "{limits}: the program takes some itself");
    }
}

/// Of each kind of buffer: a picture, a mask, latents, what a sampler makes of them.
#[test]
fn where_memory_gives_out_the_node_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let node = |class: &str, inputs: Value| json!({ "class_type": class, "inputs": inputs });
    let side = json!({ "width": 16384, "height": 16384, "value": 1.0 });
    let latents = json!({ "width": 8192, "height": 8192, "batch_size": 64 });
    let image = json!({ "width": 8192, "height": 8192, "batch_size": 4, "color": 0 });
    for (class, inputs, output) in [
        ("SolidMask", side, node("MaskToImage", json!({ "mask": ["made", 0] }))),
        ("EmptyImage", image, node("ImageInvert", json!({ "image": ["made", 0] }))),
        (
            "EmptyLatentImage",
            latents,
            node(
                "LatentFlip",
                json!({ "samples": ["made", 0], "flip_method": "x-axis: vertically" }),
            ),
        ),
    ] {
        let last = if class == "EmptyLatentImage" { "SaveLatent" } else { "PreviewImage" };
        let input = if class == "EmptyLatentImage" { "samples" } else { "images" };
        let mut show = node(last, json!({ input: ["changed", 0] }));
        if last == "SaveLatent" {
            show["inputs"]["filename_prefix"] = json!("x");
        }
        let workflow = json!({ "made": node(class, inputs), "changed": output, "show": show });
        fs::write(folder.path().join("w.json"), workflow.to_string()).unwrap();
        let args = ["run", "w.json", "--output-dir", "out"];
        let (code, text) = run("ulimit -v 700000", folder.path(), &args);
        assert_eq!(code, Some(1), "{class}: {text}");
        let last = text.trim_end().lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains("out of memory"), "{class}: {text}");
        assert!(last.contains("ulimit -v"), "{class}: {text}");
    }
}

#[test]
fn no_limit_of_memory_ends_it_by_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let mut fine = 0;
    for mebibytes in [80, 110, 140, 170, 200, 240, 300, 400, 1000] {
        let limits = format!("ulimit -v {}", mebibytes * 1024);
        let (code, text) = run(&limits, folder.path(), &GENERATE);
        assert!(matches!(code, Some(0..=2)), "{mebibytes} MiB: {code:?} {text}");
        assert!(code == Some(0) || text.contains("error: "), "{mebibytes} MiB: {text}");
        fine += usize::from(code == Some(0));
    }
    assert!(fine > 0, "1000 MiB are enough");
}

#[test]
fn a_file_that_may_not_grow_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text) =
        run("ulimit -f 1", folder.path(), &[&GENERATE[..], &["-o", "x.png"]].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("error: ") && !folder.path().join("x.png").exists(), "{text}");
}

/// As behind `head`: nothing is said, and what was asked for is made.
#[test]
fn who_reads_no_further_gets_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let generate = [&GENERATE[..], &["-o", "x.png"]].concat();
    for args in [&["nodes", "--json"][..], &["devices"], &generate] {
        let mut command = limited("true", folder.path(), &root(), args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
    assert!(folder.path().join("x.png").is_file());
}

/// The shipped checkpoint where weights of one part are NaN.
fn broken(folder: &Path, part: &str) {
    let mut bytes = fs::read(root().join("models/checkpoints").join(CKPT)).unwrap();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for (key, tensor) in header.as_object().unwrap() {
        if key.starts_with(part) && key.ends_with("weight") {
            let offset = |at: usize| tensor["data_offsets"][at].as_u64().unwrap() as usize;
            bytes[8 + length + offset(0)..8 + length + offset(1)].fill(0xff);
        }
    }
    let models = folder.join("models/checkpoints");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join(CKPT), bytes).unwrap();
}

#[test]
fn what_gives_nan_is_named_unless_nan_is_allowed() {
    for (part, name, place) in [
        ("model.diffusion_model.", "the diffusion model of", "at step 1 of 1"),
        ("first_stage_model.decoder.", "the VAE of", "for picture 1"),
        ("cond_stage_model.", "the text encoder of", "for the prompt"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        broken(folder.path(), part);
        let args = [&GENERATE[..], &["-o", "x.png"]].concat();
        let output = limited("true", folder.path(), folder.path(), &args).output().unwrap();
        let (code, text) = ended(&output);
        assert_eq!(code, Some(1), "{part}: {text}");
        for said in [name, CKPT, place, "NaN", "--allow-nan", part] {
            assert!(text.contains(said), "{part}: `{said}` is not said: {text}");
        }
        assert!(!folder.path().join("x.png").exists());
        let args = [&args[..], &["--allow-nan"]].concat();
        let output = limited("true", folder.path(), folder.path(), &args).output().unwrap();
        let (code, text) = ended(&output);
        assert_eq!(code, Some(0), "{part}: {text}");
        assert!(text.contains("warning") && text.contains(name), "{part}: {text}");
        let file = fs::File::open(folder.path().join("x.png")).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
        let mut pixels = vec![1; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert!(pixels.iter().all(|value| *value == 0), "{part}: NaN is black");
    }
}

/// A schedule whose powers leave the range of numbers.
#[test]
fn a_schedule_without_numbers_is_named_too() {
    let folder = tempfile::tempdir().unwrap();
    let example = fs::read_to_string(root().join("examples/txt2img_distorch2.json")).unwrap();
    let example: Value = serde_json::from_str(&example).unwrap();
    let nodes = example.as_object().unwrap();
    let id = |class: &str| nodes.iter().find(|(_, node)| node["class_type"] == class).unwrap().0;
    let mut workflow = example.clone();
    let sampler = nodes[id("KSampler")]["inputs"].clone();
    let node = |class: &str, inputs: Value| json!({ "class_type": class, "inputs": inputs });
    let schedule = json!({ "steps": 2, "sigma_max": 5000.0, "sigma_min": 0.03, "rho": 0.01 });
    workflow["schedule"] = node("KarrasScheduler", schedule);
    workflow["choice"] = node("KSamplerSelect", json!({ "sampler_name": "euler" }));
    let inputs = json!({
        "model": sampler["model"], "positive": sampler["positive"], "negative": sampler["negative"],
        "latent_image": sampler["latent_image"], "add_noise": true, "noise_seed": 1, "cfg": 2.0,
        "sampler": ["choice", 0], "sigmas": ["schedule", 0],
    });
    workflow[id("KSampler")] = node("SamplerCustom", inputs);
    fs::write(folder.path().join("w.json"), workflow.to_string()).unwrap();
    let args = ["run", "w.json", "--output-dir", "out", "--simulate", "cuda:0=1GiB,cuda:1=1GiB"];
    let (code, text) = run("true", folder.path(), &args);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("schedule of 2 steps") && text.contains("another scheduler"), "{text}");
    let (code, text) = run("true", folder.path(), &[&args[..], &["--allow-nan"]].concat());
    assert_eq!(code, Some(0), "{text}");
}
