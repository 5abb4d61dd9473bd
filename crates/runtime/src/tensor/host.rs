//! Values of tensors that live in this process's memory.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::ops::FloatTensor;
use burn_dispatch::{BackendTensor, DispatchTensorKind};
use burn_flex::FlexTensor;
use distorch_cube::kind::{from_kind, into_kind};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::{Backend, DType, FloatTensorOps, Tensor, TensorData, TensorPrimitive, cpu};

/// An f32 tensor of Burn's CPU backend, with its strides.
pub(crate) struct Host<const D: usize> {
    tensor: FlexTensor,
}

impl<const D: usize> Host<D> {
    /// The tensor's own memory; or the tensor back, where it lives elsewhere or is not f32.
    pub(crate) fn take(tensor: Tensor<D>) -> Result<Self, Tensor<D>> {
        if tensor.dtype() != DType::F32 {
            return Err(tensor);
        }
        Self::take_any(tensor)
    }

    /// As [`take`](Self::take), of a tensor in f32, f16 or bf16: to be read by
    /// [`numbers`](Self::numbers).
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn take_stored(tensor: Tensor<D>) -> Result<Self, Tensor<D>> {
        match tensor.dtype() {
            DType::F32 | DType::F16 | DType::BF16 => Self::take_any(tensor),
            _ => Err(tensor),
        }
    }

    fn take_any(tensor: Tensor<D>) -> Result<Self, Tensor<D>> {
        let TensorPrimitive::Float(primitive) = tensor.into_primitive() else {
            unreachable!("a float tensor is not quantised")
        };
        match into_kind(primitive) {
            DispatchTensorKind::Flex(BackendTensor::Float(tensor))
                if tensor.layout().strides().iter().all(|stride| *stride >= 0) =>
            {
                Ok(Self { tensor })
            }
            kind => Err(Tensor::from_primitive(TensorPrimitive::Float(from_kind(kind)))),
        }
    }

    /// The memory from the first value on, in the tensor's own dtype.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn numbers(&self) -> Numbers<'_> {
        let start = self.tensor.layout().start_offset();
        match self.tensor.dtype() {
            DType::F16 => Numbers::F16(self.tensor.storage().get(start..).unwrap_or_default()),
            DType::BF16 => Numbers::Bf16(self.tensor.storage().get(start..).unwrap_or_default()),
            _ => Numbers::F32(self.memory()),
        }
    }

    /// The tensor again.
    pub(crate) fn give(self) -> Tensor<D> {
        let kind = DispatchTensorKind::Flex(BackendTensor::Float(self.tensor));
        Tensor::from_primitive(TensorPrimitive::Float(from_kind(kind)))
    }

    /// The dimensions.
    pub(crate) fn dims(&self) -> [usize; D] {
        std::array::from_fn(|i| self.tensor.layout().shape()[i])
    }

    /// Steps in memory for each dimension.
    pub(crate) fn strides(&self) -> [usize; D] {
        std::array::from_fn(|i| self.tensor.layout().strides()[i].unsigned_abs())
    }

    /// The memory from the first value on, to be walked with [`strides`](Self::strides).
    pub(crate) fn memory(&self) -> &[f32] {
        let start = self.tensor.layout().start_offset();
        self.tensor.storage::<f32>().get(start..).unwrap_or_default()
    }

    /// The same values row-major, copied only where they are not so already.
    pub(crate) fn contiguous(self) -> Self {
        if self.tensor.is_contiguous() {
            self
        } else {
            Self { tensor: self.tensor.to_contiguous() }
        }
    }

    /// The same values row-major, in memory to which nothing else refers; copied only where there is need.
    pub(crate) fn unshared(self) -> Self {
        let values = self.contiguous();
        if values.tensor.is_unique() {
            return values;
        }
        let data = TensorData::new(values.values().to_vec(), values.dims());
        Self { tensor: FlexTensor::from_data(data) }
    }

    /// The values of a contiguous tensor to which nothing else refers, to be written; else `None`.
    pub(crate) fn values_mut(&mut self) -> Option<&mut [f32]> {
        let (start, count) = (self.tensor.layout().start_offset(), self.dims().iter().product());
        if !self.tensor.is_contiguous() {
            return None;
        }
        self.tensor.try_storage_mut::<f32>()?.get_mut(start..)?.get_mut(..count)
    }

    /// The values of a contiguous tensor.
    pub(crate) fn values(&self) -> &[f32] {
        debug_assert!(self.tensor.is_contiguous());
        let count = self.dims().iter().product();
        self.memory().get(..count).unwrap_or_default()
    }
}

