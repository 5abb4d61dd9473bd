//! Weights on Burn devices.
//!
//! [`devices`] tells what the machine has.
//! [`tensor`] is the one file that knows which Burn this is: everything above uses its aliases.
//! [`weights`] hands a layer its parameters, wherever they live.

pub mod devices;
pub mod kernels;
pub mod patch;
pub mod placement;
pub mod read;
pub mod resident;
mod rounding;
pub mod stored;
pub mod tensor;
pub mod weights;

pub use patch::Patch;
pub use resident::Resident;
pub use tensor::{BoolTensor, DType, Device, IntTensor, Tensor};
pub use weights::{LayerHandle, LayerParams, LayerSource, Scope, WeightError};
