//! Scaled dot-product attention.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::flash;
use super::host::{Host, Matrix, Output, gemm, tensor};
use super::linear::multiply;
#[cfg(target_arch = "x86_64")]
use super::product::Unit;
use super::softmax::softmax;
use super::{Precision, fused};
use crate::tensor::{BoolTensor, DType, Device, Tensor, is_host, ops};

/// Scores that one task holds on the CPU: 2 MiB, for all keys of as many queries as that allows.
const SCORES: usize = 512 * 1024;

/// Scores that one call of Burn's operator may hold: 256 MiB, which the plans' estimates count with.
/// It holds all of them where none of its fused kernels fits the device.
const SCORES_OF_A_CALL: usize = 64 * 1024 * 1024;

/// `softmax(q · kᵗ / √d) · v`, head by head: `query` `[batch, queries, heads × d]`, `key` and
/// `value` `[batch, keys, heads × d]`, to `[batch, queries, heads × d]`.
///
/// With `causal`, a query sees the keys at its position and before, counted from the end of both.
/// `bias` `[batch or 1, heads or 1, queries, keys]` is added to the scaled scores. On the CPU the
/// scores of a few queries at a time are in memory, with the heads on different threads; other
/// devices have an operator for all of it. Scores and their softmax are in f32 whatever the dtype: f16
/// is too small for the scores of SD 2.x.
pub fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
    bias: Option<Tensor<4>>,
    precision: Precision,
) -> Tensor<3> {
    let ([batch, queries, width], [_, keys, _]) = (query.dims(), key.dims());
    if !is_host(&query.device()) {
        return on_accelerator(query, key, value, heads, causal, bias.as_ref());
    }
    let dtype = query.dtype();
    if dtype != DType::F32 {
        let [query, key, value] = [query, key, value].map(|x| x.cast(DType::F32));
        let bias = bias.map(|bias| bias.cast(DType::F32));
        return attention(query, key, value, heads, causal, bias, precision).cast(dtype);
    }
    let fits = heads > 0
        && keys > 0
        && width.is_multiple_of(heads)
        && key.dims() == [batch, keys, width]
        && value.dims() == [batch, keys, width]
        && (!causal || keys >= queries)
        && bias.is_none();
    match (fits, Host::take(query), Host::take(key), Host::take(value)) {
        (true, Ok(q), Ok(k), Ok(v)) => {
            let [q, k, v] = [q, k, v].map(Host::contiguous);
            #[cfg(target_arch = "x86_64")]
            if let Some(unit) = Unit::of(precision)
                && let Some(y) = flash::attend(unit, &q, &k, &v, heads, causal)
            {
                return y;
            }
            attend(&q, &k, &v, heads, causal)
        }
        (_, q, k, v) => {
            let [q, k, v] = [q, k, v].map(|t| t.map_or_else(|t| t, Host::give));
            by_burn(q, k, v, heads, causal, bias)
        }
    }
}

/// On the host, what the kernels do not have: a bias.
fn by_burn(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    let shape = query.dims();
    let options = ops::AttentionModuleOptions { scale: None, softcap: None, is_causal: causal };
    let [query, key, value] = [query, key, value].map(|x| split(x, heads));
    let calls = match causal {
        // Which keys a query sees follows from its place among all.
        true => 1,
        false => calls(&query, &key),
    };
    let y = in_parts(&query, calls, |part, first| {
        let (key, value, count) = (key.clone(), value.clone(), part.dims()[2]);
        let bias = bias.as_ref().map(|bias| bias.clone().narrow(2, first, count));
        ops::module::attention(part, key, value, None, bias, options)
    });
    y.swap_dims(1, 2).reshape(shape)
}

/// On other devices: in one kernel, where there is one for it; else with the scores of some queries in memory.
fn on_accelerator(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
    bias: Option<&Tensor<4>>,
) -> Tensor<3> {
    let shape = query.dims();
    let operands = [query, key, value].map(|x| split(x, heads));
    let y = match bias {
        None => {
            fused::attend(operands, causal, &|operands, causal| by_scores(operands, causal, None))
        }
        Some(_) => by_scores(operands, causal, bias),
    };
    y.swap_dims(1, 2).reshape(shape)
}