/// Values of a tensor in its own dtype.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [half::f16]),
    Bf16(&'a [half::bf16]),
}

/// A new tensor that `fill` writes all values of.
///
/// # Safety
/// `fill` writes every value.
pub(crate) unsafe fn filled<const D: usize>(
    shape: [usize; D],
    fill: impl FnOnce(Output),
) -> Tensor<D> {
    let count = shape.iter().product();
    let mut values = Vec::with_capacity(count);
    fill(Output(values.as_mut_ptr()));
    // SAFETY: there is room for them, and the caller promises that they were written.
    unsafe { values.set_len(count) };
    tensor(values, shape)
}

/// As [`filled`], of several tensors of one shape.
///
/// # Safety
/// `fill` writes every value of each.
pub(crate) unsafe fn filled_each<const N: usize, const D: usize>(
    shape: [usize; D],
    fill: impl FnOnce([Output; N]),
) -> [Tensor<D>; N] {
    let count = shape.iter().product();
    let mut values: [Vec<f32>; N] = std::array::from_fn(|_| Vec::with_capacity(count));
    fill(values.each_mut().map(|values| Output(values.as_mut_ptr())));
    values.map(|mut values| {
        // SAFETY: there is room for them, and the caller promises that they were written.
        unsafe { values.set_len(count) };
        tensor(values, shape)
    })
}

/// An f32 tensor on the CPU in f16 or bf16, each value rounded to the nearest, to even ones between two; or the tensor
/// back, where it or `dtype` is another. Burn's own cast goes through f64 and takes what is just above the middle of two
/// values for the middle.
pub(crate) fn rounded(
    tensor: FloatTensor<Backend>,
    dtype: DType,
) -> Result<FloatTensor<Backend>, FloatTensor<Backend>> {
    let tensor = match into_kind(tensor) {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor))
            if tensor.dtype() == DType::F32 && matches!(dtype, DType::F16 | DType::BF16) =>
        {
            tensor.to_contiguous()
        }
        kind => return Err(from_kind(kind)),
    };
    let (shape, start) = (tensor.layout().shape().to_vec(), tensor.layout().start_offset());
    let values = tensor.storage::<f32>().get(start..).unwrap_or_default();
    let values = values.get(..shape.iter().product()).unwrap_or_default();
    Ok(Backend::float_from_data(in_16_bits(values, shape, dtype), &cpu()))
}

/// f32 values in f16 or bf16, as [`rounded`].
pub(crate) fn in_16_bits(values: &[f32], shape: Vec<usize>, dtype: DType) -> TensorData {
    match dtype {
        DType::F16 => TensorData::new(nearest::<half::f16>(values), shape),
        _ => TensorData::new(nearest::<half::bf16>(values), shape),
    }
}

fn nearest<T: Copy + Default + Send>(values: &[f32]) -> Vec<T>
where
    [T]: HalfFloatSliceExt,
{
    const RUN: usize = 16 * 1024;
    let mut rounded = vec![T::default(); values.len()];
    rounded
        .par_chunks_mut(RUN)
        .zip(values.par_chunks(RUN))
        .for_each(|(rounded, values)| rounded.convert_from_f32_slice(values));
    rounded
}

/// A tensor of these values.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    let data = TensorData::new(values, shape);
    Tensor::from_primitive(TensorPrimitive::Float(Backend::float_from_data(data, &cpu())))
}

/// A place that threads write to, each to its own part.
#[derive(Clone, Copy)]
pub(crate) struct Output(*mut f32);

