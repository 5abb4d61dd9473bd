//! The operators, and what accelerators do beside them, in a build without: no tensor is on one.

// Each says what it does where it does it.
#![allow(missing_docs)]

use burn::DispatchDevice as Device;
use burn::tensor::DType;

use crate::{Activation, Tensor};

pub fn matmul<const D: usize>(
    lhs: Tensor<D>,
    rhs: Tensor<D>,
    _: DType,
) -> Result<Tensor<D>, (Tensor<D>, Tensor<D>)> {
    Err((lhs, rhs))
}

pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    _: usize,
    _: usize,
) -> Result<Tensor<4>, (Tensor<4>, Tensor<4>)> {
    Err((x, weight))
}

pub fn flash_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    _: bool,
) -> Result<Tensor<4>, [Tensor<4>; 3]> {
    Err([query, key, value])
}

pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<D>,
    bias: Tensor<D>,
    _: f64,
    _: bool,
) -> Result<Tensor<D>, [Tensor<D>; 3]> {
    Err([x, weight, bias])
}

pub fn rms_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<D>,
    _: f64,
) -> Result<Tensor<D>, [Tensor<D>; 2]> {
    Err([x, weight])
}

pub fn group_norm(
    x: Tensor<4>,
    _: usize,
    weight: Tensor<4>,
    bias: Tensor<4>,
    _: f64,
    _: bool,
) -> Result<Tensor<4>, [Tensor<4>; 3]> {
    Err([x, weight, bias])
}

pub fn channel_rms_norm(
    x: Tensor<4>,
    weight: Tensor<4>,
    _: bool,
) -> Result<Tensor<4>, [Tensor<4>; 2]> {
    Err([x, weight])
}

pub fn softmax<const D: usize>(
    scores: Tensor<D>,
    _: f32,
    _: Option<usize>,
    _: DType,
) -> Result<Tensor<D>, Tensor<D>> {
    Err(scores)
}

pub fn channels_last(filters: Tensor<4>) -> Result<Tensor<4>, Tensor<4>> {
    Err(filters)
}

pub fn flash_tile(_: &Device, _: DType, _: usize) -> Option<usize> {
    None
}

pub fn sum<const D: usize, const N: usize>(
    addends: [Tensor<D>; N],
) -> Result<Tensor<D>, [Tensor<D>; N]> {
    Err(addends)
}

pub fn gated_sum<const D: usize>(
    x: Tensor<D>,
    factor: Tensor<D>,
    gate: Tensor<D>,
) -> Result<Tensor<D>, [Tensor<D>; 3]> {
    Err([x, factor, gate])
}

pub fn activated<const D: usize>(x: Tensor<D>, _: Activation) -> Result<Tensor<D>, Tensor<D>> {
    Err(x)
}

pub fn gated<const D: usize>(
    x: Tensor<D>,
    gate: Tensor<D>,
    _: Activation,
) -> Result<Tensor<D>, [Tensor<D>; 2]> {
    Err([x, gate])
}

pub fn activated_sum<const D: usize>(
    x: Tensor<D>,
    addend: Tensor<D>,
    _: Activation,
) -> Result<Tensor<D>, [Tensor<D>; 2]> {
    Err([x, addend])
}

pub fn gated_sums<const D: usize>(
    [x, gate]: [Tensor<D>; 2],
    [addend, of_gate]: [Tensor<D>; 2],
    _: Activation,
) -> Result<Tensor<D>, [Tensor<D>; 4]> {
    Err([x, gate, addend, of_gate])
}

pub fn rotated(
    x: Tensor<4>,
    cosines: Tensor<4>,
    sines: Tensor<4>,
) -> Result<Tensor<4>, [Tensor<4>; 3]> {
    Err([x, cosines, sines])
}

pub fn bytes_in_use(_: &Device) -> Option<u64> {
    None
}

pub fn clean_up(_: &Device) {}

pub fn flush(_: &Device) {}
