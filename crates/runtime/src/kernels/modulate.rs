//! Adaptive layer normalisation, by which diffusion transformers take in the timestep (Peebles & Xie,
//! <https://arxiv.org/abs/2212.09748>): a vector for each picture scales and shifts its normalised tokens, and gates
//! what a branch adds to them.

use multiversion::multiversion;
use rayon::prelude::*;

use super::host::{Host, filled};
use super::norm::moments;
use crate::tensor::{DType, Tensor};

/// Rows of one task at least.
const ROWS: usize = 16;

/// `(1 + scale) · (x - mean) / √(variance + ε) + shift`: layer normalisation of `[batch, tokens, features]` over the
/// features, modulated by `shift` and `scale` `[batch, features]`. In f32 whatever the dtype of `x`.
pub fn modulated_norm(x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>, epsilon: f64) -> Tensor<3> {
    let [batch, tokens, features] = x.dims();
    let fits = features > 0 && [shift.dims(), scale.dims()] == [[batch, features]; 2];
    match Host::take(x) {
        Ok(x) if fits => {
            let [shift, scale] = [shift, scale].map(|t| t.into_data().convert::<f32>());
            let (Ok(shift), Ok(scale)) = (shift.as_slice::<f32>(), scale.as_slice::<f32>()) else {
                unreachable!("converted to f32 above")
            };
            let x = x.contiguous();
            let rows = x.values().par_chunks(features).with_min_len(ROWS).enumerate();
            // SAFETY: each row of the output is written, by one task.
            unsafe {
                filled([batch, tokens, features], |out| {
                    rows.for_each(|(row, x)| {
                        let of_picture = row / tokens.max(1) * features;
                        let part = |values| &<[f32]>::split_at(values, of_picture).1[..features];
                        let out = out.slice(row * features, features);
                        modulate_row(x, part(shift), part(scale), epsilon, out);
                    });
                })
            }
        }
        x => {
            let x = x.map_or_else(|x| x, Host::give);
            let [scale, shift] = [scale, shift].map(|t| t.unsqueeze_dim::<3>(1));
            match fits && tokens > 0 {
                true => distorch_cube::layer_norm(x, scale, shift, epsilon, true)
                    .unwrap_or_else(|[x, scale, shift]| by_burn(x, shift, scale, epsilon)),
                false => by_burn(x, shift, scale, epsilon),
            }
        }
    }
}

/// With `shift` and `scale` `[batch, 1, features]`.
fn by_burn(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, epsilon: f64) -> Tensor<3> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let x = x.clone() - x.mean_dim(2);
    let variance = x.clone().square().mean_dim(2);
    let [shift, scale] = [shift, scale].map(|t| t.cast(DType::F32));
    (x / (variance + epsilon).sqrt() * (scale + 1.0) + shift).cast(dtype)
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn modulate_row(x: &[f32], shift: &[f32], scale: &[f32], epsilon: f64, out: &mut [f32]) {
    let (mean, deviation) = moments(x, epsilon);
    let inverse = 1.0 / deviation;
    let modulation = shift.iter().zip(scale);
    for ((out, x), (shift, scale)) in out.iter_mut().zip(x).zip(modulation) {
        *out = (x - mean) * inverse * (1.0 + scale) + shift;
    }
}

