//! What joint attention reads: the queries, keys and values of several streams of tokens.

use multiversion::multiversion;
use rayon::prelude::*;

use super::host::{Host, tensor};
use super::norm::{rms_norm, sum};
use crate::tensor::Tensor;

/// Rows of one task at least.
const ROWS: usize = 8;

/// One stream of tokens as it leaves its projection.
#[derive(Clone, Debug)]
pub struct Projected {
    /// Queries, keys and values side by side, `[batch, tokens, 3 × heads × d]`.
    pub qkv: Tensor<3>,
    /// The weights `[d]` by which each head's query and key are normalised by their root mean square, where they are.
    pub norms: Option<[Tensor<1>; 2]>,
}

/// Queries, keys and values, each `[batch, tokens of all streams, heads × d]` with the streams in their order.
///
/// The streams agree in their batch and width, which `heads` divides; norms have this ε.
pub fn join_heads(streams: Vec<Projected>, heads: usize, epsilon: f64) -> [Tensor<3>; 3] {
    let mut kept = Vec::with_capacity(streams.len());
    let mut streams = streams.into_iter();
    let shape = |stream: &Projected| stream.qkv.dims();
    let first = streams.as_slice().first().map_or([0; 3], shape);
    let (batch, width) = (first[0], first[2] / 3);
    for Projected { qkv, norms } in streams.by_ref() {
        let [rows, _, features] = qkv.dims();
        let norm_fits = |weight: &Tensor<1>| heads > 0 && weight.dims() == [width / heads];
        let fits = rows == batch
            && width > 0
            && features == 3 * width
            && norms.iter().flatten().all(norm_fits);
        match Host::take(qkv) {
            Ok(qkv) if fits => kept.push((qkv.contiguous(), norms)),
            qkv => {
                let qkv = qkv.map_or_else(|qkv| qkv, Host::give);
                let back = |(qkv, norms): (Host<3>, _)| Projected { qkv: qkv.give(), norms };
                let all = kept.into_iter().map(back).chain([Projected { qkv, norms }]);
                return generic(all.chain(streams).collect(), heads, epsilon);
            }
        }
    }
    let total: usize = kept.iter().map(|(qkv, _)| qkv.dims()[1]).sum();
    let mut out: [Vec<f32>; 3] = std::array::from_fn(|_| vec![0.0; batch * total * width]);
    let mut before = 0;
    for (qkv, norms) in &kept {
        let tokens = qkv.dims()[1];
        let norms = norms.as_ref().map(|norms| {
            let read = |weight: &Tensor<1>| weight.clone().into_data().convert::<f32>();
            let [query, key] = norms.each_ref().map(|weight| read(weight).to_vec::<f32>());
            [query.unwrap_or_default(), key.unwrap_or_default()]
        });
        let images = qkv.values().chunks((tokens * 3 * width).max(1));
        for (image, values) in images.enumerate() {
            let rows = out.each_mut().map(|out| {
                let first = (image * total + before) * width;
                out[first..][..tokens * width].par_chunks_mut(width)
            });
            let [query, key, value] = rows;
            let rows = query.zip(key).zip(value).zip(values.par_chunks(3 * width));
            rows.with_min_len(ROWS).for_each(|(((query, key), value), row)| {
                let (from_query, rest) = row.split_at(width);
                let (from_key, from_value) = rest.split_at(width);
                value.copy_from_slice(from_value);
                match &norms {
                    Some([query_norm, key_norm]) => {
                        normalise_heads(from_query, query_norm, epsilon, query);
                        normalise_heads(from_key, key_norm, epsilon, key);
                    }
                    None => {
                        query.copy_from_slice(from_query);
                        key.copy_from_slice(from_key);
                    }
                }
            });
        }
        before += tokens;
    }
    out.map(|values| tensor(values, [batch, total, width]))
}

