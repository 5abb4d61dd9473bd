//! What is known of a tensor before its data is touched.

use std::ops::Range;

use super::storage::Strided;
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
    /// In other checkpoints, one part after the other.
    Parts(Box<[Part]>),
    /// Nowhere: only the shape is known.
    Absent,
}

/// Bytes of a tensor of another checkpoint, a member of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(super) member: usize,
    pub(super) key: String,
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) dtype: Dtype,
}

impl Part {
    /// Bytes of this part in the dtype that it is read in.
    pub(super) fn bytes_as(&self, dtype: Dtype) -> u64 {
        match self.dtype == dtype {
            true => self.bytes,
            false => self.bytes / self.dtype.size() as u64 * dtype.size() as u64,
        }
    }
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        // Can't overflow: every TensorInfo was made of a shape that has bytes.
        self.shape.iter().map(|&dim| dim as u64).product()
    }

    /// Bytes of the data, contiguous.
    pub fn bytes(&self) -> u64 {
        // Every TensorInfo was made of a shape that has bytes.
        self.dtype.encoding().bytes(&self.shape).unwrap_or(0)
    }
}