// SAFETY: the kernels give every task a part of the memory that no other task touches.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The place from `index` on.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn after(self, index: usize) -> Self {
        Self(self.0.wrapping_add(index))
    }

    /// So many values from `first` on.
    ///
    /// # Safety
    /// They lie in the memory that this was made from, and no one else has them now.
    pub(crate) unsafe fn slice<'a>(self, first: usize, count: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), count) }
    }

    /// The address of the value at `index`.
    ///
    /// # Safety
    /// `index` lies in the slice that this was made from, or just behind it.
    pub(crate) unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}

/// Lets every thread that computes, and this one, take what it keeps to pack matrices in: as much as
/// the processor's second cache holds, taken once and never given back, so that it is no part of
/// what a model's run takes.
pub(crate) fn ready_threads() {
    static READY: AtomicBool = AtomicBool::new(false);
    // Nobody waits for the threads: they may be the ones that ask.
    if READY.swap(true, Ordering::Relaxed) {
        return;
    }
    let pack = || {
        // Columns that lie together, on both sides: these are packed, however small.
        let (lhs, rhs, mut out) = ([0.0; 16 * 4], [0.0; 4 * 16], [0.0; 16 * 16]);
        let lhs = Matrix { values: &lhs, row: 1, column: 16 };
        let rhs = Matrix { values: &rhs, row: 16, column: 1 };
        let none = gemm::Parallelism::None;
        // SAFETY: `out` has sixteen columns of sixteen values, and is this thread's.
        unsafe { gemm([16, 4, 16], lhs, rhs, out.as_mut_ptr(), [1, 16], false, none) };
    };
    pack();
    rayon::broadcast(|_| pack());
}

/// A matrix in memory: where it starts, and the steps to the next row and the next column.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl<'a> Matrix<'a> {
    /// Whether a matrix of this size lies in its memory.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// `out = beta · out + lhs · rhs` for `[m, k] × [k, n]`; `beta` is 1 with `accumulate`, else 0.
///
/// # Safety
/// `out` points to a matrix `[m, n]` with these steps that no other thread touches now.
pub(crate) unsafe fn gemm(
    [m, k, n]: [usize; 3],
    lhs: Matrix,
    rhs: Matrix,
    out: *mut f32,
    [row, column]: [usize; 2],
    accumulate: bool,
    threads: gemm::Parallelism,
) {
    assert!(lhs.holds(m, k) && rhs.holds(k, n), "a matrix lies outside its memory");
    // SAFETY: both inputs lie in their slices, as checked; the caller promises the output.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            column as isize,
            row as isize,
            accumulate,
            lhs.values.as_ptr(),
            lhs.column as isize,
            lhs.row as isize,
            rhs.values.as_ptr(),
            rhs.column as isize,
            rhs.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::AnyTensor;

    /// As the processor rounds them, which `half` does: values just above and below the middle of two, ones beyond
    /// the largest and below the smallest.
    #[test]
    fn a_cast_rounds_to_the_nearest() {
        let near = (0..64).map(|i| f32::from_bits(0x3f3e_7fe0 + i));
        let halves = (0..64).map(|i| f32::from_bits(0x3f3e_0fe0 + i));
        let others = [0.0, -0.0, 65_519.0, 65_520.0, -1e30, 6e-8, 1e-40, f32::INFINITY, f32::MAX];
        let values: Vec<f32> = near.chain(halves).chain(others).collect();
        let data = TensorData::new(values.clone(), [values.len()]);
        let tensor = AnyTensor::from_data(data, &cpu(), DType::F32);
        let of = |dtype| tensor.clone().cast(dtype).into_data().unwrap();
        let bits = of(DType::F16).to_vec::<half::f16>().unwrap();
        assert!(
            bits.iter().zip(&values).all(|(a, b)| a.to_bits() == half::f16::from_f32(*b).to_bits())
        );
        let bits = of(DType::BF16).to_vec::<half::bf16>().unwrap();
        assert!(
            bits.iter()
                .zip(&values)
                .all(|(a, b)| a.to_bits() == half::bf16::from_f32(*b).to_bits())
        );
    }
}
