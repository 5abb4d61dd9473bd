//! `distorch plan` on lists of blocks.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{distorch, json, refused, stdout};
use serde_json::{Value, json as value};

/// Ten blocks of 1 GiB, as `unet` and as `clip`, and a small `vae`.
fn ten_blocks(dir: &tempfile::TempDir) -> PathBuf {
    let blocks = |count: u64, bytes: u64| -> Vec<Value> {
        (0..count)
            .map(|i| value!({"name": format!("b{i}"), "kind": "linear", "bytes": bytes}))
            .collect()
    };
    let file = value!({"components": [
        {"name": "unet", "blocks": blocks(10, 1 << 30)},
        {"name": "clip", "blocks": blocks(10, 1 << 30)},
        {"name": "vae", "blocks": blocks(2, 1 << 20)},
    ]});
    let path = dir.path().join("blocks.json");
    fs::write(&path, file.to_string()).unwrap();
    path
}

/// The plan of the ten blocks on two simulated GPUs.
fn plan(args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = ten_blocks(&dir);
    let blocks = ["plan", "--blocks", path.to_str().unwrap(), "--json"];
    let machine = ["--simulate", "cuda:0=24GiB,cuda:1=24GiB,cpu=128GiB"];
    json(&[&blocks[..], &machine[..], args].concat())
}

/// The blocks of a component that live on a device.
fn on(plan: &Value, component: &str, device: &str) -> Vec<String> {
    let components = plan["components"].as_array().unwrap();
    let component = components.iter().find(|c| c["component"] == component).unwrap();
    let blocks = component["blocks"].as_array().unwrap().iter();
    blocks
        .filter(|block| block["device"] == device)
        .map(|block| block["name"].as_str().unwrap().to_owned())
        .collect()
}

fn bytes_on(plan: &Value, component: &str, device: &str) -> u64 {
    on(plan, component, device).len() as u64 * (1 << 30)
}

#[test]
fn the_documents_virtual_vram_example_to_the_byte() {
    let plan = plan(&[
        "--unet-compute-device",
        "cuda:0",
        "--unet-virtual-vram-gb",
        "8.0",
        "--unet-donor-device",
        "cuda:1",
        "--clip-compute-device",
        "cuda:1",
        "--clip-virtual-vram-gb",
        "2.0",
        "--clip-donor-device",
        "cpu",
    ]);
    assert_eq!(bytes_on(&plan, "unet", "cuda:1"), 8 << 30);
    assert_eq!(bytes_on(&plan, "unet", "cuda:0"), 2 << 30);
    assert_eq!(bytes_on(&plan, "clip", "cpu"), 2 << 30);
    assert_eq!(bytes_on(&plan, "clip", "cuda:1"), 8 << 30);
    assert_eq!(on(&plan, "vae", "cuda:0").len(), 2);
}

#[test]
fn the_documents_ratio_example_to_the_byte() {
    let plan = plan(&[
        "--unet-expert-mode-allocations",
        "cuda:0,70%;cuda:1,30%",
        "--clip-compute-device",
        "cuda:1",
        "--clip-expert-mode-allocations",
        "cuda:1,50%;cpu,50%",
    ]);
    assert_eq!(on(&plan, "unet", "cuda:1"), ["b0", "b1", "b2"]);
    assert_eq!(bytes_on(&plan, "unet", "cuda:0"), 7 << 30);
    assert_eq!(bytes_on(&plan, "clip", "cuda:1"), 5 << 30);
    assert_eq!(bytes_on(&plan, "clip", "cpu"), 5 << 30);
}

#[test]
fn the_defaults_are_the_nodes() {
    let plan = plan(&[]);
    assert_eq!(on(&plan, "unet", "cpu"), ["b0", "b1", "b2", "b3"]);
    assert_eq!(on(&plan, "clip", "cpu").len(), 10);
    assert_eq!(on(&plan, "vae", "cuda:0").len(), 2);
    assert_eq!(plan["fits"], true);
}