/// Whether the device's kernels for attention in tiles, with heads of size `d`, pass the trials without which they are not
/// used; `None` where there are none.
pub fn attention_in_tiles(device: &Device, dtype: DType, d: usize) -> Option<bool> {
    let by_scores = |operands, causal| by_scores(operands, causal, None);
    fused::all_are_right(device, dtype, d, &by_scores)
}

/// Of `[batch, heads, tokens, d]`, with the scores of some queries in memory.
fn by_scores(
    [query, key, value]: [Tensor<4>; 3],
    causal: bool,
    bias: Option<&Tensor<4>>,
) -> Tensor<4> {
    let ([_, _, queries, dim], keys) = (query.dims(), key.dims()[2]);
    let (scale, dtype) = (1.0 / (dim as f32).sqrt(), query.dtype());
    let key = key.swap_dims(2, 3);
    in_parts(&query, calls(&query, &value), |part, first| {
        let count = part.dims()[2];
        let scores = multiply(part, key.clone(), DType::F32);
        // Keys that the first query sees.
        let seen = causal.then(|| (keys + first + 1).saturating_sub(queries));
        let weights = match bias {
            None => weigh(scores, scale, seen, dtype),
            Some(bias) => {
                let bias = bias.clone().narrow(2, first, count).cast(DType::F32);
                weigh(scores * scale + bias, 1.0, seen, dtype)
            }
        };
        multiply(weights, value.clone(), dtype)
    })
}

/// `softmax(scale · scores)`; `seen` is how many keys the first query sees, each further one sees one more.
fn weigh(scores: Tensor<4>, scale: f32, seen: Option<usize>, dtype: DType) -> Tensor<4> {
    distorch_cube::softmax(scores, scale, seen, dtype).unwrap_or_else(|scores| {
        let mut scores = scores * scale;
        if let Some(seen) = seen {
            let [_, _, queries, keys] = scores.dims();
            let device = scores.device();
            let hidden = BoolTensor::<2>::tril_mask([queries, keys], seen as i64 - 1, &device);
            scores = scores.mask_fill(hidden.unsqueeze(), f32::NEG_INFINITY);
        }
        ops::activation::softmax(scores, 3).cast(dtype)
    })
}

/// `[batch, tokens, heads × d]` to `[batch, heads, tokens, d]`.
fn split(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}

/// What `attend` gives for some queries after others; it is told the first one's place.
fn in_parts(
    query: &Tensor<4>,
    calls: usize,
    attend: impl Fn(Tensor<4>, usize) -> Tensor<4>,
) -> Tensor<4> {
    let queries = query.dims()[2];
    let each = queries.div_ceil(calls.max(1)).max(1);
    let part =
        |first: usize| attend(query.clone().narrow(2, first, each.min(queries - first)), first);
    let mut parts: Vec<_> = (0..queries).step_by(each).map(part).collect();
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 2) }
}

/// In how many parts queries go, of `[batch, heads, …, d]`.
fn calls(query: &Tensor<4>, key: &Tensor<4>) -> usize {
    let ([batch, heads, queries, _], keys) = (query.dims(), key.dims()[2]);
    parts(batch * heads * keys, queries)
}

