//! Normalisations, in f32 whatever the compute dtype.

use multiversion::multiversion;
use rayon::prelude::*;

use super::elementwise::silu_of;
use super::host::{Host, tensor};
use crate::tensor::{Backend, DType, ModuleOps, Tensor, TensorPrimitive, ops};

/// Group normalisation (Wu & He, <https://arxiv.org/abs/1803.08494>) of `[batch, channels, height,
/// width]` with `weight` and `bias` `[channels]`, and SiLU behind it if `activate`.
pub fn group_norm(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let fits = groups > 0
        && height * width > 0
        && channels.is_multiple_of(groups)
        && weight.dims() == [channels]
        && bias.dims() == [channels];
    match Host::take(x) {
        Ok(x) if fits => {
            let [weight, bias] = [weight, bias].map(|t| t.into_data().convert::<f32>());
            let (Ok(weight), Ok(bias)) = (weight.as_slice::<f32>(), bias.as_slice::<f32>()) else {
                unreachable!("converted to f32 above")
            };
            let x = x.contiguous();
            let per_group = channels / groups;
            let plane = height * width;
            let mut out = vec![0.0; batch * channels * plane];
            let inputs = x.values().par_chunks(per_group * plane);
            out.par_chunks_mut(per_group * plane).zip(inputs).enumerate().for_each(
                |(i, (out, x))| {
                    let first = i % groups * per_group;
                    let affine = (&weight[first..], &bias[first..]);
                    normalise_group(x, plane, affine, epsilon, activate, out);
                },
            );
            tensor(out, [batch, channels, height, width])
        }
        x => {
            let x = x.map_or_else(|x| x, Host::give);
            let [weight, bias] = [weight, bias].map(|param| param.reshape([1, -1, 1, 1]));
            if !fits {
                return group_norm_by_burn(x, groups, weight, bias, epsilon, activate);
            }
            let by_cube = distorch_cube::group_norm(x, groups, weight, bias, epsilon, activate);
            by_cube.unwrap_or_else(|[x, weight, bias]| {
                group_norm_by_burn(x, groups, weight, bias, epsilon, activate)
            })
        }
    }
}

/// With `weight` and `bias` `[1, channels, 1, 1]`.
fn group_norm_by_burn(
    x: Tensor<4>,
    groups: usize,
    weight: Tensor<4>,
    bias: Tensor<4>,
    epsilon: f64,
    activate: bool,
) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let dtype = x.dtype();
    let (each, per_group) = (channels / groups, channels / groups * height * width);
    let x = x.cast(DType::F32);
    let values = x.clone().reshape([batch * groups, per_group]);
    let mean = values.clone().mean_dim(1);
    let variance = (values - mean.clone()).square().mean_dim(1);
    let of_channels = |statistic: Tensor<2>| {
        let statistic = statistic.reshape([batch, groups, 1]).expand([batch, groups, each]);
        statistic.reshape([batch, channels, 1, 1])
    };
    let scale = weight.cast(DType::F32) / of_channels((variance + epsilon).sqrt());
    let shift = bias.cast(DType::F32) - of_channels(mean) * scale.clone();
    let y = x * scale + shift;
    let y = if activate { ops::activation::silu(y) } else { y };
    y.cast(dtype)
}

/// One group: planes of channels, one after the other.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn normalise_group(
    x: &[f32],
    plane: usize,
    (weight, bias): (&[f32], &[f32]),
    epsilon: f64,
    activate: bool,
    out: &mut [f32],
) {
    let (mean, deviation) = moments(x, epsilon);
    let planes = x.chunks_exact(plane).zip(out.chunks_exact_mut(plane));
    for ((x, out), (weight, bias)) in planes.zip(weight.iter().zip(bias)) {
        let scale = weight / deviation;
        let shift = bias - mean * scale;
        if activate {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = silu_of(x * scale + shift));
        } else {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = x * scale + shift);
        }
    }
}

