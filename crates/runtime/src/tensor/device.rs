//! What devices do beside operators: what they hold, what they are told and have done.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::backend::Backend as _;
use cubecl_common::stream_id::StreamId;

use super::{Backend, DType, Device};

/// The CUDA device of this number.
#[cfg(feature = "cuda")]
pub(crate) fn cuda(index: u32) -> Device {
    Device::Cuda(burn::backend::cuda::CudaDevice { index: index as usize })
}

/// The ROCm device of this number.
#[cfg(feature = "rocm")]
pub(crate) fn rocm(index: u32) -> Device {
    Device::Rocm(burn::backend::rocm::RocmDevice { index: index as usize })
}

/// How Burn counts Vulkan devices: by kind.
#[cfg(feature = "vulkan")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VulkanDevice {
    Discrete(usize),
    Integrated(usize),
    Virtual(usize),
    Cpu,
    Other,
}

/// A Vulkan device.
#[cfg(feature = "vulkan")]
pub(crate) fn vulkan(device: VulkanDevice) -> Device {
    use burn::backend::wgpu::WgpuDevice;
    Device::Vulkan(match device {
        VulkanDevice::Discrete(number) => WgpuDevice::DiscreteGpu(number),
        VulkanDevice::Integrated(number) => WgpuDevice::IntegratedGpu(number),
        VulkanDevice::Virtual(number) => WgpuDevice::VirtualGpu(number),
        VulkanDevice::Cpu => WgpuDevice::Cpu,
        VulkanDevice::Other => WgpuDevice::DefaultDevice,
    })
}

/// Has the device let go of what was copied to it from, once it is there: CubeCL 0.10 does so only when this thread
/// launches kernels, so a thread that only copies would hold all that it ever copied.
pub(crate) fn let_go(device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => distorch_cube::flush(device),
        #[cfg(feature = "rocm")]
        Device::Rocm(_) => distorch_cube::flush(device),
        _ => {}
    }
}

/// So often in a pass an accelerator gives its free memory back. More often, and the calls would take longer than the
/// kernels between them.
const TIMES: usize = 32;

/// When a device gives back what it keeps of memory for the next tensor of the same size. CubeCL keeps all of it, so that
/// what a run takes would be the sum over all sizes that it ever had.
#[derive(Debug, Default)]
pub(crate) struct Releases(AtomicUsize);

impl Releases {
    /// A layer of so many is asked for by the thread that computes.
    pub(crate) fn asked(&self, device: &Device, layers: usize) {
        if !is_host(device) && self.is_due(layers) {
            distorch_cube::clean_up(device);
        }
    }

    /// Whether it is time to.
    pub(crate) fn is_due(&self, layers: usize) -> bool {
        let each = (layers / TIMES).max(1);
        self.0.fetch_add(1, Ordering::Relaxed) % each == each - 1
    }
}

/// Whether the device holds and computes with this dtype.
pub fn supports(device: &Device, dtype: DType) -> bool {
    Backend::supports_dtype(device, dtype)
}

/// Waits until the device has done all that this thread gave it to do. The CPU does it at once.
///
/// What goes wrong there is met again by whoever reads the results.
pub fn wait(device: &Device) {
    if !is_host(device) {
        let _ = Backend::sync(device);
    }
}

/// The order in which a device does what it is told by a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(pub(crate) StreamId);

impl Stream {
    /// That of this thread.
    pub fn current() -> Self {
        Self(StreamId::current())
    }

    /// Does this work in the stream's order, on whatever thread.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        self.0.executes(work)
    }
}

/// Whether the device is this process's own memory.
pub fn is_host(device: &Device) -> bool {
    matches!(device, Device::Flex(_))
}
