//! What the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // each test file uses its own part

pub mod allocations;
pub mod clip_case;
pub mod fixture;
pub mod flux_case;
pub mod mmdit_case;
pub mod seeded;
pub mod text_case;
pub mod unet_case;

use distorch_runtime::Tensor;

/// The values of a tensor, row-major.
pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().convert::<f32>().into_vec().unwrap()
}

/// The largest difference of two rows of values, in parts of the largest reference value.
pub fn max_error(actual: &[f32], reference: &[f32]) -> f32 {
    assert_eq!(actual.len(), reference.len(), "the number of values differs");
    let scale = reference.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let error = actual.iter().zip(reference).fold(0.0_f32, |max, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_nan() { f32::INFINITY } else { max.max(difference) }
    });
    error / scale
}
