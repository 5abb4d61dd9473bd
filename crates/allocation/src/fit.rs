//! What the compute device needs at its peak, and the least virtual VRAM with which it has that.

use crate::block::ComponentBlocks;
use crate::device::DeviceId;
use crate::layout::Layout;
use crate::number::Number;
use crate::pins::Pins;
use crate::placing::{Home, Homeless};
use crate::shares::Request;
use crate::virtual_vram::{VirtualVram, gigabytes_in_bytes};

/// What the compute device holds while the component runs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// What the blocks at home there take.
    pub resident: u64,
    /// Blocks on their way through: the two largest of those that live elsewhere, one in use and
    /// one coming.
    pub window: u64,
    /// The estimate of everything else.
    pub activation: u64,
}

impl Need {
    pub fn of(component: &ComponentBlocks, homes: &[Home], compute: DeviceId) -> Need {
        let (mut resident, mut largest, mut second) = (0, 0, 0);
        for (block, home) in component.blocks().iter().zip(homes) {
            if home.device == compute {
                resident += block.at_home();
            } else if block.bytes > largest {
                (largest, second) = (block.bytes, largest);
            } else if block.bytes > second {
                second = block.bytes;
            }
        }
        let window = largest + second;
        Need { resident, window, activation: component.activation_bytes() }
    }

    /// What is there only while the component runs.
    pub fn transient(self) -> u64 {
        self.window.saturating_add(self.activation)
    }
}

/// A component that looks for the virtual VRAM that it needs.
pub(crate) struct Search<'a> {
    pub component: &'a ComponentBlocks,
    pub pins: Pins,
    pub layout: Layout,
    /// The donors in order, the compute device not among them.
    pub donors: Vec<DeviceId>,
    /// What other components need on the compute device while they run, besides their residents:
    /// this component's residents have to leave room for it.
    pub reserved_bytes: u64,
    pub request: Request<'a>,
}

impl Search<'_> {
    /// The homes that this much virtual VRAM gives.
    fn homes(&self, gigabytes: Number) -> Result<Vec<Home>, Homeless> {
        let shares = self.request.virtual_vram(gigabytes_in_bytes(gigabytes), &self.donors);
        self.layout.place(self.component, &self.pins, &shares, self.request.compute)
    }

    /// The least tenth of a GiB with which this component, and those beside it in their turn, need
    /// at most `available`, if there is one.
    ///
    /// Moving more doesn't always need less, for the window grows and blocks come in lumps: every
    /// step from the first that could fit is tried.
    pub fn least(&self, available: u64) -> Option<Number> {
        let running = self.component.activation_bytes().max(self.reserved_bytes);
        if self.pins.at_home.saturating_add(running) > available {
            return None;
        }
        let first = tenths_to_cover(self.excess(available.saturating_sub(running)));
        let last = self.most().min(VirtualVram::MAX_GIGABYTES * 10);
        (first..=last).map(Number::from_tenths).find(|&gigabytes| {
            let Ok(homes) = self.homes(gigabytes) else { return false };
            let need = Need::of(self.component, &homes, self.request.compute);
            need.resident.saturating_add(need.transient().max(self.reserved_bytes)) <= available
        })
    }

    /// Stored bytes that have to leave at least, so that what stays takes no more than `room`.
    fn excess(&self, room: u64) -> u64 {
        let (stored, held) = (self.request.total, self.component.at_home());
        let short = held.saturating_sub(room);
        match stored == held {
            true => short,
            // The layers that gain most by leaving are not looked for: this is a place to begin.
            false if short == 0 => 0,
            false => 1,
        }
    }

    /// The tenths of a GiB that move all that may move; more changes nothing.
    pub fn most(&self) -> u32 {
        tenths_to_cover(self.request.total).min(VirtualVram::MAX_GIGABYTES * 10)
    }
}

/// The least number of tenths of a GiB that are at least this many bytes.
fn tenths_to_cover(bytes: u64) -> u32 {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 30);
    u32::try_from(tenths).unwrap_or(u32::MAX)
}
