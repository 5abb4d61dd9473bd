//! Affine maps.

use rayon::prelude::*;

use distorch_cube::Activation;

use super::Precision;
use super::elementwise::{activated, activated_sum, add_all, biased_geglu, geglu};
use super::host::{Host, Matrix, Output, gemm, tensor};
#[cfg(target_arch = "x86_64")]
use super::host::{Numbers, filled};
#[cfg(target_arch = "x86_64")]
use super::product::{self, Bias, Element, Plain, Sink, Unit};
use crate::tensor::{DType, Tensor, is_host};

/// How [`linear`] lays out its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// `[batch, rows, out]`: tokens with their features together.
    Tokens,
    /// `[batch, out, rows]`: a picture's channels, each with its pixels together.
    Channels,
}

/// Rows of one task.
const TILE: usize = 256;

/// Up to so many rows, such as a prompt's 77, packing the weights costs more than the product saves
/// by it. The product then goes to [`Rows::Channels`], for which weights are read as they lie, and its
/// few values are turned after.
const FEW: usize = 96;

/// Maps each row of `x` `[batch, rows, in]` by `weight` `[out, in]` and adds `bias` `[out]`.
///
/// `x` may be a transposed view: it is not copied. Beside an f32 `x` on the CPU, `weight` may be in
/// 16 bits; what is multiplied then says `precision`.
pub fn linear(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    rows: Rows,
    precision: Precision,
) -> Tensor<3> {
    let fits = x.dims()[2] == weight.dims()[1];
    let x = match (fits, Host::take(x)) {
        (true, Ok(x)) => x,
        (_, x) => return generic(x.map_or_else(|x| x, Host::give), weight, bias, None, rows),
    };
    let given = bias.clone().map(|bias| bias.into_data().convert::<f32>());
    let values = given.as_ref().and_then(|bias| bias.as_slice::<f32>().ok());
    #[cfg(target_arch = "x86_64")]
    let weight = match (Unit::of(precision), Host::take_stored(weight)) {
        (Some(unit), Ok(weight)) => match wide(unit, &x, &weight, values, rows) {
            Some(y) => return y,
            None => weight.give(),
        },
        (_, weight) => weight.map_or_else(|weight| weight, Host::give),
    };
    let weight = match Host::take(weight.cast(DType::F32)) {
        Ok(weight) => weight,
        Err(weight) => return generic(x.give(), weight, bias, None, rows),
    };
    let few = x.dims()[1] <= FEW && weight.strides()[1] == 1;
    match rows {
        Rows::Tokens if few => turned(product(&x, &weight, values, Rows::Channels)),
        _ => product(&x, &weight, values, rows),
    }
}

/// As [`linear`], to [`Rows::Tokens`], and `addend` `[batch, rows, out]` added.
pub fn linear_plus(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    addend: Tensor<3>,
    precision: Precision,
) -> Tensor<3> {
    match is_host(&x.device()) {
        true => linear(x, weight, bias, Rows::Tokens, precision) + addend,
        false => generic(x, weight, bias, Some(addend), Rows::Tokens),
    }
}

/// As [`linear`], to [`Rows::Tokens`], and this function of each value.
pub fn linear_activated(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    activation: Activation,
    precision: Precision,
) -> Tensor<3> {
    let biased = |y, bias| activated_sum(y, bias, activation);
    linear_then(x, weight, bias, precision, biased, |y| activated(y, activation))
}

/// As [`linear`], to [`Rows::Tokens`], and [`geglu`] of it: half of `out` features.
pub fn linear_geglu(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    precision: Precision,
) -> Tensor<3> {
    linear_then(x, weight, bias, precision, biased_geglu, geglu)
}

/// As [`linear`], to [`Rows::Tokens`], and `then` of it; on accelerators `biased` of the product and the bias, if there is one.
fn linear_then(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    precision: Precision,
    biased: impl FnOnce(Tensor<3>, Tensor<3>) -> Tensor<3>,
    then: impl FnOnce(Tensor<3>) -> Tensor<3>,
) -> Tensor<3> {
    match bias {
        Some(bias) if !is_host(&x.device()) => {
            let bias = bias.cast(x.dtype()).unsqueeze();
            biased(mapped(x, weight), bias)
        }
        bias => then(linear(x, weight, bias, Rows::Tokens, precision)),
    }
}

/// By a unit of the processor; `None` where the operands lie in no order that it reads.
#[cfg(target_arch = "x86_64")]
fn wide(
    unit: Unit,
    x: &Host<3>,
    weight: &Host<2>,
    bias: Option<&[f32]>,
    rows: Rows,
) -> Option<Tensor<3>> {
    match weight.numbers() {
        Numbers::F32(values) => wide_by(unit, x, weight, values, bias, rows),
        Numbers::F16(values) => wide_by(unit, x, weight, values, bias, rows),
        Numbers::Bf16(values) => wide_by(unit, x, weight, values, bias, rows),
    }
}

