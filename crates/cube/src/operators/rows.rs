//! Matrices that are made of a tensor's last dimension, as they lie in memory.

use burn::tensor::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::elements::vector_size;

/// Rows beside each other, maybe with a gap behind each.
pub(super) struct Rows<R: CubeRuntime> {
    pub tensor: CubeTensor<R>,
    pub count: usize,
    pub length: usize,
    /// From one row's first value to the next one's.
    pub pitch: usize,
}

impl<R: CubeRuntime> Rows<R> {
    /// The rows of a tensor, which is copied where they do not lie in order.
    pub(super) fn of(tensor: CubeTensor<R>) -> Self {
        let pitch = pitch(tensor.meta.shape(), tensor.meta.strides());
        let (tensor, pitch) = match pitch {
            Some(pitch) => (tensor, pitch),
            None => {
                let tensor = into_contiguous(tensor);
                let length = tensor.meta.shape().last().copied().unwrap_or(1);
                (tensor, length)
            }
        };
        let length = tensor.meta.shape().last().copied().unwrap_or(1);
        let count = tensor.meta.num_elements() / length.max(1);
        Self { tensor, count, length, pitch }
    }

    /// How many values are read at once.
    pub(super) fn vector(&self) -> usize {
        vector_size(&self.tensor, &[self.length, self.pitch])
    }

    /// The tensor's shape.
    pub(super) fn shape(&self) -> Shape {
        Shape::from(self.tensor.meta.shape().to_vec())
    }
}

/// From one row's start to the next one's, where all are as far from each other.
fn pitch(shape: &[usize], strides: &[usize]) -> Option<usize> {
    let mut dims = shape.iter().zip(strides).rev();
    let (length, step) = dims.next()?;
    if *length > 1 && *step != 1 {
        return None;
    }
    let mut rows = dims.filter(|(side, _)| **side > 1);
    let Some((side, pitch)) = rows.next() else { return Some(*length) };
    let mut next = side * pitch;
    for (side, stride) in rows {
        if *stride != next {
            return None;
        }
        next = side * stride;
    }
    // A row that stands for several is one row.
    (*pitch >= *length).then_some(*pitch)
}

#[cfg(test)]
mod tests {
    use super::pitch;

    #[test]
    fn rows_lie_in_order_or_do_not() {
        assert_eq!(pitch(&[2, 3, 5], &[15, 5, 1]), Some(5));
        assert_eq!(pitch(&[2, 3, 5], &[24, 8, 1]), Some(8));
        assert_eq!(pitch(&[2, 1, 5], &[8, 999, 1]), Some(8));
        assert_eq!(pitch(&[1, 1, 5], &[7, 7, 1]), Some(5));
        assert_eq!(pitch(&[4, 1], &[3, 9]), Some(3));
        // A part of wider rows, rows in another order, columns, one row several times.
        assert_eq!(pitch(&[2, 3, 5], &[48, 16, 1]), Some(16));
        assert_eq!(pitch(&[2, 3, 5], &[40, 8, 1]), None);
        assert_eq!(pitch(&[3, 2, 5], &[5, 15, 1]), None);
        assert_eq!(pitch(&[3, 5], &[1, 3]), None);
        assert_eq!(pitch(&[3, 5], &[0, 1]), None);
    }
}
