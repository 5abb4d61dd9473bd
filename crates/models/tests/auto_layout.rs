//! The layout that the planner chooses for SD 1.5's UNet, by what its layers cost.

#![allow(clippy::unwrap_used)]

use distorch_allocation::{
    Allocation, ComponentSettings, DeviceId, DeviceInfo, Layout, LayoutChoice, LayoutRule, Ledger,
    Plan, Topology, plan,
};
use distorch_checkpoint::config::{DiffusionConfig, Heads, UnetConfig};
use distorch_checkpoint::family::{Configs, blank, recognise};
use distorch_checkpoint::{ComponentKind, Dtype};
use distorch_models::estimate::Workload;
use distorch_models::family::layer_costs;
use distorch_runtime::placement;

const MIB: u64 = 1 << 20;

/// A plan for a picture of 256×256 with room for everything but the window.
fn planned(share: u32, window: u64, layout: LayoutChoice) -> Plan {
    let sd15 = UnetConfig::sd(768, Heads::Count(8));
    let configs = Configs { diffusion: Some(DiffusionConfig::Unet(sd15)), ..Configs::default() };
    let model = recognise(&blank("blank", &configs, Dtype::F16).unwrap()).unwrap();
    let component = model.component(ComponentKind::DiffusionModel).unwrap();
    let picture = Workload { width: 256, height: 256, batch: 1, cfg_batch: 2 };
    let costs = layer_costs(&model, component, picture).unwrap();
    let blocks = placement::blocks(component, 0, None).unwrap().with_costs(costs);
    let cuda: DeviceId = "cuda:0".parse().unwrap();
    let devices = vec![
        DeviceInfo::new(cuda, "card", 8 << 30),
        DeviceInfo::new(DeviceId::CPU, "host", 64 << 30),
    ];
    let mut settings = ComponentSettings::new(cuda);
    settings.expert = Allocation::parse(&format!("cuda:0,{}%;cpu,{share}%", 100 - share)).unwrap();
    settings.layout = layout;
    settings.most_window = Some(window);
    plan(&blocks, &settings, &Ledger::new(Topology::new(devices).unwrap())).unwrap()
}

/// The waits are those of `tools/reference/streaming_step.py`, which lists and places the layers itself.
#[test]
fn small_windows_are_interleaved() {
    for (share, window, distorch2, interleave) in [
        (50, 128, 0.546, 0.241),
        (50, 256, 0.384, 0.087),
        (50, 512, 0.078, 0.0),
        (75, 128, 0.463, 0.282),
        (75, 256, 0.361, 0.181),
        (75, 512, 0.153, 0.0),
    ] {
        let auto = planned(share, window * MIB, LayoutChoice::Auto);
        assert_eq!(auto.window_bytes, window * MIB);
        assert_eq!(auto.layout, Layout::Interleave, "{share} {window}");
        let fixed = planned(share, window * MIB, Layout::Interleave.into());
        assert_eq!(auto.blocks, fixed.blocks);
        let waits = auto.layout_reason.waits.unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 0.0016, "{share} {window}: {a} {b}");
        near(waits.distorch2, distorch2);
        near(waits.interleave, interleave);
    }
}

/// With the window that a plan gives where there is room, and where all of the model leaves.
#[test]
fn elsewhere_blocks_are_where_distorch2_puts_them() {
    for (share, window, rule) in [
        (50, 1024, LayoutRule::FullWindow),
        (75, 1024, LayoutRule::FullWindow),
        (100, 1024, LayoutRule::FullWindow),
        (100, 256, LayoutRule::NoSlower),
    ] {
        let auto = planned(share, window * MIB, LayoutChoice::Auto);
        let fixed = planned(share, window * MIB, Layout::Distorch2.into());
        assert_eq!(auto.layout_reason.rule, rule, "{share} {window}");
        assert_eq!((auto.layout, &auto.blocks), (Layout::Distorch2, &fixed.blocks));
        assert_eq!(auto.window_bytes, fixed.window_bytes);
    }
}
