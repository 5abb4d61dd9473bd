//! The plan: a value that says where every block of a component lives and what that costs.

use serde::Serialize;

use crate::device::DeviceId;
use crate::layout::{Layout, LayoutReason};
use crate::number::Number;
use crate::reason::Reason;
use crate::warning::PlanWarning;

/// A block and its home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacedBlock {
    /// The block's name.
    pub name: String,
    /// Its kind of layer.
    pub kind: String,
    /// Its size.
    pub bytes: u64,
    /// Its home.
    pub device: DeviceId,
    /// Why there.
    pub reason: Reason,
}

/// What one device holds of a component.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceShare {
    /// The device.
    pub device: DeviceId,
    /// Whether it is a simulated one.
    pub simulated: bool,
    /// The bytes that it was to hold. Over all devices these sum to the component.
    pub share_bytes: u64,
    /// The number of blocks that it holds.
    pub blocks: usize,
    /// Their bytes as stored.
    pub bytes: u64,
    /// The bytes that they take of the device's memory: more than stored on a host that keeps layers
    /// in the dtype that it computes in.
    pub memory_bytes: u64,
    /// Their part of the component, in per cent.
    pub percent_of_component: f64,
    /// Their part of the device's total memory, in per cent.
    pub percent_of_device: f64,
}

/// Where every block of a component lives, and what the compute device needs at its peak.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The component's name.
    pub component: String,
    /// Bytes of all its blocks.
    pub bytes: u64,
    /// The device that computes.
    pub compute_device: DeviceId,
    /// How blocks were chosen.
    pub layout: Layout,
    /// Why so.
    pub layout_reason: LayoutReason,
    /// The gigabytes that leave the compute device, or what `auto` came to; `None` with an expert
    /// allocation.
    pub virtual_vram_gb: Option<Number>,
    /// What each device holds, in device order.
    pub devices: Vec<DeviceShare>,
    /// Bytes that what is at home on the compute device takes of its memory.
    pub resident_bytes: u64,
    /// Bytes to stream through at a time: what is spare of the device's memory, but for half of it,
    /// and no more than a GiB; at least `least_window_bytes`.
    pub window_bytes: u64,
    /// The window without which it can't run: the two largest blocks that live elsewhere.
    pub least_window_bytes: u64,
    /// The estimate of what a forward pass needs besides weights.
    pub activation_bytes: u64,
    /// Residents, window and activations together.
    pub peak_bytes: u64,
    /// What the compute device has for this component.
    pub available_bytes: u64,
    /// Whether the peak is within that.
    pub fits: bool,
    /// What its user should know.
    pub warnings: Vec<PlanWarning>,
    /// Every block's home, in definition order.
    pub blocks: Vec<PlacedBlock>,
    /// What the window may have at most, if the settings say so.
    #[serde(skip)]
    pub(crate) most_window: Option<u64>,
}

/// The window's bytes beyond which there is little to gain.
const FULL_WINDOW: u64 = 1 << 30;

impl Plan {
    /// What the compute device needs at least, and only while the component runs, in bytes.
    pub fn transient_bytes(&self) -> u64 {
        self.least_window_bytes.saturating_add(self.activation_bytes)
    }

    /// Bytes, as stored, of what is at home on other devices than the one that computes.
    pub fn bytes_elsewhere(&self) -> u64 {
        self.bytes.saturating_sub(self.bytes_on(self.compute_device))
    }

    /// What a ledger promises to it: each device that it uses, and bytes of its memory.
    pub fn promised(&self) -> impl Iterator<Item = (DeviceId, u64)> {
        let shares = self.devices.iter().filter(|share| share.bytes > 0);
        shares.map(|share| (share.device, share.memory_bytes))
    }

    /// Settles the window and what follows from it: with a larger one, blocks that take long to come
    /// can set off earlier. Half of what is spare is left for what the estimate doesn't see.
    pub(crate) fn settle(&mut self, available: u64) {
        let least = self.resident_bytes.saturating_add(self.transient_bytes());
        self.available_bytes = available;
        self.fits = least <= available;
        let spare = available.saturating_sub(least) / 2;
        let wanted = self
            .least_window_bytes
            .saturating_add(spare)
            .min(self.full_window())
            .min(self.most_window.unwrap_or(u64::MAX));
        self.window_bytes = wanted.max(self.least_window_bytes);
        let running = self.window_bytes.saturating_add(self.activation_bytes);
        self.peak_bytes = self.resident_bytes.saturating_add(running);
    }

    /// The bytes of the window where memory does not limit it.
    fn full_window(&self) -> u64 {
        FULL_WINDOW.min(self.bytes_elsewhere())
    }

    /// Whether the window is as large as one gets where there is room.
    pub(crate) fn window_is_full(&self) -> bool {
        self.window_bytes >= self.full_window()
    }

    /// The same homes for a run whose activations take so many bytes: the window and the peak
    /// follow, and whether it fits.
    #[must_use]
    pub fn with_activations(&self, bytes: u64) -> Plan {
        let mut plan = Plan { activation_bytes: bytes, ..self.clone() };
        plan.settle(plan.available_bytes);
        plan.warnings.retain(|warning| !matches!(warning, PlanWarning::DoesNotFit { .. }));
        plan
    }

    /// Bytes that `device` holds.
    pub fn bytes_on(&self, device: DeviceId) -> u64 {
        let share = self.devices.iter().find(|share| share.device == device);
        share.map_or(0, |share| share.bytes)
    }

    /// The home of the block with this name.
    pub fn home_of(&self, name: &str) -> Option<DeviceId> {
        self.blocks.iter().find(|block| block.name == name).map(|block| block.device)
    }
}
