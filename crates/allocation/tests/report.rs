//! What plans look like to people, and to programs.

#![allow(clippy::unwrap_used)]

use distorch_allocation::{
    Allocation, BlockFile, ComponentSettings, DeviceId, DeviceInfo, Ledger, Plan, Topology,
    VirtualVram, plan_model, report,
};

const BLOCKS: &str = r#"{"components": [
    {"name": "unet", "activation_bytes": 1073741824, "blocks": [
        {"name": "time", "kind": "linear", "bytes": 1000},
        {"name": "down", "kind": "linear", "bytes": 2147483648},
        {"name": "middle", "kind": "linear", "bytes": 3221225472},
        {"name": "up", "kind": "conv", "bytes": 2147483648}]},
    {"name": "clip", "blocks": [
        {"name": "tokens", "kind": "embedding", "bytes": 134217728, "head": true},
        {"name": "layer", "kind": "linear", "bytes": 805306368}]},
    {"name": "vae", "blocks": [
        {"name": "decoder", "kind": "conv", "bytes": 167772160}]}]}"#;

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn planned() -> (Vec<Plan>, Topology) {
    let cpu = DeviceInfo::new(DeviceId::CPU, "host", 32 << 30);
    let machine = Topology::new(vec![cpu]).unwrap().simulate("cuda:0=8GiB,cuda:1=2GiB").unwrap();
    let mut unet = ComponentSettings::new(id("cuda:0"));
    unet.virtual_vram = VirtualVram::gigabytes(3.0).unwrap();
    unet.donors = "cuda:1".parse().unwrap();
    let mut clip = ComponentSettings::new(id("cpu"));
    clip.expert = Allocation::parse("cuda:1,100mb;cpu,*").unwrap();
    let vae = ComponentSettings::new(id("cuda:0"));
    let components = BlockFile::from_json(BLOCKS).unwrap().components;
    let parts: Vec<_> = components.into_iter().zip([unet, clip, vae]).collect();
    let plans = plan_model("model", &parts, &mut Ledger::new(machine.clone())).unwrap();
    (plans, machine)
}

#[test]
fn tables() {
    let (plans, machine) = planned();
    let mut text: Vec<String> = plans.iter().map(|plan| report::component(plan, None)).collect();
    text.push(report::totals(&plans, &machine, None));
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn json() {
    let (plans, _) = planned();
    insta::assert_json_snapshot!(plans[0]);
}

/// At 60 columns whole columns of the tables are left out, and sentences break between words.
#[test]
fn narrow_tables() {
    let (plans, machine) = planned();
    for width in [40, 60, 80, 100] {
        let mut text: Vec<String> =
            plans.iter().map(|plan| report::component(plan, Some(width))).collect();
        text.push(report::totals(&plans, &machine, Some(width)));
        let text = text.join("\n");
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        for told in ["device", "cuda:0 (simulated)", "bytes", "7.00 GiB", "peak", "does not fit"] {
            assert!(text.replace('\n', " ").contains(told), "{width}, {told}:\n{text}");
        }
        if width == 60 {
            insta::assert_snapshot!(text);
        }
    }
}
