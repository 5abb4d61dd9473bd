//! What is done value by value, in f32 whatever the dtype, in the order of memory.

use burn::tensor::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::zspace::metadata::Metadata;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::axes::{Axes, order, strides};
use super::elements::{silu, widest};
use super::operation::{Operation, apply};
use crate::Activation;

/// The sum of two or three tensors whose sides are equal or 1. It lies in memory as the first does, if that has all of the
/// sum's sides, and where it lay if nothing else refers to that.
///
/// # Errors
/// All of them, where they are on no accelerator or their dtypes differ.
pub fn sum<const D: usize, const N: usize>(
    addends: [crate::Tensor<D>; N],
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; N]> {
    if !(1..=3).contains(&N) {
        return Err(addends);
    }
    combine(Formula::Sum, addends)
}

/// `x + factor · gate`, as [`sum`].
///
/// # Errors
/// All three, where they are on no accelerator or their dtypes differ.
pub fn gated_sum<const D: usize>(
    x: crate::Tensor<D>,
    factor: crate::Tensor<D>,
    gate: crate::Tensor<D>,
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; 3]> {
    combine(Formula::GatedSum, [x, factor, gate])
}

/// A function of each value, as [`sum`] of one.
///
/// # Errors
/// The tensor, where it is on no accelerator.
pub fn activated<const D: usize>(
    x: crate::Tensor<D>,
    activation: Activation,
) -> Result<crate::Tensor<D>, crate::Tensor<D>> {
    combine(Formula::Activated(activation), [x]).map_err(|[x]| x)
}

/// A function of each value of `x + addend`, as [`sum`].
///
/// # Errors
/// Both, where they are on no accelerator or their dtypes differ.
pub fn activated_sum<const D: usize>(
    x: crate::Tensor<D>,
    addend: crate::Tensor<D>,
    activation: Activation,
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; 2]> {
    combine(Formula::Activated(activation), [x, addend])
}

/// `x · activation(gate)`, as [`sum`].
///
/// # Errors
/// Both, where they are on no accelerator or their dtypes differ.
pub fn gated<const D: usize>(
    x: crate::Tensor<D>,
    gate: crate::Tensor<D>,
    activation: Activation,
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; 2]> {
    combine(Formula::Gated(activation), [x, gate])
}

/// `(x + addend) · activation(gate + addend)`, each with its addend, as [`sum`].
///
/// # Errors
/// `x`, the gate and the addends of both, where they are on no accelerator or their dtypes differ.
pub fn gated_sums<const D: usize>(
    [x, gate]: [crate::Tensor<D>; 2],
    [addend, of_gate]: [crate::Tensor<D>; 2],
    activation: Activation,
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; 4]> {
    combine(Formula::Gated(activation), [x, gate, addend, of_gate])
}

/// What is computed from up to four values, a, b, c and d.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Formula {
    /// Of all.
    Sum,
    /// a + b · c
    GatedSum,
    /// activation(a), or activation(a + b)
    Activated(Activation),
    /// a · activation(b), or (a + c) · activation(b + d)
    Gated(Activation),
}

fn combine<const D: usize, const N: usize>(
    formula: Formula,
    operands: [crate::Tensor<D>; N],
) -> Result<crate::Tensor<D>, [crate::Tensor<D>; N]> {
    let (mut shape, dtype) = ([1; D], operands[0].dtype());
    let mut fits = true;
    for operand in &operands {
        for (side, own) in shape.iter_mut().zip(operand.dims()) {
            fits &= *side == own || *side == 1 || own == 1;
            *side = if own == 1 { *side } else { own };
        }
        fits &= operand.dtype() == dtype;
    }
    match fits && shape.iter().all(|side| *side > 0) {
        true => apply(Elementwise { formula, shape: shape.to_vec() }, operands),
        false => Err(operands),
    }
}

#[derive(Debug)]
struct Elementwise {
    formula: Formula,
    /// Of the result.
    shape: Vec<usize>,
}

