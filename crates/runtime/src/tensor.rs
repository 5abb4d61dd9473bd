//! Burn behind aliases, so that a later Burn is a change in this file.

// Named for its features: Burn's own `flex` feature leaves the CPU backend on one thread.
use burn_flex as _;

pub use burn::tensor::ops::{FloatTensorOps, ModuleOps};
pub use burn::tensor::{DType, Distribution, Shape, TensorData, TensorPrimitive};

/// The backend that sends each operation to the device of its tensors.
pub type Backend = burn::Dispatch;

/// A device that the build can reach.
pub type Device = burn::DispatchDevice;

/// A floating-point tensor of rank `D` on any device.
pub type Tensor<const D: usize> = burn::tensor::Tensor<Backend, D>;

/// An integer tensor of rank `D` on any device.
pub type IntTensor<const D: usize> = burn::tensor::Tensor<Backend, D, burn::tensor::Int>;

/// A boolean tensor of rank `D` on any device.
pub type BoolTensor<const D: usize> = burn::tensor::Tensor<Backend, D, burn::tensor::Bool>;

/// Burn's own modules, for callers that need an operator (`tensor::module::conv2d`, activations).
pub mod ops {
    pub use burn::tensor::activation;
    pub use burn::tensor::module;
    pub use burn::tensor::ops::{
        AttentionModuleOptions, ConvOptions, InterpolateMode, InterpolateOptions,
    };
}

/// The CPU, through Burn's `flex`.
pub fn cpu() -> Device {
    Device::Flex(burn_flex::FlexDevice)
}

/// A float tensor of any rank: what a layer's parameters are kept as.
#[derive(Clone, Debug)]
pub struct AnyTensor {
    primitive: burn::tensor::ops::FloatTensor<Backend>,
    shape: Vec<usize>,
}

impl AnyTensor {
    /// Puts the values on the device in this float dtype.
    pub fn from_data(data: TensorData, device: &Device, dtype: DType) -> Self {
        let shape = data.shape.to_vec();
        let data = if data.dtype == dtype { data } else { data.convert_dtype(dtype) };
        Self { primitive: Backend::float_from_data(data, device), shape }
    }

    /// Forgets the rank.
    pub fn from_tensor<const D: usize>(tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        Self { primitive: tensor.into_primitive().tensor(), shape }
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensor at rank `D`, or `None` where it has another rank.
    pub fn rank<const D: usize>(&self) -> Option<Tensor<D>> {
        (self.shape.len() == D)
            .then(|| Tensor::from_primitive(TensorPrimitive::Float(self.primitive.clone())))
    }
}
