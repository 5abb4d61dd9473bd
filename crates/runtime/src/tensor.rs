//! Burn behind aliases, so that a later Burn is a change in this file.

// Named for its features: Burn's own `flex` feature leaves the CPU backend on one thread.
use burn_flex as _;

use burn::tensor::TensorMetadata;
use burn::tensor::backend::Backend as _;
pub use burn::tensor::ops::{FloatTensorOps, IntTensorOps, ModuleOps};
pub use burn::tensor::{DType, Distribution, Shape, TensorData, TensorPrimitive};

use cubecl_common::bytes::{AllocationProperty, Bytes};
use cubecl_common::stream_id::StreamId;

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
        Self { primitive: Backend::float_cast(self.primitive, dtype.into()), shape: self.shape }
    }

    /// Puts the bytes on the device, in the order of what this thread has it do; through page-locked memory where
    /// `pin` asks for it and the device has that.
    pub fn from_piece(piece: Piece, device: &Device, pin: bool) -> Self {
        let (shape, data) = (piece.shape.clone(), piece.into_data(device, pin));
        Self { primitive: Backend::float_from_data(data, device), shape }
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

    /// A tensor that is on its device.
    pub(crate) fn from_primitive(primitive: Primitive, shape: Vec<usize>) -> Self {
        Self { primitive, shape }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        Backend::float_device(&self.primitive)
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

    /// The tensor on another device.
    ///
    /// # Errors
    /// When the device that it is on fails to hand it over.
    pub fn to_device(self, device: &Device) -> Result<Self, String> {
        let from = Backend::float_device(&self.primitive);
        if is_staged(&from, device) {
            let (shape, mut data) = (self.shape.clone(), self.into_data()?);
            stage(&mut data, device);
            return Ok(Self { primitive: Backend::float_from_data(data, device), shape });
        }
        Ok(Self { primitive: Backend::float_to_device(self.primitive, device), shape: self.shape })
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

/// Bytes of the host that a device is to hold as a tensor.
#[derive(Debug)]
pub struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) shape: Vec<usize>,
    /// A dtype of the device's own: a float, or `U8` for [`Fp8Tensor`].
    pub(crate) dtype: DType,
}

impl Piece {
    /// Bytes that lie in page-locked memory for as long as anyone refers to them. They are copied from there.
    pub fn pinned(bytes: bytes::Bytes, shape: Vec<usize>, dtype: DType) -> Self {
        Self { bytes: Bytes::from_shared(bytes, AllocationProperty::Pinned), shape, dtype }
    }

    /// Bytes of this process's own.
    pub fn owned(bytes: Vec<u8>, shape: Vec<usize>, dtype: DType) -> Self {
        Self { bytes: Bytes::from_bytes_vec(bytes), shape, dtype }
    }

    /// Bytes that lie anywhere.
    pub fn shared(bytes: bytes::Bytes, shape: Vec<usize>, dtype: DType) -> Self {
        Self { bytes: Bytes::from_shared(bytes, AllocationProperty::Other), shape, dtype }
    }

    /// These values.
    pub fn from_data(data: TensorData) -> Self {
        Self { shape: data.shape.to_vec(), dtype: data.dtype, bytes: data.bytes }
    }

    /// Has the bytes nowhere but in this process's own memory: what lies in a file is read now, while whoever asks
    /// for it can be told that the file has changed.
    pub(crate) fn settle(&mut self) {
        if matches!(self.bytes.property(), AllocationProperty::Other) {
            self.bytes = Bytes::from_bytes_vec(self.bytes.to_vec());
        }
    }

    fn into_data(mut self, device: &Device, pin: bool) -> TensorData {
        self.settle();
        let mut data = TensorData::from_bytes(self.bytes, self.shape, self.dtype);
        if pin {
            stage(&mut data, device);
        }
        data
    }
}

/// Bytes on a device, each the number of a row in a table of 256 values: how a device that knows no
/// 8-bit floats holds them.
#[derive(Clone, Debug)]
pub struct Fp8Tensor {
    primitive: burn::tensor::ops::IntTensor<Backend>,
    shape: Vec<usize>,
}

impl Fp8Tensor {
    /// Whether the device can hold such bytes.
    pub fn fit(device: &Device) -> bool {
        Backend::supports_dtype(device, DType::U8)
    }

    /// Puts the bytes on the device, as [`AnyTensor::from_piece`] does.
    pub fn from_piece(piece: Piece, shape: Vec<usize>, device: &Device, pin: bool) -> Self {
        let data = piece.into_data(device, pin);
        Self { primitive: Backend::int_from_data(data, device), shape }
    }

    /// As [`from_piece`](Self::from_piece).
    pub fn from_bytes(bytes: Vec<u8>, shape: Vec<usize>, device: &Device, pin: bool) -> Self {
        let length = bytes.len();
        Self::from_piece(Piece::owned(bytes, vec![length], DType::U8), shape, device, pin)
    }

    /// Bytes that are on their device.
    pub(crate) fn from_primitive(primitive: Primitive, shape: Vec<usize>) -> Self {
        Self { primitive, shape }
    }

    /// The bytes on another device.
    ///
    /// # Errors
    /// When the device that they are on fails to hand them over.
    pub fn to_device(self, device: &Device) -> Result<Self, String> {
        let from = Backend::int_device(&self.primitive);
        if is_staged(&from, device) {
            let read = burn::tensor::read_sync(Backend::int_into_data(self.primitive));
            let mut data = read.map_err(|error| format!("{error:?}"))?;
            stage(&mut data, device);
            let primitive = Backend::int_from_data(data, device);
            return Ok(Self { primitive, shape: self.shape });
        }
        Ok(Self { primitive: Backend::int_to_device(self.primitive, device), shape: self.shape })
    }

    /// The values, in f32.
    pub fn decode(self, table: &[f32; 256], device: &Device) -> AnyTensor {
        let table = TensorData::new(table.to_vec(), [256]);
        let table = Backend::float_from_data(table, device);
        let rows = Backend::int_cast(self.primitive, burn::tensor::IntDType::I32);
        let values = Backend::float_select(table, 0, rows);
        let primitive = Backend::float_reshape(values, Shape::from(self.shape.clone()));
        AnyTensor { primitive, shape: self.shape }
    }
}

/// Moves data to pinned memory, from which the device fetches it while it computes; where the
/// device has no such thing the data stay as they are.
#[allow(unused_variables)] // without accelerators
fn stage(data: &mut TensorData, device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => <burn::backend::Cuda>::staging(std::iter::once(data), device),
        #[cfg(feature = "rocm")]
        Device::Rocm(device) => <burn::backend::Rocm>::staging(std::iter::once(data), device),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => <burn::backend::Vulkan>::staging(std::iter::once(data), device),
        _ => {}
    }
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

/// Whether a copy between the two has to be sent through the host by us: Burn would insist on a
/// direct one.
#[allow(unused_variables)] // without CUDA
fn is_staged(from: &Device, to: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if let (Device::Cuda(from), Device::Cuda(to)) = (from, to) {
        return from.index != to.index && !crate::copies::is_direct(from.index, to.index);
    }
    false
}

/// Copies a few bytes from one CUDA device to another, directly, and looks whether they are there.
#[cfg(feature = "cuda")]
pub(crate) fn try_cuda_copy(from: usize, to: usize) -> Result<(), String> {
    let [from, to] =
        [from, to].map(|index| Device::Cuda(burn::backend::cuda::CudaDevice { index }));
    let values: Vec<f32> = (0..1024_u16).map(f32::from).collect();
    let data = TensorData::new(values.clone(), [values.len()]);
    let primitive = Backend::float_from_data(data, &from);
    let copied = Backend::float_to_device(primitive, &to);
    let copied = AnyTensor { primitive: copied, shape: vec![values.len()] }.into_data()?;
    match copied.to_vec::<f32>() {
        Ok(copied) if copied == values => Ok(()),
        _ => Err("a trial copy arrived changed".to_owned()),
    }
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

/// Whether what is copied to the device goes in the order of what the computing thread has it do. CubeCL 0.10 gives
/// memory that is free in one stream's eyes to that stream's next copy, and does not wait for other streams that have
/// yet to read it: so where the loader of uploads does not see to that, there is one order for all.
pub fn has_one_queue(device: &Device) -> bool {
    !is_host(device) && !crate::uploads::has_stream(device)
}

/// Whether the device is this process's own memory.
pub fn is_host(device: &Device) -> bool {
    matches!(device, Device::Flex(_))
}
