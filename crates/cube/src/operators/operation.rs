//! An operation of ours among Burn's.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{DType, Shape, TensorPrimitive};
use burn::{Dispatch, DispatchDevice as Device};
use burn_cubecl::fusion::FusionCubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
use burn_dispatch::{BackendTensor, DispatchTensorKind};
use burn_fusion::stream::{Operation as Fused, OperationStreams};
use burn_fusion::{FusionRuntime, FusionTensor};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, OperationOutput, TensorIr};

use crate::kind::{from_kind, into_kind};

/// A tensor on any device.
type Primitive = FloatTensor<Dispatch>;
type Inner<R> = CubeBackend<R, f32, i32, u8>;
type Tensor<R> = FusionTensor<FusionCubeRuntime<R>>;

/// What is computed, on any runtime of CubeCL.
pub(super) trait Operation: Debug + Send + Sync + 'static {
    /// What Burn knows it by.
    const NAME: &'static str;

    /// Computes it from tensors in whatever order of memory.
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R>;
}

/// Has the accelerator of the inputs do this, whose result has this shape and dtype; or gives them back, where they are
/// on none, or on several.
pub(super) fn apply<const D: usize, const N: usize>(
    operation: impl Operation,
    inputs: [crate::Tensor<D>; N],
    shape: [usize; D],
    dtype: DType,
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; N]> {
    let tensor = |primitive| crate::Tensor::from_primitive(TensorPrimitive::Float(primitive));
    let inputs = inputs.map(|input| input.into_primitive().tensor());
    match dispatch(operation, inputs, &shape, dtype) {
        Ok(result) => Ok(tensor(result)),
        Err(inputs) => Err(inputs.map(tensor)),
    }
}

fn dispatch<const N: usize>(
    operation: impl Operation,
    inputs: [Primitive; N],
    shape: &[usize],
    dtype: DType,
) -> Result<Primitive, [Primitive; N]> {
    /// How tensors of one backend are told from others, and made.
    macro_rules! on {
        ($runtime:ty, $kind:ident) => {
            register::<$runtime, _, N>(
                operation,
                inputs,
                shape,
                dtype,
                |kind| match kind {
                    DispatchTensorKind::$kind(BackendTensor::Float(tensor)) => Some(tensor),
                    _ => None,
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

fn register<R: CubeRuntime, O: Operation, const N: usize>(
    operation: O,
    inputs: [Primitive; N],
    shape: &[usize],
    dtype: DType,
    take: fn(DispatchTensorKind) -> Option<Tensor<R>>,
    give: fn(Tensor<R>) -> DispatchTensorKind,
) -> Result<Primitive, [Primitive; N]> {
    let taken: Option<Vec<_>> =
        inputs.iter().cloned().map(|input| take(into_kind(input))).collect();
    let Some(tensors) = taken else { return Err(inputs) };
    // Whose last reference an operation has is its own, to write over.
    drop(inputs);
    let Some(client) = tensors.first().map(|tensor| tensor.client.clone()) else {
        unreachable!("there is one")
    };
    let streams = OperationStreams::with_inputs(&tensors);
    let inputs: Vec<_> = tensors.into_iter().map(FusionTensor::into_ir).collect();
    let output = TensorIr::uninit(client.create_empty_handle(), Shape::from(shape), dtype);
    let ir = CustomOpIr::new(O::NAME, &inputs, &[output]);
    let registered = Registered { operation, ir: ir.clone(), runtime: PhantomData };
    Ok(from_kind(give(client.register(streams, OperationIr::Custom(ir), registered).output())))
}

/// An operation that Burn has yet to do.
#[derive(Debug)]
struct Registered<R, O> {
    operation: O,
    ir: CustomOpIr,
    runtime: PhantomData<fn() -> R>,
}

impl<R: CubeRuntime, O: Operation> Fused<FusionCubeRuntime<R>> for Registered<R, O> {
    fn execute(
        &self,
        handles: &mut HandleContainer<<FusionCubeRuntime<R> as FusionRuntime>::FusionHandle>,
    ) {
        let take = |input| handles.get_float_tensor::<Inner<R>>(input);
        let result = self.operation.run(self.ir.inputs.iter().map(take).collect());
        if let Some(output) = self.ir.outputs.first() {
            handles.register_float_tensor::<Inner<R>>(&output.id, result);
        }
    }
}