/// In how many parts `queries` of so many scores each have to go.
fn parts(scores: usize, queries: usize) -> usize {
    scores.saturating_mul(queries).div_ceil(SCORES_OF_A_CALL).clamp(1, queries.max(1))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::made_up::{multiplies_bf16, tensor as values};

    #[test]
    fn scores_are_bounded() {
        assert_eq!(parts(16 * 77, 4096), 1);
        assert_eq!(parts(16 * 4096, 4096), 4);
        assert_eq!(parts(16_384, 16_384), 4);
        assert_eq!((parts(usize::MAX, 3), parts(5, 0)), (3, 1));
    }

    /// A score of 80,000 is beyond f16, but its softmax is not.
    #[test]
    fn half_precision_has_scores_in_f32() {
        let x = |scale: f64| (values([1, 4, 64], 1) * scale).cast(DType::F16);
        let y = attention(x(120.0), x(120.0), x(1.0), 1, false, None, Precision::F32);
        assert_eq!(y.dtype(), DType::F16);
        let [y, x] = [y, x(1.0)].map(|t| t.cast(DType::F32));
        let error = (y - x).abs().max().into_scalar();
        assert!(error < 1e-3, "{error}");
    }

    /// Rounded to what bf16 products see, where they are there.
    fn seen(x: Tensor<3>, precision: Precision) -> Tensor<3> {
        match precision {
            Precision::F32 => x,
            Precision::Bf16 => x.cast(DType::BF16).cast(DType::F32),
        }
    }

    /// One block of keys and several, heads that fill no panel, more queries than a task takes on.
    #[test]
    fn it_is_burns_attention() {
        for (batch, queries, keys, heads, dim, causal) in [
            (2, 5, 7, 3, 8, false),
            (1, 300, 33, 2, 40, false),
            (2, 77, 77, 3, 16, true),
            (1, 3, 9, 2, 4, true),
            (1, 9, 3, 2, 4, false),
            (2, 130, 1100, 2, 40, false),
            (1, 600, 1100, 1, 33, true),
            (1, 70, 530, 1, 160, false),
        ] {
            let [q, k, v] = [(queries, 1), (keys, 2), (keys, 3)]
                .map(|(tokens, seed)| values([batch, tokens, heads * dim], seed) * 3.0);
            for precision in [Precision::F32, Precision::Bf16] {
                let of = |x: &Tensor<3>| seen(x.clone(), precision);
                // Burn's "causal" counts from the start where there are more keys.
                let expected = match causal && queries != keys {
                    true => {
                        let [q, k, v] = [&q, &k, &v].map(of).map(|x| {
                            Host::take(x).unwrap_or_else(|_| panic!("an f32 tensor on the CPU"))
                        });
                        attend(&q, &k, &v, heads, causal)
                    }
                    false => by_burn(of(&q), of(&k), of(&v), heads, causal, None),
                };
                let (q, k, v) = (q.clone(), k.clone(), v.clone());
                let result = attention(q, k, v, heads, causal, None, precision);
                let error = (result - expected).abs().max().into_scalar();
                // A weight in bf16 is off by 1/512 at most, and values are up to 3. Without such products
                // the inputs are not rounded: 1/512 of queries, keys and values each.
                let most = match precision {
                    Precision::F32 => 1e-5,
                    Precision::Bf16 if multiplies_bf16() => 3.0 / 512.0,
                    Precision::Bf16 => 0.2,
                };
                let of = format!("{queries} to {keys}, causal {causal}, {precision:?}");
                assert!(error < most, "{of}: {error:e}");
            }
        }
    }

    /// Every unit, also one that is not chosen here.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_unit_attends() {
        let (batch, queries, keys, heads, dim) = (2, 130, 1100, 2, 40);
        let inputs = || {
            [(queries, 1), (keys, 2), (keys, 3)]
                .map(|(tokens, seed)| values([batch, tokens, heads * dim], seed) * 3.0)
        };
        for unit in Unit::all() {
            let precision = match unit {
                Unit::Avx512 => Precision::F32,
                Unit::Avx512Bf16 | Unit::Amx => Precision::Bf16,
            };
            let [q, k, v] = inputs().map(|x| seen(x, precision));
            let expected = by_burn(q, k, v, heads, false, None);
            let [q, k, v] = inputs()
                .map(|x| Host::take(x).unwrap_or_else(|_| panic!("an f32 tensor on the CPU")));
            let result = flash::attend(unit, &q, &k, &v, heads, false).unwrap();
            let error = (result - expected).abs().max().into_scalar();
            // As in the test above.
            let most = if precision == Precision::F32 { 1e-5 } else { 3.0 / 512.0 };
            assert!(error < most, "{unit:?}: {error:e}");
        }
    }

    /// The way of processors without a unit, all keys of a few queries at a time.
    #[test]
    fn all_keys_at_once_are_burns_attention_too() {
        for (queries, keys, causal) in [(300, 33, false), (77, 77, true)] {
            let [q, k, v] = [(queries, 1), (keys, 2), (keys, 3)]
                .map(|(tokens, seed)| values([2, tokens, 3 * 24], seed) * 3.0);
            let expected = by_burn(q.clone(), k.clone(), v.clone(), 3, causal, None);
            let [q, k, v] = [q, k, v]
                .map(|x| Host::take(x).unwrap_or_else(|_| panic!("an f32 tensor on the CPU")));
            let result = attend(&q, &k, &v, 3, causal);
            let error = (result - expected).abs().max().into_scalar();
            assert!(error < 5e-6, "{queries} to {keys}: {error:e}");
        }
    }
}
