//! A layer's parameters as the file stores them: what lies at a home and what crosses a link.
//!
//! Conversion to the compute dtype ([`StoredLayer::decode`]) is for the device that computes, so an
//! 8-bit weight stays one byte an element until there. The values are the same wherever it is
//! done: decoding to f32 is exact, and so is the one product with an 8-bit weight's scale.

mod carry;

use std::sync::Arc;

use bytes::Bytes;
use distorch_checkpoint::decode::{fp8_lookup, to_f32};
use distorch_checkpoint::{Checkpoint, Companion, Dtype, Layer, Param, View};

use crate::kernels;
use crate::placement::{host_dtype, tensor_dtype};
use crate::rounding::stochastic;
use crate::tensor::{self, AnyTensor, DType, Device, Fp8Tensor, TensorData};
use crate::weights::{LayerParams, WeightError};

/// A layer in its stored dtypes.
#[derive(Clone, Debug)]
pub struct StoredLayer {
    name: Arc<str>,
    params: Vec<StoredParam>,
    /// Scales of an 8-bit weight (`scale_weight`, `weight_scale`): one for all of it, or one a row.
    scales: Option<Arc<Vec<f32>>>,
    /// Bytes of all scales as stored.
    scale_bytes: u64,
}

#[derive(Clone, Debug)]
struct StoredParam {
    name: Arc<str>,
    dtype: Dtype,
    /// The canonical shape.
    shape: Vec<usize>,
    /// Whether the elements are those of the transpose.
    transposed: bool,
    data: Data,
}

/// Where the elements are.
#[derive(Clone, Debug)]
enum Data {
    /// In this process's memory or a file's pages, little-endian.
    Bytes(Bytes),
    /// As bytes, in page-locked memory, from which a device fetches them by itself.
    Pinned(Bytes),
    /// A tensor of the stored dtype.
    Tensor(AnyTensor),
    /// 8-bit floats on a device.
    Fp8(Fp8Tensor),
}

/// How a changed layer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// In this dtype, unrounded where it is f32.
    Compute(DType),
    /// In the dtypes of the file, by seeded stochastic rounding.
    Stored,
}

impl StoredLayer {
    /// Reads the layer from its file.
    ///
    /// Scales of inputs (`scale_input`, `input_scale`) are for 8-bit arithmetic, which is not done
    /// here: they are left out.
    ///
    /// # Errors
    /// When a tensor cannot be read, is not what the layer says, or does not fit its scales.
    pub fn read(checkpoint: &Checkpoint, layer: &Layer) -> Result<Self, WeightError> {
        Self::take(layer, checkpoint, StoredParam::read)
    }