#[cfg(target_arch = "x86_64")]
fn wide_by<E: Element>(
    unit: Unit,
    x: &Host<3>,
    weight: &Host<2>,
    values: &[E],
    bias: Option<&[f32]>,
    rows: Rows,
) -> Option<Tensor<3>> {
    let ([batch, count, inputs], [image_step, row_step, feature_step]) = (x.dims(), x.strides());
    let outputs = weight.dims()[0];
    let in_order = weight.strides() == [inputs, 1] && x.strides() == [count * inputs, inputs, 1];
    let few = (1..=product::FEW_ROWS).contains(&(batch * count));
    if few && in_order && rows == Rows::Tokens {
        let size = [batch * count, inputs, outputs];
        let (x, weight) = (x.values(), values.get(..outputs * inputs)?);
        // SAFETY: the unit was found, and all values of the result are written.
        return Some(unsafe {
            filled([batch, count, outputs], |out| {
                product::multiply_rows(unit, size, x, weight, bias, out);
            })
        });
    }
    let weight = Plain::new(values, [outputs, inputs], weight.strides())?;
    // Tokens of several prompts or pictures follow each other as those of one do.
    let joined = batch == 1 || image_step == count * row_step;
    let (images, count) = if joined { (1, batch * count) } else { (batch, count) };
    let source = |image: usize| {
        let values = x.memory().get(image * image_step..).unwrap_or_default();
        Plain::new(values, [count, inputs], [row_step, feature_step])
    };
    let sources: Vec<_> = (0..images).map(source).collect::<Option<_>>()?;
    let shape = match rows {
        Rows::Tokens => [batch, x.dims()[1], outputs],
        // The result keeps the pictures apart.
        Rows::Channels => [batch, outputs, x.dims()[1]],
    };
    // SAFETY: the products' rows and columns are all of the result. The unit was found, and the
    // sources lie in their memory.
    Some(unsafe {
        filled(shape, |out| {
            for (at, x) in sources.iter().enumerate() {
                let out = out.after(at * count * outputs);
                let [_, rows_each, columns] = shape;
                match rows {
                    Rows::Tokens => {
                        let bias = bias.map_or(Bias::None, Bias::Columns);
                        let sink = Sink { out, rows: rows_each, columns, bias };
                        product::multiply(unit, [count, inputs, outputs], x, &weight, &sink);
                    }
                    Rows::Channels => {
                        let bias = bias.map_or(Bias::None, Bias::Rows);
                        let sink = Sink { out, rows: rows_each, columns, bias };
                        product::multiply(unit, [outputs, inputs, count], &weight, x, &sink);
                    }
                }
            }
        })
    })
}

/// `[batch, out, rows]` to `[batch, rows, out]`, in memory.
fn turned(y: Tensor<3>) -> Tensor<3> {
    let y = y.swap_dims(1, 2);
    match Host::take(y) {
        Ok(y) => y.contiguous().give(),
        Err(y) => y,
    }
}

/// `lhs · rhs`, `[…, m, k]` by `[…, k, n]` with the same in front of them, in the dtype `out`: that of both, or f32.
pub(super) fn multiply<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>, out: DType) -> Tensor<D> {
    match distorch_cube::matmul(lhs, rhs, out) {
        Ok(product) => product,
        Err((lhs, rhs)) => lhs.cast(out).matmul(rhs.cast(out)),
    }
}

/// `lhs · rhs`, `[…, m, k]` by `[…, k, n]` with the same in front of them, of one dtype.
pub fn matmul<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>) -> Tensor<D> {
    let dtype = lhs.dtype();
    multiply(lhs, rhs, dtype)
}

/// `[batch, rows, in]` to `[batch, rows, out]` in the dtype of `x`, by its device's product.
fn mapped(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let ([batch, count, inputs], dtype) = (x.dims(), x.dtype());
    let weight = weight.cast(dtype).transpose();
    let y = multiply(x.reshape([batch * count, inputs]), weight, dtype);
    let outputs = y.dims()[1];
    y.reshape([batch, count, outputs])
}

fn generic(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    addend: Option<Tensor<3>>,
    rows: Rows,
) -> Tensor<3> {
    let bias = bias.map(|bias| bias.cast(x.dtype()).unsqueeze());
    let y = add_all(mapped(x, weight), bias, addend);
    match rows {
        Rows::Tokens => y,
        Rows::Channels => y.swap_dims(1, 2),
    }
}

