//! Sizes as ceilings, held against every possible placement of small components.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use distorch_allocation::{
    Allocation, Block, ComponentBlocks, ComponentSettings, DeviceId, DeviceInfo, Layout, Ledger,
    Plan, PlanError, PlanWarning, Reason, Topology, plan,
};
use proptest::prelude::*;

/// In the order in which they are filled.
const DEVICES: [&str; 4] = ["cuda:0", "cuda:1", "vulkan:0", "cpu"];

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

/// Devices that hold this much each, all of it free.
fn machine(room: [u64; 4]) -> Ledger {
    let info = |(name, room): (&&str, u64)| DeviceInfo::new(id(name), "test", room);
    Ledger::new(Topology::new(DEVICES.iter().zip(room).map(info).collect()).unwrap())
}

/// Blocks of a few bytes, none of them tiny; some have to stay on the compute device.
fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let one = (1_u64..40, 0_u8..8).prop_map(|(bytes, kind)| match kind {
        0 => Block { head: true, ..Block::new("", "embedding", bytes) },
        1 => Block::new("", "param", bytes),
        _ => Block::new("", "linear", bytes),
    });
    prop::collection::vec(one, 1..8).prop_map(|mut blocks| {
        for (index, block) in blocks.iter_mut().enumerate() {
            block.name = format!("b{index}");
        }
        blocks
    })
}

/// An entry: a device by its place, and its ceiling; `None` is the wildcard.
type Entry = (usize, Option<u64>);

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let order = prop::sample::subsequence(vec![0, 1, 2, 3], 1..=4).prop_shuffle();
    let ceilings = prop::collection::vec(0_u64..90, 4);
    (order, ceilings, prop::option::weighted(0.6, 0_usize..4)).prop_map(
        |(order, ceilings, wild)| {
            let entry = |(at, (device, ceiling)): (usize, (usize, u64))| {
                (device, (wild != Some(at)).then_some(ceiling))
            };
            order.into_iter().zip(ceilings).enumerate().map(entry).collect()
        },
    )
}

fn written(entries: &[Entry]) -> String {
    let entry = |(device, ceiling): &Entry| {
        let amount = ceiling.map_or("*".to_owned(), |bytes| format!("{bytes}b"));
        format!("{},{amount}", DEVICES[*device])
    };
    entries.iter().map(entry).collect::<Vec<_>>().join(";")
}

fn planned(
    blocks: &[Block],
    entries: &[Entry],
    compute: usize,
    layout: Layout,
    machine: &Ledger,
) -> Result<Plan, PlanError> {
    let component = ComponentBlocks::new("unet", blocks.to_vec(), 0).unwrap();
    let mut settings = ComponentSettings::new(id(DEVICES[compute]));
    settings.expert = Allocation::parse(&written(entries)).unwrap();
    settings.layout = layout.into();
    plan(&component, &settings, machine)
}

fn stays(block: &Block) -> bool {
    block.head || block.kind == "param"
}

fn pinned(blocks: &[Block]) -> u64 {
    blocks.iter().filter(|block| stays(block)).map(|block| block.bytes).sum()
}

/// What each device is to get of the blocks that may move: a ceiling's part of the line on which
/// all ceilings lie one after the other, cut off where the blocks end. The wildcard gets the rest.
fn quotas(blocks: &[Block], entries: &[Entry], compute: usize, wildcard: usize) -> [u64; 4] {
    let pinned = pinned(blocks);
    let movable = blocks.iter().map(|block| block.bytes).sum::<u64>() - pinned;
    let mut quotas = [0; 4];
    let ceilings: Vec<(usize, u64)> = entries
        .iter()
        .filter_map(|&(device, ceiling)| Some((device, ceiling?)))
        .map(|(device, ceiling)| match device == compute {
            true => (device, ceiling.saturating_sub(pinned)),
            false => (device, ceiling),
        })
        .collect();
    for (at, &(device, _)) in ceilings.iter().enumerate() {
        let until = |count: usize| ceilings[..count].iter().map(|(_, c)| c).sum::<u64>();
        quotas[device] = until(at + 1).min(movable) - until(at).min(movable);
    }
    quotas[wildcard] += movable - quotas.iter().sum::<u64>();
    quotas
}

