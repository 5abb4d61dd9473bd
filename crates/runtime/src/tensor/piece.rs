//! Bytes of the host on their way to a device.

#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan"))]
use burn::tensor::backend::Backend as _;
use cubecl_common::bytes::{AllocationProperty, Bytes};

use super::{DType, Device, TensorData};

/// Bytes of the host that a device is to hold as a tensor.
#[derive(Debug)]
pub struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) shape: Vec<usize>,
    /// A dtype of the device's own: a float, or `U8` for [`Fp8Tensor`](super::Fp8Tensor).
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

    pub(super) fn into_data(mut self, device: &Device, pin: bool) -> TensorData {
        self.settle();
        let mut data = TensorData::from_bytes(self.bytes, self.shape, self.dtype);
        if pin {
            stage(&mut data, device);
        }
        data
    }
}

/// Moves data to pinned memory, from which the device fetches it while it computes; where the
/// device has no such thing the data stay as they are.
#[allow(unused_variables)] // without accelerators
pub(super) fn stage(data: &mut TensorData, device: &Device) {
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
