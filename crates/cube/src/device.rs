//! What accelerators do beside operators.

use burn::DispatchDevice as Device;
use burn_cubecl::cubecl::Runtime;
use burn_cubecl::cubecl::client::ComputeClient;

/// Bytes that this thread's work holds on an accelerator; `None` where that is not told.
pub fn bytes_in_use(device: &Device) -> Option<u64> {
    with_client(device, BytesInUse).flatten()
}

/// Has an accelerator give back the memory that nothing of this thread's work is in: CubeCL keeps it for the next tensor
/// of the same size.
pub fn clean_up(device: &Device) {
    with_client(device, CleanUp);
}

/// Has an accelerator begin what this thread has told it. What goes wrong is met again by whoever reads results.
pub fn flush(device: &Device) {
    with_client(device, Flush);
}

struct BytesInUse;

impl Task for BytesInUse {
    type Output = Option<u64>;

    fn run<R: Runtime>(self, client: ComputeClient<R>) -> Option<u64> {
        client.memory_usage().ok().map(|usage| usage.bytes_in_use)
    }
}

struct CleanUp;

impl Task for CleanUp {
    type Output = ();

    fn run<R: Runtime>(self, client: ComputeClient<R>) {
        client.memory_cleanup();
    }
}

struct Flush;

impl Task for Flush {
    type Output = ();

    fn run<R: Runtime>(self, client: ComputeClient<R>) {
        let _ = client.flush();
    }
}

/// What is asked of an accelerator, whichever runtime of CubeCL it belongs to.
pub(crate) trait Task {
    /// What that gives.
    type Output;

    /// Asks it.
    fn run<R: Runtime>(self, client: ComputeClient<R>) -> Self::Output;
}

/// Asks the accelerator; `None` where the device is none.
pub(crate) fn with_client<T: Task>(device: &Device, task: T) -> Option<T::Output> {
    use burn_cubecl::cubecl;

    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Some(task.run(cubecl::cuda::CudaRuntime::client(device))),
        #[cfg(feature = "rocm")]
        Device::Rocm(device) => Some(task.run(cubecl::hip::HipRuntime::client(device))),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => Some(task.run(cubecl::wgpu::WgpuRuntime::client(device))),
        #[cfg(feature = "metal")]
        Device::Metal(device) => Some(task.run(cubecl::wgpu::WgpuRuntime::client(device))),
        _ => None,
    }
}
