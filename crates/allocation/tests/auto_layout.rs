//! `auto` takes the layout with which a step waits least: held against a simulation of another make, which
//! goes from event to event.

#![allow(clippy::unwrap_used)]

use distorch_allocation::{
    Allocation, Block, ComponentBlocks, ComponentSettings, DeviceId, DeviceInfo, Layout,
    LayoutChoice, LayoutRule, Ledger, Plan, Topology, VirtualVram, plan, plan_model, report,
};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// Link times in quarters of computing.
const BALANCES: [u128; 5] = [2, 3, 4, 6, 8];

/// What interleaved blocks have to save.
const MARGIN: f64 = 0.02;

fn machine(room: u64) -> Ledger {
    let cuda: DeviceId = "cuda:0".parse().unwrap();
    let devices =
        vec![DeviceInfo::new(cuda, "card", room), DeviceInfo::new(DeviceId::CPU, "host", 1 << 40)];
    Ledger::new(Topology::new(devices).unwrap())
}

fn component(name: &str, blocks: &[(u64, u64)]) -> ComponentBlocks {
    let block = |(index, &(bytes, cost)): (usize, &(u64, u64))| Block {
        cost: Some(cost),
        ..Block::new(format!("b{index}"), "linear", bytes)
    };
    ComponentBlocks::new(name, blocks.iter().enumerate().map(block).collect(), 0).unwrap()
}

/// So many per cent of the component elsewhere.
fn settings(share: u32, layout: impl Into<LayoutChoice>) -> ComponentSettings {
    let mut settings = ComponentSettings::new("cuda:0".parse().unwrap());
    settings.expert = Allocation::parse(&format!("cuda:0,{}%;cpu,{share}%", 100 - share)).unwrap();
    settings.layout = layout.into();
    settings
}

/// A step from event to event: what may start starts, then the next thing ends. Computing with a block takes
/// `cost × scale`, a byte takes `per_byte`.
fn step(plan: &Plan, costs: &[u64], scale: u128, per_byte: u128) -> u128 {
    const STEPS: usize = 8;
    let leaves: Vec<bool> =
        plan.blocks.iter().map(|block| block.device != plan.compute_device).collect();
    let passing = || plan.blocks.iter().filter(|block| block.device != plan.compute_device);
    let sizes: Vec<u64> = passing().map(|block| block.bytes).collect();
    let (mut used, mut asked, mut arrived, mut done, mut place) = (0, 0, 0, 0, 0);
    let (mut now, mut link_ends, mut use_ends) = (0_u128, None, None);
    let mut ends: Vec<u128> = Vec::new();
    while ends.len() < STEPS {
        if link_ends.is_none() && asked - done < sizes.len() {
            let bytes = sizes[asked % sizes.len()];
            if used + bytes <= plan.window_bytes {
                used += bytes;
                asked += 1;
                link_ends = Some(now + u128::from(bytes) * per_byte);
            }
        }
        if use_ends.is_none() && (!leaves[place] || arrived > done) {
            use_ends = Some(now + u128::from(costs[place]) * scale);
        }
        now = link_ends.into_iter().chain(use_ends).min().unwrap();
        if link_ends == Some(now) {
            link_ends = None;
            arrived += 1;
        }
        if use_ends == Some(now) {
            use_ends = None;
            if leaves[place] {
                used -= sizes[done % sizes.len()];
                done += 1;
            }
            place += 1;
            if place == leaves.len() {
                place = 0;
                ends.push(now);
            }
        }
    }
    ends[STEPS - 1] - ends[STEPS - 2]
}

/// How the two placements compare.
struct Expected {
    /// By how much more `distorch2` is slower than the other way round, at most.
    saves: f64,
    /// The waits over the link with which they differ most.
    waits: [f64; 2],
}

fn expected(plans: [&Plan; 2], costs: &[u64]) -> Expected {
    let computing: u128 = costs.iter().map(|&cost| u128::from(cost)).sum();
    let moved = plans.map(|plan| u128::from(plan.bytes_elsewhere()));
    let scale = 4 * moved[0];
    let (mut slower, mut faster, mut widest) = (1.0_f64, 1.0_f64, (0.0, [0.0; 2]));
    for balance in BALANCES {
        let per_byte = balance * computing;
        let times = plans.map(|plan| step(plan, costs, scale, per_byte) as f64);
        let never = moved.map(|bytes| (bytes * per_byte).max(computing * scale) as f64);
        let ratio = times[0] / times[1];
        (slower, faster) = (slower.max(ratio), faster.max(1.0 / ratio));
        if ratio.max(1.0 / ratio) >= widest.0 {
            let waits = [times[0] / never[0] - 1.0, times[1] / never[1] - 1.0];
            widest = (ratio.max(1.0 / ratio), waits);
        }
    }
    Expected { saves: slower - faster, waits: widest.1 }
}

