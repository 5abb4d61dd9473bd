//! From the home of every block to a plan.

use std::collections::BTreeMap;

use crate::block::ComponentBlocks;
use crate::device::DeviceId;
use crate::fit::Need;
use crate::layout::{Layout, LayoutReason};
use crate::ledger::Ledger;
use crate::pins::Pins;
use crate::placing::Home;
use crate::plan::{DeviceShare, PlacedBlock, Plan};
use crate::settings::ComponentSettings;
use crate::shares::Shares;
use crate::warning::PlanWarning;

/// The plan as far as homes and shares tell it: it is not held against the memory that is free yet.
pub(crate) fn assemble(
    component: &ComponentBlocks,
    settings: &ComponentSettings,
    layout: Layout,
    ledger: &Ledger,
    homes: &[Home],
    shares: &Shares,
    pins: &Pins,
) -> Plan {
    let mut held: BTreeMap<DeviceId, Held> = BTreeMap::new();
    for &device in shares.by_device.keys() {
        held.entry(device).or_default();
    }
    let mut blocks = Vec::with_capacity(homes.len());
    for (block, &Home { device, reason }) in component.blocks().iter().zip(homes) {
        let there = held.entry(device).or_default();
        there.blocks += 1;
        there.bytes += block.bytes;
        let at_home = device == settings.compute_device;
        there.memory += if at_home { block.at_home() } else { block.bytes };
        let (name, kind) = (block.name.clone(), block.kind.clone());
        blocks.push(PlacedBlock { name, kind, bytes: block.bytes, device, reason });
    }
    let devices = held.into_iter().map(|(device, Held { blocks, bytes, memory })| {
        let share = shares.by_device.get(&device).copied().unwrap_or_default();
        let info = ledger.topology().get(device).ok();
        DeviceShare {
            device,
            simulated: info.is_some_and(|info| info.simulated),
            share_bytes: share.bytes,
            blocks,
            bytes,
            memory_bytes: memory,
            percent_of_component: percent(bytes, component.bytes()),
            percent_of_device: percent(memory, info.map_or(0, |info| info.total)),
        }
    });
    let need = Need::of(component, homes, settings.compute_device);
    let mut plan = Plan {
        component: component.name().to_owned(),
        bytes: component.bytes(),
        compute_device: settings.compute_device,
        layout,
        layout_reason: LayoutReason::REQUESTED,
        virtual_vram_gb: None,
        devices: devices.collect(),
        resident_bytes: need.resident,
        window_bytes: 0,
        least_window_bytes: need.window,
        activation_bytes: component.activation_bytes(),
        peak_bytes: 0,
        available_bytes: 0,
        fits: false,
        warnings: bare_parts(settings),
        blocks,
        most_window: settings.most_window,
    };
    plan.warnings.extend(shares.warnings.iter().cloned());
    plan.warnings.extend(over_ceiling(settings, pins.bytes));
    plan.warnings.extend(empty_shares(&plan, component, pins));
    plan
}

/// What a device holds of a component.
#[derive(Clone, Copy, Default)]
struct Held {
    blocks: usize,
    /// As stored.
    bytes: u64,
    /// Of the device's memory.
    memory: u64,
}

/// A part of a whole in per cent; of nothing, 0.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// The compute device's ceiling, if it has one and what has to stay there is more.
fn over_ceiling(settings: &ComponentSettings, pinned: u64) -> Option<PlanWarning> {
    let device = settings.compute_device;
    let ceiling = settings.expert.as_ref()?.ceiling(device)?;
    let over = PlanWarning::OverCeiling { device, ceiling, bytes: pinned };
    (pinned > ceiling).then_some(over)
}

/// The bare numbers that were read as parts.
fn bare_parts(settings: &ComponentSettings) -> Vec<PlanWarning> {
    let parts = settings.expert.iter().flat_map(|allocation| allocation.bare_parts());
    parts.map(|(device, part)| PlanWarning::BarePart { device, part }).collect()
}

/// The donors that were to hold something and hold nothing.
fn empty_shares(plan: &Plan, component: &ComponentBlocks, pins: &Pins) -> Vec<PlanWarning> {
    let movable = component.blocks().iter().zip(&pins.reasons).filter(|(_, pin)| pin.is_none());
    let smallest = movable.map(|(block, _)| block.bytes).min();
    let empty = plan.devices.iter().filter(|share| {
        share.device != plan.compute_device && share.share_bytes > 0 && share.blocks == 0
    });
    empty
        .map(|share| {
            let (device, share) = (share.device, share.share_bytes);
            PlanWarning::EmptyShare { device, share, smallest }
        })
        .collect()
}
