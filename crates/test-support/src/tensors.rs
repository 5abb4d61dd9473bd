//! Values of tensors, and how far they are from others.

use distorch_runtime::Tensor;

/// The values of a tensor, row-major, in f32.
pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().convert::<f32>().into_vec().unwrap()
}

/// The largest difference of two rows of values; infinite where one is NaN.
pub fn distance(actual: &[f32], reference: &[f32]) -> f32 {
    assert_eq!(actual.len(), reference.len(), "the number of values differs");
    actual.iter().zip(reference).fold(0.0_f32, |max, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_nan() { f32::INFINITY } else { max.max(difference) }
    })
}

/// The same in parts of the largest reference value.
pub fn max_error(actual: &[f32], reference: &[f32]) -> f32 {
    let scale = reference.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    distance(actual, reference) / scale
}
