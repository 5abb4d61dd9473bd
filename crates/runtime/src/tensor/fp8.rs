//! 8-bit floats on devices that compute with none.

use burn::tensor::backend::Backend as _;
use burn::tensor::ops::{FloatTensorOps as _, IntTensorOps as _};

use super::piece::stage;
use super::{AnyTensor, Backend, DType, Device, Movable, Piece, Primitive, Shape, TensorData};

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

impl Movable for Fp8Tensor {
    fn device(&self) -> Device {
        Backend::int_device(&self.primitive)
    }

    fn directly(self, device: &Device) -> Self {
        Self { primitive: Backend::int_to_device(self.primitive, device), shape: self.shape }
    }

    fn through_host(self, device: &Device) -> Result<Self, String> {
        let read = burn::tensor::read_sync(Backend::int_into_data(self.primitive));
        let mut data = read.map_err(|error| format!("{error:?}"))?;
        stage(&mut data, device);
        Ok(Self { primitive: Backend::int_from_data(data, device), shape: self.shape })
    }
}
