//! The devices that this build can reach, with what the machine says of them.
//!
//! A probe that fails is a note, never an error: a machine without a driver has one device less.

mod control_group;
mod host;
mod limits;
mod memory;

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_memory;
#[cfg(any(feature = "rocm", test))]
mod rocm;
#[cfg(any(feature = "vulkan", all(feature = "metal", target_os = "macos")))]
mod wgpu;

use std::sync::Arc;

use distorch_allocation::{DeviceId, DeviceInfo, DeviceKind, UnknownDevice};
use serde::Serialize;

use crate::pinned::Driver;
use crate::tensor::{self, Device};

pub use host::memory as host_memory;
pub use limits::{HostLimit, HostNeed, HostShortage, LimitKind, host_limits, host_room};
pub use memory::Memory;

/// A device with what the machine says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hardware {
    /// Name, memory, and whether it is simulated.
    #[serde(flatten)]
    pub info: DeviceInfo,
    /// The programming interface and its version or capability: `CUDA, compute capability 8.9`.
    pub api: String,
    /// The dtypes that the device computes in.
    pub dtypes: Vec<&'static str>,
}

/// What a look at the machine found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// The devices: accelerators by kind and number, `cpu` last.
    pub devices: Vec<Hardware>,
    /// What kept a backend of this build from showing devices.
    pub notes: Vec<String>,
    /// What keeps devices that are there from computing, or from computing as they could.
    pub warnings: Vec<String>,
}

/// What a backend's probe found, or why it found nothing.
type Probe = Result<Vec<Hardware>, String>;

/// Asks every backend of this build for its devices.
pub fn survey() -> Survey {
    let mut survey = Survey::default();
    for (kind, probe) in probes() {
        match probe() {
            Ok(found) => survey.devices.extend(found),
            Err(reason) => survey.notes.push(format!("{kind}: {reason}")),
        }
    }
    #[cfg(feature = "cuda")]
    if survey.devices.iter().any(is_cuda) {
        let warnings = match cuda::can_compile() {
            Ok(()) => cuda::remarks(),
            Err(reason) => {
                survey.devices.retain(|device| !is_cuda(device));
                vec![reason]
            }
        };
        survey.warnings.extend(warnings.iter().map(|warning| format!("cuda: {warning}")));
    }
    survey.devices.push(cpu());
    survey.devices.sort_by_key(|device| device.info.id);
    survey
}

#[cfg(feature = "cuda")]
fn is_cuda(device: &Hardware) -> bool {
    device.info.id.kind() == DeviceKind::Cuda
}

/// Why a device cannot be computed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenDeviceError {
    /// The machine does not have it.
    #[error(transparent)]
    Unknown(#[from] UnknownDevice),
    /// This build cannot reach it.
    #[error("{device} is there, but this build has no {} backend for it: build it with `--features {}`, or compute on cpu", device.kind(), device.kind())]
    NotBuilt {
        /// The device.
        device: DeviceId,
    },
}

/// The device to compute on. A simulated device computes on the host, whatever it is called.
///
/// # Errors
/// When this build has no backend for it.
pub fn open(info: &DeviceInfo) -> Result<Device, OpenDeviceError> {
    if info.simulated {
        return Ok(tensor::cpu());
    }
    let not_built = OpenDeviceError::NotBuilt { device: info.id };
    match info.id.kind() {
        DeviceKind::Cpu => Ok(tensor::cpu()),
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => Ok(tensor::device::cuda(info.id.index())),
        #[cfg(feature = "rocm")]
        DeviceKind::Rocm => Ok(tensor::device::rocm(info.id.index())),
        #[cfg(feature = "vulkan")]
        DeviceKind::Vulkan => {
            wgpu::vulkan_device(info.id.index()).map(tensor::device::vulkan).ok_or(not_built)
        }
        #[cfg(all(feature = "metal", target_os = "macos"))]
        DeviceKind::Metal => Ok(Device::Metal(Default::default())),
        #[allow(unreachable_patterns)] // with every backend built
        _ => Err(not_built),
    }
}

/// The blocks of 256 threads that a CUDA device runs at once, where the driver tells: PyTorch's
/// random numbers on that device depend on it.
pub fn thread_blocks(device: DeviceId) -> Option<u32> {
    match device.kind() {
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => cuda::thread_blocks(device.index()),
        _ => None,
    }
}

/// Whether tensors may go directly from one CUDA device to the other.
///
/// # Errors
/// Why they may not.
#[cfg(feature = "cuda")]
pub(crate) fn peers(from: usize, to: usize) -> Result<(), String> {
    cuda::peers(from, to)
}

/// Whether this build has a backend for devices of this kind.
pub fn is_built(kind: DeviceKind) -> bool {
    match kind {
        DeviceKind::Cpu => true,
        DeviceKind::Cuda => cfg!(feature = "cuda"),
        DeviceKind::Rocm => cfg!(feature = "rocm"),
        DeviceKind::Vulkan => cfg!(feature = "vulkan"),
        DeviceKind::Metal => cfg!(feature = "metal"),
    }
}

/// The driver of page-locked memory from which the device fetches by itself; `None` where bytes are kept as they are.
///
/// # Errors
/// When the driver is not ready.
#[allow(unused_variables)] // without CUDA
pub fn page_locked(device: &Device) -> Result<Option<Arc<dyn Driver>>, String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda_memory::driver(device.index).map(Some),
        _ => Ok(None),
    }
}

/// Whether this build keeps bytes in page-locked memory for devices of a kind.
pub fn has_page_locked(kind: DeviceKind) -> bool {
    cfg!(feature = "cuda") && kind == DeviceKind::Cuda
}

/// The versions of the drivers that compiled kernels depend on, as far as they are told.
pub(crate) fn driver_versions() -> String {
    #[cfg(feature = "cuda")]
    return cuda::driver_version();
    #[cfg(not(feature = "cuda"))]
    String::new()
}

#[allow(clippy::vec_init_then_push)] // each line stands under its own feature
fn probes() -> Vec<(DeviceKind, fn() -> Probe)> {
    #[allow(unused_mut)]
    let mut probes: Vec<(DeviceKind, fn() -> Probe)> = Vec::new();
    #[cfg(feature = "cuda")]
    probes.push((DeviceKind::Cuda, cuda::probe));
    #[cfg(feature = "rocm")]
    probes.push((DeviceKind::Rocm, rocm::probe));
    #[cfg(feature = "vulkan")]
    probes.push((DeviceKind::Vulkan, wgpu::probe_vulkan));
    #[cfg(all(feature = "metal", target_os = "macos"))]
    probes.push((DeviceKind::Metal, wgpu::probe_metal));
    probes
}

/// The host as a compute device: Burn's `flex`, with the memory that this process may use.
fn cpu() -> Hardware {
    let memory = host::memory();
    Hardware {
        info: DeviceInfo {
            id: DeviceId::CPU,
            name: host::processor(),
            total: memory.total,
            free: memory.free,
            simulated: false,
            bandwidth: None,
            bf16: true,
        },
        api: format!("flex, {}", host::vector_instructions()),
        dtypes: vec!["f64", "f32", "f16", "bf16"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_comes_last_and_numbers_are_unique() {
        let survey = survey();
        let ids: Vec<_> = survey.devices.iter().map(|device| device.info.id).collect();
        assert_eq!(ids.last(), Some(&DeviceId::CPU));
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
        assert!(survey.devices.iter().all(|device| device.info.free <= device.info.total));
    }
}
