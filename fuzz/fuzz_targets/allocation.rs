//! Any text as an allocation, a device, donors, virtual VRAM, simulated devices and a list of
//! blocks: read or refused; what is read prints in a form that reads back the same, and can be
//! planned without passing a ceiling or losing a byte.

#![no_main]

use distorch_allocation::{
    Allocation, Amount, Block, BlockFile, ComponentBlocks, ComponentSettings, DeviceId, DeviceInfo,
    Donors, Layout, LayoutChoice, Ledger, Reason, Topology, VirtualVramText, plan,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    read_back::<DeviceId>(text);
    read_back::<Donors>(text);
    read_back::<VirtualVramText>(text);
    let cpu = DeviceInfo::new(DeviceId::CPU, "host", 64 << 30);
    let host = Topology::new(vec![cpu]).unwrap();
    if let Err(error) = host.simulate(text) {
        let _ = error.to_string();
    }
    let machine = host.simulate("cuda:0=8GiB,cuda:1=6GiB@12GB/s,metal=4GiB").unwrap();
    let ledger = Ledger::new(machine);
    match Allocation::parse(text) {
        Ok(Some(allocation)) => {
            let printed = allocation.to_string();
            assert_eq!(Allocation::parse(&printed).unwrap().as_ref(), Some(&allocation));
            let blocks = (0..12).map(|i| Block::new(format!("b{i}"), "linear", 1 << (20 + i)));
            let component = ComponentBlocks::new("unet", blocks.collect(), 1 << 30).unwrap();
            place(&component, Some(allocation), &ledger);
        }
        Ok(None) => {}
        Err(error) => {
            assert!(error.entry >= 1 && error.character <= text.chars().count() + 1);
            let _ = error.to_string();
        }
    }
    for component in BlockFile::from_json(text).iter().flat_map(|file| &file.components) {
        let expert = Allocation::parse("cuda:0,40%;cuda:1,30%;cpu,30%").unwrap();
        place(component, expert, &ledger);
    }
});

fn read_back<T>(text: &str)
where
    T: std::str::FromStr + ToString + PartialEq,
    T::Err: ToString,
{
    match text.parse::<T>() {
        Ok(value) => assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value)),
        Err(error) => drop(error.to_string()),
    }
}

fn place(component: &ComponentBlocks, expert: Option<Allocation>, ledger: &Ledger) {
    let fixed = [Layout::Distorch2, Layout::Interleave].map(LayoutChoice::Fixed);
    for layout in fixed.into_iter().chain([LayoutChoice::Auto]) {
        let mut settings = ComponentSettings::new("cuda:0".parse().unwrap());
        (settings.expert, settings.layout) = (expert.clone(), layout);
        let Ok(plan) = plan(component, &settings, ledger) else { continue };
        assert_eq!(plan.devices.iter().map(|share| share.bytes).sum::<u64>(), component.bytes());
        for entry in expert.iter().flat_map(|allocation| allocation.entries()) {
            if let Amount::Bytes(ceiling) = entry.amount {
                // What has to stay on the compute device may be more than its ceiling; nothing else.
                let there = plan.blocks.iter().filter(|block| block.device == entry.device);
                let stays = |reason| matches!(reason, Reason::Tiny | Reason::Head | Reason::Param);
                let moved = there.clone().filter(|block| !stays(block.reason)).count();
                assert!(moved == 0 || plan.bytes_on(entry.device) <= ceiling);
            }
        }
        for warning in &plan.warnings {
            let _ = warning.to_string();
        }
    }
}