impl Operation for Elementwise {
    fn run<R: CubeRuntime>(&self, operands: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let shape = &self.shape[..];
        let Some(first) = operands.first() else { unreachable!("a formula is of something") };
        let whole = first.meta.shape()[..] == *shape;
        let order_of_first = order(first.meta.shape(), first.meta.strides()).filter(|_| whole);
        let in_place = order_of_first.is_some() && first.can_mut();
        let order = order_of_first.unwrap_or_else(|| (0..shape.len()).collect());
        let sides = operands.iter().map(|x| (&x.meta.shape()[..], &x.meta.strides()[..]));
        let axes = Axes::of(shape, &order, &sides.collect::<Vec<_>>());
        let (client, device, dtype) = (first.client.clone(), first.device.clone(), first.dtype);
        let out = match in_place {
            true => first.clone(),
            false => {
                let meta = Metadata::new(
                    Shape::from(shape.to_vec()),
                    cubecl::zspace::Strides::new(&strides(shape, &order)),
                );
                let sides = Shape::from(shape.to_vec());
                let made =
                    empty_device_contiguous_dtype(client.clone(), device.clone(), sides, dtype);
                CubeTensor::new(client.clone(), made.handle, meta, device, dtype)
            }
        };

        let vector = widest(&out, |vector| axes.fits(vector));
        let Axes { sizes, strides } = axes.in_vectors(vector);
        let rank = sizes.len();
        let length = sizes.iter().product::<usize>();
        let address = operands.iter().map(CubeTensor::required_address_type).max();
        let address = address.unwrap_or_default().max(out.required_address_type());
        let along = |tensor: &CubeTensor<R>, strides: &[usize]| {
            let meta =
                Metadata::new(Shape::from(sizes.clone()), cubecl::zspace::Strides::new(strides));
            let (client, device) = (tensor.client.clone(), tensor.device.clone());
            CubeTensor::new(client, tensor.handle.clone(), meta, device, tensor.dtype)
                .into_tensor_arg()
        };
        // What the formula has not is not read.
        let [a, b, c, d] = std::array::from_fn(|at| {
            let at = if at < operands.len() { at } else { 0 };
            along(&operands[at], &strides[at])
        });
        let count = operands.len();
        let dim = CubeDim::new(&client, length);
        let cubes = cubecl::calculate_cube_count_elemwise(&client, length, dim);
        // SAFETY: a unit writes one vector of the result, at the place that it has among all, and reads those that belong to
        // it; where the first operand is written over, its vector has been read.
        unsafe {
            combine_all::launch_unchecked::<R>(
                &client,
                cubes,
                dim,
                address,
                vector,
                a,
                b,
                c,
                d,
                out.clone().into_tensor_arg(),
                length,
                rank,
                count,
                self.formula,
                dtype.into(),
            );
        }
        out
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn combine_all<X: Float, N: Size>(
    a: &Tensor<Vector<X, N>>,
    b: &Tensor<Vector<X, N>>,
    c: &Tensor<Vector<X, N>>,
    d: &Tensor<Vector<X, N>>,
    out: &mut Tensor<Vector<X, N>>,
    length: usize,
    #[comptime] rank: usize,
    #[comptime] count: usize,
    #[comptime] formula: Formula,
    #[define(X)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= length {
        terminate!();
    }
    let mut rest = at;
    let mut of_a = 0usize;
    let mut of_b = 0usize;
    let mut of_c = 0usize;
    let mut of_d = 0usize;
    #[unroll]
    for step in 0..rank {
        let axis = comptime!(rank - 1 - step);
        let mut place = rest;
        if comptime!(axis > 0) {
            let size = a.shape(axis);
            place = rest % size;
            rest /= size;
        }
        of_a += place * a.stride(axis);
        if comptime!(count > 1) {
            of_b += place * b.stride(axis);
        }
        if comptime!(count > 2) {
            of_c += place * c.stride(axis);
        }
        if comptime!(count > 3) {
            of_d += place * d.stride(axis);
        }
    }
    let mut value = Vector::<f32, N>::cast_from(a[of_a]);
    match comptime!(formula) {
        Formula::Sum => {
            if comptime!(count > 1) {
                value += Vector::<f32, N>::cast_from(b[of_b]);
            }
            if comptime!(count > 2) {
                value += Vector::<f32, N>::cast_from(c[of_c]);
            }
        }
        Formula::GatedSum => {
            let factor = Vector::<f32, N>::cast_from(b[of_b]);
            value += factor * Vector::<f32, N>::cast_from(c[of_c]);
        }
        Formula::Activated(activation) => {
            if comptime!(count > 1) {
                value += Vector::<f32, N>::cast_from(b[of_b]);
            }
            value = activate(value, activation);
        }
        Formula::Gated(activation) => {
            let mut gate = Vector::<f32, N>::cast_from(b[of_b]);
            if comptime!(count > 2) {
                value += Vector::<f32, N>::cast_from(c[of_c]);
                gate += Vector::<f32, N>::cast_from(d[of_d]);
            }
            value *= activate(gate, activation);
        }
    }
    out[at] = Vector::cast_from(value);
}

/// The activation's function of each value.
#[cube]
fn activate<N: Size>(x: Vector<f32, N>, #[comptime] activation: Activation) -> Vector<f32, N> {
    match comptime!(activation) {
        Activation::Relu => max(x, Vector::new(0.0)),
        Activation::Silu => silu(x),
        Activation::Gelu => {
            let z = x * Vector::new(std::f32::consts::FRAC_1_SQRT_2);
            x * Vector::new(0.5) * (Vector::new(1.0) + Vector::erf(z))
        }
        // 1 + tanh(u) is 2 · sigmoid(2u), with u = √(2/π) · (x + 0.044715 x³).
        Activation::GeluTanh => {
            let cubic = x + Vector::new(0.044_715) * x * x * x;
            x / (Vector::new(1.0) + (Vector::new(-1.595_769) * cubic).exp())
        }
        Activation::QuickGelu => x / (Vector::new(1.0) + (Vector::new(-1.702) * x).exp()),
    }
}
