//! Why a component could not be loaded.

use distorch_allocation::{DeviceId, UnknownDevice};

use crate::devices::OpenDeviceError;
use crate::machine::Shortage;
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