/// Each head of a token by its root mean square.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn normalise_heads(x: &[f32], weight: &[f32], epsilon: f64, out: &mut [f32]) {
    let dim = weight.len().max(1);
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let mean = sum(x, |x| x * x) / dim as f64;
        let inverse = (1.0 / (mean + epsilon).sqrt()) as f32;
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * inverse * weight;
        }
    }
}

fn generic(streams: Vec<Projected>, heads: usize, epsilon: f64) -> [Tensor<3>; 3] {
    std::array::from_fn(|part| {
        let parts = streams.iter().map(|Projected { qkv, norms }| {
            let [batch, tokens, features] = qkv.dims();
            let width = features / 3;
            let x = qkv.clone().narrow(2, part * width, width);
            match norms.as_ref().and_then(|norms| norms.get(part)) {
                Some(weight) => {
                    let x = x.reshape([batch, tokens, heads, width / heads.max(1)]);
                    rms_norm(x, weight.clone(), epsilon).reshape([batch, tokens, width])
                }
                None => x,
            }
        });
        Tensor::cat(parts.collect(), 1)
    })
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;
    use crate::tensor::DType;

    /// Two streams and one, with norms and without, in one batch and more: beside the formula in f64.
    #[test]
    fn streams_are_joined_and_their_heads_normalised() {
        const EPSILON: f64 = 1e-3;
        for (batch, tokens, heads, dim, normed) in [
            (1, vec![3, 5], 2, 8, [true, true]),
            (2, vec![4, 9], 3, 20, [true, false]),
            (3, vec![7], 1, 33, [true, true]),
            (2, vec![1, 2], 2, 64, [false, false]),
        ] {
            let width = heads * dim;
            let streams: Vec<Projected> = tokens
                .iter()
                .zip(normed)
                .enumerate()
                .map(|(at, (tokens, normed))| Projected {
                    qkv: made_up::tensor([batch, *tokens, 3 * width], at + 1) * 2.0,
                    norms: normed.then(|| [11, 12].map(|seed| made_up::tensor([dim], seed + at))),
                })
                .collect();
            let elsewhere = streams.iter().cloned().map(|stream| {
                // No dtype of the kernel, so that it takes the way of other devices.
                Projected { qkv: stream.qkv.cast(DType::F64), ..stream }
            });
            let elsewhere = join_heads(elsewhere.collect(), heads, EPSILON);
            let here = join_heads(streams.clone(), heads, EPSILON);
            let read = |x: Tensor<3>| x.cast(DType::F32).into_data().to_vec::<f32>().unwrap();
            for part in 0..3 {
                let mut expected = Vec::new();
                for image in 0..batch {
                    for stream in &streams {
                        let one = stream.qkv.clone().narrow(0, image, 1);
                        let values = read(one.narrow(2, part * width, width));
                        let norm = stream.norms.as_ref().and_then(|norms| norms.get(part));
                        let norm = norm.map(|w| w.clone().into_data().to_vec::<f32>().unwrap());
                        for head in values.chunks(dim) {
                            let square = |x: &f32| f64::from(*x).powi(2);
                            let mean = head.iter().map(square).sum::<f64>() / dim as f64;
                            let root = (mean + EPSILON).sqrt();
                            expected.extend(head.iter().enumerate().map(|(at, x)| match &norm {
                                Some(norm) => f64::from(*x) / root * f64::from(norm[at]),
                                None => f64::from(*x),
                            }));
                        }
                    }
                }
                for result in [&here, &elsewhere] {
                    let result = &result[part];
                    assert_eq!(result.dims(), [batch, tokens.iter().sum(), width]);
                    let errors = read(result.clone()).into_iter().zip(&expected);
                    let error =
                        errors.fold(0.0_f64, |most, (x, e)| most.max((f64::from(x) - e).abs()));
                    assert!(error < 2e-6, "{heads}×{dim}, part {part}: {error:e}");
                }
            }
        }
    }
}
