//! Burn behind aliases, so that a later Burn is a change in this folder.
//!
//! [`device`] has what devices do beside operators, `fp8` what holds 8-bit floats, `piece` bytes of the host on
//! their way, `uploads` copies beside kernels, `host` tensors in this process's memory.

// Named for its features: Burn's own `flex` feature leaves the CPU backend on one thread.
use burn_flex as _;

#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
pub(crate) mod configuration;
pub mod device;
mod fp8;
pub(crate) mod host;
mod piece;
#[cfg_attr(
    not(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal")),
    allow(dead_code)
)]
pub(crate) mod refusals;
pub(crate) mod uploads;

use burn::tensor::TensorMetadata;
pub use burn::tensor::ops::{FloatTensorOps, IntTensorOps, ModuleOps};
pub use burn::tensor::{DType, Distribution, Shape, TensorData, TensorPrimitive};

use cubecl_common::bytes::{AllocationProperty, Bytes};

pub(crate) use device::let_go;
pub use device::{Stream, is_host, supports, wait};
pub use distorch_cube::bytes_in_use;
pub use fp8::Fp8Tensor;
pub use piece::Piece;
use piece::stage;
pub use refusals::take as refused;

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
        let data = match (data.dtype, dtype, data.as_slice::<f32>()) {
            (DType::F32, DType::F16 | DType::BF16, Ok(values)) => {
                host::in_16_bits(values, shape.clone(), dtype)
            }
            (given, dtype, _) if given == dtype => data,
            _ => data.convert_dtype(dtype),
        };
        Self { primitive: placed(data, device), shape }
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

    /// The dtype.
    pub fn dtype(&self) -> DType {
        self.primitive.dtype()
    }

    /// The values, on the host; copied only where the tensor is shared or elsewhere.
    ///
    /// # Errors
    /// When the device fails to hand them over.
    pub fn into_data(self) -> Result<TensorData, String> {
        burn::tensor::read_sync(Backend::float_into_data(self.primitive))
            .map_err(|error| format!("{error:?}"))
    }

    /// The tensor in another float dtype.
    pub fn cast(self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self;
        }
        let primitive = match host::rounded(self.primitive, dtype) {
            Ok(rounded) => rounded,
            Err(primitive) if is_host(&Backend::float_device(&primitive)) => {
                Backend::float_cast(primitive, dtype.into())
            }
            // As `placed` has them.
            Err(primitive) => {
                let values = [self.shape.iter().product::<usize>()].into();
                let cast =
                    Backend::float_cast(Backend::float_reshape(primitive, values), dtype.into());
                Backend::float_reshape(cast, Shape::from(self.shape.clone()))
            }
        };
        Self { primitive, shape: self.shape }
    }

    /// Puts the bytes on the device, in the order of what this thread has it do; through page-locked memory where
    /// `pin` asks for it and the device has that.
    pub fn from_piece(piece: Piece, device: &Device, pin: bool) -> Self {
        let (shape, data) = (piece.shape.clone(), piece.into_data(device, pin));
        Self { primitive: placed(data, device), shape }
    }

    /// As [`from_piece`](Self::from_piece), of bytes of a dtype of the device's own.
    pub fn from_bytes(
        bytes: Vec<u8>,
        shape: Vec<usize>,
        dtype: DType,
        device: &Device,
        pin: bool,
    ) -> Self {
        Self::from_piece(Piece::owned(bytes, shape, dtype), device, pin)
    }

    /// The tensor in the order of memory in which the kernels of its device read it: on accelerators filters have
    /// their channels last.
    pub(crate) fn arranged(self) -> Self {
        match self.rank::<4>() {
            Some(filters) if matches!(self.shape[2..], [rows, columns] if rows * columns > 1) => {
                // Nothing else holds it then.
                drop(self);
                let arranged = distorch_cube::channels_last(filters).unwrap_or_else(|same| same);
                Self::from_tensor(arranged)
            }
            _ => self,
        }
    }

    /// A tensor that is on its device.
    pub(crate) fn from_primitive(primitive: Primitive, shape: Vec<usize>) -> Self {
        Self { primitive, shape }
    }

    /// A tensor on the host of f32, f16 or bf16 whose values stay in these bytes: little-endian, where
    /// such values may lie; `None` where that is not so.
    pub fn sharing(bytes: bytes::Bytes, shape: Vec<usize>, dtype: DType) -> Option<Self> {
        let fits = match dtype {
            DType::F32 => bytemuck::try_cast_slice::<u8, f32>(&bytes).is_ok(),
            DType::F16 | DType::BF16 => bytemuck::try_cast_slice::<u8, u16>(&bytes).is_ok(),
            _ => false,
        };
        let elements = shape.iter().try_fold(dtype.size(), |all, side| all.checked_mul(*side));
        if !fits || elements != Some(bytes.len()) || cfg!(target_endian = "big") {
            return None;
        }
        let bytes = Bytes::from_shared(bytes, AllocationProperty::File);
        let data = TensorData::from_bytes(bytes, shape.clone(), dtype);
        Some(Self { primitive: Backend::float_from_data(data, &cpu()), shape })
    }

    /// The tensor with as many equal parts as there are `scales`, each times its scale.
    ///
    /// The number of scales divides that of the values.
    pub fn scale_parts(self, scales: &[f32], device: &Device) -> Self {
        let parts = scales.len();
        let values: usize = self.shape.iter().product();
        let dtype = self.dtype();
        let scales = TensorData::new(scales.to_vec(), [parts, 1]);
        let scales = Backend::float_from_data(scales.convert_dtype(dtype), device);
        let rows = [parts, values / parts.max(1)].into();
        let product = Backend::float_mul(Backend::float_reshape(self.primitive, rows), scales);
        let primitive = Backend::float_reshape(product, Shape::from(self.shape.clone()));
        Self { primitive, shape: self.shape }
    }

    /// The tensor at rank `D`, or `None` where it has another rank.
    pub fn rank<const D: usize>(&self) -> Option<Tensor<D>> {
        (self.shape.len() == D)
            .then(|| Tensor::from_primitive(TensorPrimitive::Float(self.primitive.clone())))
    }
}

