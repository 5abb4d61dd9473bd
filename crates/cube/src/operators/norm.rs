//! Normalisations of rows, in f32 whatever the dtype.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;

use super::elements::{same_dtype, silu};
use super::operation::{Operation, apply};
use super::reduce::{By, Units, cubes, reduce, sum_of};
use super::rows::Rows;

/// What the norm of a pixel is at least.
const LEAST_NORM: f32 = 1e-12;

/// `(x - mean) / √(variance + ε) · weight + bias` over the last dimension of `x` `[…, features]`; `weight` and `bias`
/// `[n, …, features]` with as many rows as divide those of `x`: each is for that part of them, in order. With
/// `from_one`, what is multiplied by is `1 + weight`.
///
/// # Errors
/// All three, where they are on no accelerator.
pub fn layer_norm<const D: usize>(
    x: crate::Tensor<D>,
    weight: crate::Tensor<D>,
    bias: crate::Tensor<D>,
    epsilon: f64,
    from_one: bool,
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; 3]> {
    apply(LayerNorm { epsilon, from_one }, [x, weight, bias])
}

/// `x / √(mean(x²) + ε) · weight` over the last dimension of `x` `[…, features]`, `weight` `[1, …, features]`.
///
/// # Errors
/// Both, where they are on no accelerator.
pub fn rms_norm<const D: usize>(
    x: crate::Tensor<D>,
    weight: crate::Tensor<D>,
    epsilon: f64,
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; 2]> {
    apply(RmsNorm { epsilon }, [x, weight])
}

/// `x / max(‖x‖, 1e-12) · √channels · weight` for each pixel of `[batch, channels, height, width]`, with `weight`
/// `[1, channels, 1, 1]`, and SiLU behind it if `activate`. Channels are last in the result's memory.
///
/// # Errors
/// Both, where they are on no accelerator.
pub fn channel_rms_norm(
    x: crate::Tensor<4>,
    weight: crate::Tensor<4>,
    activate: bool,
) -> Result<crate::Tensor<4>, [crate::Tensor<4>; 2]> {
    apply(ChannelNorm { activate }, [x, weight])
}

#[derive(Debug)]
struct LayerNorm {
    epsilon: f64,
    from_one: bool,
}

#[derive(Debug)]
struct RmsNorm {
    epsilon: f64,
}

#[derive(Debug)]
struct ChannelNorm {
    activate: bool,
}

/// Vectors of a row, and what a launch of one cube for each row is told.
struct Launch<R: CubeRuntime> {
    x: Rows<R>,
    y: CubeTensor<R>,
    vector: usize,
    units: Units,
}

impl<R: CubeRuntime> Launch<R> {
    fn new(x: CubeTensor<R>) -> Self {
        let x = Rows::of(x);
        let vector = x.vector();
        let units = Units::of(&x.tensor.client, x.length / vector);
        let (client, device) = (x.tensor.client.clone(), x.tensor.device.clone());
        let y = empty_device_contiguous_dtype(client, device, x.shape(), x.tensor.dtype);
        Self { x, y, vector, units }
    }

    fn address_type(&self, others: &[&CubeTensor<R>]) -> AddressType {
        let own = [&self.x.tensor, &self.y].into_iter();
        let all = own.chain(others.iter().copied()).map(CubeTensor::required_address_type);
        all.max().unwrap_or_default()
    }
}