/// As a UNet: most bytes in the middle, most computing at both ends. Half of it is to live elsewhere, and there
/// is little room for a window.
#[test]
fn the_plan_says_which_layout_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let block = |at: u64| {
        let middle = 20 - at.abs_diff(20);
        let (bytes, cost) = ((1 + middle) << 20, 10 + 1000 / (1 + middle));
        value!({"name": format!("b{at}"), "kind": "linear", "bytes": bytes, "cost": cost})
    };
    let blocks: Vec<Value> = (0..40).map(block).collect();
    let file = value!({"components": [{"name": "unet", "blocks": blocks}]});
    let path = dir.path().join("blocks.json");
    fs::write(&path, file.to_string()).unwrap();
    let plan = |machine: &str, more: &[&str]| {
        let blocks = ["plan", "--blocks", path.to_str().unwrap(), "--simulate", machine];
        let half = ["--unet-expert-mode-allocations", "cuda:0,50%;cpu,50%"];
        stdout(&[&blocks[..], &half[..], more].concat())
    };
    let (tight, roomy) = ("cuda:0=290MiB,cpu=8GiB", "cuda:0=8GiB,cpu=8GiB");
    let text = plan(tight, &[]);
    assert!(text.contains("layout interleave, chosen by auto: window "), "{text}");
    assert!(text.contains("distorch2 would wait 0."), "{text}");
    assert_eq!(plan(tight, &["--layout", "auto"]), text);
    let text = plan(roomy, &[]);
    assert!(text.contains("layout distorch2, chosen by auto: the window has its full"), "{text}");
    assert!(plan(tight, &["--layout", "distorch2"]).contains("layout distorch2\n"));
    let homes = |machine, layout: &str| -> Value {
        let text = plan(machine, &["--json", "--layout", layout]);
        serde_json::from_str::<Value>(&text).unwrap()["components"][0].clone()
    };
    let (auto, fixed) = (homes(tight, "auto"), homes(tight, "interleave"));
    assert_eq!(auto["blocks"], fixed["blocks"]);
    assert_eq!((&auto["layout"], &fixed["layout"]), (&value!("interleave"), &value!("interleave")));
    assert_eq!(auto["layout_reason"]["rule"], "waits_less");
    assert_eq!(fixed["layout_reason"], value!({"rule": "requested"}));
    assert_eq!(homes(roomy, "auto")["blocks"], homes(roomy, "distorch2")["blocks"]);
}

#[test]
fn the_tables_tell_whether_it_fits() {
    let dir = tempfile::tempdir().unwrap();
    let path = ten_blocks(&dir);
    let blocks = ["plan", "--blocks", path.to_str().unwrap()];
    let text = stdout(&[&blocks[..], &["--simulate", "cuda:0=5GiB,cpu=64GiB"]].concat());
    assert!(text.contains("cuda:0 (simulated)"), "{text}");
    assert!(text.contains("does not fit"), "{text}");
    assert!(text.contains("least virtual VRAM that fits is"), "{text}");
    let auto = ["--unet-virtual-vram-gb", "auto", "--simulate", "cuda:0=5GiB,cpu=64GiB"];
    let text = stdout(&[&blocks[..], &auto[..]].concat());
    assert!(!text.contains("does not fit"), "{text}");
}

