//! Scaled dot-product attention.

use multiversion::multiversion;
use rayon::prelude::*;

use super::elementwise::exp;
use super::host::{Host, Matrix, Output, gemm, tensor};
use crate::tensor::{Tensor, ops};

/// Scores that one task holds: 2 MiB, for all keys of as many queries as that allows.
const SCORES: usize = 512 * 1024;

/// `softmax(q · kᵗ / √d) · v`, head by head: `query` `[batch, queries, heads × d]`, `key` and
/// `value` `[batch, keys, heads × d]`, to `[batch, queries, heads × d]`.
///
/// With `causal`, a query sees the keys at its position and before, counted from the end of both.
/// `bias` `[batch or 1, heads or 1, queries, keys]` is added to the scaled scores. On the CPU the
/// scores of a few queries at a time are in memory, with the heads on different threads; other
/// devices have an operator for all of it.
pub fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    let ([batch, queries, width], [_, keys, _]) = (query.dims(), key.dims());
    let fits = heads > 0
        && keys > 0
        && width.is_multiple_of(heads)
        && key.dims() == [batch, keys, width]
        && value.dims() == [batch, keys, width]
        && (!causal || keys >= queries)
        && bias.is_none();
    match (fits, Host::take(query), Host::take(key), Host::take(value)) {
        (true, Ok(q), Ok(k), Ok(v)) => {
            attend(&q.contiguous(), &k.contiguous(), &v.contiguous(), heads, causal)
        }
        (_, q, k, v) => {
            let [q, k, v] = [q, k, v].map(|t| t.map_or_else(|t| t, Host::give));
            by_burn(q, k, v, heads, causal, bias)
        }
    }
}

fn by_burn(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    let shape = query.dims();
    let split = |x: Tensor<3>| {
        let [batch, tokens, width] = x.dims();
        x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
    };
    let options = ops::AttentionModuleOptions { scale: None, softcap: None, is_causal: causal };
    let y = ops::module::attention(split(query), split(key), split(value), None, bias, options);
    y.swap_dims(1, 2).reshape(shape)
}

/// With `causal`, there are no more queries than keys.
fn attend(
    query: &Host<3>,
    key: &Host<3>,
    value: &Host<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    let ([batch, queries, width], [_, keys, _]) = (query.dims(), key.dims());
    let dim = width / heads;
    let scale = 1.0 / (dim as f32).sqrt();
    let mut out = vec![0.0; batch * queries * width];
    let target = Output::new(&mut out);
    let chunk = (SCORES / keys).clamp(16, 256);
    let chunks = queries.div_ceil(chunk);
    (0..batch * heads * chunks).into_par_iter().for_each_init(Vec::new, |scores, task| {
        let (image, head, first) =
            (task / (heads * chunks), task / chunks % heads, task % chunks * chunk);
        let count = chunk.min(queries - first);
        let queries_at = (image * queries + first) * width + head * dim;
        let keys_at = image * keys * width + head * dim;
        let q = Matrix { values: &query.values()[queries_at..], row: width, column: 1 };
        let k = Matrix { values: &key.values()[keys_at..], row: 1, column: width };
        let v = Matrix { values: &value.values()[keys_at..], row: width, column: 1 };
        scores.resize(count * keys, 0.0);
        // SAFETY: `scores` has a row of `keys` for each query and is this thread's; the output is
        // this task's queries of its head.
        unsafe {
            let none = gemm::Parallelism::None;
            gemm([count, dim, keys], q, k, scores.as_mut_ptr(), [keys, 1], false, none);
            for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                let seen = if causal { keys - queries + first + i + 1 } else { keys };
                let (seen, hidden) = row.split_at_mut(seen);
                softmax(seen, scale);
                hidden.fill(0.0);
            }
            let weights = Matrix { values: scores, row: keys, column: 1 };
            let out = target.at(queries_at);
            gemm([count, keys, dim], weights, v, out, [width, 1], false, none);
        }
    });
    tensor(out, [batch, queries, width])
}

/// `softmax(scale · row)`, in place.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn softmax(row: &mut [f32], scale: f32) {
    let (lanes, rest) = row.as_chunks::<16>();
    let mut largest = [f32::NEG_INFINITY; 16];
    for lane in lanes {
        largest.iter_mut().zip(lane).for_each(|(max, x)| *max = if *x > *max { *x } else { *max });
    }
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |max, x| max.max(*x));

    let (lanes, rest) = row.as_chunks_mut::<16>();
    let mut sums = [0.0_f32; 16];
    for lane in lanes {
        for (x, sum) in lane.iter_mut().zip(&mut sums) {
            *x = exp((*x - largest) * scale);
            *sum += *x;
        }
    }
    let mut total = sums.iter().sum::<f32>();
    for x in rest {
        *x = exp((*x - largest) * scale);
        total += *x;
    }
    let inverse = 1.0 / total;
    row.iter_mut().for_each(|x| *x *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{TensorData, cpu};

    fn values(shape: [usize; 3], seed: usize) -> Tensor<3> {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 20_011) as f32 / 10_005.5 - 1.0;
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        Tensor::from_data(TensorData::new(values, shape), &cpu())
    }

    #[test]
    fn it_is_burns_attention() {
        for (batch, queries, keys, heads, dim, causal) in [
            (2, 5, 7, 3, 8, false),
            (1, 300, 33, 2, 40, false),
            (2, 77, 77, 3, 16, true),
            (1, 3, 9, 2, 4, true),
            (1, 9, 3, 2, 4, false),
        ] {
            let [q, k, v] = [(queries, 1), (keys, 2), (keys, 3)]
                .map(|(tokens, seed)| values([batch, tokens, heads * dim], seed) * 3.0);
            let expected = by_burn(q.clone(), k.clone(), v.clone(), heads, causal, None);
            let result = attention(q, k, v, heads, causal, None);
            let error = (result - expected).abs().max().into_scalar();
            assert!(error < 5e-6, "{queries} to {keys}, causal {causal}: {error:e}");
        }
    }
}
