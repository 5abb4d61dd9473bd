//! Copies to a device beside its kernels: in a stream of their own, ordered by events.
//!
//! Every device that has such a stream has one, for all models. Three things are kept there that CubeCL 0.10 leaves
//! open when one stream brings what another computes with:
//!
//! - **Kernels wait for the copy** that brings their weights. CubeCL does that, with an event, when a kernel first meets
//!   memory of another stream.
//! - **Copies wait for the kernels** that still read the memory that is written to. CubeCL gives memory that nobody
//!   refers to any more to its stream's next allocation, though the kernels that were told to read it may not have
//!   run. So the copy stream waits, with an event, for all that the computing streams were told until its memory was
//!   reserved; nothing else is told the device between the event and the reservation (`device`).
//! - **Sources live as long as their copy.** CubeCL holds what it copies from until later copies or kernels of the
//!   same stream make it look; here whoever brings layers has it look once copies are done.
//!
//! The host waits for nothing but its own copies: whoever brings layers has a few of them under way (`flights`), so
//! that the link is busy, and kernels that wait for the last copy wait for no more than that.

#[cfg(any(feature = "cuda", all(test, feature = "vulkan")))]
mod device;
#[cfg(any(feature = "cuda", test))]
mod flights;

#[cfg(feature = "cuda")]
use super::Stream;
use super::{Device, Piece, Primitive, is_host};

/// Whether copies to the device go in a stream of their own.
pub(crate) fn has_stream(device: &Device) -> bool {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => true,
        _ => false,
    }
}

/// Whether what is copied to the device goes in the order of what the computing thread has it do. CubeCL 0.10 gives
/// memory that is free in one stream's eyes to that stream's next copy, and does not wait for other streams that have
/// yet to read it: so where the loader of uploads does not see to that, there is one order for all.
pub(crate) fn has_one_queue(device: &Device) -> bool {
    !is_host(device) && !has_stream(device)
}

/// This thread computes with layers of the device now: what it has the device do is waited for before memory that it
/// may read is written to.
#[allow(unused_variables)] // without CUDA
pub(crate) fn used_here(device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => device::cuda(device).used_by(Stream::current()),
        _ => {}
    }
}

/// Has the device bring these beside what it computes, to be used by the thread that was [noted](used_here) last;
/// `None` where it has no stream for that.
///
/// # Errors
/// When it has no memory left, or an earlier copy failed.
#[allow(unused_variables)] // without CUDA
pub(crate) fn bring(device: &Device, pieces: Vec<Piece>) -> Result<Option<Vec<Primitive>>, String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => device::cuda(device).bring(pieces).map(Some),
        _ => Ok(None),
    }
}

/// Waits for all copies to the device, and lets go of what they were made from.
///
/// What went wrong is met again by whoever reads results.
#[allow(unused_variables)] // without CUDA
pub(crate) fn finish(device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => device::cuda(device).finish(),
        _ => {}
    }
}