/// `--check` ends with exit code 1 where the plan does not fit, and says what is needed and what there is.
#[test]
fn a_plan_that_does_not_fit_fails_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = ten_blocks(&dir);
    let blocks = ["plan", "--blocks", path.to_str().unwrap(), "--check"];
    let small = ["--simulate", "cuda:0=5GiB,cpu=64GiB"];
    for json in [&[][..], &["--json"]] {
        let args = [&blocks[..], &small[..], json].concat();
        let output = distorch(&args).assert().code(1).get_output().clone();
        let (out, error) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
        let error = String::from_utf8(error).unwrap();
        assert!(out.contains("5368709120") || out.contains("does not fit"), "{out}");
        for part in ["`unet` does not fit", "needs 8.00 GiB", "has 5.00 GiB", "least virtual VRAM"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    stdout(&[&blocks[..], &["--simulate", "cuda:0=9GiB,cpu=64GiB"]].concat());
    // Where all devices have sizes that leave something over, there is no plan at all.
    let sizes = ["--unet-expert-mode-allocations", "cuda:0,4gb;cpu,5gb"];
    let error = refused(&[&blocks[..], &sizes[..], &small[..]].concat());
    assert!(error.contains("`b0` of 1.00 GiB fits under none of the sizes"), "{error}");
}

#[test]
fn sizes_hold_and_the_wildcard_takes_what_fits_nowhere() {
    let plan = plan(&["--unet-expert-mode-allocations", "cuda:0,500mb;cuda:1,3.0g;cpu,5gb*"]);
    assert_eq!(on(&plan, "unet", "cuda:1"), ["b7", "b8", "b9"]);
    assert_eq!(bytes_on(&plan, "unet", "cuda:0"), 0);
    assert_eq!(bytes_on(&plan, "unet", "cpu"), 7 << 30);
}

#[test]
fn wrong_inputs_are_refused_by_name_and_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = ten_blocks(&dir);
    let blocks = ["plan", "--blocks", path.to_str().unwrap(), "--simulate", "cuda:0=24GiB"];
    let cases: [(&[&str], &[&str]); 9] = [
        (
            &["--unet-expert-mode-allocations", "cuda:0,50%;cuda:3,50%"],
            &["unet_expert_mode_allocations", "entry 2", "cuda:3", "present: cuda:0, cpu"],
        ),
        (
            &["--clip-expert-mode-allocations", "cpu,1tb"],
            &["clip_expert_mode_allocations", "1024gb"],
        ),
        (&["--unet-virtual-vram-gb", "200"], &["unet_virtual_vram_gb", "128.0"]),
        (&["--unet-virtual-vram-gb", "-1"], &["unet_virtual_vram_gb"]),
        (&["--vae-device", "cuda:9"], &["vae_device", "cuda:9"]),
        (&["--unet-donor-device", "rocm:0"], &["unet_donor_device", "--features rocm"]),
        (&["--unet-compute-device", "xpu:0"], &["unet_compute_device", "xpu"]),
        (&["--unet-expert-mode-allocations", "cuda:0,1gb;cpu,50%"], &["entry 2"]),
        (
            &["--unet-expert-mode-allocations", "cuda:0,0.5;cpu,50%"],
            &["entry 1, character 8", "`0.5%`", "`50%` of the model"],
        ),
    ];
    for (args, told) in cases {
        let joined: Vec<String> = args
            .chunks(2)
            .map(|pair| format!("{}={}", pair[0], pair.get(1).copied().unwrap_or_default()))
            .collect();
        let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
        let error = refused(&[&blocks[..], &joined[..]].concat());
        for part in told {
            assert!(error.contains(part), "{args:?} should tell {part}: {error}");
        }
    }
}

#[test]
fn a_bad_list_of_blocks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.json");
    for text in ["", "[]", r#"{"components":[{"name":"unet","blocks":[{"name":"a"}]}]}"#] {
        fs::write(&path, text).unwrap();
        let error = refused(&["plan", "--blocks", path.to_str().unwrap()]);
        assert!(error.contains("bad.json"), "{error}");
    }
    let error = refused(&["plan", "--blocks", "/nowhere.json"]);
    assert!(error.contains("/nowhere.json"), "{error}");
}

#[test]
fn usage() {
    distorch(&["plan"]).assert().code(2);
    distorch(&["plan", "a", "--blocks", "b"]).assert().code(2);
    let help = stdout(&["plan", "--help"]);
    for input in [
        "unet-compute-device",
        "unet-virtual-vram-gb",
        "unet-donor-device",
        "clip-compute-device",
        "clip-virtual-vram-gb",
        "clip-donor-device",
        "vae-device",
        "unet-expert-mode-allocations",
        "clip-expert-mode-allocations",
        "high-precision-loras",
    ] {
        assert!(help.contains(&format!("--{input}")), "{input}");
    }
    assert!(stdout(&["completions", "bash"]).contains("distorch"));
}
