//! Rotations of heads by their tokens' places.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::operation::{Operation, apply};
use super::rows::Rows;

/// Each value of `x` `[batch, tokens, heads, d]` times its cosine and its neighbour (0 and 1, 2 and 3, …) times its sine,
/// added up in f32; `cosines` and `sines` are `[1, tokens, 1, d]` in f32, `d` is even.
///
/// # Errors
/// All three, where they are on no accelerator.
pub fn rotated(
    x: crate::Tensor<4>,
    cosines: crate::Tensor<4>,
    sines: crate::Tensor<4>,
) -> Result<crate::Tensor<4>, [crate::Tensor<4>; 3]> {
    apply(Rotation, [x, cosines, sines])
}

#[derive(Debug)]
struct Rotation;

impl Operation for Rotation {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([x, cosines, sines]) = <[_; 3]>::try_from(inputs) else {
            unreachable!("a rotation has cosines and sines")
        };
        let [cosines, sines] = [cosines, sines].map(into_contiguous);
        let [_, tokens, heads, _] = x.meta.shape().dims();
        let x = Rows::of(x);
        let (client, device) = (x.tensor.client.clone(), x.tensor.device.clone());
        let dtype = x.tensor.dtype;
        let y = empty_device_contiguous_dtype(client.clone(), device, x.shape(), dtype);
        let vector = x.vector();
        let length = x.count * x.length / vector;
        let dim = CubeDim::new(&client, length);
        let count = cubecl::calculate_cube_count_elemwise(&client, length, dim);
        let address = x.tensor.required_address_type().max(y.required_address_type());
        // SAFETY: a unit writes one vector of the result, and reads that of its row, or both values of a pair there, and
        // those of its token's angles.
        unsafe {
            rotate::launch_unchecked::<R>(
                &client,
                count,
                dim,
                address,
                vector,
                x.tensor.into_tensor_arg(),
                cosines.into_tensor_arg(),
                sines.into_tensor_arg(),
                y.clone().into_tensor_arg(),
                length,
                x.length / vector,
                x.pitch / vector,
                heads,
                tokens,
                vector,
                dtype.into(),
            );
        }
        y
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn rotate<X: Float, N: Size>(
    x: &Tensor<Vector<X, N>>,
    cosines: &Tensor<Vector<f32, N>>,
    sines: &Tensor<Vector<f32, N>>,
    y: &mut Tensor<Vector<X, N>>,
    length: usize,
    of_row: usize,
    pitch: usize,
    heads: usize,
    tokens: usize,
    #[comptime] vector: usize,
    #[define(X)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= length {
        terminate!();
    }
    let (row, place) = (at / of_row, at % of_row);
    let start = row * pitch;
    let angle = row / heads % tokens * of_row + place;
    let values = Vector::<f32, N>::cast_from(x[start + place]);
    let mut neighbours = Vector::<f32, N>::new(0.0);
    if comptime!(vector == 1) {
        neighbours = Vector::<f32, N>::cast_from(x[start + (place ^ 1)]);
    } else {
        #[unroll]
        for lane in 0..vector {
            neighbours[lane] = values[comptime!(lane ^ 1)];
        }
    }
    let turned = values * cosines[angle] + neighbours * sines[angle];
    y[at] = Vector::cast_from(turned);
}