/// As a UNet: most bytes in the middle, most computing at both ends.
fn unet() -> Vec<(u64, u64)> {
    let block = |at: u64| {
        let middle = 20 - at.abs_diff(20);
        ((1 + middle) * MIB, 10 + 1000 / (1 + middle))
    };
    (0..40).map(block).collect()
}

#[test]
fn a_small_window_is_interleaved() {
    let blocks = unet();
    let costs: Vec<u64> = blocks.iter().map(|&(_, cost)| cost).collect();
    let unet = component("unet", &blocks);
    let mut taken = Vec::new();
    for share in [25, 50, 75, 100] {
        for spare in [0, 40, 100, 2000] {
            let [familiar, spread] = [Layout::Distorch2, Layout::Interleave].map(|layout| {
                let roomy = plan(&unet, &settings(share, layout), &machine(1 << 40)).unwrap();
                let least = roomy.resident_bytes + roomy.least_window_bytes + spare * MIB;
                (plan(&unet, &settings(share, layout), &machine(least + 30 * MIB)).unwrap(), least)
            });
            let room = familiar.1.max(spread.1) + 30 * MIB;
            let on = |layout| plan(&unet, &settings(share, layout), &machine(room)).unwrap();
            let familiar = on(LayoutChoice::Fixed(Layout::Distorch2));
            let spread = on(LayoutChoice::Fixed(Layout::Interleave));
            let auto = on(LayoutChoice::Auto);
            let expected = expected([&familiar, &spread], &costs);
            let full = familiar.window_bytes == familiar.bytes_elsewhere();
            let interleaved = !full && expected.saves > MARGIN;
            let like = if interleaved { &spread } else { &familiar };
            assert_eq!(auto.blocks, like.blocks, "{share} {spare}");
            assert_eq!(auto.layout, like.layout);
            let rule = match interleaved {
                true => LayoutRule::WaitsLess,
                false if full => LayoutRule::FullWindow,
                false => LayoutRule::NoSlower,
            };
            assert_eq!(auto.layout_reason.rule, rule, "{share} {spare}");
            if let Some(waits) = auto.layout_reason.waits {
                let near = |a: f64, b: f64| assert!((a - b).abs() <= 0.001, "{a} {b}");
                near(waits.distorch2, expected.waits[0]);
                near(waits.interleave, expected.waits[1]);
            }
            taken.push(interleaved);
        }
    }
    assert!(taken.contains(&true) && taken.contains(&false), "{taken:?}");
}

/// What was asked for is what one gets, and the report says what was chosen and why.
#[test]
fn the_report_says_why() {
    let unet = component("unet", &unet());
    let tight = machine(unet.bytes() / 2 + 70 * MIB);
    let auto = plan(&unet, &settings(50, LayoutChoice::Auto), &tight).unwrap();
    assert!(auto.fits && auto.layout == Layout::Interleave, "{:?}", auto.layout_reason);
    let text = report::component(&auto, None);
    assert!(text.contains("layout interleave, chosen by auto: window "), "{text}");
    assert!(text.contains("elsewhere; distorch2 would wait 0."), "{text}");
    let json = serde_json::to_value(&auto).unwrap();
    assert_eq!(json["layout"], "interleave");
    assert_eq!(json["layout_reason"]["rule"], "waits_less");
    assert_eq!(json["layout_reason"]["waits"]["window_bytes"], auto.window_bytes);
    for layout in [Layout::Distorch2, Layout::Interleave] {
        let fixed = plan(&unet, &settings(50, layout), &tight).unwrap();
        assert_eq!((fixed.layout, fixed.layout_reason.rule), (layout, LayoutRule::Requested));
        let text = report::component(&fixed, None);
        assert!(text.contains(&format!("layout {layout}\n")), "{text}");
    }
    let roomy = plan(&unet, &settings(50, LayoutChoice::Auto), &machine(1 << 40)).unwrap();
    let text = report::component(&roomy, None);
    assert!(text.contains("layout distorch2, chosen by auto: the window has its full"), "{text}");
    let whole = plan(&unet, &settings(0, LayoutChoice::Auto), &tight).unwrap();
    assert_eq!(whole.layout_reason.rule, LayoutRule::NothingElsewhere);
    let mut narrow = settings(50, LayoutChoice::Auto);
    narrow.most_window = Some(60 * MIB);
    let narrow = plan(&unet, &narrow, &machine(1 << 40)).unwrap();
    assert_eq!((narrow.window_bytes, narrow.layout), (60 * MIB, Layout::Interleave));
}

