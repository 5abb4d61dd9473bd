//! Bringing a layer to a device, and keeping it where the device fetches it by itself.

use std::sync::Arc;

use bytes::Bytes;
use distorch_checkpoint::Dtype;
use distorch_checkpoint::decode::fp8_lookup;

use super::{Data, StoredLayer, StoredParam};
use crate::copies;
use crate::pinned::{self, Driver};
use crate::placement::tensor_dtype;
use crate::tensor::uploads;
use crate::tensor::{self, AnyTensor, DType, Device, Fp8Tensor, Movable, Piece, TensorData};
use crate::weights::WeightError;

impl StoredLayer {
    /// The layer on a device, in its stored dtypes as far as the device has them, else in f32, brought in the
    /// order of what this thread has the device do. A device of this process's memory shares what lies there; to
    /// another, bytes go through page-locked memory where `pin` asks for it.
    ///
    /// # Errors
    /// When another device fails to hand the values over.
    pub fn on(&self, device: &Device, pin: bool) -> Result<Self, WeightError> {
        let failed = |reason| WeightError::Load { layer: self.name.to_string(), reason };
        let params = self.params.iter().map(|param| param.on(device, pin).map_err(failed));
        Ok(Self { params: params.collect::<Result<_, _>>()?, ..self.clone() })
    }

    /// As [`on`](Self::on), but beside what the device computes, in a stream of its own for copies. `None` where
    /// the device has none, or the layer comes from another one.
    ///
    /// # Errors
    /// When the device has no memory left or reports a failure.
    pub(crate) fn beside(&self, device: &Device) -> Result<Option<Self>, WeightError> {
        let failed = |reason| WeightError::Load { layer: self.name.to_string(), reason };
        if !uploads::has_stream(device) || !self.params.iter().all(StoredParam::is_on_host) {
            return Ok(None);
        }
        let (mut params, mut pieces) = (Vec::new(), Vec::new());
        for param in &self.params {
            let (param, piece) = param.piece(device).map_err(failed)?;
            params.push(param);
            pieces.push(piece);
        }
        let codes: Vec<bool> = pieces.iter().map(|piece| piece.dtype == DType::U8).collect();
        let Some(brought) = uploads::bring(device, pieces).map_err(failed)? else {
            return Ok(None);
        };
        for ((param, tensor), codes) in params.iter_mut().zip(brought).zip(codes) {
            let shape = param.shape.clone();
            param.data = match codes {
                true => Data::Fp8(Fp8Tensor::from_primitive(tensor, shape)),
                false => Data::Tensor(AnyTensor::from_primitive(tensor, shape)),
            };
        }
        Ok(Some(Self { params, ..self.clone() }))
    }

    /// The layer in page-locked memory, as far as `device` takes its bytes as they are; what it takes converted stays
    /// where it is.
    ///
    /// # Errors
    /// When the driver has no such memory left.
    pub fn pinned(&self, driver: &Arc<dyn Driver>, device: &Device) -> Result<Self, String> {
        let (mut places, mut parts) = (Vec::new(), Vec::new());
        for (place, param) in self.params.iter().enumerate() {
            let as_is = param.native(device).is_some() || param.has_codes(device);
            if let Some(bytes) = param.host_bytes()?.filter(|_| as_is) {
                places.push(place);
                parts.push(bytes);
            }
        }
        let slices: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let kept = pinned::keep(driver, &slices)?;
        let mut layer = self.clone();
        for (place, bytes) in places.into_iter().zip(kept) {
            if let Some(param) = layer.params.get_mut(place) {
                param.data = Data::Pinned(bytes);
            }
        }
        Ok(layer)
    }

    /// The layer with nothing in page-locked memory: for a home that is not fetched from.
    pub(crate) fn unpinned(mut self) -> Self {
        for param in &mut self.params {
            if let Data::Pinned(bytes) = &param.data {
                param.data = Data::Bytes(Bytes::copy_from_slice(bytes));
            }
        }
        self
    }

    /// Bytes of it that are in page-locked memory.
    pub fn pinned_bytes(&self) -> u64 {
        let bytes = self.params.iter().map(|param| match &param.data {
            Data::Pinned(bytes) => bytes.len() as u64,
            _ => 0,
        });
        bytes.sum()
    }
}

impl StoredParam {
    fn on(&self, device: &Device, pin: bool) -> Result<Self, String> {
        let mut moved = self.clone();
        moved.data = match &self.data {
            Data::Bytes(_) | Data::Pinned(_) if tensor::is_host(device) => return Ok(moved),
            Data::Bytes(_) | Data::Pinned(_) => {
                let (moved, piece) = self.piece(device)?;
                let (shape, codes) = (self.shape.clone(), piece.dtype == DType::U8);
                let data = match codes {
                    true => Data::Fp8(Fp8Tensor::from_piece(piece, shape, device, pin)),
                    false => Data::Tensor(AnyTensor::from_piece(piece, device, pin)),
                };
                return Ok(Self { data, ..moved });
            }
            Data::Tensor(tensor) => Data::Tensor(copies::to_device(tensor.clone(), device)?),
            Data::Fp8(codes) => Data::Fp8(copies::to_device(codes.clone(), device)?),
        };
        Ok(moved)
    }

    fn is_on_host(&self) -> bool {
        match &self.data {
            Data::Bytes(_) | Data::Pinned(_) => true,
            Data::Tensor(tensor) => tensor::is_host(&tensor.device()),
            Data::Fp8(_) => false,
        }
    }

    /// The bytes as stored, where they are on the host.
    fn host_bytes(&self) -> Result<Option<Bytes>, String> {
        match &self.data {
            Data::Bytes(bytes) | Data::Pinned(bytes) => Ok(Some(bytes.clone())),
            Data::Tensor(tensor) if self.is_on_host() && self.dtype == Dtype::F32 => {
                let data = tensor.clone().into_data()?;
                Ok(Some(Bytes::copy_from_slice(data.as_bytes())))
            }
            _ => Ok(None),
        }
    }

    /// What the device is to take, from a parameter on the host, with the parameter as it will be there, but for its
    /// data.
    fn piece(&self, device: &Device) -> Result<(Self, Piece), String> {
        let (mut moved, shape) = (self.clone(), self.shape.clone());
        let flat = || vec![self.elements()];
        let (dtype, shape) = match self.native(device) {
            Some(dtype) => (dtype, shape),
            None if self.has_codes(device) => (DType::U8, flat()),
            None => {
                let values = self.clone().values(None)?;
                (moved.dtype, moved.transposed) = (Dtype::F32, false);
                return Ok((moved, Piece::from_data(TensorData::new(values, shape))));
            }
        };
        let piece = match &self.data {
            Data::Pinned(bytes) => Piece::pinned(bytes.clone(), shape, dtype),
            Data::Bytes(bytes) => Piece::shared(bytes.clone(), shape, dtype),
            Data::Tensor(tensor) => Piece::from_data(tensor.clone().into_data()?),
            Data::Fp8(_) => return Err("its bytes are on another device".to_owned()),
        };
        Ok((moved, piece))
    }

    /// The device's own dtype for these bytes.
    fn native(&self, device: &Device) -> Option<DType> {
        let dtype = tensor_dtype(self.dtype)?;
        (!self.transposed && cfg!(target_endian = "little") && tensor::supports(device, dtype))
            .then_some(dtype)
    }

    fn has_codes(&self, device: &Device) -> bool {
        !self.transposed && fp8_lookup(self.dtype).is_some() && Fp8Tensor::fit(device)
    }
}
