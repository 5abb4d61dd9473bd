//! What holds for every component, machine and setting.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use distorch_allocation::{
    Allocation, Amount, Block, BlockFile, ComponentBlocks, ComponentSettings, DeviceId, DeviceInfo,
    Donors, Layout, LayoutChoice, Ledger, Mode, Plan, PlanError, Topology, VirtualVram,
    VirtualVramText, plan, plan_model,
};
use proptest::prelude::*;

const DEVICES: [&str; 5] = ["cuda:0", "cuda:1", "cuda:10", "vulkan:0", "cpu"];

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

/// Sizes from nothing to whole gibibytes, so that tiny, small and large meet.
fn block() -> impl Strategy<Value = Block> {
    let kind = prop_oneof![8 => Just("linear"), 2 => Just("norm"), 1 => Just("param")];
    let bytes = prop_oneof![1 => 0_u64..2, 3 => 1_u64..5_000, 6 => 1_u64 << 10..1 << 24];
    (kind, bytes, prop::bool::weighted(0.05), prop::option::weighted(0.3, 0_u64..100)).prop_map(
        |(kind, bytes, head, use_index)| Block { head, use_index, ..Block::new("", kind, bytes) },
    )
}

fn component() -> impl Strategy<Value = ComponentBlocks> {
    let activation = prop_oneof![Just(0_u64), 0_u64..1 << 26, Just(u64::MAX)];
    (prop::collection::vec(block(), 0..60), activation).prop_map(|(mut blocks, activation)| {
        for (index, block) in blocks.iter_mut().enumerate() {
            block.name = format!("b{index}");
        }
        ComponentBlocks::new("unet", blocks, activation).unwrap()
    })
}

/// A machine with all five devices, some of them too small or in use.
fn machine() -> impl Strategy<Value = Ledger> {
    let memory = (1_u64 << 20..1 << 30, 0_u64..1 << 30, prop::option::of(1_u64..1 << 40));
    prop::collection::vec(memory, DEVICES.len()).prop_map(|memories| {
        let info = |(name, (total, used, bandwidth)): (&&str, (u64, u64, Option<u64>))| {
            let device = DeviceInfo::new(id(name), "test", total);
            DeviceInfo { free: total.saturating_sub(used), bandwidth, ..device }
        };
        Ledger::new(Topology::new(DEVICES.iter().zip(memories).map(info).collect()).unwrap())
    })
}

fn device() -> impl Strategy<Value = &'static str> {
    prop::sample::select(DEVICES.to_vec())
}

fn devices(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(DEVICES.to_vec(), count).prop_shuffle()
}

/// An allocation that parses; byte ceilings stay under every machine's capacity.
fn allocation() -> impl Strategy<Value = String> {
    let ratio = (1_u32..500).prop_map(|part| format!("{}.{}%", part / 7, part));
    let bytes = (0_u32..1 << 20).prop_map(|amount| format!("{amount}b"));
    let fraction = (0_u32..=100).prop_map(|part| format!("{}", f64::from(part) / 100.0));
    let amounts = prop_oneof![
        prop::collection::vec(ratio, 5),
        prop::collection::vec(bytes, 5),
        prop::collection::vec(fraction, 5),
    ];
    (devices(1..6), amounts, prop::option::of(0_usize..5)).prop_map(|(devices, amounts, wild)| {
        let sizes = amounts[0].ends_with('b');
        let entry = |(i, (device, amount)): (usize, (&&str, &String))| {
            if sizes && wild == Some(i) {
                format!("{device},*")
            } else {
                format!("{device},{amount}")
            }
        };
        let entries: Vec<String> = devices.iter().zip(&amounts).enumerate().map(entry).collect();
        entries.join(";")
    })
}

fn layout() -> impl Strategy<Value = LayoutChoice> {
    let fixed = [Layout::Distorch2, Layout::Interleave].map(LayoutChoice::Fixed);
    prop::sample::select(vec![LayoutChoice::Auto, fixed[0], fixed[1]])
}

fn settings() -> impl Strategy<Value = ComponentSettings> {
    let moved = prop_oneof![
        4 => (0_u32..1000).prop_map(|n| VirtualVram::gigabytes(f64::from(n) / 1000.0).unwrap()),
        1 => Just(VirtualVram::Auto),
    ];
    let donors = prop_oneof![
        devices(1..5).prop_map(|names| names.join(",").parse::<Donors>().unwrap()),
        Just(Donors::auto()),
    ];
    (device(), moved, donors, prop::option::of(allocation()), layout()).prop_map(
        |(compute, virtual_vram, donors, expert, layout)| ComponentSettings {
            compute_device: id(compute),
            virtual_vram,
            donors,
            expert: expert.and_then(|text| Allocation::parse(&text).unwrap()),
            layout,
            most_window: None,
        },
    )
}