/// A component that is planned later takes the room of the window.
#[test]
fn the_window_that_the_others_leave_decides() {
    let unet = component("unet", &unet());
    let vae = component("vae", &[(200 * MIB, 1), (200 * MIB, 1)]);
    let vae_settings = ComponentSettings::new("cuda:0".parse().unwrap());
    let room = unet.bytes() / 2 + 60 * MIB + vae.bytes();
    let settings = settings(50, LayoutChoice::Auto);
    let alone = plan(&unet, &settings, &machine(room)).unwrap();
    assert_eq!(alone.layout_reason.rule, LayoutRule::FullWindow);
    let mut ledger = machine(room);
    let parts = [(unet, settings), (vae, vae_settings)];
    let plans = plan_model("model", &parts, &mut ledger).unwrap();
    assert!(plans.iter().all(|plan| plan.fits));
    assert_eq!(plans[0].layout, Layout::Interleave);
    assert_eq!(plans[0].layout_reason.rule, LayoutRule::WaitsLess);
    for device in ["cuda:0", "cpu"].map(|name| name.parse::<DeviceId>().unwrap()) {
        let held: u64 = plans.iter().map(|plan| plan.bytes_on(device)).sum();
        assert_eq!(ledger.promised(device), held, "{device}");
    }
}

proptest! {
    /// One of the two placements: `distorch2` where the window is full or where that is as quick, and
    /// never one that does not fit in place of one that does.
    #[test]
    fn auto_is_one_of_two(
        blocks in prop::collection::vec((1_u64..200, 0_u64..50), 1..40),
        share in 1_u32..=100,
        room in 0_u64..4000,
        gigabytes in prop::option::of(0_u32..40),
    ) {
        let blocks: Vec<_> = blocks.into_iter().map(|(mib, cost)| (mib * MIB, cost)).collect();
        let costs: Vec<u64> = blocks.iter().map(|&(_, cost)| cost).collect();
        let unet = component("unet", &blocks);
        let ledger = machine(room * MIB);
        let on = |layout| {
            let mut settings = settings(share, layout);
            if let Some(tenths) = gigabytes {
                settings.expert = None;
                settings.virtual_vram = match tenths {
                    0 => VirtualVram::Auto,
                    _ => VirtualVram::gigabytes(f64::from(tenths) / 10.0).unwrap(),
                };
            }
            plan(&unet, &settings, &ledger).unwrap()
        };
        let familiar = on(LayoutChoice::Fixed(Layout::Distorch2));
        let auto = on(LayoutChoice::Auto);
        prop_assert_eq!(auto.fits, familiar.fits);
        let elsewhere = familiar.bytes_elsewhere();
        let full = familiar.window_bytes >= elsewhere.min(1 << 30);
        if auto.layout == Layout::Distorch2 {
            prop_assert_eq!(&auto.blocks, &familiar.blocks);
            prop_assert_eq!(&auto.devices, &familiar.devices);
        } else {
            prop_assert!(!full);
        }
        // With `auto` both layouts have the same shares; alone, each looks for its own.
        if gigabytes != Some(0) && !full && elsewhere > 0 && costs.iter().any(|&cost| cost > 0) {
            let spread = on(LayoutChoice::Fixed(Layout::Interleave));
            let Expected { saves, .. } = expected([&familiar, &spread], &costs);
            let like = match auto.layout_reason.rule {
                LayoutRule::WaitsLess => {
                    prop_assert!(saves > MARGIN - 1e-9 && spread.fits, "{saves}");
                    &spread
                }
                LayoutRule::NoSlower => {
                    prop_assert!(saves < MARGIN + 1e-9, "{saves}");
                    &familiar
                }
                rule => {
                    prop_assert!(rule == LayoutRule::NoRoom && !(spread.fits && familiar.fits), "{rule:?}");
                    &familiar
                }
            };
            prop_assert_eq!(&auto.blocks, &like.blocks);
            prop_assert_eq!(auto.layout, like.layout);
        }
    }
}
