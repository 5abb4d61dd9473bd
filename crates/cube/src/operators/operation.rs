//! An operation of ours beside Burn's.

use burn::tensor::TensorPrimitive;
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::{Dispatch, DispatchDevice as Device};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use burn_dispatch::{BackendTensor, DispatchTensorKind};

use crate::kind::{from_kind, into_kind};

/// A tensor on any device.
type Primitive = FloatTensor<Dispatch>;

/// What is computed, on any runtime of CubeCL.
pub(super) trait Operation {
    /// Computes it from tensors in whatever order of memory.
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R>;
}

/// Has the accelerator of the inputs do this; or gives them back, where they are on none, or on several.
pub(super) fn apply<const D: usize, const N: usize>(
    operation: impl Operation,
    inputs: [crate::Tensor<D>; N],
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; N]> {
    let tensor = |primitive| crate::Tensor::from_primitive(TensorPrimitive::Float(primitive));
    let inputs = inputs.map(|input| input.into_primitive().tensor());
    match dispatch(&operation, inputs) {
        Ok(result) => Ok(tensor(result)),
        Err(inputs) => Err(inputs.map(tensor)),
    }
}

fn dispatch<const N: usize>(
    operation: &impl Operation,
    inputs: [Primitive; N],
) -> Result<Primitive, [Primitive; N]> {
    /// How tensors of one backend are told from others, and made.
    macro_rules! on {
        ($runtime:ty, $kind:ident) => {
            run::<$runtime, N>(
                operation,
                inputs,
                |kind| match kind {
                    DispatchTensorKind::$kind(BackendTensor::Float(tensor)) => Ok(tensor),
                    other => Err(other),
                },
                |tensor| DispatchTensorKind::$kind(BackendTensor::Float(tensor)),
            )
        };
    }

    let mut devices = inputs.iter().map(Dispatch::float_device);
    let Some(device) = devices.next() else { return Err(inputs) };
    if devices.any(|other| other != device) {
        return Err(inputs);
    }
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => on!(burn_cubecl::cubecl::cuda::CudaRuntime, Cuda),
        #[cfg(feature = "rocm")]
        Device::Rocm(_) => on!(burn_cubecl::cubecl::hip::HipRuntime, Rocm),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(_) => on!(burn_cubecl::cubecl::wgpu::WgpuRuntime, Vulkan),
        #[cfg(feature = "metal")]
        Device::Metal(_) => on!(burn_cubecl::cubecl::wgpu::WgpuRuntime, Metal),
        _ => Err(inputs),
    }
}

fn run<R: CubeRuntime, const N: usize>(
    operation: &impl Operation,
    inputs: [Primitive; N],
    take: fn(DispatchTensorKind) -> Result<CubeTensor<R>, DispatchTensorKind>,
    give: fn(CubeTensor<R>) -> DispatchTensorKind,
) -> Result<Primitive, [Primitive; N]> {
    // Moved, not cloned: whose last reference an operation has is its own, to write over.
    let taken = inputs.map(|input| take(into_kind(input)));
    if taken.iter().any(Result::is_err) {
        return Err(taken.map(|input| from_kind(input.map_or_else(|kind| kind, give))));
    }
    let tensors = taken.into_iter().filter_map(Result::ok).collect();
    Ok(from_kind(give(operation.run(tensors))))
}
