//! Where every layer of a model lives: device names, the allocation language, and the planner.
//!
//! Values go in and a value comes out; nothing here opens a file, touches a device or knows what
//! a tensor is. The way through the crate:
//!
//! 1. [`Topology`] says which devices there are (real or simulated) and how much they hold.
//! 2. [`ComponentBlocks`] lists the layers of one component with their sizes.
//! 3. [`ComponentSettings`] says what the user wants: a compute device and either
//!    [`VirtualVram`] with [`Donors`] or an expert [`Allocation`].
//! 4. [`plan`] (or [`plan_model`] for all components of a model) gives every block a home and
//!    says what the compute device needs at its peak. The [`Ledger`] keeps what is promised to
//!    one model from being promised to another.
//! 5. [`report`] prints [`Plan`]s as tables.
//!
//! ```
//! use distorch_allocation::{
//!     Allocation, Block, ComponentBlocks, ComponentSettings, DeviceInfo, Ledger, Topology, plan,
//! };
//!
//! let machine = Topology::new(vec![DeviceInfo::new("cpu".parse()?, "host", 64 << 30)])?
//!     .simulate("cuda:0=8GiB,cuda:1=6GiB@12GB/s")?;
//! let blocks = (0..10).map(|i| Block::new(format!("layer{i}"), "linear", 1 << 30)).collect();
//! let unet = ComponentBlocks::new("unet", blocks, 0)?;
//! let mut settings = ComponentSettings::new("cuda:0".parse()?);
//! settings.expert = Allocation::parse("cuda:0,70%;cuda:1,30%")?;
//! let plan = plan(&unet, &settings, &Ledger::new(machine))?;
//! assert_eq!(plan.bytes_on("cuda:1".parse()?), 3 << 30);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod assembly;
mod block;
mod device;
mod fit;
mod language;
mod layout;
mod layout_choice;
mod ledger;
mod loader;
mod number;
mod pins;
mod placing;
mod plan;
mod planner;
mod reason;
pub mod report;
mod settings;
mod shares;
mod size;
mod span;
mod streaming;
mod table;
mod topology;
mod virtual_vram;
mod warning;

pub use block::{Block, BlockError, BlockFile, ComponentBlocks};
pub use device::{DeviceId, DeviceIdError, DeviceKind};
pub use language::{Allocation, AllocationError, AllocationProblem, Amount, Entry, Mode};
pub use layout::{Layout, LayoutReason, LayoutRule, UnknownLayout, Waits};
pub use layout_choice::LayoutChoice;
pub use ledger::{Ledger, Promise};
pub use loader::{ComponentInputs, InputError, LoaderInputs, LoaderSettings, Setting};
pub use number::{Number, NumberError};
pub use plan::{DeviceShare, PlacedBlock, Plan};
pub use planner::{PlanError, plan, plan_model};
pub use reason::Reason;
pub use settings::ComponentSettings;
pub use size::ByteSize;
pub use topology::{
    DeviceInfo, SimulationError, SimulationProblem, Topology, TopologyError, UnknownDevice,
};
pub use virtual_vram::{DonorOrder, Donors, VirtualVram, VirtualVramError, VirtualVramText};
pub use warning::PlanWarning;

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
