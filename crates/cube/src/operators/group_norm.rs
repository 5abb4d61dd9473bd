//! Group normalisation, in f32 whatever the dtype.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;

use super::elements::{same_dtype, silu, vector_size};
use super::operation::{Operation, apply};
use super::reduce::{By, Units, cubes, reduce};

/// Units of a cube that reads a part of a picture.
const UNITS: u32 = 256;

/// Pixels of a part of a picture, at most: of so few values, differences from the first one have exact enough squares.
const PIXELS: usize = 512;

/// Vectors that a unit has of a part, at least.
const VECTORS: usize = 16;

/// Group normalisation of `[batch, channels, height, width]` with `weight` and `bias` `[1, channels, 1, 1]`, whose channels
/// `groups` divides, and SiLU behind it if `activate`. Channels are last in the result's memory.
///
/// # Errors
/// All three, where they are on no accelerator.
pub fn group_norm(
    x: crate::Tensor<4>,
    groups: usize,
    weight: crate::Tensor<4>,
    bias: crate::Tensor<4>,
    epsilon: f64,
    activate: bool,
) -> Result<crate::Tensor<4>, [crate::Tensor<4>; 3]> {
    apply(GroupNorm { groups, epsilon, activate }, [x, weight, bias])
}

#[derive(Debug)]
struct GroupNorm {
    groups: usize,
    epsilon: f64,
    activate: bool,
}

impl Operation for GroupNorm {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([x, weight, bias]) = <[_; 3]>::try_from(inputs) else {
            unreachable!("a group norm has a weight and a bias")
        };
        let x = into_contiguous(permute_nchw_to_nhwc(x));
        let [weight, bias] = same_dtype([weight, bias]).map(into_contiguous);
        let (client, device, dtype) = (x.client.clone(), x.device.clone(), x.dtype);
        let empty = |shape: Vec<usize>, dtype| {
            let (client, device) = (client.clone(), device.clone());
            empty_device_contiguous_dtype(client, device, Shape::from(shape), dtype)
        };
        let shape = x.meta.shape().to_vec();
        let (batch, pixels, channels) = match shape[..] {
            [batch, height, width, channels] => (batch, height * width, channels),
            _ => unreachable!("a picture has four dimensions"),
        };
        let y = empty(shape, dtype);
        if batch * pixels * channels == 0 {
            return permute_nhwc_to_nchw(y);
        }

        let vector = vector_size(&x, &[channels]);
        let vectors = channels / vector;
        // A cube has all channels of some pixels, or some of the channels.
        let columns = vectors.min(UNITS as usize);
        let blocks = vectors.div_ceil(columns);
        let lines = UNITS as usize / columns;
        let part = (lines * VECTORS).min(PIXELS);
        let parts = pixels.div_ceil(part);
        let moments = empty(vec![batch, parts, 2, channels], DType::F32);
        let affine = empty(vec![batch, 2, channels], DType::F32);
        let each = channels / self.groups;
        let units = Units::of(&client, parts * each);
        let address = x.required_address_type().max(moments.required_address_type());

        // SAFETY: a unit reads and writes vectors of its channels in its part's pixels, which all tensors have; cubes
        // beyond the last part do nothing.
        unsafe {
            moments_of_channels::launch_unchecked::<R>(
                &client,
                cubes(batch * parts * blocks),
                CubeDim::new_1d(UNITS),
                address,
                vector,
                x.clone().into_tensor_arg(),
                moments.clone().into_tensor_arg(),
                batch,
                pixels,
                vectors,
                part,
                parts,
                columns,
                dtype.into(),
            );
            affine_of_groups::launch_unchecked::<R>(
                &client,
                cubes(batch * self.groups),
                units.dim(),
                address,
                moments.into_tensor_arg(),
                weight.clone().into_tensor_arg(),
                bias.into_tensor_arg(),
                affine.clone().into_tensor_arg(),
                batch,
                pixels,
                channels,
                self.groups,
                part,
                parts,
                self.epsilon as f32,
                units,
                weight.dtype.into(),
            );
            scale_channels::launch_unchecked::<R>(
                &client,
                cubes((batch * pixels * vectors).div_ceil(UNITS as usize)),
                CubeDim::new_1d(UNITS),
                address,
                vector,
                x.into_tensor_arg(),
                affine.into_tensor_arg(),
                y.clone().into_tensor_arg(),
                batch * pixels * vectors,
                pixels,
                vectors,
                self.activate,
                dtype.into(),
            );
        }
        permute_nhwc_to_nchw(y)
    }
}

