//! Plans as tables for people.

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::device::DeviceId;
use crate::plan::{DeviceShare, Plan};
use crate::planner::percent;
use crate::size::ByteSize;
use crate::topology::Topology;

/// One component: a line that names it, a table of its devices, a line about the compute device's
/// peak, and the warnings.
pub fn component(plan: &Plan) -> String {
    let mut rows = table(&["device", "share", "blocks", "bytes", "% of component", "% of device"]);
    for share in &plan.devices {
        rows.add_row([
            device_name(share.device, share.simulated),
            ByteSize(share.share_bytes).to_string(),
            share.blocks.to_string(),
            ByteSize(share.bytes).to_string(),
            format!("{:.1}", share.percent_of_component),
            format!("{:.1}", share.percent_of_device),
        ]);
    }
    let mut text = format!("{}\n{rows}\n{}\n", headline(plan), peak(plan));
    for warning in &plan.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn headline(plan: &Plan) -> String {
    let moved = match plan.virtual_vram_gb {
        Some(gigabytes) => format!("virtual VRAM {:.1} GB", gigabytes.to_f64()),
        None => "expert allocation".to_owned(),
    };
    let blocks = if plan.blocks.len() == 1 { "block" } else { "blocks" };
    format!(
        "{}: {} in {} {blocks}, computed on {}, {moved}, layout {}",
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
/// of them runs.
pub fn totals(plans: &[Plan], topology: &Topology) -> String {
    let mut held: BTreeMap<DeviceId, (usize, u64)> = BTreeMap::new();
    for share in plans.iter().flat_map(|plan| &plan.devices) {
        let DeviceShare { device, blocks, bytes, .. } = share;
        let entry = held.entry(*device).or_default();
        entry.0 += blocks;
        entry.1 = entry.1.saturating_add(*bytes);
    }
    let mut rows = table(&["device", "blocks", "bytes", "peak", "free", "total", "% of device"]);
    for info in topology.devices() {
        let (blocks, bytes) = held.get(&info.id).copied().unwrap_or_default();
        let running = plans.iter().filter(|plan| plan.compute_device == info.id);
        let transient = running.map(|plan| plan.peak_bytes.saturating_sub(plan.resident_bytes));
        let peak = bytes.saturating_add(transient.max().unwrap_or(0));
        rows.add_row([
            device_name(info.id, info.simulated),
            blocks.to_string(),
            ByteSize(bytes).to_string(),
            ByteSize(peak).to_string(),
            ByteSize(info.free).to_string(),
            ByteSize(info.total).to_string(),
            format!("{:.1}", percent(bytes, info.total)),
        ]);
    }
    format!("{rows}\n")
}

/// A device's name for people, simulated ones marked.
pub fn device_name(device: DeviceId, simulated: bool) -> String {
    if simulated { format!("{device} (simulated)") } else { device.to_string() }
}

/// An empty table whose columns are right-aligned after the first.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
