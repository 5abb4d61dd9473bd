//! Memory that accelerators did not have.
//!
//! CubeCL 0.10 answers a request for memory that is not there by a panic on the device's own thread, which goes on with
//! what it is told next; whoever asked learns nothing, and panics when it reads what was never computed. What that
//! panic says is kept here until whoever computes asks.

use std::panic;
use std::sync::{Mutex, Once, PoisonError};

use super::Device;

/// Bytes that could not be had, by the name of the device's thread.
static REFUSED: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());

/// Hears of what devices refuse from now on.
pub(super) fn listen() {
    static ONCE: Once = Once::new();

    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            let message = info.payload_as_str().unwrap_or_default();
            if let Some(bytes) = refused_bytes(name, message) {
                let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
                refused.push((name.to_owned(), bytes));
            }
            before(info);
        }));
    });
}

/// Bytes that the device was first asked for and did not have since this was asked last, as far as it is with its work: 0
/// where that is not told, `None` on the CPU.
pub fn take(device: &Device) -> Option<u64> {
    let ours = thread_ending(device)?;
    let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    let first = refused.iter().find(|(name, _)| name.ends_with(&ours)).map(|(_, bytes)| *bytes);
    refused.retain(|(name, _)| !name.ends_with(&ours));
    first
}

/// What the name of a device's thread ends with: CubeCL calls them `DSD-<backend>-<number>`.
fn thread_ending(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Some(ending(device)),
        #[cfg(feature = "rocm")]
        Device::Rocm(device) => Some(ending(device)),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => Some(ending(device)),
        #[cfg(feature = "metal")]
        Device::Metal(device) => Some(ending(device)),
        _ => None,
    }
}

#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn ending(device: &impl burn_cubecl::cubecl::device::Device) -> String {
    let id = device.to_id();
    format!("-{}-{}", id.type_id, id.index_id)
}

/// Of what a panic on a thread says: bytes that were asked for in vain; 0 where it does not say how many.
fn refused_bytes(thread: &str, message: &str) -> Option<u64> {
    if !thread.starts_with("DS") {
        return None;
    }
    if let Some((_, rest)) = message.split_once("can't allocate buffer of size: ") {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        return Some(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0));
    }
    let message = message.to_ascii_lowercase();
    (message.contains("out of memory") || message.contains("outofmemory")).then_some(0)
}

#[cfg(test)]
mod tests {
    use super::refused_bytes;

    #[test]
    fn a_refusal_is_told_from_other_panics() {
        let unwrapped = "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 536870912\n";
        assert_eq!(refused_bytes("DSD-0-1", unwrapped), Some(536_870_912));
        assert_eq!(refused_bytes("main", unwrapped), None);
        assert_eq!(refused_bytes("DSD-1-0", "wgpu error: Out of Memory"), Some(0));
        assert_eq!(refused_bytes("DSD-1-0", "Resource to exist"), None);
    }
}
