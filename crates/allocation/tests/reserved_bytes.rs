//! Components of one model share a device.

#![allow(clippy::unwrap_used)]

use distorch_allocation::{
    Block, ComponentBlocks, ComponentSettings, DeviceId, DeviceInfo, Donors, Ledger, Plan,
    Topology, VirtualVram, plan_model,
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
    let way_out = "the least virtual VRAM of `unet` that does is 6.0 GB";
    assert!(told.iter().any(|warning| warning.contains(way_out)), "{told:?}");
    let (plans, _) = crowded(VirtualVram::gigabytes(6.0).unwrap());
    assert!(plans.iter().all(|plan| plan.fits), "the advice holds");
}

/// Ten layers of a GiB that the host keeps in twice as much, and a donor for some of them.
fn widened(free: u64, settings: &ComponentSettings) -> (Plan, Ledger) {
    let cpu = DeviceInfo::new(DeviceId::CPU, "host", free);
    let machine = Topology::new(vec![cpu]).unwrap().simulate("cuda:0=16GiB").unwrap();
    let mut ledger = Ledger::new(machine);
    let block = |i| Block {
        resident_bytes: Some(2 << 30),
        ..Block::new(format!("b{i}"), "linear", 1 << 30)
    };
    let unet = ComponentBlocks::new("unet", (0..10).map(block).collect(), 1 << 30).unwrap();
    let plans = plan_model("m", &[(unet, settings.clone())], &mut ledger).unwrap();
    (plans[0].clone(), ledger)
}

#[test]
fn what_the_host_holds_in_its_compute_dtype_counts() {
    let cpu = ComponentSettings::new(DeviceId::CPU);
    let (plan, ledger) = widened(21 << 30, &cpu);
    assert_eq!((plan.bytes, plan.resident_bytes, plan.peak_bytes), (10 << 30, 20 << 30, 21 << 30));
    assert_eq!((plan.devices[0].bytes, plan.devices[0].memory_bytes), (10 << 30, 20 << 30));
    assert_eq!((plan.fits, ledger.promised(DeviceId::CPU)), (true, 20 << 30));
    assert!(!widened((21 << 30) - 1, &cpu).0.fits);
    // On a donor layers are as they are stored, and so is what passes through the window.
    let donor = "cuda:0".parse().unwrap();
    let virtual_vram = VirtualVram::gigabytes(4.0).unwrap();
    let moved = ComponentSettings { virtual_vram, donors: Donors::one(donor), ..cpu.clone() };
    let (plan, ledger) = widened(15 << 30, &moved);
    assert_eq!((plan.resident_bytes, plan.bytes_on(donor)), (12 << 30, 4 << 30));
    assert_eq!((plan.window_bytes, plan.bytes_elsewhere()), (2 << 30, 4 << 30));
    assert_eq!((plan.fits, ledger.promised(donor)), (true, 4 << 30));
    // `auto` finds the least that leaves room: 12 of 15 GiB for residents.
    let auto = ComponentSettings { virtual_vram: VirtualVram::Auto, ..moved };
    let (plan, _) = widened(15 << 30, &auto);
    assert_eq!((plan.fits, plan.virtual_vram_gb.unwrap().to_string().as_str()), (true, "4"));
}