/// The mean of each channel in each part of a picture, and the sum of the squares of what its values differ by from it:
/// `[batch, parts, 2, channels]`. Units stand beside each other for `columns` vectors of channels, in lines for pixels.
#[cube(launch_unchecked, address_type = "dynamic")]
fn moments_of_channels<X: Float, N: Size>(
    x: &Tensor<Vector<X, N>>,
    moments: &mut Tensor<Vector<f32, N>>,
    batch: usize,
    pixels: usize,
    vectors: usize,
    part: usize,
    parts: usize,
    columns: usize,
    #[define(X)] _dtype: StorageType,
) {
    let blocks = vectors.div_ceil(columns);
    let (of_part, block) = (CUBE_POS / blocks, CUBE_POS % blocks);
    if of_part >= batch * parts {
        terminate!();
    }
    let lines = CUBE_DIM as usize / columns;
    let (line, column) = (UNIT_POS as usize / columns, UNIT_POS as usize % columns);
    let channel = block * columns + column;
    let first = of_part % parts * part;
    let count = min(part, pixels - first);
    let start = (of_part / parts * pixels + first) * vectors;

    let mut sums = SharedMemory::<Vector<f32, N>>::new(comptime!(UNITS as usize));
    let mut squares = SharedMemory::<Vector<f32, N>>::new(comptime!(UNITS as usize));
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut square = Vector::<f32, N>::new(0.0);
    let works = line < lines && channel < vectors;
    let mut from = Vector::<f32, N>::new(0.0);
    if works {
        from = Vector::cast_from(x[start + channel]);
        let mut pixel = line;
        while pixel < count {
            let difference =
                Vector::<f32, N>::cast_from(x[start + pixel * vectors + channel]) - from;
            sum += difference;
            square += difference * difference;
            pixel += lines;
        }
    }
    sums[UNIT_POS as usize] = sum;
    squares[UNIT_POS as usize] = square;
    sync_cube();

    if works && line == 0 {
        for line in 1..lines {
            sum += sums[line * columns + column];
            square += squares[line * columns + column];
        }
        let inverse = Vector::<f32, N>::new(1.0 / count as f32);
        let mean = sum * inverse;
        let at = of_part * 2 * vectors + channel;
        moments[at] = from + mean;
        moments[at + vectors] = square - sum * mean;
    }
}

/// What each channel is multiplied by and what is added, `[batch, 2, channels]`, by the moments of all parts and channels of
/// its group (Chan et al., 1979: the moments of several samples together).
#[cube(launch_unchecked, address_type = "dynamic")]
fn affine_of_groups<W: Float>(
    moments: &Tensor<f32>,
    weight: &Tensor<W>,
    bias: &Tensor<W>,
    affine: &mut Tensor<f32>,
    batch: usize,
    pixels: usize,
    channels: usize,
    groups: usize,
    part: usize,
    parts: usize,
    epsilon: f32,
    #[comptime] units: Units,
    #[define(W)] _dtype: StorageType,
) {
    let group = CUBE_POS;
    if group >= batch * groups {
        terminate!();
    }
    let each = channels / groups;
    let channel = group % groups * each;
    let start = group / groups * parts * 2 * channels + channel;
    let count = (each * pixels) as f32;
    let step = comptime!(units.count as usize);

    let mut sum = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < each * parts {
        let of_part = at / each;
        let weight = min(part, pixels - of_part * part) as f32 / count;
        sum += moments[start + of_part * 2 * channels + at % each] * weight;
        at += step;
    }
    let mean = reduce(sum, By::Sum, units);

    let mut squares = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < each * parts {
        let of_part = at / each;
        let count = min(part, pixels - of_part * part) as f32;
        let place = start + of_part * 2 * channels + at % each;
        let difference = moments[place] - mean;
        squares += moments[place + channels] + count * difference * difference;
        at += step;
    }
    let variance = reduce(squares, By::Sum, units) / count;
    let inverse = 1.0 / (variance + epsilon).sqrt();

    let of_picture = group / groups * 2 * channels;
    let mut at = UNIT_POS as usize;
    while at < each {
        let scale = f32::cast_from(weight[channel + at]) * inverse;
        let place = of_picture + channel + at;
        affine[place] = scale;
        affine[place + channels] = f32::cast_from(bias[channel + at]) - mean * scale;
        at += step;
    }
}

/// `x · scale + shift` of each channel, and SiLU behind it if `activate`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn scale_channels<X: Float, N: Size>(
    x: &Tensor<Vector<X, N>>,
    affine: &Tensor<Vector<f32, N>>,
    y: &mut Tensor<Vector<X, N>>,
    length: usize,
    pixels: usize,
    vectors: usize,
    #[comptime] activate: bool,
    #[define(X)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= length {
        terminate!();
    }
    let place = at / (pixels * vectors) * 2 * vectors + at % vectors;
    let value = Vector::<f32, N>::cast_from(x[at]);
    let mut value = value * affine[place] + affine[place + vectors];
    if comptime!(activate) {
        value = silu(value);
    }
    y[at] = Vector::cast_from(value);
}
