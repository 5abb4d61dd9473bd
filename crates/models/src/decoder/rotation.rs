//! The rotation of language models: a head's first half of features turns with its second.
//!
//! A token's place has three numbers, which text has all the same and a picture's tokens have apart (Wang et al.,
//! <https://arxiv.org/abs/2409.12191>): when, in which row, in which column.

use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, Tensor};

/// Where a token is.
pub(crate) type Place = [usize; 3];

/// Which number of its place turns a feature of a token, of so many in half a head.
pub(crate) type Axis = fn(usize, usize) -> usize;

/// Turns all features by the first number: of models that see no pictures.
pub(crate) fn first(_: usize, _: usize) -> usize {
    0
}

/// A quarter of the features turns by the first number, three eighths by the second, the rest by the third (Qwen2-VL and
/// Qwen2.5-VL: 16, 24 and 24 of 64).
pub(crate) fn sections(feature: usize, half: usize) -> usize {
    let (rows, columns) = (half / 4, half / 4 + 3 * half / 8);
    usize::from(feature >= rows) + usize::from(feature >= columns)
}

/// By turns the first, the second and the third number; the last features by the first alone (Qwen3-VL: 24, 20 and 20 of
/// 64).
pub(crate) fn interleaved(feature: usize, half: usize) -> usize {
    if feature < 3 * (5 * half / 16) { feature % 3 } else { 0 }
}

/// Cosines and sines of all angles.
pub(crate) struct HalfRotation {
    /// `[1, tokens, 1, d / 2]` each.
    cosines: Tensor<4>,
    sines: Tensor<4>,
}

impl HalfRotation {
    /// Of tokens at these places, in heads of this width.
    pub fn of_places(
        places: &[Place],
        head_dim: usize,
        theta: f64,
        axis: Axis,
        device: &Device,
    ) -> Self {
        let half = head_dim / 2;
        let angles = places.iter().flat_map(|place| {
            (0..half).map(move |at| {
                let number = place.get(axis(at, half)).copied().unwrap_or(0);
                number as f64 * theta.powf(-((2 * at) as f64) / head_dim as f64)
            })
        });
        Self::of_angles(&angles.collect::<Vec<_>>(), half, device)
    }

    /// Of these angles, `half` to a token.
    pub fn of_angles(angles: &[f64], half: usize, device: &Device) -> Self {
        let tokens = angles.len() / half.max(1);
        let table = |f: fn(f64) -> f64| {
            let values = angles.iter().take(tokens * half).map(|angle| f(*angle) as f32);
            let data = TensorData::new(values.collect::<Vec<_>>(), [1, tokens, 1, half]);
            Tensor::from_data(data, (device, DType::F32))
        };
        Self { cosines: table(f64::cos), sines: table(f64::sin) }
    }

    /// `[batch, tokens, heads, d]` to the same, in f32 between.
    pub fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let (dtype, half) = (x.dtype(), x.dims()[3] / 2);
        let x = x.cast(DType::F32);
        let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let turned = vec![
            first.clone() * self.cosines.clone() - second.clone() * self.sines.clone(),
            second * self.cosines.clone() + first * self.sines.clone(),
        ];
        Tensor::cat(turned, 3).cast(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Qwen2.5-VL's and Qwen3-VL's published `mrope_section`.
    #[test]
    fn sections_are_the_published_ones() {
        let count = |axis| (0..64).filter(|at| sections(*at, 64) == axis).count();
        assert_eq!([count(0), count(1), count(2)], [16, 24, 24]);
        assert!((0..64).map(|at| sections(at, 64)).is_sorted());
        let count = |axis| (0..64).filter(|at| interleaved(*at, 64) == axis).count();
        assert_eq!([count(0), count(1), count(2)], [24, 20, 20]);
    }
}