/// `x + gate · branch`: `x` and `branch` `[batch, tokens, features]`, `gate` `[batch, features]`. On the CPU the result is
/// where `x` was, if nothing else refers to it.
pub fn add_gated(x: Tensor<3>, branch: Tensor<3>, gate: Tensor<2>) -> Tensor<3> {
    let [batch, tokens, features] = x.dims();
    let fits = features > 0 && branch.dims() == x.dims() && gate.dims() == [batch, features];
    match (fits, Host::take(x), Host::take(branch)) {
        (true, Ok(x), Ok(branch)) => {
            let gate = gate.into_data().convert::<f32>();
            let Ok(gate) = gate.as_slice::<f32>() else { unreachable!("converted to f32 above") };
            let (mut x, branch) = (x.unshared(), branch.contiguous());
            let rows = x.values_mut().unwrap_or_default().par_chunks_mut(features);
            let rows = rows.zip(branch.values().par_chunks(features));
            rows.with_min_len(ROWS).enumerate().for_each(|(row, (x, branch))| {
                let of_picture = row / tokens.max(1) * features;
                add_gated_row(x, branch, &gate[of_picture..][..features]);
            });
            x.give()
        }
        (_, x, branch) => {
            let [x, branch] = [x, branch].map(|t| t.map_or_else(|t| t, Host::give));
            let gate = gate.cast(x.dtype()).unsqueeze_dim::<3>(1);
            distorch_cube::gated_sum(x, branch, gate)
                .unwrap_or_else(|[x, branch, gate]| x + branch * gate)
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn add_gated_row(x: &mut [f32], branch: &[f32], gate: &[f32]) {
    for ((x, branch), gate) in x.iter_mut().zip(branch).zip(gate) {
        *x += branch * gate;
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;

    const SHAPES: [[usize; 3]; 3] = [[1, 5, 7], [2, 33, 64], [3, 20, 1100]];

    /// Values by batch, token and feature, and those of a picture's vector by batch and feature.
    fn read<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().to_vec::<f32>().unwrap()
    }

    /// Both ways, the second by the operations of other devices: f64 is no dtype of the kernels.
    fn both(run: impl Fn(DType) -> Tensor<3>) -> [Vec<f32>; 2] {
        [DType::F32, DType::F64].map(|dtype| read(run(dtype).cast(DType::F32)))
    }

    #[test]
    fn a_modulated_norm_is_its_formula() {
        for shape in SHAPES {
            let [batch, tokens, features] = shape;
            let x = made_up::tensor::<3>(shape, 1) * 3.0 + 0.5;
            let [shift, scale] = [2, 3].map(|seed| made_up::tensor::<2>([batch, features], seed));
            let results = both(|dtype| {
                let x = x.clone().cast(dtype);
                modulated_norm(x, shift.clone(), scale.clone(), 1e-3)
            });
            let (x, shift, scale) = (read(x), read(shift), read(scale));
            for (row, x) in x.chunks(features).enumerate() {
                let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                let mean = x.iter().sum::<f64>() / features as f64;
                let square = |x: &f64| (x - mean).powi(2);
                let variance = x.iter().map(square).sum::<f64>() / features as f64;
                for (at, x) in x.iter().enumerate() {
                    let of = row / tokens * features + at;
                    let normal = (x - mean) / (variance + 1e-3).sqrt();
                    let expected = normal * (1.0 + f64::from(scale[of])) + f64::from(shift[of]);
                    for result in &results {
                        let error = (f64::from(result[row * features + at]) - expected).abs();
                        assert!(error < 5e-6, "{shape:?}, {row}, {at}: off by {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_gated_branch_is_added() {
        for shape in SHAPES {
            let [batch, tokens, features] = shape;
            let [x, branch] = [1, 2].map(|seed| made_up::tensor::<3>(shape, seed));
            let gate = made_up::tensor::<2>([batch, features], 3);
            let results = both(|dtype| {
                let [x, branch] = [&x, &branch].map(|t| t.clone().cast(dtype));
                add_gated(x, branch, gate.clone())
            });
            // What nothing else refers to is written to; the rest stays.
            let own = add_gated(made_up::tensor(shape, 1), branch.clone(), gate.clone());
            assert_eq!(read(own), results[0]);
            assert_eq!(read(x.clone()), read(made_up::tensor::<3>(shape, 1)));
            let (x, branch, gate) = (read(x), read(branch), read(gate));
            for (at, (x, branch)) in x.iter().zip(branch).enumerate() {
                let gate = gate[at / (tokens * features) * features + at % features];
                let expected = f64::from(*x) + f64::from(branch) * f64::from(gate);
                for result in &results {
                    assert!((f64::from(result[at]) - expected).abs() < 1e-6, "{shape:?}, {at}");
                }
            }
        }
    }
}
