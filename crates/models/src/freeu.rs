//! FreeU (Si and others 2023, <https://arxiv.org/abs/2309.11497>): a UNet's backbone counts more and
//! the low frequencies of its skip connections count less where both join.
//!
//! The skip's filter is the paper's with threshold 1. It scales four values of the spectrum, those at
//! the frequencies -1 and 0 of either side, so that no whole Fourier transform is needed: the part of
//! a picture at these frequencies is a projection on a few cosines and sines.

use std::f64::consts::TAU;

use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, Tensor, kernels};

/// Numbers of FreeU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FreeU {
    /// How the backbone is raised.
    pub raise: Raise,
    /// For the widest stages, of four times the model's channels.
    pub first: Scales,
    /// For those of twice the model's channels.
    pub second: Scales,
}

/// How the first half of the backbone's channels is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raise {
    /// All of it by the same factor: the paper's first version.
    Evenly,
    /// Each pixel by as much as the mean over channels is high there: the second version.
    ByMean,
}

/// Factors of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// Of the backbone (`b`).
    pub backbone: f64,
    /// Of the skip connection's low frequencies (`s`).
    pub skip: f64,
}

impl FreeU {
    /// The backbone `h` and the skip connection that joins it, both `[batch, channels, height,
    /// width]`, in a model whose first level has `model_channels`.
    pub fn join(
        &self,
        h: Tensor<4>,
        skip: Tensor<4>,
        model_channels: usize,
    ) -> (Tensor<4>, Tensor<4>) {
        let scales = match h.dims()[1] {
            width if width == 4 * model_channels => self.first,
            width if width == 2 * model_channels => self.second,
            _ => return (h, skip),
        };
        (raised(h, scales.backbone, self.raise), filtered(skip, scales.skip))
    }
}

/// The first half of the channels times `factor`, or times what leads from 1 to it by the mean.
fn raised(h: Tensor<4>, factor: f64, raise: Raise) -> Tensor<4> {
    let [_, channels, ..] = h.dims();
    let half = channels / 2;
    let first = h.clone().narrow(1, 0, half);
    let first = match raise {
        Raise::Evenly => first * factor,
        Raise::ByMean => first * (mean_map(&h) * (factor - 1.0) + 1.0).cast(h.dtype()),
    };
    Tensor::cat(vec![first, h.narrow(1, half, channels - half)], 1)
}

/// The mean over channels, brought to 0 to 1 picture by picture: `[batch, 1, height, width]` in f32.
/// A flat map is 0.
fn mean_map(h: &Tensor<4>) -> Tensor<4> {
    let [batch, _, height, width] = h.dims();
    let mean = h.clone().cast(DType::F32).mean_dim(1).reshape([batch, height * width]);
    let low = mean.clone().min_dim(1);
    let range = mean.clone().max_dim(1) - low.clone();
    ((mean - low) / (range + 1e-30)).reshape([batch, 1, height, width])
}

/// A picture whose values at the frequencies -1 and 0 of both sides are scaled.
fn filtered(x: Tensor<4>, scale: f64) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let pixels = height * width;
    let basis = basis(height, width, &x.device());
    let rows = x.clone().cast(DType::F32).reshape([batch * channels, pixels]);
    let low = kernels::matmul(kernels::matmul(rows, basis.clone().transpose()), basis)
        * ((scale - 1.0) / pixels as f64);
    x.clone() + low.reshape([batch, channels, height, width]).cast(x.dtype())
}

/// The cosine and the sine of each of the frequencies, `[functions, pixels]`. The real part of the
/// sum of `X e^{iθ}` over them, where `X` is the sum of `x e^{-iθ}` over pixels, is the projection
/// on these.
fn basis(height: usize, width: usize, device: &Device) -> Tensor<2> {
    let frequencies = |side: usize| if side > 1 { &[-1.0, 0.0][..] } else { &[0.0] };
    let mut values = Vec::new();
    for down in frequencies(height) {
        for across in frequencies(width) {
            for wave in [f64::cos, f64::sin] {
                for y in 0..height {
                    let row = down * y as f64 / height as f64;
                    let at = |x| TAU * (row + across * x as f64 / width as f64);
                    values.extend((0..width).map(|x| wave(at(x)) as f32));
                }
            }
        }
    }
    let pixels = height * width;
    let functions = values.len() / pixels.max(1);
    Tensor::from_data(TensorData::new(values, [functions, pixels]), (device, DType::F32))
}
