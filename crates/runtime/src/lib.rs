//! Weights on Burn devices.
//!
//! [`devices`] tells what the machine has.
//! [`tensor`] is the one folder that knows which Burn this is: everything above uses its aliases.
//! [`weights`] hands a layer its parameters, wherever they live: all on the compute device
//! ([`resident`]), or each at the home that a plan gives it ([`offload`]); [`shared_pass`] brings them
//! once for several runs.
//! [`copies`] tells how they go from one accelerator to another, [`pinned`] keeps them where one fetches them by
//! itself, [`caches`] what its kernels learned.
//! [`patch`] changes them on the way; [`lora`] is such a change.
//! [`usage`] tells what this process has used so far, [`heap`] what of its memory it holds now.

pub mod caches;
pub mod copies;
pub mod devices;
pub mod heap;
pub mod kernels;
pub mod lora;
pub mod machine;
pub mod offload;
pub mod patch;
pub mod pinned;
pub mod placement;
pub mod read;
pub mod resident;
mod rounding;
pub mod shared_pass;
pub mod stored;
pub mod tensor;
pub mod usage;
pub mod weights;

pub use machine::Machine;
pub use offload::OffloadedWeights;
pub use patch::Patch;
pub use resident::Resident;
pub use tensor::{BoolTensor, DType, Device, IntTensor, Tensor};
pub use weights::{LayerHandle, LayerParams, LayerSource, Scope, WeightError};

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
