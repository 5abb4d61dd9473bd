//! A device that is out of memory, and what would help.

use std::fmt;

use distorch_allocation::{Allocation, DeviceId, Number, Plan, PlanWarning, Reason};
use serde::Serialize;

use super::OutOfMemory;

/// A device that is out of memory, and what would help. Prints without the remedy, which whoever
/// knows what its user calls things words.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{error}")]
pub struct Shortage {
    /// Which device, what it needs and what it has.
    pub error: OutOfMemory,
    /// What to do.
    pub remedy: Remedy,
}

/// What makes work fit that a device has too little memory for. Prints in no user interface's words.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "remedy", rename_all = "snake_case")]
pub enum Remedy {
    /// More virtual VRAM for a component.
    VirtualVram {
        /// The component.
        component: String,
        /// The least that fits.
        gigabytes: Number,
        /// Whether an allocation has to go, which would stand in its place.
        replaces_allocation: bool,
    },
    /// Less for the compute device in a component's allocation.
    Allocation {
        /// The component.
        component: String,
        /// An allocation that fits.
        allocation: Allocation,
    },
    /// A device that holds weights for another has to hold less.
    Donor {
        /// The device.
        device: DeviceId,
    },
    /// Less work at once: no allocation helps.
    LessWork,
    /// Fewer pictures at once, smaller ones, or a device with more memory.
    FewerPictures,
    /// A smaller picture, or a device with more memory.
    SmallerPicture,
    /// Work in tiles, on a smaller picture or on another device.
    Tiles,
    /// Another device to compute on.
    OtherDevice {
        /// What is to compute there.
        component: String,
    },
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::VirtualVram { component, gigabytes, replaces_allocation } => {
                let gigabytes = gigabytes.to_f64();
                write!(f, "{gigabytes:.1} GB of virtual VRAM for `{component}` would fit")?;
                f.write_str(if *replaces_allocation { " without its allocation" } else { "" })
            }
            Remedy::Allocation { component, allocation } => {
                write!(f, "the allocation \"{allocation}\" for `{component}` would fit")
            }
            Remedy::Donor { device } => {
                write!(f, "give {device} less, name another donor, or unload other models")
            }
            Remedy::LessWork => {
                f.write_str("no allocation helps: make a smaller picture, or unload other models")
            }
            Remedy::FewerPictures => f.write_str(
                "make fewer pictures at once or smaller ones, or take a device with more memory",
            ),
            Remedy::SmallerPicture => {
                f.write_str("make a smaller picture, or take a device with more memory")
            }
            Remedy::Tiles => f.write_str(
                "convert it in tiles, make a smaller picture, or compute on another device",
            ),
            Remedy::OtherDevice { component } => {
                write!(f, "compute `{component}` on another device, or take a smaller one")
            }
        }
    }
}

impl Shortage {
    /// What would help a component that follows this plan.
    pub(crate) fn under(error: OutOfMemory, plan: &Plan) -> Box<Self> {
        let remedy = remedy(&error, plan);
        Box::new(Self { error, remedy })
    }

    /// Without a plan to look at.
    pub(crate) fn of_donor(error: OutOfMemory) -> Box<Self> {
        let device = error.device;
        Box::new(Self { error, remedy: Remedy::Donor { device } })
    }
}

fn remedy(error: &OutOfMemory, plan: &Plan) -> Remedy {
    if error.device != plan.compute_device {
        return Remedy::Donor { device: error.device };
    }
    let component = plan.component.clone();
    let virtual_vram = |gigabytes| Remedy::VirtualVram {
        component: plan.component.clone(),
        gigabytes,
        replaces_allocation: false,
    };
    let planned = plan.warnings.iter().find_map(|warning| match warning {
        PlanWarning::DoesNotFit { least_virtual_vram_gb, .. } => *least_virtual_vram_gb,
        _ => None,
    });
    if let (Some(least), Some(_)) = (planned, plan.virtual_vram_gb) {
        return virtual_vram(least);
    }
    let mut sizes: Vec<u64> = plan.blocks.iter().map(|block| block.bytes).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    // A share is filled to within one block, and what leaves needs a window.
    let (largest, two) = (sizes.first().copied().unwrap_or(0), sizes.iter().take(2).sum::<u64>());
    let window = two.saturating_sub(plan.least_window_bytes);
    let short = error.need.saturating_sub(error.free);
    let short = short.saturating_add(largest).saturating_add(window);
    let compute = plan.compute_device;
    let stays = plan.blocks.iter().filter(|block| block.device == compute);
    let stays = stays.filter(|block| !matches!(block.reason, Reason::Share));
    let stays: u64 = stays.map(|block| block.bytes).sum();
    let stored = plan.bytes_on(plan.compute_device);
    let Some(resident) = stored.checked_sub(short).filter(|left| *left >= stays) else {
        return Remedy::LessWork;
    };
    match plan.virtual_vram_gb {
        Some(_) => virtual_vram(Number::tenths_of(plan.bytes.saturating_sub(resident), 1 << 30)),
        // Whole MiB read better.
        None => match Allocation::ceiling_beside_cpu(compute, resident >> 20 << 20) {
            Some(allocation) => Remedy::Allocation { component, allocation },
            None => Remedy::LessWork,
        },
    }
}
