//! Prompts that run: what claims them from the queue, who is told, and what is kept of them.

mod memory;
mod model_files;
mod observer;
mod outcome;
mod requirements;
mod running;
mod worker;

pub use memory::{MemoryRequest, MemoryRequests};
pub(crate) use observer::milliseconds;
pub use requirements::requirements;
pub use running::{Running, RunningPrompt};
pub use worker::{follow, work};
