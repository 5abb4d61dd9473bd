//! Why a component could not be loaded, and what would fit.

use std::fmt;

use distorch_allocation::{DeviceId, Plan, PlanWarning, Reason, UnknownDevice};

use crate::devices::OpenDeviceError;
use crate::machine::OutOfMemory;
use crate::weights::WeightError;

/// Why a component could not be loaded, or changed once it was.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan names a device that the machine does not have.
    #[error("component `{component}`: {error}")]
    Device {
        /// The component.
        component: String,
        /// Which device.
        error: OpenDeviceError,
    },
    /// The plan is another component's, or another file's.
    #[error("the plan for `{component}` has no home for `{layer}`: plan this checkpoint anew")]
    NotPlanned {
        /// The component that the plan is for.
        component: String,
        /// The layer without a home.
        layer: String,
    },
    /// A new plan that computes elsewhere.
    #[error(
        "`{component}` is loaded to compute on {loaded}, and the new plan computes on {planned}: \
         load it anew"
    )]
    OtherComputeDevice {
        /// The component.
        component: String,
        /// Where it computes.
        loaded: DeviceId,
        /// Where it is to compute.
        planned: DeviceId,
    },
    /// A device cannot take what the plan gives it.
    #[error("component `{component}`: {shortage}")]
    Memory {
        /// The component.
        component: String,
        /// Which device, and what would fit.
        shortage: Box<Shortage>,
    },
    /// A layer could not be read, changed or moved.
    #[error("component `{component}`: {error}")]
    Weight {
        /// The component.
        component: String,
        /// Which layer, and why.
        #[source]
        error: WeightError,
    },
    /// The listener of progress said stop.
    #[error("loading `{component}` was stopped")]
    Stopped {
        /// The component.
        component: String,
    },
}

impl LoadError {
    pub(super) fn unknown(component: &str, error: UnknownDevice) -> Self {
        Self::Device { component: component.to_owned(), error: error.into() }
    }
}

/// A device that is out of memory, and the allocation that would fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    /// Which device, what it needs and what it has.
    pub error: OutOfMemory,
    /// What to do.
    pub remedy: Remedy,
}

/// An allocation that would fit.
#[derive(Clone, Debug, PartialEq)]
pub enum Remedy {
    /// More virtual VRAM for this component.
    Virtual {
        /// The component.
        component: String,
        /// The least that fits.
        gigabytes: f64,
    },
    /// Less for the compute device in the expert allocation.
    Expert {
        /// The component.
        component: String,
        /// An allocation that fits.
        allocation: String,
    },
    /// The donor has to hold less.
    Donor,
    /// Nothing that concerns the weights.
    Activations,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::Virtual { component, gigabytes } => {
                write!(f, "{component}_virtual_vram_gb {gigabytes:.1}")
            }
            Remedy::Expert { component, allocation } => {
                write!(f, "{component}_expert_mode_allocations \"{allocation}\"")
            }
            Remedy::Donor => write!(f, "another donor"),
            Remedy::Activations => write!(f, "a smaller picture"),
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, remedy } = self;
        write!(f, "{error}; ")?;
        match remedy {
            Remedy::Virtual { .. } | Remedy::Expert { .. } => write!(f, "{remedy} would fit"),
            Remedy::Donor => {
                write!(f, "give {} less, name another donor, or unload other models", error.device)
            }
            Remedy::Activations => {
                write!(f, "no allocation helps: make a smaller picture, or unload other models")
            }
        }
    }
}

impl Shortage {
    pub(super) fn new(error: OutOfMemory, plan: &Plan) -> Box<Self> {
        let remedy = remedy(&error, plan);
        Box::new(Self { error, remedy })
    }
}

/// Bytes in steps of a tenth of a gigabyte, upwards.
fn gigabytes(bytes: u64) -> f64 {
    (bytes as f64 / (1_u64 << 30) as f64 * 10.0).ceil() / 10.0
}

fn remedy(error: &OutOfMemory, plan: &Plan) -> Remedy {
    if error.device != plan.compute_device {
        return Remedy::Donor;
    }
    let component = plan.component.clone();
    let planned = plan.warnings.iter().find_map(|warning| match warning {
        PlanWarning::DoesNotFit { least_virtual_vram_gb, .. } => *least_virtual_vram_gb,
        _ => None,
    });
    if let (Some(least), Some(_)) = (planned, plan.virtual_vram_gb) {
        return Remedy::Virtual { component, gigabytes: least.to_f64() };
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
        return Remedy::Activations;
    };
    match plan.virtual_vram_gb {
        Some(_) => Remedy::Virtual { component, gigabytes: gigabytes(plan.bytes - resident) },
        None => Remedy::Expert {
            component,
            allocation: format!("{},{}mb;cpu,*", error.device, resident >> 20),
        },
    }
}