/// The plan; `None` where sizes leave a block without a home, which is told before anything is loaded.
fn planned(c: &ComponentBlocks, s: &ComponentSettings, m: &Ledger) -> Option<Plan> {
    match plan(c, s, m) {
        Ok(plan) => Some(plan),
        Err(PlanError::NoHome { .. }) => {
            let expert = s.expert.as_ref().unwrap();
            assert_eq!(expert.mode(), Mode::Bytes);
            assert!(expert.entries().iter().any(|entry| entry.device == s.compute_device));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn largest(component: &ComponentBlocks) -> u64 {
    component.blocks().iter().map(|block| block.bytes).max().unwrap_or(0)
}

fn placed_bytes(plan: &Plan, device: DeviceId) -> u64 {
    plan.blocks.iter().filter(|b| b.device == device).map(|b| b.bytes).sum()
}

/// Bytes that stay on the compute device whatever is asked.
fn pinned(plan: &Plan) -> u64 {
    use distorch_allocation::Reason::{Head, Param, Tiny};
    let stay = plan.blocks.iter().filter(|b| matches!(b.reason, Head | Param | Tiny));
    stay.map(|b| b.bytes).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_block_has_one_home(c in component(), s in settings(), m in machine()) {
        let Some(plan) = planned(&c, &s, &m) else { return Ok(()) };
        let names: Vec<&str> = plan.blocks.iter().map(|b| b.name.as_str()).collect();
        let expected: Vec<&str> = c.blocks().iter().map(|b| b.name.as_str()).collect();
        prop_assert_eq!(names, expected);
        for share in &plan.devices {
            prop_assert_eq!(placed_bytes(&plan, share.device), share.bytes);
        }
        prop_assert_eq!(plan.devices.iter().map(|d| d.bytes).sum::<u64>(), c.bytes());
        prop_assert_eq!(plan.devices.iter().map(|d| d.share_bytes).sum::<u64>(), c.bytes());
        prop_assert_eq!(plan.devices.iter().map(|d| d.blocks).sum::<usize>(), c.blocks().len());
    }

    /// Donors are never over their share, and under it by less than a block, unless nothing was
    /// left to give them. The compute device makes up for what they lack.
    #[test]
    fn shares_are_met_within_one_block(c in component(), s in settings(), m in machine()) {
        let Some(plan) = planned(&c, &s, &m) else { return Ok(()) };
        let fractions = s.expert.as_ref().is_some_and(|a| a.mode() == Mode::Fraction);
        let compute = plan.compute_device;
        let left = placed_bytes(&plan, compute) - pinned(&plan);
        let compute_share = plan.devices.iter().find(|d| d.device == compute).unwrap().share_bytes;
        let donors = plan.devices.iter().filter(|d| d.device != compute);
        let sizes = s.expert.as_ref().is_some_and(|a| a.mode() == Mode::Bytes);
        for donor in donors.clone().filter(|_| !fractions) {
            // With sizes, whoever takes what is left takes what fits nowhere too.
            prop_assert!(donor.bytes <= donor.share_bytes || sizes, "{donor:?}");
            let starved = left == 0 || pinned(&plan) > compute_share;
            let short = donor.share_bytes.saturating_sub(donor.bytes);
            prop_assert!(short <= largest(&c) || starved, "{donor:?}");
        }
        if pinned(&plan) <= compute_share && !fractions && !sizes {
            let held = placed_bytes(&plan, compute);
            let blocks = largest(&c) * (donors.count() as u64).max(1);
            prop_assert!(held >= compute_share.saturating_sub(largest(&c)));
            prop_assert!(held <= compute_share + blocks + largest(&c));
        }
    }

    #[test]
    fn ceilings_and_capacities_hold(c in component(), s in settings(), m in machine()) {
        let Some(plan) = planned(&c, &s, &m) else { return Ok(()) };
        for share in plan.devices.iter().filter(|d| d.device != plan.compute_device) {
            prop_assert!(share.bytes <= m.available(share.device));
            let entries = s.expert.iter().flat_map(|a| a.entries());
            for entry in entries.filter(|e| e.device == share.device) {
                match entry.amount {
                    Amount::Bytes(ceiling) => prop_assert!(share.bytes <= ceiling),
                    Amount::Fraction(part) => {
                        let total = m.topology().get(entry.device).unwrap().total;
                        prop_assert!(share.bytes <= part.times(total).unwrap());
                    }
                    _ => {}
                }
            }
        }
        prop_assert_eq!(plan.fits, plan.peak_bytes <= m.available(plan.compute_device));
        let elsewhere = plan.bytes_elsewhere();
        prop_assert!((plan.least_window_bytes..=elsewhere).contains(&plan.window_bytes));
    }

    #[test]
    fn heads_and_tiny_blocks_stay(c in component(), s in settings(), m in machine()) {
        let Some(plan) = planned(&c, &s, &m) else { return Ok(()) };
        for (block, placed) in c.blocks().iter().zip(&plan.blocks) {
            if block.head || block.kind == "param" || block.bytes * 10_000 < c.bytes() {
                prop_assert_eq!(placed.device, s.compute_device);
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_plan(c in component(), s in settings(), m in machine()) {
        let Some(first) = planned(&c, &s, &m) else { return Ok(()) };
        let json = serde_json::to_string(&first).unwrap();
        let second = plan(&c.clone(), &s.clone(), &m.clone()).unwrap();
        prop_assert_eq!(serde_json::to_string(&second).unwrap(), json);
        prop_assert_eq!(second, first);
    }

    /// What `auto` finds fits, and a tenth less doesn't.
    #[test]
    fn auto_is_the_least(c in component(), s in settings(), m in machine()) {
        let s = ComponentSettings { expert: None, virtual_vram: VirtualVram::Auto, ..s };
        let auto = plan(&c, &s, &m).unwrap();
        let gigabytes = auto.virtual_vram_gb.unwrap().to_f64();
        for tenths in 0..=(auto.bytes.div_ceil(1 << 30) * 10 + 1) {
            let virtual_vram = VirtualVram::gigabytes(tenths as f64 / 10.0).unwrap();
            let fixed = plan(&c, &ComponentSettings { virtual_vram, ..s.clone() }, &m).unwrap();
            if fixed.fits {
                prop_assert!(auto.fits && gigabytes <= tenths as f64 / 10.0);
                break;
            }
            prop_assert!(!auto.fits || gigabytes > tenths as f64 / 10.0);
        }
    }

    #[test]
    fn the_ledger_loses_nothing(
        models in prop::collection::vec((component(), settings()), 1..5),
        m in machine(),
    ) {
        let mut ledger = m.clone();
        let mut expected = 0;
        for (index, (component, settings)) in models.iter().enumerate() {
            let model = format!("model{index}");
            let parts = [(component.clone(), settings.clone())];
            let Ok(plans) = plan_model(&model, &parts, &mut ledger) else { return Ok(()) };
            expected += plans[0].bytes;
            prop_assert_eq!(ledger.promises().map(|p| p.bytes).sum::<u64>(), expected);
            let compute: BTreeSet<DeviceId> =
                models.iter().map(|(_, s)| s.compute_device).collect();
            for device in m.topology().devices().iter().filter(|d| !compute.contains(&d.id)) {
                prop_assert!(ledger.promised(device.id) <= device.free);
            }
        }
        for (index, (component, _)) in models.iter().enumerate() {
            prop_assert_eq!(ledger.release(&format!("model{index}")), component.bytes());
        }
        prop_assert_eq!(ledger.promises().count(), 0);
    }

    #[test]
    fn parse_print_parse_is_the_identity(text in allocation()) {
        let first = Allocation::parse(&text).unwrap();
        let printed = first.as_ref().map(Allocation::to_string).unwrap_or_default();
        let second = Allocation::parse(&printed).unwrap();
        prop_assert_eq!(second.as_ref().map(Allocation::to_string).unwrap_or_default(), printed);
        prop_assert_eq!(second, first);
    }

    /// Strings from the language's own alphabet reach further into the parsers than random ones.
    #[test]
    fn near_misses_do_not_panic(text in "[;,:*%.@=/ 0-9a-zA-Z-]{0,40}|(cuda:[0-3]|cpu|mps|xpu:0),[0-9.]{0,5}(gb|%|mb\\*|\\*|tb| )?(;|,){0,2}(cuda:1|cpu),[0-9.]{1,30}(%|gb|\\*)?") {
        all_parsers(&text);
    }

    #[test]
    fn no_string_panics(text in any::<String>()) {
        all_parsers(&text);
    }
}

fn all_parsers(text: &str) {
    let cpu = DeviceInfo::new(DeviceId::CPU, "host", 1 << 30);
    let machine = Topology::new(vec![cpu]).unwrap();
    let allocation = Allocation::parse(text);
    if let Ok(Some(allocation)) = &allocation {
        let again = Allocation::parse(&allocation.to_string()).unwrap().unwrap();
        assert_eq!(&again, allocation);
        let _ = allocation.check(&machine).map_err(|error| error.to_string());
    }
    let _ = allocation.map_err(|error| error.to_string());
    if let Ok(device) = text.parse::<DeviceId>() {
        assert_eq!(device.to_string().parse::<DeviceId>().unwrap(), device);
    }
    if let Ok(donors) = text.parse::<Donors>() {
        assert_eq!(donors.to_string().parse::<Donors>().unwrap(), donors);
    }
    if let Ok(amount) = text.parse::<VirtualVram>() {
        assert_eq!(amount.to_string().parse::<VirtualVram>().unwrap(), amount);
    }
    if let Ok(all) = text.parse::<VirtualVramText>() {
        assert_eq!(all.to_string().parse::<VirtualVramText>().unwrap(), all);
    }
    let _ = machine.simulate(text).map_err(|error| error.to_string());
    let _ = BlockFile::from_json(text).map_err(|error| error.to_string());
    let _ = text.parse::<LayoutChoice>();
}
