//! The softmax of rows of scores.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::operation::{Operation, apply};
use super::reduce::{By, Units, cubes, reduce, sum_of};
use super::rows::Rows;

/// `softmax(scale · scores)` over the last dimension of `[…, queries, keys]`, computed in f32, in the dtype `out`; `scale` is
/// above 0. With `seen`, the first query sees that many keys, each further one one more, and those behind weigh nothing.
///
/// # Errors
/// The scores, where they are on no accelerator.
pub fn softmax<const D: usize>(
    scores: crate::Tensor<D>,
    scale: f32,
    seen: Option<usize>,
    out: DType,
) -> Result<crate::Tensor<D>, crate::Tensor<D>> {
    let shape = scores.dims();
    let queries = if D < 2 { 1 } else { shape[D - 2] };
    apply(Softmax { scale, seen, queries, out }, [scores]).map_err(|[scores]| scores)
}

#[derive(Debug)]
struct Softmax {
    scale: f32,
    seen: Option<usize>,
    queries: usize,
    out: DType,
}

impl Operation for Softmax {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([scores]) = <[_; 1]>::try_from(inputs) else {
            unreachable!("a softmax is of one tensor")
        };
        let scores = Rows::of(scores);
        // What is seen may end within a vector.
        let vector = if self.seen.is_some() { 1 } else { scores.vector() };
        let units = Units::of(&scores.tensor.client, scores.length / vector);
        let client = scores.tensor.client.clone();
        let device = scores.tensor.device.clone();
        let y = empty_device_contiguous_dtype(client.clone(), device, scores.shape(), self.out);
        let address = scores.tensor.required_address_type().max(y.required_address_type());
        let dtypes = [scores.tensor.dtype.into(), self.out.into()];
        // SAFETY: a unit reads and writes vectors of its row only, which both tensors have.
        unsafe {
            softmax_rows::launch_unchecked::<R>(
                &client,
                cubes(scores.count),
                units.dim(),
                address,
                vector,
                scores.tensor.into_tensor_arg(),
                y.clone().into_tensor_arg(),
                scores.count,
                scores.length / vector,
                scores.pitch / vector,
                self.queries.max(1),
                self.seen.unwrap_or(0),
                self.scale,
                self.seen.is_some(),
                units,
                dtypes,
            );
        }
        y
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn softmax_rows<X: Float, Y: Float, N: Size>(
    scores: &Tensor<Vector<X, N>>,
    y: &mut Tensor<Vector<Y, N>>,
    rows: usize,
    length: usize,
    pitch: usize,
    queries: usize,
    seen: usize,
    scale: f32,
    #[comptime] causal: bool,
    #[comptime] units: Units,
    #[define(X, Y)] _dtypes: [StorageType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let (start, step) = (row * pitch, comptime!(units.count as usize));
    let mut end = length;
    if comptime!(causal) {
        end = min(length, seen + row % queries);
    }

    // Every unit has a value: that of the row's first score, where it has no own.
    let mut largest = Vector::<f32, N>::cast_from(scores[start]);
    let mut at = UNIT_POS as usize;
    while at < end {
        largest = max(largest, Vector::cast_from(scores[start + at]));
        at += step;
    }
    let mut of_unit = largest[0];
    #[unroll]
    for lane in 1..N::value() {
        of_unit = max(of_unit, largest[lane]);
    }
    let of_row = reduce(of_unit, By::Largest, units);

    let mut sums = Vector::<f32, N>::new(0.0);
    let mut at = UNIT_POS as usize;
    while at < end {
        sums += weight::<X, N>(scores[start + at], of_row, scale);
        at += step;
    }
    let inverse = 1.0 / reduce(sum_of(sums), By::Sum, units);

    let mut at = UNIT_POS as usize;
    while at < end {
        let weight = weight::<X, N>(scores[start + at], of_row, scale);
        y[row * length + at] = Vector::cast_from(weight * Vector::new(inverse));
        at += step;
    }
    if comptime!(causal) {
        while at < length {
            y[row * length + at] = Vector::cast_from(Vector::<f32, N>::new(0.0));
            at += step;
        }
    }
}

/// `exp(scale · (score - largest))`.
#[cube]
fn weight<X: Float, N: Size>(scores: Vector<X, N>, largest: f32, scale: f32) -> Vector<f32, N> {
    let difference = Vector::<f32, N>::cast_from(scores) - Vector::new(largest);
    (difference * Vector::new(scale)).exp()
}
