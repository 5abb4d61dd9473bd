//! What is known of a tensor before its data is touched.

use std::ops::Range;

use super::torch::Strided;
use crate::dtype::Dtype;

/// A tensor's dtype and shape, and where its data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The stored dtype.
    pub dtype: Dtype,
    /// The sizes of the dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    pub(crate) place: Place,
}

/// Where a tensor's data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// These bytes of the file, as they are.
    Span(Range<usize>),
    /// A view of a storage of a PyTorch file, to be gathered.
    Strided(Box<Strided>),
    /// Nowhere: only the shape is known.
    Absent,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        // Can't overflow: every TensorInfo went through data_bytes.
        self.shape.iter().map(|&dim| dim as u64).product()
    }

    /// Bytes of the data, contiguous.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.dtype.size() as u64
    }
}

/// Bytes that contiguous data of this dtype and shape takes, unless they are more than an `i64`
/// counts, leaving out dimensions of size 0.
///
/// Leaving these out makes sure that the size of any part of the shape fits as well.
pub(crate) fn data_bytes(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let whole = shape
        .iter()
        .filter(|&&dim| dim != 0)
        .try_fold(dtype.size() as u64, |bytes, &dim| bytes.checked_mul(dim as u64))?;
    i64::try_from(whole).ok()?;
    Some(if shape.contains(&0) { 0 } else { whole })
}
