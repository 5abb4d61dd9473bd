//! Functions of single values, over slices that the compiler can vectorise.

use multiversion::multiversion;
use rayon::prelude::*;

use distorch_cube::Activation;

use super::host::{Host, tensor};
use crate::tensor::{Tensor, ops};

/// The sum of two tensors whose sides are equal or 1, in memory as the first is.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    distorch_cube::sum([a, b]).unwrap_or_else(|[a, b]| a + b)
}

/// `y + a + b`, of what there is.
pub(super) fn add_all<const D: usize>(
    y: Tensor<D>,
    a: Option<Tensor<D>>,
    b: Option<Tensor<D>>,
) -> Tensor<D> {
    match (a, b) {
        (None, None) => y,
        (Some(part), None) | (None, Some(part)) => add(y, part),
        (Some(a), Some(b)) => distorch_cube::sum([y, a, b]).unwrap_or_else(|[y, a, b]| y + a + b),
    }
}

/// The first half of the last dimension times the GELU of the second (GEGLU: Shazeer,
/// <https://arxiv.org/abs/2002.05202>): `[batch, tokens, 2 × features]` to half the features.
pub fn geglu(x: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, features] = x.dims();
    let half = features / 2;
    match Host::take(x) {
        Ok(x) if half > 0 => {
            let x = x.contiguous();
            let mut out = vec![0.0; batch * tokens * half];
            out.par_chunks_mut(half)
                .zip(x.values().par_chunks(features))
                .with_min_len(16)
                .for_each(|(out, x)| {
                    let (value, gate) = x.split_at(half);
                    gated_gelu(value, gate, out);
                });
            tensor(out, [batch, tokens, half])
        }
        x => {
            let x = x.map_or_else(|x| x, Host::give);
            let (gate, x) = (x.clone().narrow(2, half, half), x.narrow(2, 0, half));
            distorch_cube::gated(x, gate, Activation::Gelu)
                .unwrap_or_else(|[x, gate]| x * ops::activation::gelu(gate))
        }
    }
}

/// As [`geglu`] of `x + bias`, `[1, 1, 2 × features]`.
pub(super) fn biased_geglu(x: Tensor<3>, bias: Tensor<3>) -> Tensor<3> {
    let half = x.dims()[2] / 2;
    let halves = |x: Tensor<3>| [0, half].map(|first| x.clone().narrow(2, first, half));
    match distorch_cube::gated_sums(halves(x.clone()), halves(bias.clone()), Activation::Gelu) {
        Ok(gated) => gated,
        Err(_) => geglu(x + bias),
    }
}

/// This function of each value.
pub fn activated<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::Relu => relu(x),
        Activation::Silu => silu(x),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::QuickGelu => quick_gelu(x),
    }
}

/// This function of each value of `x + addend`.
pub(super) fn activated_sum<const D: usize>(
    x: Tensor<D>,
    addend: Tensor<D>,
    activation: Activation,
) -> Tensor<D> {
    distorch_cube::activated_sum(x, addend, activation)
        .unwrap_or_else(|[x, addend]| activated(x + addend, activation))
}

/// `x · Φ(x)`, the GELU of Hendrycks & Gimpel (<https://arxiv.org/abs/1606.08415>), not approximated.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    each(x, gelu_all, Activation::Gelu)
}

/// `x · sigmoid(1.702 x)`, the GELU of OpenAI's CLIP.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    each(x, quick_gelu_all, Activation::QuickGelu)
}

/// `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, the approximation of the GELU in its paper. On the CPU the result is
/// where `x` was, if nothing else refers to it.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match Host::take(x) {
        Ok(x) => {
            let mut x = x.unshared();
            x.values_mut().unwrap_or_default().par_chunks_mut(RUN).for_each(gelu_tanh_all);
            x.give()
        }
        Err(x) => elsewhere(x, Activation::GeluTanh),
    }
}

/// `x · sigmoid(x)`, the SiLU of Elfwing et al. (<https://arxiv.org/abs/1702.03118>).
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elsewhere(x, Activation::Silu)
}

/// `max(x, 0)`.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elsewhere(x, Activation::Relu)
}

/// `silu(gate) · x`, both of one shape (SwiGLU: Shazeer, <https://arxiv.org/abs/2002.05202>).
pub fn gated_silu<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    distorch_cube::gated(x, gate, Activation::Silu)
        .unwrap_or_else(|[x, gate]| ops::activation::silu(gate) * x)
}