fn product(x: &Host<3>, weight: &Host<2>, bias: Option<&[f32]>, rows: Rows) -> Tensor<3> {
    let [batch, count, inputs] = x.dims();
    let outputs = weight.dims()[0];
    let [image_step, row_step, feature_step] = x.strides();
    let [weight_row, weight_column] = weight.strides();
    // [in, out], as the right factor.
    let weight = Matrix { values: weight.memory(), row: weight_column, column: weight_row };
    let mut out = vec![0.0; batch * count * outputs];
    let target = Output::new(&mut out);
    let (row, column, shape) = match rows {
        Rows::Tokens => (outputs, 1, [batch, count, outputs]),
        Rows::Channels => (1, count, [batch, outputs, count]),
    };

    let tiles = count.div_ceil(TILE);
    let threads = rayon::current_num_threads();
    // Few rows: share out the features as well, as every share reads its own weights.
    let shares = (2 * threads).div_ceil((batch * tiles).max(1)).min(outputs.div_ceil(64).max(1));
    let share = outputs.div_ceil(shares.max(1));
    (0..batch * tiles * shares).into_par_iter().for_each(|task| {
        let (image, rest) = (task / (tiles * shares), task % (tiles * shares));
        let (tile, first) = (rest / shares * TILE, rest % shares * share);
        let (rows, features) = (TILE.min(count - tile), share.min(outputs.saturating_sub(first)));
        if features == 0 {
            return;
        }
        let values = &x.memory()[image * image_step + tile * row_step..];
        let x = Matrix { values, row: row_step, column: feature_step };
        let weight = Matrix { values: &weight.values[first * weight.column..], ..weight };
        // SAFETY: the rows and features of this task lie in the output, and are no other task's.
        unsafe {
            let out = target.at(image * count * outputs + tile * row + first * column);
            if let Some(bias) = bias {
                fill(out, &bias[first..first + features], rows, [row, column]);
            }
            let (size, none) = ([rows, inputs, features], gemm::Parallelism::None);
            gemm(size, x, weight, out, [row, column], bias.is_some(), none);
        }
    });
    tensor(out, shape)
}

/// Every row becomes `bias`.
///
/// # Safety
/// `out` points to a matrix of that many rows with these steps, one of which is 1.
unsafe fn fill(out: *mut f32, bias: &[f32], rows: usize, [row, column]: [usize; 2]) {
    if column == 1 {
        for i in 0..rows {
            // SAFETY: the caller's promise.
            unsafe { std::slice::from_raw_parts_mut(out.add(i * row), bias.len()) }
                .copy_from_slice(bias);
        }
    } else {
        for (j, bias) in bias.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { std::slice::from_raw_parts_mut(out.add(j * column), rows) }.fill(*bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::made_up::{self, tensor as values};

    /// Batch, rows, features of the input and of the output.
    const SHAPES: [[usize; 4]; 7] = [
        [2, 5, 7, 9],
        [1, 77, 96, 40],
        [3, 64, 50, 70],
        [2, 300, 33, 130],
        [1, 1, 320, 65],
        [3, 1, 701, 130],
        [2, 2, 33, 9],
    ];

    /// Both results, of tokens and of pictures (views with their pixels together), with weights in each
    /// dtype.
    #[test]
    fn it_is_burns_product() {
        for [batch, count, inputs, outputs] in SHAPES {
            for turned in [false, true] {
                let x = match turned {
                    false => values([batch, count, inputs], 1),
                    true => values([batch, inputs, count], 1).swap_dims(1, 2),
                };
                let weight = values([outputs, inputs], 2);
                let bias = values([outputs], 3);
                for (stored, precision, rows) in [
                    (DType::F32, Precision::F32, Rows::Tokens),
                    (DType::F32, Precision::F32, Rows::Channels),
                    (DType::F16, Precision::F32, Rows::Tokens),
                    (DType::BF16, Precision::F32, Rows::Channels),
                    (DType::BF16, Precision::Bf16, Rows::Tokens),
                    (DType::F16, Precision::Bf16, Rows::Channels),
                ] {
                    let weight = weight.clone().cast(stored);
                    let seen = made_up::seen(precision, stored);
                    let expected = generic(
                        made_up::rounded(x.clone(), seen[0]),
                        made_up::rounded(weight.clone(), seen[1]),
                        Some(bias.clone()),
                        None,
                        rows,
                    );
                    let result = linear(x.clone(), weight, Some(bias.clone()), rows, precision);
                    assert_eq!(result.dims(), expected.dims());
                    let scale = expected.clone().abs().max().into_scalar();
                    let error = (result - expected).abs().max().into_scalar() / scale;
                    // Pairs of bf16 are rounded once more on the way into their sum.
                    let most = if seen[0] == DType::F32 { 2e-6 } else { 1e-5 };
                    let of = format!("{batch}×{count}, {inputs} to {outputs}, turned {turned}");
                    assert!(error < most, "{of}, {stored:?} {precision:?} {rows:?}: {error:e}");
                }
                // The way of processors without a unit.
                for rows in [Rows::Tokens, Rows::Channels] {
                    let expected =
                        generic(x.clone(), weight.clone(), Some(bias.clone()), None, rows);
                    let (x, weight) = (Host::take(x.clone()), Host::take(weight.clone()));
                    let (Ok(x), Ok(weight)) = (x, weight) else { panic!("f32 on the CPU") };
                    let given = bias.clone().into_data().to_vec::<f32>().unwrap();
                    let result = product(&x, &weight, Some(&given), rows);
                    let scale = expected.clone().abs().max().into_scalar();
                    let error = (result - expected).abs().max().into_scalar() / scale;
                    assert!(error < 2e-6, "{batch}×{count}, {inputs} to {outputs}: {error:e}");
                }
            }
        }
    }
}
