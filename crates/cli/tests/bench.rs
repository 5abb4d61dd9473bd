//! `distorch bench` on files with the keys and shapes of tiny models, and zeros for weights. What is
//! tested is that it runs and what it tells, never how fast it is.

#![allow(clippy::unwrap_used)]

mod common;

use common::{base_with, distorch, json, refused, stdout};
use distorch_checkpoint::Dtype;
use serde_json::Value;

const FILE: &str = "real/model.safetensors";
const SMALL: [&str; 8] = ["--width", "64", "--height", "128", "--steps", "2", "--threads", "1"];

fn stages(report: &Value) -> Vec<&str> {
    let stages = report["stages"].as_array().unwrap();
    for stage in stages {
        let seconds: Vec<f64> =
            stage["seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
        assert_eq!(seconds.len(), 2);
        let least = seconds[0].min(seconds[1]);
        // JSON may round a number's last digit.
        let near =
            |name: &str, value: f64| (stage[name].as_f64().unwrap() - value).abs() <= 1e-9 * value;
        assert!(near("min_seconds", least), "{stage}");
        assert!(least > 0.0 && stage["first_seconds"].as_f64().unwrap() > 0.0);
        assert!(near("median_seconds", (seconds[0] + seconds[1]) / 2.0), "{stage}");
    }
    stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect()
}

#[test]
fn every_stage_of_a_checkpoint_is_timed() {
    const ALL: &[&str] = &["text", "step", "decode"];
    for (list, label, expected) in [
        ("tiny-sd1", "SD 1.x", ALL),
        ("tiny-sdxl", "SDXL base", ALL),
        // A transformer alone.
        ("tiny-flux", "Flux dev", &["step"][..]),
    ] {
        let dir = base_with(list, Dtype::F16);
        let base = ["--base-dir", dir.path().to_str().unwrap()];
        let report = json(&[&["bench", "--ckpt", FILE, "--json"], &SMALL[..], &base[..]].concat());
        assert_eq!(report["model"], label);
        assert_eq!(stages(&report), expected);
        assert_eq!((&report["threads"], &report["batch"]), (&1.into(), &1.into()));
        assert_eq!((&report["width"], &report["height"]), (&64.into(), &128.into()));
        assert!(report["weights"].as_str().unwrap().ends_with("model.safetensors"));
        if cfg!(target_os = "linux") {
            let peak = report["peak_bytes"].as_u64().unwrap();
            assert!(peak >= report["loaded_peak_bytes"].as_u64().unwrap() && peak > 1 << 20);
        }
    }
}

#[test]
fn the_table_and_the_lines_of_progress() {
    let dir = base_with("tiny-sd2", Dtype::F32);
    let path = dir.path().join("models/checkpoints").join(FILE);
    let bench = ["bench", "--ckpt", path.to_str().unwrap(), "--dtype", "f16", "--batch", "2"];
    let args = [&bench[..], &SMALL[..]].concat();
    let text = stdout(&args);
    for told in ["SD 2.x", "f16", "64×128", "batch 2", "step (both halves", "VAE decoding"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let errors = distorch(&args).assert().success().get_output().stderr.clone();
    let errors = String::from_utf8(errors).unwrap();
    let lines = ["loading the diffusion model", "steps of the diffusion model", "decoding"];
    assert!(lines.iter().all(|line| errors.lines().any(|told| told == *line)), "{errors}");
}

#[test]
fn what_cannot_be_timed_is_told() {
    let size = refused(&["bench", "--random", "sd15", "--width", "100"]);
    assert!(size.contains("'100' for '--width") && size.contains("try 96 or 104"), "{size}");
    let device = refused(&["bench", "--random", "sd15", "--device", "cuda:7"]);
    assert!(device.contains("--device") && device.contains("cuda:7"), "{device}");
    let device = refused(&["bench", "offload", "--random", "sd15", "--device", "cuda:7"]);
    assert!(device.contains("--device") && device.contains("cuda:7"), "{device}");
    let nothing = refused(&["bench"]);
    assert!(nothing.contains("--ckpt"), "{nothing}");
}

#[test]
fn shares_that_live_elsewhere_are_held_against_the_roofline() {
    let dir = base_with("tiny-sd1", Dtype::F16);
    let svg = dir.path().join("offload.svg");
    let sweep = [
        ["bench", "offload", "--ckpt", FILE, "--json"].as_slice(),
        &[
            "--shares",
            "0,50,100",
            "--window",
            "1KiB",
            "--bandwidth",
            "1GB/s,2GB/s",
            "--svg",
            svg.to_str().unwrap(),
        ],
        &["--base-dir", dir.path().to_str().unwrap()],
        &SMALL,
    ];
    let report = json(&sweep.concat());
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 2 * 3 * 2, "layouts, shares, bandwidths");
    for point in points {
        let number = |name: &str| point[name].as_f64().unwrap();
        let roofline = number("compute_seconds").max(number("link_seconds"));
        // JSON may round a number's last digit.
        let near = |name: &str, value: f64| (number(name) - value).abs() <= 1e-9 * value;
        assert!(near("roofline_seconds", roofline), "{point}");
        assert!(near("ratio", number("step_seconds") / roofline), "{point}");
        let streams = number("share_percent") > 0.0;
        assert_eq!(number("bytes_moved") > 0.0, streams, "{point}");
        assert_eq!(number("window_bytes") > 0.0, streams, "{point}");
        let whole = report["bytes"].as_f64().unwrap() / number("bandwidth");
        assert!(number("link_seconds") <= whole * (1.0 + 1e-9), "{point}");
    }
    let picture = std::fs::read_to_string(svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.matches("<polyline").count() == 4);
    for layout in ["auto", "interleave"] {
        let more = ["--shares", "0,50", "--window", "1KiB", "--bandwidth", "1GB/s"];
        let base = ["--base-dir", dir.path().to_str().unwrap(), "--layout", layout];
        let begin = ["bench", "offload", "--ckpt", FILE, "--json", "--steps", "1"];
        let report = json(&[&begin[..], &more, &base, &SMALL[..4]].concat());
        for point in report["points"].as_array().unwrap() {
            let rule = point["layout_reason"]["rule"].as_str().unwrap();
            assert_eq!(point["asked"], layout, "{point}");
            assert_eq!(rule == "requested", layout != "auto", "{point}");
            let interleaved = layout == "interleave" || rule == "waits_less";
            assert_eq!(point["layout"] == "interleave", interleaved, "{point}");
            let streams = point["share_percent"] != 0;
            assert_eq!(rule == "nothing_elsewhere", layout == "auto" && !streams, "{point}");
        }
    }
    let refused_with = |option: &str, value: &str| {
        let base = ["--base-dir", dir.path().to_str().unwrap()];
        let error =
            refused(&[&["bench", "offload", "--ckpt", FILE, option, value], &base[..]].concat());
        assert!(error.contains(&format!("{option} {value}")), "{error}");
        error
    };
    assert!(refused_with("--bandwidth", "fast").contains("4GB/s"));
    assert!(refused_with("--window", "1GiB@4GB/s").contains("512MiB"));
    assert!(refused_with("--device", "cpu").contains("accelerator"));
}

#[test]
fn copies_in_both_directions_are_timed() {
    let link = json(&["bench", "link", "--device", "cpu", "--mib", "1", "--copies", "3", "--json"]);
    assert_eq!((&link["device"], &link["bytes"]), (&"cpu".into(), &(1 << 20).into()));
    let copies = link["copies"].as_array().unwrap();
    let directions: Vec<_> =
        copies.iter().map(|copy| copy["direction"].as_str().unwrap()).collect();
    assert_eq!(directions, ["upload", "download"], "the host has no pinned memory of its own");
    for copy in copies {
        let seconds = copy["seconds"].as_array().unwrap();
        let least = seconds.iter().map(|s| s.as_f64().unwrap()).fold(f64::INFINITY, f64::min);
        let speed = copy["bytes_per_second"].as_f64().unwrap();
        assert_eq!(seconds.len(), 3);
        assert!((speed * least / f64::from(1 << 20) - 1.0).abs() < 1e-9, "{copy}");
    }
    let args = ["bench", "link", "--device", "cuda:0", "--simulate", "cuda:0=1GiB@1GB/s"];
    assert!(refused(&args).contains("simulated"));
}

fn lines(args: &[&str]) -> Vec<Value> {
    stdout(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn operators_are_listed_and_timed_in_the_same_shapes() {
    let begin = ["bench", "operators", "--set", "tiny", "--json"];
    let listed = lines(&[&begin[..], &["--list"]].concat());
    assert!(listed.iter().all(|operator| operator.get("seconds").is_none()));
    for dtype in ["f32", "bf16"] {
        let options = ["--dtype", dtype, "--rounds", "2", "--threads", "1"];
        let timed = lines(&[&begin[..], &options].concat());
        assert_eq!(timed.len(), listed.len());
        for (timed, listed) in timed.iter().zip(&listed) {
            for (key, value) in listed.as_object().unwrap() {
                assert_eq!(&timed[key], value, "{key}");
            }
            assert_eq!(timed["seconds"].as_array().unwrap().len(), 2);
            assert_eq!((&timed["device"], &timed["dtype"]), (&"cpu".into(), &dtype.into()));
            assert!(timed["min_seconds"].as_f64() <= timed["median_seconds"].as_f64());
        }
    }
    let all = lines(&["bench", "operators", "--list", "--json"]);
    for (model, kind) in [("sd15", "conv"), ("sdxl", "attention"), ("flux", "layer_norm")] {
        assert!(all.iter().any(|found| found["model"] == model && found["kind"] == kind));
    }
    let text = stdout(&["bench", "operators", "--set", "tiny", "--only", "norm", "--rounds", "1"]);
    assert!(text.contains("layer_norm") && !text.contains("linear"), "{text}");
    assert!(refused(&["bench", "operators", "--only", "pooling"]).contains("--list"));
}

#[test]
fn a_lora_is_put_on_and_taken_off() {
    let dir = base_with("tiny-sd1", Dtype::F16);
    let base = ["--base-dir", dir.path().to_str().unwrap()];
    let options = ["bench", "lora", "--ckpt", FILE, "--rank", "4", "--rounds", "2", "--json"];
    let report = json(&[&options[..], &base].concat());
    // Each of the transformers' linear layers, and none else.
    let path = dir.path().join("models/checkpoints").join(FILE);
    let layers = json(&["inspect", path.to_str().unwrap(), "--layers", "--json"]);
    let components = layers["model"]["components"].as_array().unwrap();
    let unet = components.iter().find(|part| part["kind"] == "diffusion_model").unwrap();
    let is_changed = |layer: &&Value| {
        let name = layer["name"].as_str().unwrap();
        layer["kind"] == "linear" && name.contains("transformer_blocks")
    };
    let changed: Vec<&Value> =
        unet["layers"].as_array().unwrap().iter().filter(is_changed).collect();
    assert!(!changed.is_empty());
    assert_eq!(report["layers"], changed.len());
    let sides = |layer: &&Value| {
        let shape = layer["params"][0]["shape"].as_array().unwrap();
        shape.iter().map(|side| side.as_u64().unwrap()).sum::<u64>()
    };
    let sides: u64 = changed.iter().map(sides).sum();
    assert_eq!(report["lora_bytes"], 2 * 4 * sides, "f16, rank 4, a row for each side");
    assert_eq!((&report["rank"], &report["device"]), (&4.into(), &"cpu".into()));
    for (times, count) in [("apply_seconds", 2), ("remove_seconds", 3)] {
        assert_eq!(report[times].as_array().unwrap().len(), count);
    }
}