/// A tensor of the backends, of floats or of integers.
pub(crate) type Primitive = burn::tensor::ops::FloatTensor<Backend>;

/// What can be on any device, and goes from one to another: [`copies`](crate::copies) knows which way.
pub trait Movable: Sized {
    /// Where it is.
    fn device(&self) -> Device;

    /// The same on another device, as Burn copies it.
    fn directly(self, device: &Device) -> Self;

    /// The same on another device, read by the host first.
    ///
    /// # Errors
    /// When the device that it is on fails to hand it over.
    fn through_host(self, device: &Device) -> Result<Self, String>;
}

impl Movable for AnyTensor {
    fn device(&self) -> Device {
        Backend::float_device(&self.primitive)
    }

    fn directly(self, device: &Device) -> Self {
        Self { primitive: Backend::float_to_device(self.primitive, device), shape: self.shape }
    }

    fn through_host(self, device: &Device) -> Result<Self, String> {
        let (shape, mut data) = (self.shape.clone(), self.into_data()?);
        stage(&mut data, device);
        Ok(Self { primitive: placed(data, device), shape })
    }
}

/// A tensor of the data on the device, one value after the other. CubeCL would have rows begin at multiples of 16 to 512
/// bytes on CUDA, so that a filter of 3×3 in f16 would take 2.7 times its bytes, and a matrix of 320 columns 1.6 times.
fn placed(data: TensorData, device: &Device) -> Primitive {
    if is_host(device) || data.shape.len() < 2 {
        return Backend::float_from_data(data, device);
    }
    let shape = data.shape.to_vec();
    let values = vec![shape.iter().product::<usize>()];
    let flat = TensorData::from_bytes(data.bytes, values, data.dtype);
    Backend::float_reshape(Backend::float_from_data(flat, device), Shape::from(shape))
}