/// The home of each block that may move, from the last to the first: of all placements that keep to
/// the quotas the one whose blocks lie on the earliest devices, where later blocks matter more. A
/// block that is given up to the wildcard counts as lying behind all devices, and towards no quota.
fn by_brute_force(movable: &[u64], quotas: [u64; 4]) -> Vec<usize> {
    const GIVEN_UP: usize = 4;
    let count = movable.len();
    let digit = |code: usize, at: usize| code / 5_usize.pow((count - 1 - at) as u32) % 5;
    // Counting up in base 5 goes through placements in the order wanted: the first that is right.
    let keeps = |code: &usize| {
        (0..4).all(|device| {
            let there = (0..count).filter(|&at| digit(*code, at) == device);
            there.map(|at| movable[at]).sum::<u64>() <= quotas[device]
        })
    };
    let best = (0..5_usize.pow(count as u32)).find(keeps).unwrap();
    assert!((0..count).all(|at| digit(best, at) <= GIVEN_UP));
    (0..count).map(|at| digit(best, at)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    /// Where somebody takes what fits nowhere, the placement is the best of all that there are.
    #[test]
    fn placements_are_those_of_brute_force(
        blocks in blocks(),
        entries in entries(),
        compute in 0_usize..4,
    ) {
        let ample = machine([1 << 20; 4]);
        let has = |device: usize| entries.iter().any(|(at, c)| *at == device && c.is_some());
        let written = entries.iter().find(|(_, ceiling)| ceiling.is_none()).map(|(at, _)| *at);
        let cpu = (!has(3)).then_some(3);
        prop_assume!(written.or(cpu).is_some());
        let wildcard = written.or(cpu).unwrap();
        let quotas = quotas(&blocks, &entries, compute, wildcard);
        let movable: Vec<&Block> = blocks.iter().rev().filter(|block| !stays(block)).collect();
        let sizes: Vec<u64> = movable.iter().map(|block| block.bytes).collect();
        let plan = planned(&blocks, &entries, compute, Layout::Distorch2, &ample).unwrap();
        for (block, home) in movable.iter().zip(by_brute_force(&sizes, quotas)) {
            let (device, reason) = match home {
                4 => (DEVICES[wildcard], Reason::Overflow),
                device => (DEVICES[device], Reason::Share),
            };
            let found = plan.blocks.iter().find(|placed| placed.name == block.name).unwrap();
            prop_assert_eq!((found.device, found.reason), (id(device), reason), "{}", block.name);
        }
        for block in blocks.iter().filter(|block| stays(block)) {
            prop_assert_eq!(plan.home_of(&block.name), Some(id(DEVICES[compute])));
        }
        prop_assert_eq!(plan.devices.iter().map(|d| d.share_bytes).sum::<u64>(), plan.bytes);
    }

    /// No ceiling and no memory is passed, in either layout, on a machine that may be full. A ceiling
    /// of the compute device may be, but only by what has to stay there.
    #[test]
    fn ceilings_hold_whatever_there_is(
        blocks in blocks(),
        entries in entries(),
        compute in 0_usize..4,
        room in prop::array::uniform4(90_u64..200),
        interleave in any::<bool>(),
    ) {
        let layout = if interleave { Layout::Interleave } else { Layout::Distorch2 };
        let machine = machine(room);
        let pinned = pinned(&blocks);
        let ceilings: BTreeMap<usize, u64> =
            entries.iter().filter_map(|&(device, ceiling)| Some((device, ceiling?))).collect();
        let plan = match planned(&blocks, &entries, compute, layout, &machine) {
            Ok(plan) => plan,
            Err(PlanError::NoHome { bytes, .. }) => {
                // Then nobody without a ceiling could have taken the block.
                prop_assert!(ceilings.contains_key(&compute));
                let open = (0..4).filter(|device| {
                    let named = entries.contains(&(*device, None));
                    let has_wildcard = entries.iter().any(|(_, ceiling)| ceiling.is_none());
                    named || (*device == 3 && !has_wildcard && !ceilings.contains_key(device))
                });
                let total: u64 = blocks.iter().map(|block| block.bytes).sum();
                for device in open {
                    prop_assert!(room[device] < total && device != compute, "{bytes}");
                }
                return Ok(());
            }
            Err(error) => panic!("{error}"),
        };
        for (device, name) in DEVICES.iter().enumerate() {
            let held = plan.bytes_on(id(name));
            let stays = if device == compute { pinned } else { 0 };
            if let Some(&ceiling) = ceilings.get(&device) {
                prop_assert!(held <= ceiling || held == stays, "{name} holds {held}");
            }
            prop_assert!(device == compute || held <= room[device], "{name} holds {held}");
        }
        let over = ceilings.get(&compute).is_some_and(|&ceiling| pinned > ceiling);
        let warned =
            plan.warnings.iter().any(|warning| matches!(warning, PlanWarning::OverCeiling { .. }));
        prop_assert_eq!(over, warned);
        // What overflows to a compute device without a ceiling fits under none of the others.
        let wildcard = entries.iter().any(|(_, ceiling)| ceiling.is_none());
        if !wildcard && ceilings.contains_key(&3) && !ceilings.contains_key(&compute) {
            let kept = plan.blocks.iter().filter(|block| {
                block.reason == Reason::Overflow && block.device == id(DEVICES[compute])
            });
            for block in kept {
                for (&device, &ceiling) in &ceilings {
                    let held = plan.bytes_on(id(DEVICES[device]));
                    prop_assert!(held + block.bytes > ceiling.min(room[device]));
                }
            }
        }
    }
}

#[test]
fn sizes_that_leave_a_block_without_a_home_are_refused_by_name() {
    let blocks: Vec<Block> = (0..4).map(|i| Block::new(format!("b{i}"), "linear", 10)).collect();
    let plan = |entries: &[Entry], room| {
        planned(&blocks, entries, 0, Layout::Distorch2, &machine(room)).map_err(|e| e.to_string())
    };
    // 15 + 25 are the component, but its blocks come by tens.
    let error = plan(&[(0, Some(15)), (3, Some(25))], [100; 4]).unwrap_err();
    assert!(error.contains("`b0` of 10 B fits under none of the sizes"), "{error}");
    assert!(
        error.contains("no device is there for what is left: raise a size, or give `*`"),
        "{error}"
    );
    let error = plan(&[(0, Some(15)), (3, None)], [100, 100, 100, 20]).unwrap_err();
    assert!(error.contains("cpu has no room for what is left"), "{error}");
    // One byte more in either case is enough, or a device that may take more.
    assert!(plan(&[(0, Some(20)), (3, Some(25))], [100; 4]).is_ok());
    assert!(plan(&[(1, Some(15)), (3, Some(25))], [100; 4]).is_ok());
    assert!(plan(&[(0, Some(15)), (3, None)], [100, 100, 100, 30]).is_ok());
}
