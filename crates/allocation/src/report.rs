//! Plans as tables for people.

use std::collections::BTreeMap;

use crate::assembly::percent;
use crate::device::DeviceId;
use crate::layout::LayoutRule;
use crate::plan::{DeviceShare, Plan};
use crate::size::ByteSize;
pub use crate::table::{Column, Table, wrapped};
use crate::topology::Topology;

/// One component: a line that names it, a table of its devices, a line about the compute device's
/// peak, and the warnings; no wider than `width` characters where there is one.
pub fn component(plan: &Plan, width: Option<usize>) -> String {
    // Only a host that keeps layers in its compute dtype takes more than is stored.
    let wide = plan.devices.iter().any(|share| share.memory_bytes != share.bytes);
    let memory = wide.then(|| Column::number("in memory").optional(1));
    let columns = [
        Column::text("device"),
        Column::number("share").optional(3),
        Column::number("blocks").optional(2),
        Column::number("bytes"),
    ];
    let percents =
        [Column::number("% of component").optional(4), Column::number("% of device").optional(5)];
    let mut table = Table::new(columns.into_iter().chain(memory).chain(percents));
    for share in &plan.devices {
        let cells = [
            device_name(share.device, share.simulated),
            ByteSize(share.share_bytes).to_string(),
            share.blocks.to_string(),
            ByteSize(share.bytes).to_string(),
        ];
        let memory = wide.then(|| ByteSize(share.memory_bytes).to_string());
        let percents = [share.percent_of_component, share.percent_of_device];
        let percents = percents.map(|percent| format!("{percent:.1}"));
        table.add_row(cells.into_iter().chain(memory).chain(percents));
    }
    let (headline, peak) = (wrapped(&headline(plan), width), wrapped(&peak(plan), width));
    let mut text = format!("{headline}\n{}\n{peak}\n", table.fit(width));
    for warning in &plan.warnings {
        text.push_str(&format!("{}\n", wrapped(&format!("warning: {warning}"), width)));
    }
    text
}

fn headline(plan: &Plan) -> String {
    let moved = match plan.virtual_vram_gb {
        Some(gigabytes) => format!("virtual VRAM {:.1} GiB", gigabytes.to_f64()),
        None => "expert allocation".to_owned(),
    };
    let reason = match plan.layout_reason.rule {
        // Without a block elsewhere there is nothing to choose.
        LayoutRule::Requested | LayoutRule::NothingElsewhere => String::new(),
        _ => format!(", {}", plan.layout_reason),
    };
    let blocks = if plan.blocks.len() == 1 { "block" } else { "blocks" };
    format!(
        "{}: {} in {} {blocks}, computed on {}, {moved}, layout {}{reason}",
        plan.component,
        ByteSize(plan.bytes),
        plan.blocks.len(),
        plan.compute_device,
        plan.layout,
    )
}

fn peak(plan: &Plan) -> String {
    format!(
        "{} at its peak: {} resident + {} window + {} activations = {} of {} available: {}",
        plan.compute_device,
        ByteSize(plan.resident_bytes),
        ByteSize(plan.window_bytes),
        ByteSize(plan.activation_bytes),
        ByteSize(plan.peak_bytes),
        ByteSize(plan.available_bytes),
        if plan.fits { "fits" } else { "does not fit" },
    )
}

/// What every device of the machine holds of all plans together, and the most it needs while one
/// of them runs; no wider than `width` characters where there is one.
pub fn totals(plans: &[Plan], topology: &Topology, width: Option<usize>) -> String {
    let mut held: BTreeMap<DeviceId, (usize, u64)> = BTreeMap::new();
    for share in plans.iter().flat_map(|plan| &plan.devices) {
        let DeviceShare { device, blocks, memory_bytes, .. } = share;
        let entry = held.entry(*device).or_default();
        entry.0 += blocks;
        entry.1 = entry.1.saturating_add(*memory_bytes);
    }
    let mut table = Table::new([
        Column::text("device"),
        Column::number("blocks").optional(3),
        Column::number("bytes").optional(2),
        Column::number("peak"),
        Column::number("free"),
        Column::number("total").optional(4),
        Column::number("% of device").optional(5),
    ]);
    for info in topology.devices() {
        let (blocks, bytes) = held.get(&info.id).copied().unwrap_or_default();
        let running = plans.iter().filter(|plan| plan.compute_device == info.id);
        let transient = running.map(|plan| plan.peak_bytes.saturating_sub(plan.resident_bytes));
        let peak = bytes.saturating_add(transient.max().unwrap_or(0));
        table.add_row([
            device_name(info.id, info.simulated),
            blocks.to_string(),
            ByteSize(bytes).to_string(),
            ByteSize(peak).to_string(),
            ByteSize(info.free).to_string(),
            ByteSize(info.total).to_string(),
            format!("{:.1}", percent(bytes, info.total)),
        ]);
    }
    format!("{}\n", table.fit(width))
}

/// A device's name for people, simulated ones marked.
pub fn device_name(device: DeviceId, simulated: bool) -> String {
    if simulated { format!("{device} (simulated)") } else { device.to_string() }
}
