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
#[allow(unused_variables)] // without accelerators
pub(crate) fn let_go(device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => flush::<burn_cubecl::cubecl::cuda::CudaRuntime>(device),
        #[cfg(feature = "rocm")]
        Device::Rocm(device) => flush::<burn_cubecl::cubecl::hip::HipRuntime>(device),
        _ => {}
    }
}

#[cfg(any(feature = "cuda", feature = "rocm"))]
fn flush<R: burn_cubecl::cubecl::Runtime>(device: &R::Device) {
    // What went wrong is met again by whoever reads results.
    let _ = R::client(device).flush();
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
            release(device);
        }
    }

    /// Whether it is time to.
    pub(crate) fn is_due(&self, layers: usize) -> bool {
        let each = (layers / TIMES).max(1);
        self.0.fetch_add(1, Ordering::Relaxed) % each == each - 1
    }
}

/// Has the device give back the memory that nothing of this thread's work is in.
#[allow(unused_variables)] // without accelerators
pub(crate) fn release(device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => clean::<burn_cubecl::cubecl::cuda::CudaRuntime>(device),
        #[cfg(feature = "rocm")]
        Device::Rocm(device) => clean::<burn_cubecl::cubecl::hip::HipRuntime>(device),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => clean::<burn_cubecl::cubecl::wgpu::WgpuRuntime>(device),
        #[cfg(feature = "metal")]
        Device::Metal(device) => clean::<burn_cubecl::cubecl::wgpu::WgpuRuntime>(device),
        _ => {}
    }
}

#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn clean<R: burn_cubecl::cubecl::Runtime>(device: &R::Device) {
    R::client(device).memory_cleanup();
}

/// Whether the device holds and computes with this dtype.
pub fn supports(device: &Device, dtype: DType) -> bool {
    Backend::supports_dtype(device, dtype)
}

/// Bytes that this thread's work holds on an accelerator; `None` where that is not told.
pub fn bytes_in_use(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => in_use::<burn_cubecl::cubecl::cuda::CudaRuntime>(device),
        #[cfg(feature = "rocm")]
        Device::Rocm(device) => in_use::<burn_cubecl::cubecl::hip::HipRuntime>(device),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => in_use::<burn_cubecl::cubecl::wgpu::WgpuRuntime>(device),
        #[cfg(feature = "metal")]
        Device::Metal(device) => in_use::<burn_cubecl::cubecl::wgpu::WgpuRuntime>(device),
        _ => None,
    }
}

#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn in_use<R: burn_cubecl::cubecl::Runtime>(device: &R::Device) -> Option<u64> {
    R::client(device).memory_usage().ok().map(|usage| usage.bytes_in_use)
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