    /// As [`read`](Self::read), but the layer stays in its file's pages, as far as it can be looked at
    /// there; with the number of bytes that do. On the `host`, f32 is computed with there. What was computed with
    /// it counts once [`Checkpoint::check`] says that the file was what it was.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn view(
        checkpoint: &Checkpoint,
        layer: &Layer,
        host: bool,
    ) -> Result<(Self, u64), WeightError> {
        let mut mapped_bytes = 0;
        let stored = Self::take(layer, checkpoint, |checkpoint, param| {
            let Some(view) = view(checkpoint, param)? else {
                return StoredParam::read(checkpoint, param);
            };
            mapped_bytes += param.bytes();
            Ok(StoredParam::view(view, param, host))
        })?;
        Ok((stored, mapped_bytes))
    }

    /// The layer, with parameters as `take` has them from the file.
    fn take(
        layer: &Layer,
        checkpoint: &Checkpoint,
        mut take: impl FnMut(&Checkpoint, &Param) -> Result<StoredParam, String>,
    ) -> Result<Self, WeightError> {
        let failed = |reason: String| WeightError::Load { layer: layer.name.clone(), reason };
        let mut stored = Self {
            name: layer.name.as_str().into(),
            params: Vec::with_capacity(layer.params.len()),
            scales: None,
            scale_bytes: 0,
        };
        for param in &layer.params {
            match Companion::of_param(&param.name) {
                Some(Companion::Scale) => {
                    let values = to_f32(&bytes(checkpoint, param).map_err(failed)?, param.dtype);
                    stored.scales = Some(Arc::new(values)).filter(|values| !values.is_empty());
                    stored.scale_bytes += param.bytes();
                }
                Some(Companion::InputScale) => stored.scale_bytes += param.bytes(),
                None => stored.params.push(take(checkpoint, param).map_err(failed)?),
            }
        }
        stored.check_scales().map_err(failed)?;
        Ok(stored)
    }

    fn check_scales(&self) -> Result<(), String> {
        let Some(scales) = self.scales.as_ref().map(|scales| scales.len()) else { return Ok(()) };
        match self.params.iter().find(|param| param.is_weight()) {
            Some(weight) if !weight.elements().is_multiple_of(scales) => {
                Err(format!("{scales} scales do not divide {} weights", weight.elements()))
            }
            _ => Ok(()),
        }
    }

    /// The layer's canonical name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of all parameters as they are held.
    pub fn bytes(&self) -> u64 {
        let params =
            self.params.iter().map(|param| param.elements() as u64 * param.dtype.size() as u64);
        params.sum::<u64>() + self.scale_bytes
    }

    /// Elements of all parameters, scales left out.
    pub fn elements(&self) -> u64 {
        self.params.iter().map(|param| param.elements() as u64).sum()
    }

    /// The parameters on the device that computes, in the compute dtype; on a device of the host's
    /// memory as its kernels take them, matrices of 16 bits where they lie. They are on that
    /// device, or in this process's memory.
    pub fn decode(&self, device: &Device, dtype: DType) -> LayerParams {
        let params = self.params.iter().map(|param| {
            let scales = self.scales_of(param);
            (Arc::clone(&param.name), param.decode(scales, device, dtype))
        });
        LayerParams::new(Arc::clone(&self.name), params.collect())
            .with_precision(kernels::Precision::of(dtype))
    }

    /// The parameters in f32 on the host, canonical, with scales multiplied in.
    ///
    /// # Errors
    /// When a device fails to hand them over.
    pub fn values(self) -> Result<Vec<(String, TensorData)>, WeightError> {
        let Self { name, params, scales, .. } = self;
        let failed = |reason| WeightError::Load { layer: name.to_string(), reason };
        let values = params.into_iter().map(|param| {
            let scales = scales.as_ref().filter(|_| param.is_weight());
            let (name, shape) = (param.name.to_string(), param.shape.clone());
            let values = param.values(scales.map(|scales| scales.as_slice())).map_err(failed)?;
            Ok((name, TensorData::new(values, shape)))
        });
        values.collect()
    }

    /// The layer with these values in place of its own, as [`values`](Self::values) gives them.
    ///
    /// With [`Precision::Stored`], a parameter that did not change keeps its bits, scales are kept,
    /// and what is stored in 8 bits beside the weight (a bias) goes to f32 if it did change, as
    /// does a parameter that the file does not have.
    ///
    /// # Errors
    /// When the base cannot be compared with.
    pub fn with_values(
        &self,
        values: Vec<(String, TensorData)>,
        precision: Precision,
    ) -> Result<Self, WeightError> {
        let failed = |reason| WeightError::Load { layer: self.name.to_string(), reason };
        let mut changed = Self { params: Vec::with_capacity(values.len()), ..self.clone() };
        if let Precision::Compute(dtype) = precision {
            (changed.scales, changed.scale_bytes) = (None, 0);
            for (name, data) in values {
                changed.params.push(StoredParam::computed(&name, data, dtype).map_err(failed)?);
            }
            return Ok(changed);
        }
        for (name, data) in values {
            let base = self.params.iter().find(|param| *param.name == *name);
            changed.params.push(self.restored(base, &name, data).map_err(failed)?);
        }
        Ok(changed)
    }

    /// A parameter back in the dtype of `base`.
    fn restored(
        &self,
        base: Option<&StoredParam>,
        name: &str,
        data: TensorData,
    ) -> Result<StoredParam, String> {
        let shape = data.shape.to_vec();
        let mut values = data.to_vec::<f32>().map_err(|error| format!("{error:?}"))?;
        let Some(base) = base else { return Ok(StoredParam::f32(name, values, shape)) };
        let scales = self.scales_of(base);
        let before = base.clone().values(scales)?;
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        if shape == base.shape && before.iter().zip(&values).all(same) {
            return Ok(base.clone());
        }
        if base.dtype.size() == 1 && !base.is_weight() {
            return Ok(StoredParam::f32(name, values, shape));
        }
        if let Some(scales) = scales {
            scale_parts(&mut values, scales, |value, scale| value / scale);
        }
        let seed = seed(&self.name, name);
        Ok(match (base.dtype, stochastic(&values, base.dtype, seed)) {
            (Dtype::F32, _) | (_, None) => StoredParam::f32(name, values, shape),
            (dtype, Some(bytes)) => StoredParam {
                name: name.into(),
                dtype,
                shape,
                transposed: false,
                data: Data::Bytes(bytes.into()),
            },
        })
    }

    fn scales_of(&self, param: &StoredParam) -> Option<&[f32]> {
        self.scales.as_ref().filter(|_| param.is_weight()).map(|scales| scales.as_slice())
    }
}

