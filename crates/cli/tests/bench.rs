//! `distorch bench` on files with the keys and shapes of tiny models, and zeros for weights. What is
//! tested is that it runs and what it tells, never how fast it is.

#![allow(clippy::unwrap_used)]

mod common;

use common::{base_with, distorch, json, refused, stdout};
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
    for (list, label) in [("tiny-sd1", "SD 1.x"), ("tiny-sdxl", "SDXL base")] {
        let dir = base_with(list, ("F16", 2));
        let base = ["--base-dir", dir.path().to_str().unwrap()];
        let report = json(&[&["bench", "--ckpt", FILE, "--json"], &SMALL[..], &base[..]].concat());
        assert_eq!(report["model"], label);
        assert_eq!(stages(&report), ["text", "step", "decode"]);
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
    let dir = base_with("tiny-sd2", ("F32", 4));
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
    let dir = base_with("tiny-flux", ("F16", 2));
    let path = dir.path().join("models/checkpoints").join(FILE);
    let flux = refused(&["bench", "--ckpt", path.to_str().unwrap()]);
    assert!(flux.contains("Flux") && flux.contains("SDXL can"), "{flux}");
}

#[test]
fn shares_that_live_elsewhere_are_held_against_the_roofline() {
    let dir = base_with("tiny-sd1", ("F16", 2));
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
