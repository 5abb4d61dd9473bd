//! Components of one model share a device.

#![allow(clippy::unwrap_used)]

use distorch_allocation::{
    Block, ComponentBlocks, ComponentSettings, DeviceId, DeviceInfo, Ledger, Plan, Topology,
    VirtualVram, plan_model,
};

/// A UNet of ten 1 GiB blocks and a VAE that needs 3 GiB to run, on 8 GiB.
fn crowded(virtual_vram: VirtualVram) -> (Vec<Plan>, Ledger) {
    let machine = Topology::new(vec![DeviceInfo::new(DeviceId::CPU, "host", 64 << 30)]).unwrap();
    let mut ledger = Ledger::new(machine.simulate("cuda:0=8GiB").unwrap());
    let blocks = (0..10).map(|i| Block::new(format!("b{i}"), "linear", 1 << 30)).collect();
    let cuda: DeviceId = "cuda:0".parse().unwrap();
    let unet = ComponentBlocks::new("unet", blocks, 0).unwrap();
    let vae = ComponentBlocks::new("vae", vec![Block::new("v", "conv", 1 << 20)], 3 << 30).unwrap();
    let settings = ComponentSettings { virtual_vram, ..ComponentSettings::new(cuda) };
    let parts = [(unet, settings), (vae, ComponentSettings::new(cuda))];
    (plan_model("m", &parts, &mut ledger).unwrap(), ledger)
}

#[test]
fn auto_leaves_room_for_the_other_components_when_they_run() {
    let (plans, _) = crowded(VirtualVram::Auto);
    assert!(plans.iter().all(|plan| plan.fits), "{plans:?}");
    // 8 GiB less the VAE and its 3 GiB leaves room for four blocks.
    assert_eq!(plans[0].resident_bytes, 4 << 30);
}

#[test]
fn a_component_without_virtual_vram_is_told_who_can_make_room() {
    let (plans, _) = crowded(VirtualVram::gigabytes(5.0).unwrap());
    assert!(plans[0].fits && !plans[1].fits);
    let told: Vec<String> = plans[1].warnings.iter().map(ToString::to_string).collect();
    let way_out = "the least virtual_vram_gb of `unet` that does is 6.0";
    assert!(told.iter().any(|warning| warning.contains(way_out)), "{told:?}");
    let (plans, _) = crowded(VirtualVram::gigabytes(6.0).unwrap());
    assert!(plans.iter().all(|plan| plan.fits), "the advice holds");
}