impl StoredParam {
    fn read(checkpoint: &Checkpoint, param: &Param) -> Result<Self, String> {
        let data = if is_f32(param) && cfg!(target_endian = "little") {
            // Read to where it will be used.
            let mut values = vec![0.0_f32; elements(checkpoint, param)?];
            read_into(checkpoint, param, bytemuck::cast_slice_mut(&mut values))?;
            let data = TensorData::new(values, param.shape.clone());
            Data::Tensor(AnyTensor::from_data(data, &tensor::cpu(), DType::F32))
        } else {
            Data::Bytes(bytes(checkpoint, param)?.into())
        };
        Ok(Self::stored(param, data))
    }

    /// The parameter where the file has it: f32 can be computed with there, on the host.
    fn view(view: View, param: &Param, host: bool) -> Self {
        let bytes = Bytes::from_owner(view);
        let shared = (host && is_f32(param))
            .then(|| AnyTensor::sharing(bytes.clone(), param.shape.clone(), DType::F32))
            .flatten();
        Self::stored(param, shared.map_or(Data::Bytes(bytes), Data::Tensor))
    }

    fn stored(param: &Param, data: Data) -> Self {
        Self {
            name: param.name.as_str().into(),
            dtype: param.dtype,
            shape: param.shape.clone(),
            transposed: is_transposed(param),
            data,
        }
    }

    fn f32(name: &str, values: Vec<f32>, shape: Vec<usize>) -> Self {
        let data = TensorData::new(values, shape.clone());
        let data = Data::Tensor(AnyTensor::from_data(data, &tensor::cpu(), DType::F32));
        Self { name: name.into(), dtype: Dtype::F32, shape, transposed: false, data }
    }

    /// A parameter in a compute dtype.
    fn computed(name: &str, data: TensorData, dtype: DType) -> Result<Self, String> {
        let shape = data.shape.to_vec();
        let stored = match dtype {
            DType::F64 => Dtype::F64,
            DType::F32 | DType::Flex32 => {
                let values = data.to_vec::<f32>().map_err(|error| format!("{error:?}"))?;
                return Ok(Self::f32(name, values, shape));
            }
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            other => return Err(format!("{other:?} is no dtype to compute in")),
        };
        let bytes = data.convert_dtype(dtype).as_bytes().to_vec();
        let data = Data::Bytes(bytes.into());
        Ok(Self { name: name.into(), dtype: stored, shape, transposed: false, data })
    }

