//! `distorch inspect`, and `distorch plan` on checkpoints: files with the true keys and shapes of
//! published models whose data is a hole.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{base_with, distorch, json, refused, stdout};
use distorch_checkpoint::Dtype;

#[test]
fn sdxl_by_name() {
    let dir = base_with("sdxl-base", Dtype::F16);
    let base = ["--base-dir", dir.path().to_str().unwrap()];
    let text = stdout(&[&["inspect", "real/model.safetensors"], &base[..]].concat());
    for told in ["SDXL base", "2,567,463,684", "clip_l, clip_g", "F16", "2516 tensors"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let report = json(&[&["inspect", "real/model.safetensors", "--json"], &base[..]].concat());
    assert_eq!(report["family"], "sdxl_base");
    assert_eq!(report["format"], "safetensors");
    assert_eq!(report["model"]["unknown"], serde_json::json!([]));
    assert_eq!(report["sizes"][0]["bytes"], 2_567_463_684_u64 * 2);
    assert!(report["model"].get("components").is_none(), "layers are for --layers");
}

#[test]
fn layers_by_path() {
    let dir = base_with("tiny-sd1", Dtype::F32);
    let path = dir.path().join("models/checkpoints/real/model.safetensors");
    let path = path.to_str().unwrap();
    let text = stdout(&["inspect", path, "--layers"]);
    for layer in ["time_embed.0", "input_blocks.0.0", "clip_l.text_model.final_layer_norm"] {
        assert!(text.contains(layer), "{layer}");
    }
    let report = json(&["inspect", path, "--layers", "--json"]);
    let unet = &report["model"]["components"][0];
    assert_eq!(unet["layers"][0]["name"], "time_embed.0");
    assert_eq!(unet["layers"][0]["params"][0]["name"], "weight");
}

#[test]
fn a_plan_of_a_checkpoint_accounts_for_every_byte() {
    let dir = base_with("sdxl-base", Dtype::F16);
    let base = ["--base-dir", dir.path().to_str().unwrap()];
    let machine = ["--simulate", "cuda:0=8GiB,cuda:1=8GiB,cpu=32GiB"];
    let inputs = ["--unet-expert-mode-allocations", "cuda:0,70%;cuda:1,30%"];
    let name = ["plan", "real/model.safetensors", "--json"];
    let plan = json(&[&name[..], &base, &machine, &inputs].concat());
    let unet = &plan["components"][0];
    assert_eq!((&unet["component"], &unet["bytes"]), (&"unet".into(), &5_134_927_368_u64.into()));
    let held = |device: &str| {
        let shares = unet["devices"].as_array().unwrap();
        shares.iter().find(|share| share["device"] == device).unwrap()["bytes"].as_u64().unwrap()
    };
    assert_eq!(held("cuda:0") + held("cuda:1"), 5_134_927_368);
    let share = 5_134_927_368 * 3 / 10;
    let largest = 59_000_000; // no block of this model is larger
    assert!(held("cuda:1").abs_diff(share) < largest, "{}", held("cuda:1"));
    assert_eq!(unet["blocks"].as_array().unwrap().len(), 1050);
}

/// The host keeps layers as its kernels take them, matrices in 16 bits or all in f32, a simulated
/// device as they are stored; activations are those of the picture that is asked for.
#[test]
fn plans_count_what_is_held_and_grow_with_the_picture() {
    let dir = base_with("tiny-sd1", Dtype::F16);
    let base = ["--base-dir", dir.path().to_str().unwrap()];
    let plan = |args: &[&str]| {
        json(&[&["plan", "real/model.safetensors", "--json"][..], &base, args].concat())
    };
    let device = |name: &'static str| {
        ["--unet-compute-device", name, "--vae-device", name, "--unet-virtual-vram-gb", "0"]
    };
    let of = |plan: &serde_json::Value, component: usize, field: &str| {
        plan["components"][component][field].as_u64().unwrap()
    };
    let host = plan(&device("cpu"));
    for component in 0..3 {
        let (bytes, held) = (of(&host, component, "bytes"), of(&host, component, "resident_bytes"));
        let name = &host["components"][component]["component"];
        match distorch_runtime::kernels::takes_16_bits() {
            // Only biases and norms are twice as large.
            true => assert!(held > bytes && held < bytes + bytes / 20, "{name}: {held} of {bytes}"),
            false => assert_eq!(held, 2 * bytes, "{name}"),
        }
        let share = &host["components"][component]["devices"][0];
        assert_eq!((&share["bytes"], &share["memory_bytes"]), (&bytes.into(), &held.into()));
    }
    let cuda = [&device("cuda:0")[..], &["--simulate", "cuda:0=8GiB"]].concat();
    let stored = plan(&cuda);
    assert_eq!(of(&stored, 0, "resident_bytes"), of(&stored, 0, "bytes"));
    let larger =
        plan(&[&cuda[..], &["--width", "1024", "--height", "768", "--batch", "2"]].concat());
    let activations = |plan, component| of(plan, component, "activation_bytes");
    assert!(activations(&larger, 0) > 4 * activations(&stored, 0));
    assert_eq!(activations(&larger, 1), activations(&stored, 1), "text does not grow");
    assert!((2..4).contains(&(activations(&larger, 2) / activations(&stored, 2))), "one by one");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.safetensors");
    std::fs::write(&path, "<!DOCTYPE html><html></html>").unwrap();
    let error = refused(&["inspect", path.to_str().unwrap()]);
    assert!(error.contains("page.safetensors") && error.contains("web page"), "{error}");
    let error =
        refused(&["inspect", "nothing.safetensors", "--base-dir", dir.path().to_str().unwrap()]);
    assert!(error.contains("nothing.safetensors"), "{error}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dir = base_with("sdxl-base", Dtype::F16);
    let path = dir.path().join("models/checkpoints/real/model.safetensors");
    let mut child = std::process::Command::new(distorch(&[]).get_program())
        .args(["inspect", path.to_str().unwrap(), "--layers"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

/// The table of tokens is read whole at each prompt, wherever the rest of T5 lives.
#[test]
fn flux_in_one_file_keeps_t5s_table_on_the_compute_device() {
    let dir = base_with("flux-dev", Dtype::F8E4M3);
    let base = ["--base-dir", dir.path().to_str().unwrap()];
    let text = stdout(&[&["inspect", "real/model.safetensors"], &base[..]].concat());
    for told in ["Flux dev", "clip_l, t5xxl", "F8_E4M3"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let machine = ["--simulate", "cuda:0=24GiB,cuda:1=8GiB,cpu=64GiB"];
    let inputs = [
        "--clip-compute-device",
        "cuda:0",
        "--clip-expert-mode-allocations",
        "cuda:1,50%;cpu,50%",
        "--unet-expert-mode-allocations",
        "cuda:0,4gb;cpu,*",
    ];
    let name = ["plan", "real/model.safetensors", "--json"];
    let plan = json(&[&name[..], &base, &machine, &inputs].concat());
    let blocks = |component: &str| {
        let components = plan["components"].as_array().unwrap();
        let found = components.iter().find(|one| one["component"] == component).unwrap();
        found["blocks"].as_array().unwrap().clone()
    };
    let text = blocks("clip");
    let home = |name: &str| {
        let block = text.iter().find(|block| block["name"] == name).unwrap();
        block["device"].as_str().unwrap().to_owned()
    };
    assert_eq!(home("t5xxl.shared"), "cuda:0");
    assert_eq!(home("clip_l.text_model.embeddings.token_embedding"), "cuda:0");
    let matrix = |name: &str| name.starts_with("t5xxl.encoder.block.") && name.ends_with(".wo");
    let matrices = text.iter().filter(|block| matrix(block["name"].as_str().unwrap()));
    assert!(matrices.clone().count() == 24 && matrices.clone().all(|b| b["device"] != "cuda:0"));
    assert!(blocks("unet").iter().any(|block| block["device"] == "cpu"));
}