/// The mean, and the square root of the variance plus ε.
#[inline(always)]
pub(super) fn moments(x: &[f32], epsilon: f64) -> (f32, f32) {
    let count = x.len() as f64;
    let mean = (sum(x, |x| x) / count) as f32;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    (mean, (variance + epsilon).sqrt() as f32)
}

/// The sum of a function of each value: in f32 over short runs with 16 sums side by side, in f64
/// over these.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    const RUN: usize = 1024;
    let mut total = 0.0;
    for run in x.chunks(RUN) {
        let mut sums = [0.0_f32; 16];
        let (lanes, rest) = run.as_chunks::<16>();
        for lane in lanes {
            sums.iter_mut().zip(lane).for_each(|(sum, x)| *sum += f(*x));
        }
        total += f64::from(sums.iter().sum::<f32>());
        total += rest.iter().map(|x| f64::from(f(*x))).sum::<f64>();
    }
    total
}

/// Layer normalisation (Ba et al., <https://arxiv.org/abs/1607.06450>) over the last dimension, with
/// `weight` and `bias` `[features]`.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let shape = x.dims();
    let features = shape[D - 1];
    let fits = features > 0 && weight.dims() == [features] && bias.dims() == [features];
    match Host::take(x) {
        Ok(x) if fits => {
            let [weight, bias] = [weight, bias].map(|t| t.into_data().convert::<f32>());
            let (Ok(weight), Ok(bias)) = (weight.as_slice::<f32>(), bias.as_slice::<f32>()) else {
                unreachable!("converted to f32 above")
            };
            let x = x.contiguous();
            let mut out = vec![0.0; x.values().len()];
            let rows = out.par_chunks_mut(features).zip(x.values().par_chunks(features));
            rows.with_min_len(16).for_each(|(out, x)| normalise_row(x, weight, bias, epsilon, out));
            tensor(out, shape)
        }
        x => {
            let x = x.map_or_else(|x| x, Host::give);
            let by_burn = |x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>| {
                let dtype = x.dtype();
                let [weight, bias] =
                    [weight, bias].map(|t| t.cast(DType::F32).into_primitive().tensor());
                let x = x.cast(DType::F32).into_primitive().tensor();
                let y = Backend::layer_norm(x, weight, Some(bias), epsilon);
                Tensor::<D>::from_primitive(TensorPrimitive::Float(y)).cast(dtype)
            };
            if !fits {
                return by_burn(x, weight, bias);
            }
            let by_cube =
                distorch_cube::layer_norm(x, weight.unsqueeze(), bias.unsqueeze(), epsilon, false);
            by_cube.unwrap_or_else(|[x, weight, bias]| {
                by_burn(x, weight.flatten(0, D - 1), bias.flatten(0, D - 1))
            })
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn normalise_row(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f64, out: &mut [f32]) {
    let (mean, deviation) = moments(x, epsilon);
    let inverse = 1.0 / deviation;
    let affine = weight.iter().zip(bias);
    for ((out, x), (weight, bias)) in out.iter_mut().zip(x).zip(affine) {
        *out = (x - mean) * inverse * weight + bias;
    }
}

/// Normalisation by the root mean square (Zhang & Sennrich, <https://arxiv.org/abs/1910.07467>) over the
/// last dimension, `x / √(mean(x²) + ε) · weight`, with `weight` `[features]`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let shape = x.dims();
    let features = shape[D - 1];
    let fits = features > 0 && weight.dims() == [features];
    match Host::take(x) {
        Ok(x) if fits => {
            let weight = weight.into_data().convert::<f32>();
            let Ok(weight) = weight.as_slice::<f32>() else {
                unreachable!("converted to f32 above")
            };
            let x = x.contiguous();
            let mut out = vec![0.0; x.values().len()];
            let rows = out.par_chunks_mut(features).zip(x.values().par_chunks(features));
            let few = (16 * 1024 / features).max(1);
            rows.with_min_len(few).for_each(|(out, x)| scale_row(x, weight, epsilon, out));
            tensor(out, shape)
        }
        x => {
            let x = x.map_or_else(|x| x, Host::give);
            let by_burn = |x: Tensor<D>, weight: Tensor<D>| {
                let dtype = x.dtype();
                let x = x.cast(DType::F32);
                let mean = x.clone().square().mean_dim(D - 1);
                let y = x / (mean + epsilon).sqrt() * weight.cast(DType::F32);
                y.cast(dtype)
            };
            let weight = weight.unsqueeze();
            match fits {
                true => distorch_cube::rms_norm(x, weight, epsilon)
                    .unwrap_or_else(|[x, weight]| by_burn(x, weight)),
                false => by_burn(x, weight),
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn scale_row(x: &[f32], weight: &[f32], epsilon: f64, out: &mut [f32]) {
    let mean = sum(x, |x| x * x) / x.len() as f64;
    let inverse = (1.0 / (mean + epsilon).sqrt()) as f32;
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * inverse * weight;
    }
}

/// Pixels whose squares are summed at once.
const PIXELS: usize = 256;

/// Normalisation of each pixel of `[batch, channels, height, width]` by the root mean square of its channels,
/// `x / max(‖x‖, 1e-12) · √channels · weight`, with `weight` `[channels]`, and SiLU behind it if `activate`.
pub fn channel_rms_norm(x: Tensor<4>, weight: Tensor<1>, activate: bool) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let plane = height * width;
    let fits = channels * plane > 0 && weight.dims() == [channels];
    match Host::take(x) {
        Ok(x) if fits => {
            let weight = weight.into_data().convert::<f32>();
            let Ok(weight) = weight.as_slice::<f32>() else {
                unreachable!("converted to f32 above")
            };
            let x = x.contiguous();
            let mut inverse = vec![0.0; batch * plane];
            let pictures = inverse.chunks_mut(plane).zip(x.values().chunks(channels * plane));
            for (inverse, x) in pictures {
                inverse.par_chunks_mut(PIXELS).enumerate().for_each(|(at, inverse)| {
                    inverse_norms(x, plane, at * PIXELS, inverse);
                });
            }
            let mut out = vec![0.0; x.values().len()];
            let planes = out.par_chunks_mut(plane).zip(x.values().par_chunks(plane));
            planes.enumerate().for_each(|(at, (out, x))| {
                let inverse = &inverse[at / channels * plane..][..plane];
                scale_plane(x, inverse, weight[at % channels], activate, out);
            });
            tensor(out, [batch, channels, height, width])
        }
        x => {
            let x = x.map_or_else(|x| x, Host::give);
            let by_burn = |x: Tensor<4>, weight: Tensor<4>| {
                let dtype = x.dtype();
                let x = x.cast(DType::F32);
                let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(LEAST_NORM);
                let y = x / norm * (channels as f64).sqrt() * weight.cast(DType::F32);
                let y = if activate { ops::activation::silu(y) } else { y };
                y.cast(dtype)
            };
            let weight = weight.reshape([1, -1, 1, 1]);
            match fits {
                true => distorch_cube::channel_rms_norm(x, weight, activate)
                    .unwrap_or_else(|[x, weight]| by_burn(x, weight)),
                false => by_burn(x, weight),
            }
        }
    }
}

/// What the norm of a pixel is at least.
const LEAST_NORM: f32 = 1e-12;

/// For each pixel from `start` on, `√channels / ‖x‖`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn inverse_norms(x: &[f32], plane: usize, start: usize, inverse: &mut [f32]) {
    inverse.fill(0.0);
    let planes = x.chunks_exact(plane);
    let channels = planes.len() as f32;
    for plane in planes {
        let squares = inverse.iter_mut().zip(&plane[start..]);
        squares.for_each(|(sum, x)| *sum += x * x);
    }
    let root = channels.sqrt();
    inverse.iter_mut().for_each(|sum| *sum = root / sum.sqrt().max(LEAST_NORM));
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn scale_plane(x: &[f32], inverse: &[f32], weight: f32, activate: bool, out: &mut [f32]) {
    let scaled = x.iter().zip(inverse).map(|(x, inverse)| x * inverse * weight);
    match activate {
        true => out.iter_mut().zip(scaled).for_each(|(out, x)| *out = silu_of(x)),
        false => out.iter_mut().zip(scaled).for_each(|(out, x)| *out = x),
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;
    use crate::tensor::{TensorData, cpu};

    /// Beside the formula in f64, for pictures of fewer and more pixels than are summed at once; a pixel of zeros stays so.
    #[test]
    fn channel_rms_norm_is_its_formula() {
        for (channels, side) in [(3, 5), (96, 17)] {
            let plane = side * side;
            let weight = made_up::tensor([channels], 5);
            let weights = made_up::values(channels, 5);
            let mut values = made_up::values(2 * channels * plane, 7);
            values.iter_mut().step_by(side).for_each(|value| *value = 0.0);
            let data = TensorData::new(values.clone(), [2, channels, side, side]);
            let x = Tensor::<4>::from_data(data, &cpu());
            for activate in [false, true] {
                let y = channel_rms_norm(x.clone(), weight.clone(), activate);
                let by_burn =
                    channel_rms_norm(x.clone().cast(DType::F64), weight.clone(), activate);
                for y in [y, by_burn.cast(DType::F32)] {
                    for (at, y) in y.into_data().to_vec::<f32>().unwrap().iter().enumerate() {
                        let (picture, channel) = (at / (channels * plane), at / plane % channels);
                        let pixel = |channel: usize| {
                            f64::from(values[(picture * channels + channel) * plane + at % plane])
                        };
                        let norm = (0..channels).map(|c| pixel(c).powi(2)).sum::<f64>().sqrt();
                        let scaled = pixel(channel) / norm.max(1e-12) * (channels as f64).sqrt();
                        let scaled = scaled * f64::from(weights[channel]);
                        let expected = match activate {
                            true => scaled / (1.0 + (-scaled).exp()),
                            false => scaled,
                        };
                        assert!((f64::from(*y) - expected).abs() < 2e-6, "{y}, not {expected}");
                    }
                }
            }
        }
    }

    /// Beside the formula in f64, for rows that end within a run of 16 values and beyond 1024 of them, of a
    /// tensor as it lies in memory and of a transposed one.
    #[test]
    fn rms_norm_is_its_formula() {
        for features in [3, 64, 1000, 2053] {
            let weight = made_up::tensor([features], 5);
            let weights = made_up::values(features, 5);
            let x = made_up::tensor([2, 3, features], 7);
            let values = made_up::values(6 * features, 7);
            let expected = |row: usize, at: usize| {
                let row = &values[row * features..][..features];
                let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
                let root = (squares / features as f64 + 0.25).sqrt();
                (f64::from(row[at]) / root * f64::from(weights[at])) as f32
            };
            let y = rms_norm(x.clone(), weight.clone(), 0.25);
            let transposed = rms_norm(x.clone().swap_dims(0, 1), weight.clone(), 0.25);
            let by_burn = rms_norm(x.cast(DType::F64), weight, 0.25).cast(DType::F32);
            for (y, order) in [
                (y, [0, 1, 2, 3, 4, 5]),
                (transposed.reshape([2, 3, features]), [0, 3, 1, 4, 2, 5]),
                (by_burn, [0, 1, 2, 3, 4, 5]),
            ] {
                let y = y.into_data().to_vec::<f32>().unwrap();
                for (row, of) in y.chunks(features).zip(order) {
                    for (at, y) in row.iter().enumerate() {
                        let expected = expected(of, at);
                        assert!((y - expected).abs() < 1e-6, "{features}: {y}, not {expected}");
                    }
                }
            }
        }
    }
}