impl Operation for LayerNorm {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([x, weight, bias]) = <[_; 3]>::try_from(inputs) else {
            unreachable!("a layer norm has a weight and a bias")
        };
        let [weight, bias] = same_dtype([weight, bias]).map(into_contiguous);
        let launch = Launch::new(x);
        let address = launch.address_type(&[&weight, &bias]);
        let Launch { x, y, vector, units } = launch;
        let of_one = x.count / (weight.meta.num_elements() / x.length.max(1)).max(1);
        let client = x.tensor.client.clone();
        let dtypes = [x.tensor.dtype.into(), weight.dtype.into()];
        // SAFETY: a unit reads and writes vectors of its row only, which all tensors have.
        unsafe {
            layer_norm_rows::launch_unchecked::<R>(
                &client,
                cubes(x.count),
                units.dim(),
                address,
                vector,
                x.tensor.into_tensor_arg(),
                weight.into_tensor_arg(),
                bias.into_tensor_arg(),
                y.clone().into_tensor_arg(),
                x.count,
                x.length / vector,
                x.pitch / vector,
                of_one.max(1),
                self.epsilon as f32,
                self.from_one,
                units,
                dtypes,
            );
        }
        y
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn layer_norm_rows<X: Float, W: Float, N: Size>(
    x: &Tensor<Vector<X, N>>,
    weight: &Tensor<Vector<W, N>>,
    bias: &Tensor<Vector<W, N>>,
    y: &mut Tensor<Vector<X, N>>,
    rows: usize,
    length: usize,
    pitch: usize,
    of_one: usize,
    epsilon: f32,
    #[comptime] from_one: bool,
    #[comptime] units: Units,
    #[define(X, W)] _dtypes: [StorageType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let (start, step) = (row * pitch, comptime!(units.count as usize));
    let count = (length * N::value()) as f32;

    let mut sums = Vector::<f32, N>::new(0.0);
    let mut at = UNIT_POS as usize;
    while at < length {
        sums += Vector::cast_from(x[start + at]);
        at += step;
    }
    let mean = reduce(sum_of(sums), By::Sum, units) / count;

    let mut squares = Vector::<f32, N>::new(0.0);
    let mut at = UNIT_POS as usize;
    while at < length {
        let difference = Vector::<f32, N>::cast_from(x[start + at]) - Vector::new(mean);
        squares += difference * difference;
        at += step;
    }
    let variance = reduce(sum_of(squares), By::Sum, units) / count;
    let inverse = 1.0 / (variance + epsilon).sqrt();

    let affine = row / of_one * length;
    let mut at = UNIT_POS as usize;
    while at < length {
        let difference = Vector::<f32, N>::cast_from(x[start + at]) - Vector::new(mean);
        let mut scale = Vector::<f32, N>::cast_from(weight[affine + at]);
        if comptime!(from_one) {
            scale += Vector::new(1.0);
        }
        let shift = Vector::<f32, N>::cast_from(bias[affine + at]);
        let normal = difference * Vector::new(inverse);
        y[row * length + at] = Vector::cast_from(normal * scale + shift);
        at += step;
    }
}

impl Operation for RmsNorm {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([x, weight]) = <[_; 2]>::try_from(inputs) else {
            unreachable!("this norm has a weight")
        };
        root_mean_squares(x, weight, self.epsilon as f32, 0.0, false)
    }
}

impl Operation for ChannelNorm {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([x, weight]) = <[_; 2]>::try_from(inputs) else {
            unreachable!("this norm has a weight")
        };
        let x = permute_nchw_to_nhwc(x);
        permute_nhwc_to_nchw(root_mean_squares(x, weight, 0.0, LEAST_NORM, self.activate))
    }
}

/// `x / max(√(mean(x²) + ε), least / √features) · weight`, and SiLU behind it if `activate`.
fn root_mean_squares<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    epsilon: f32,
    least: f32,
    activate: bool,
) -> CubeTensor<R> {
    let weight = into_contiguous(weight);
    let launch = Launch::new(x);
    let address = launch.address_type(&[&weight]);
    let Launch { x, y, vector, units } = launch;
    let client = x.tensor.client.clone();
    let dtypes = [x.tensor.dtype.into(), weight.dtype.into()];
    // SAFETY: a unit reads and writes vectors of its row only, which all tensors have.
    unsafe {
        rms_norm_rows::launch_unchecked::<R>(
            &client,
            cubes(x.count),
            units.dim(),
            address,
            vector,
            x.tensor.into_tensor_arg(),
            weight.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            x.count,
            x.length / vector,
            x.pitch / vector,
            epsilon,
            least / (x.length as f32).sqrt(),
            activate,
            units,
            dtypes,
        );
    }
    y
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn rms_norm_rows<X: Float, W: Float, N: Size>(
    x: &Tensor<Vector<X, N>>,
    weight: &Tensor<Vector<W, N>>,
    y: &mut Tensor<Vector<X, N>>,
    rows: usize,
    length: usize,
    pitch: usize,
    epsilon: f32,
    least: f32,
    #[comptime] activate: bool,
    #[comptime] units: Units,
    #[define(X, W)] _dtypes: [StorageType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let (start, step) = (row * pitch, comptime!(units.count as usize));

    let mut squares = Vector::<f32, N>::new(0.0);
    let mut at = UNIT_POS as usize;
    while at < length {
        let value = Vector::<f32, N>::cast_from(x[start + at]);
        squares += value * value;
        at += step;
    }
    let mean = reduce(sum_of(squares), By::Sum, units) / (length * N::value()) as f32;
    let inverse = 1.0 / max((mean + epsilon).sqrt(), least);

    let mut at = UNIT_POS as usize;
    while at < length {
        let value = Vector::<f32, N>::cast_from(x[start + at]) * Vector::new(inverse);
        let mut value = value * Vector::<f32, N>::cast_from(weight[at]);
        if comptime!(activate) {
            value = silu(value);
        }
        y[row * length + at] = Vector::cast_from(value);
        at += step;
    }
}