/// By an accelerator's kernel or by Burn's operators.
fn elsewhere<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    distorch_cube::activated(x, activation).unwrap_or_else(|x| match activation {
        Activation::Relu => ops::activation::relu(x),
        Activation::Silu => ops::activation::silu(x),
        Activation::Gelu => ops::activation::gelu(x),
        Activation::GeluTanh => ops::activation::gelu_approximate(x),
        Activation::QuickGelu => x.clone() * ops::activation::sigmoid(x * QUICK),
    })
}

/// What [`quick_gelu`] multiplies with.
const QUICK: f32 = 1.702;

/// Values of one task.
const RUN: usize = 16 * 1024;

/// A function of every value: on the host from one slice to another.
fn each<const D: usize>(
    x: Tensor<D>,
    on_host: impl Fn(&[f32], &mut [f32]) + Sync,
    activation: Activation,
) -> Tensor<D> {
    match Host::take(x) {
        Ok(x) => {
            let x = x.contiguous();
            let shape = x.dims();
            let mut out = vec![0.0; x.values().len()];
            let runs = out.par_chunks_mut(RUN).zip(x.values().par_chunks(RUN));
            runs.for_each(|(out, x)| on_host(x, out));
            tensor(out, shape)
        }
        Err(x) => elsewhere(x, activation),
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn gelu_all(x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = gelu_of(*x));
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn quick_gelu_all(x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x / (1.0 + exp(-QUICK * x)));
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub(super) fn gelu_tanh_all(values: &mut [f32]) {
    /// Twice √(2/π): `1 + tanh(u)` is `2 · sigmoid(2u)`.
    const TWICE: f32 = 1.595_769;
    for value in values {
        let x = *value;
        *value = x / (1.0 + exp(-TWICE * (x + 0.044_715 * x * x * x)));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn gated_gelu(value: &[f32], gate: &[f32], out: &mut [f32]) {
    for ((out, value), gate) in out.iter_mut().zip(value).zip(gate) {
        *out = value * gelu_of(*gate);
    }
}

/// `x · Φ(x)` with the error function of Abramowitz & Stegun 7.1.26, whose error is below 1.5e-7.
#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let polynomial = t
        * (0.254_829_6
            + t * (-0.284_496_72 + t * (1.421_413_8 + t * (-1.453_152 + t * 1.061_405_4))));
    // Half of erfc(|x| / √2): the share beyond |x|.
    let beyond = 0.5 * polynomial * exp(-z * z);
    x * if x >= 0.0 { 1.0 - beyond } else { beyond }
}

/// `eˣ` to within 2 units in the last place, 0 below -87 and finite above: `2ⁿ · eʳ` with n the
/// nearest whole number to x / ln 2, and for `eʳ` its Taylor series to the sixth degree.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding this rounds to a whole number, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let bounded = x.clamp(-87.0, 88.0);
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (bounded - n * LN2_HIGH) - n * LN2_LOW;
    let mut series = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    let value = series * power;
    if x < -87.0 { 0.0 } else { value }
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub(super) fn silu_of(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorData;

    #[test]
    fn exp_is_near_the_standard_one() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (fast, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((fast - exact).abs() <= 3e-7 * exact, "{x}: {fast} {exact}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1e9).is_finite() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn gelus_are_burns() {
        let values: Vec<f32> = (0..3 * 20_000).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let data = TensorData::new(values, [3, 20_000]);
        let x = Tensor::<2>::from_data(data, &crate::tensor::cpu());
        let difference = |a: Tensor<2>, b: Tensor<2>| (a - b).abs().max().into_scalar();
        let exact = difference(gelu(x.clone()), ops::activation::gelu(x.clone()));
        let sigmoid = ops::activation::sigmoid(x.clone() * QUICK);
        let quick = difference(quick_gelu(x.clone()), x.clone() * sigmoid);
        let cube = x.clone().powf_scalar(3.0) * 0.044_715;
        let tanh = ((x.clone() + cube) * std::f32::consts::FRAC_2_PI.sqrt()).tanh();
        let tanh = difference(gelu_tanh(x.clone()), x * (tanh + 1.0) * 0.5);
        assert!(exact < 3e-6 && quick < 3e-6 && tanh < 3e-6, "{exact} {quick} {tanh}");
    }

    #[test]
    fn geglu_is_burns() {
        let values: Vec<f32> = (0..2 * 3 * 34).map(|i| (i as f32 * 0.37).sin() * 6.0).collect();
        let x = Tensor::<3>::from_data(TensorData::new(values, [2, 3, 34]), &crate::tensor::cpu());
        let gate = ops::activation::gelu(x.clone().narrow(2, 17, 17));
        let expected = x.clone().narrow(2, 0, 17) * gate;
        let difference = (geglu(x) - expected).abs().max().into_scalar();
        assert!(difference < 3e-6, "{difference}");
    }
}