    fn is_weight(&self) -> bool {
        &*self.name == "weight"
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// f32 values on the host, canonical.
    fn values(self, scales: Option<&[f32]>) -> Result<Vec<f32>, String> {
        let mut values = match self.data {
            Data::Bytes(bytes) | Data::Pinned(bytes) => to_f32(&bytes, self.dtype),
            Data::Tensor(tensor) => {
                tensor.into_data()?.convert::<f32>().into_vec().map_err(|e| format!("{e:?}"))?
            }
            Data::Fp8(codes) => {
                let table = fp8_lookup(self.dtype).ok_or("no table for its dtype")?;
                let decoded = codes.decode(table, &tensor::cpu());
                decoded.into_data()?.into_vec().map_err(|error| format!("{error:?}"))?
            }
        };
        if let (true, &[rows, columns]) = (self.transposed, self.shape.as_slice()) {
            values = transpose(&values, rows, columns);
        }
        if let Some(scales) = scales {
            scale_parts(&mut values, scales, |value, scale| value * scale);
        }
        Ok(values)
    }

    fn decode(&self, scales: Option<&[f32]>, device: &Device, dtype: DType) -> AnyTensor {
        // What the values are where they are used as they lie.
        let as_stored = (scales.is_none() && !self.transposed).then_some(self.dtype);
        let on_host = tensor::is_host(device);
        let dtype = match on_host {
            true => host_dtype(&self.name, self.shape.len(), as_stored, dtype),
            false => dtype,
        };
        let decoded = match &self.data {
            Data::Bytes(bytes) | Data::Pinned(bytes) => {
                let own = as_stored.and_then(tensor_dtype);
                let lies = on_host && dtype != DType::F32 && own == Some(dtype);
                let shape = || self.shape.clone();
                if lies && let Some(shared) = AnyTensor::sharing(bytes.clone(), shape(), dtype) {
                    return shared;
                }
                let mut values = to_f32(bytes, self.dtype);
                if let (true, &[rows, columns]) = (self.transposed, self.shape.as_slice()) {
                    values = transpose(&values, rows, columns);
                }
                if let Some(scales) = scales {
                    scale_parts(&mut values, scales, |value, scale| value * scale);
                }
                let data = TensorData::new(values, self.shape.clone());
                return AnyTensor::from_data(data, device, dtype);
            }
            Data::Tensor(tensor) => tensor.clone(),
            Data::Fp8(codes) => match fp8_lookup(self.dtype) {
                Some(table) => codes.clone().decode(table, device),
                None => unreachable!("fp8 bytes are made of dtypes with a table"),
            },
        };
        let decoded = match scales {
            Some(scales) => decoded.cast(DType::F32).scale_parts(scales, device),
            None => decoded,
        };
        decoded.cast(dtype)
    }
}

/// As many equal parts as there are scales, each with its scale.
fn scale_parts(values: &mut [f32], scales: &[f32], by: impl Fn(f32, f32) -> f32) {
    let part = (values.len() / scales.len().max(1)).max(1);
    for (part, &scale) in values.chunks_mut(part).zip(scales) {
        part.iter_mut().for_each(|value| *value = by(*value, scale));
    }
}

/// Another seed for each parameter of each layer (FNV-1a), the same in every run.
fn seed(layer: &str, param: &str) -> u64 {
    let bytes = layer.bytes().chain([b'.']).chain(param.bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |state: u64, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The `rows × columns` matrix whose transpose is stored.
fn transpose(stored: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let element = |index: usize| stored[(index % columns) * rows + index / columns];
    (0..rows * columns).map(element).collect()
}

/// Whether a matrix is stored as its transpose.
fn is_transposed(param: &Param) -> bool {
    param.transposed && param.shape.len() == 2
}

/// Whether the elements are f32 in their order.
fn is_f32(param: &Param) -> bool {
    param.dtype == Dtype::F32 && !is_transposed(param)
}

/// The parameter's elements where the file has them, if they can be looked at there.
fn view(checkpoint: &Checkpoint, param: &Param) -> Result<Option<View>, String> {
    let length = length(checkpoint, param)?;
    let view = checkpoint.view(&param.key, start_of(checkpoint, param), length);
    view.map_err(|error| error.to_string())
}

/// The parameter's elements as stored.
fn bytes(checkpoint: &Checkpoint, param: &Param) -> Result<Vec<u8>, String> {
    let length = length(checkpoint, param)?;
    let read = checkpoint.read(&param.key, start_of(checkpoint, param), length);
    read.map_err(|error| error.to_string())
}

/// The number of the parameter's bytes, once the file's tensor is seen to hold them.
fn length(checkpoint: &Checkpoint, param: &Param) -> Result<usize, String> {
    elements(checkpoint, param)?;
    usize::try_from(param.bytes()).map_err(|error| error.to_string())
}

/// The number of the parameter's elements, once the file's tensor is seen to hold them.
fn elements(checkpoint: &Checkpoint, param: &Param) -> Result<usize, String> {
    let key = &param.key;
    let tensor = checkpoint.get(key).ok_or_else(|| format!("there is no tensor `{key}`"))?;
    let (start, end) = match param.rows {
        None => (0, tensor.bytes()),
        Some((start, end)) => {
            let row = row_bytes(checkpoint, param);
            (row.saturating_mul(start as u64), row.saturating_mul(end as u64))
        }
    };
    if start > end || end > tensor.bytes() {
        return Err(format!("`{key}` has no rows {start} to {end}"));
    }
    if tensor.dtype != param.dtype || end - start != param.bytes() {
        let found = tensor.dtype.encoding().elements_in(end - start);
        let (elements, expected) = (param.elements(), param.dtype);
        let dtype = tensor.dtype;
        return Err(format!(
            "`{key}` has {found} elements of {dtype}, not {elements} of {expected}"
        ));
    }
    usize::try_from(param.elements()).map_err(|error| error.to_string())
}

/// Bytes of one row of the file's tensor.
fn row_bytes(checkpoint: &Checkpoint, param: &Param) -> u64 {
    let Some(tensor) = checkpoint.get(&param.key) else { return 0 };
    let rows = tensor.shape.first().map_or(0, |&rows| rows as u64);
    tensor.bytes().checked_div(rows).unwrap_or(0)
}

/// Where the parameter's part of a tensor begins, which the file may fuse from several.
fn start_of(checkpoint: &Checkpoint, param: &Param) -> u64 {
    let first = param.rows.map_or(0, |(first, _)| first as u64);
    row_bytes(checkpoint, param).saturating_mul(first)
}

/// Reads the parameter's part of a tensor.
fn read_into(checkpoint: &Checkpoint, param: &Param, to: &mut [u8]) -> Result<(), String> {
    let start = start_of(checkpoint, param);
    checkpoint.read_into(&param.key, start, to).map_err(|error| error.to_string())
}
