//! Affine maps.

use rayon::prelude::*;

use super::host::{Host, Matrix, Output, gemm, tensor};
use crate::tensor::Tensor;

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
/// `x` may be a transposed view: it is not copied.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>, rows: Rows) -> Tensor<3> {
    let fits = x.dims()[2] == weight.dims()[1];
    let (x, weight) = match (fits, Host::take(x), Host::take(weight)) {
        (true, Ok(x), Ok(weight)) => (x, weight),
        (_, x, weight) => {
            let x = x.map_or_else(|x| x, Host::give);
            return generic(x, weight.map_or_else(|w| w, Host::give), bias, rows);
        }
    };
    let bias = bias.map(|bias| bias.into_data().convert::<f32>());
    let bias = bias.as_ref().and_then(|bias| bias.as_slice::<f32>().ok());
    let few = x.dims()[1] <= FEW && weight.strides()[1] == 1;
    match rows {
        Rows::Tokens if few => turned(product(&x, &weight, bias, Rows::Channels)),
        _ => product(&x, &weight, bias, rows),
    }
}

/// `[batch, out, rows]` to `[batch, rows, out]`, in memory.
fn turned(y: Tensor<3>) -> Tensor<3> {
    let y = y.swap_dims(1, 2);
    match Host::take(y) {
        Ok(y) => y.contiguous().give(),
        Err(y) => y,
    }
}

fn generic(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>, rows: Rows) -> Tensor<3> {
    let [batch, count, inputs] = x.dims();
    let outputs = weight.dims()[0];
    let y = x.reshape([batch * count, inputs]).matmul(weight.transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    let y = y.reshape([batch, count, outputs]);
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
