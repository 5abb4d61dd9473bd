//! What joint attention reads: the queries, keys and values of several streams of tokens, each head normalised by its
//! root mean square (Henry et al., <https://arxiv.org/abs/2010.04245>) and rotated by its token's place (Su et al.,
//! <https://arxiv.org/abs/2104.09864>); and what a layer reads that follows an attention and a feed-forward layer at once.

use std::sync::{Arc, OnceLock};

use multiversion::multiversion;
use rayon::prelude::*;

use super::elementwise::{gelu_tanh, gelu_tanh_all};
use super::host::{Host, Output, filled_each};
use super::norm::{rms_norm, sum};
use crate::tensor::{DType, Device, Tensor, TensorData};

/// Rows of one task at least.
const ROWS: usize = 8;

/// One stream of tokens as it leaves its projection.
#[derive(Clone, Debug)]
pub struct Projected {
    /// Queries, keys and values side by side, `[batch, tokens, 3 × heads × d]`; on the CPU, a view is read where it lies.
    pub qkv: Tensor<3>,
    /// The weights `[d]` by which each head's query and key are normalised by their root mean square, where they are.
    pub norms: Option<[Tensor<1>; 2]>,
}

/// By which angles the features of a head turn, for each token.
#[derive(Clone, Debug)]
pub struct Rotation {
    tokens: usize,
    dim: usize,
    /// Cosines, each for two features that turn together: `[tokens, d]`.
    cosines: Arc<[f32]>,
    /// Sines in the same order; those of the first of two features are negative.
    sines: Arc<[f32]>,
    /// Both as [`on`](Self::on) returns them, for the device that asked first: a network's blocks all turn by the same.
    uploaded: OnceLock<(Device, [Tensor<4>; 2])>,
}

impl Rotation {
    /// Angles for `dim` / 2 pairs of neighbours (feature 0 with 1, 2 with 3, …), token by token.
    pub fn new(dim: usize, angles: &[f64]) -> Self {
        let each = |f: fn(f64) -> [f32; 2]| angles.iter().flat_map(|angle| f(*angle)).collect();
        Self {
            tokens: angles.len() / (dim / 2).max(1),
            dim,
            cosines: each(|angle| [angle.cos() as f32; 2]),
            sines: each(|angle| [-(angle.sin() as f32), angle.sin() as f32]),
            uploaded: OnceLock::new(),
        }
    }

    /// The cosines and the sines of a token.
    fn of(&self, token: usize) -> (&[f32], &[f32]) {
        let at = token * self.dim;
        (&self.cosines[at..][..self.dim], &self.sines[at..][..self.dim])
    }

    /// The cosines and the sines on a device, each `[1, tokens, 1, d]`.
    fn on(&self, device: &Device) -> [Tensor<4>; 2] {
        let upload = || {
            [&self.cosines, &self.sines].map(|values| {
                let data = TensorData::new(values.to_vec(), [1, self.tokens, 1, self.dim]);
                Tensor::from_data(data, (device, DType::F32))
            })
        };
        match self.uploaded.get_or_init(|| (device.clone(), upload())) {
            (there, tensors) if there == device => tensors.clone(),
            _ => upload(),
        }
    }
}

/// Queries, keys and values, each `[batch, tokens of all streams, heads × d]` with the streams in their order.
///
/// The streams agree in their batch and width, which `heads` divides; norms have this ε.
pub fn join_heads(streams: Vec<Projected>, heads: usize, epsilon: f64) -> [Tensor<3>; 3] {
    join(streams, heads, epsilon, None)
}

/// As [`join_heads`], with queries and keys rotated behind their norms. `rotation` has all streams' tokens.
pub fn join_rotated_heads(
    streams: Vec<Projected>,
    heads: usize,
    epsilon: f64,
    rotation: &Rotation,
) -> [Tensor<3>; 3] {
    join(streams, heads, epsilon, Some(rotation))
}

fn join(
    streams: Vec<Projected>,
    heads: usize,
    epsilon: f64,
    rotation: Option<&Rotation>,
) -> [Tensor<3>; 3] {
    let [batch, _, width] = streams.first().map_or([0; 3], |stream| stream.qkv.dims());
    let width = width / 3;
    let tokens: usize = streams.iter().map(|stream| stream.qkv.dims()[1]).sum();
    let dim = width / heads.max(1);
    let fits = |stream: &Projected| {
        let [rows, _, features] = stream.qkv.dims();
        let norm_fits = |weight: &Tensor<1>| weight.dims() == [dim];
        rows == batch && features == 3 * width && stream.norms.iter().flatten().all(norm_fits)
    };
    let fits = dim > 0
        && dim * heads == width
        && rotation.is_none_or(|rotation| (rotation.tokens, rotation.dim) == (tokens, dim))
        && streams.iter().all(fits);
    let mut kept = Vec::with_capacity(streams.len());
    let mut streams = streams.into_iter();
    for Projected { qkv, norms } in streams.by_ref() {
        match Host::take(qkv) {
            Ok(qkv) if fits => kept.push((qkv, norms)),
            qkv => {
                let qkv = qkv.map_or_else(|qkv| qkv, Host::give);
                let back = |(qkv, norms): (Host<3>, _)| Projected { qkv: qkv.give(), norms };
                let all = kept.into_iter().map(back).chain([Projected { qkv, norms }]);
                return generic(all.chain(streams).collect(), heads, epsilon, rotation);
            }
        }
    }
    let joint = Joint { tokens, heads, dim, epsilon, rotation };
    // SAFETY: the streams' tokens are all tokens, and each is written to all three.
    unsafe {
        filled_each([batch, tokens, width], |out| {
            let mut before = 0;
            for (qkv, norms) in kept {
                let count = qkv.dims()[1];
                joint.write(qkv, norms.map(|norms| norms.map(values)), before, out);
                before += count;
            }
        })
    }
}

/// How streams are joined.
struct Joint<'a> {
    /// Of all streams.
    tokens: usize,
    heads: usize,
    dim: usize,
    epsilon: f64,
    rotation: Option<&'a Rotation>,
}

impl Joint<'_> {
    /// Writes one stream's queries, keys and values behind the tokens `before` it.
    ///
    /// # Safety
    /// `out` has room for all streams, and no one else writes these tokens now.
    unsafe fn write(
        &self,
        qkv: Host<3>,
        norms: Option<[Vec<f32>; 2]>,
        before: usize,
        out: [Output; 3],
    ) {
        let qkv = if qkv.strides()[2] == 1 { qkv } else { qkv.contiguous() };
        let ([batch, count, _], [picture, row, _]) = (qkv.dims(), qkv.strides());
        let (memory, width) = (qkv.memory(), self.heads * self.dim);
        (0..batch * count).into_par_iter().with_min_len(ROWS).for_each(|at| {
            let (of, token) = (at / count, at % count);
            let x = &memory[of * picture + token * row..][..3 * width];
            let first = (of * self.tokens + before + token) * width;
            let turn = self.rotation.map(|rotation| rotation.of(before + token));
            for (part, (x, out)) in x.chunks_exact(width).zip(out).enumerate() {
                // SAFETY: the caller's promise; the token is this task's.
                let out = unsafe { out.slice(first, width) };
                match norms.as_ref().map(|norms| norms.get(part)) {
                    Some(Some(norm)) => normalise_heads(x, norm, self.epsilon, turn, out),
                    _ => {
                        out.copy_from_slice(x);
                        if let (true, Some(turn)) = (part < 2, turn) {
                            rotate_heads(out, self.dim, turn);
                        }
                    }
                }
            }
        });
    }
}

/// Each head of a token by its root mean square, and rotated.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn normalise_heads(
    x: &[f32],
    weight: &[f32],
    epsilon: f64,
    turn: Option<(&[f32], &[f32])>,
    out: &mut [f32],
) {
    let dim = weight.len().max(1);
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let mean = sum(x, |x| x * x) / dim as f64;
        let inverse = (1.0 / (mean + epsilon).sqrt()) as f32;
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * inverse * weight;
        }
        if let Some((cosines, sines)) = turn {
            rotate(out, cosines, sines);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn rotate_heads(x: &mut [f32], dim: usize, (cosines, sines): (&[f32], &[f32])) {
    x.chunks_exact_mut(dim).for_each(|x| rotate(x, cosines, sines));
}

/// Each value times its cosine and its neighbour times its sine, added up.
#[inline(always)]
fn rotate(x: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (x, x_rest) = x.as_chunks_mut::<16>();
    let (c, c_rest) = cosines.as_chunks::<16>();
    let (s, s_rest) = sines.as_chunks::<16>();
    for (x, (c, s)) in x.iter_mut().zip(c.iter().zip(s)) {
        *x = std::array::from_fn(|i| x[i] * c[i] + x[i ^ 1] * s[i]);
    }
    let (x, c, s) =
        (x_rest.as_chunks_mut::<2>().0, c_rest.as_chunks::<2>().0, s_rest.as_chunks::<2>().0);
    for (x, (c, s)) in x.iter_mut().zip(c.iter().zip(s)) {
        *x = [x[0] * c[0] + x[1] * s[0], x[1] * c[1] + x[0] * s[1]];
    }
}

/// The values in f32.
fn values(x: Tensor<1>) -> Vec<f32> {
    x.into_data().convert::<f32>().into_vec().unwrap_or_default()
}

fn generic(
    streams: Vec<Projected>,
    heads: usize,
    epsilon: f64,
    rotation: Option<&Rotation>,
) -> [Tensor<3>; 3] {
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
        let x = Tensor::cat(parts.collect(), 1);
        match rotation {
            Some(rotation) if part < 2 => turned(x, heads, rotation),
            _ => x,
        }
    })
}

fn turned(x: Tensor<3>, heads: usize, rotation: &Rotation) -> Tensor<3> {
    let (shape, dtype, device) = (x.dims(), x.dtype(), x.device());
    let [batch, tokens, width] = shape;
    let dim = width / heads.max(1);
    let [cosines, sines] = rotation.on(&device);
    let x = x.reshape([batch, tokens, heads, dim]);
    let turned = distorch_cube::rotated(x, cosines, sines).unwrap_or_else(|[x, cosines, sines]| {
        let x = x.cast(DType::F32);
        let pairs = x.clone().reshape([batch, tokens, heads, dim / 2, 2]);
        let neighbours = pairs.flip([4]).reshape([batch, tokens, heads, dim]);
        (x * cosines + neighbours * sines).cast(dtype)
    });
    turned.reshape(shape)
}

/// What a matrix behind an attention and a feed-forward layer side by side reads: `attended` `[batch, tokens,
/// width]` beside the GELU (by its hyperbolic tangent) of the features of `fused` `[batch, tokens, features]` from
/// `first` on.
///
/// On the CPU, if nothing else refers to `fused` and at least `width` features lie before `first`, the result is where
/// these are.
pub fn join_activated(attended: Tensor<3>, fused: Tensor<3>, first: usize) -> Tensor<3> {
    let ([batch, tokens, width], [_, _, features]) = (attended.dims(), fused.dims());
    let fits = features > first && first >= width && width > 0 && {
        let [rows, columns, _] = fused.dims();
        [rows, columns] == [batch, tokens]
    };
    let count = features - first.min(features);
    let (attended, mut fused) = match (fits, Host::take(attended), Host::take(fused)) {
        (true, Ok(attended), Ok(fused)) => (attended.contiguous(), fused.contiguous()),
        (_, attended, fused) => {
            let [attended, fused] = [attended, fused].map(|x| x.map_or_else(|x| x, Host::give));
            return joined_by_copy(attended, fused, first, count);
        }
    };
    let Some(values) = fused.values_mut() else {
        return joined_by_copy(attended.give(), fused.give(), first, count);
    };
    let rows = values.par_chunks_mut(features).zip(attended.values().par_chunks(width));
    rows.with_min_len(ROWS).for_each(|(fused, attended)| {
        let (before, behind) = fused.split_at_mut(first);
        before[first - width..].copy_from_slice(attended);
        gelu_tanh_all(behind);
    });
    fused.give().narrow(2, first - width, width + count)
}

fn joined_by_copy(attended: Tensor<3>, fused: Tensor<3>, first: usize, count: usize) -> Tensor<3> {
    Tensor::cat(vec![attended, gelu_tanh(fused.narrow(2, first, count))], 2)
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

    /// The feature `at` of a head that is rotated by these angles.
    fn rotated(x: &[f64], angles: &[f64], at: usize) -> f64 {
        let (sin, cos) = angles[at / 2].sin_cos();
        match at % 2 {
            0 => x[at] * cos - x[at + 1] * sin,
            _ => x[at - 1] * sin + x[at] * cos,
        }
    }

    /// A stream that is a view of wider rows and has norms, and one that has none; heads that fill vectors and that do not.
    #[test]
    fn heads_are_rotated_by_their_tokens_angles() {
        const HEADS: usize = 3;
        let (batch, counts) = (2, [3, 5]);
        let tokens = counts[0] + counts[1];
        for dim in [6, 32, 44] {
            let width = HEADS * dim;
            let angles = (0..tokens * dim / 2).map(|at| f64::from(at as u32) * 0.37);
            let angles: Vec<f64> = angles.collect();
            let rotation = Rotation::new(dim, &angles);
            let wide = made_up::tensor::<3>([batch, counts[0], 3 * width + 7], 1);
            let norms = || Some([3, 4].map(|seed| made_up::tensor([dim], seed)));
            let plain = made_up::tensor::<3>([batch, counts[1], 3 * width], 2);
            for dtype in [DType::F32, DType::F64] {
                let streams = [
                    Projected {
                        qkv: wide.clone().cast(dtype).narrow(2, 0, 3 * width),
                        norms: norms(),
                    },
                    Projected { qkv: plain.clone().cast(dtype), norms: None },
                ];
                let straight = join_heads(streams.to_vec(), HEADS, 1e-6);
                let turned = join_rotated_heads(streams.to_vec(), HEADS, 1e-6, &rotation);
                let read = |x: Tensor<3>| x.cast(DType::F32).into_data().to_vec::<f32>().unwrap();
                for (part, (straight, turned)) in straight.into_iter().zip(turned).enumerate() {
                    let (straight, turned) = (read(straight), read(turned));
                    if part == 2 {
                        assert_eq!(straight, turned);
                        continue;
                    }
                    for (head, (x, y)) in straight.chunks(dim).zip(turned.chunks(dim)).enumerate() {
                        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                        let of = &angles[head / HEADS % tokens * dim / 2..];
                        for (at, y) in y.iter().enumerate() {
                            let error = (f64::from(*y) - rotated(&x, of, at)).abs();
                            assert!(error < 2e-6, "{dim}, {part}, {head}, {at}: {error:e}");
                        }
                    }
                }
            }
        }
    }

    /// Where the features were, and elsewhere.
    #[test]
    fn an_attention_joins_what_is_activated() {
        let (batch, tokens, width, first, features) = (2, 5, 6, 9, 20);
        let attended = || made_up::tensor::<3>([batch, tokens, width], 1);
        let fused = || made_up::tensor::<3>([batch, tokens, features], 2);
        let all = |x: Tensor<3>| x.into_data().to_vec::<f32>().unwrap();
        let (a, f) = (all(attended()), all(fused()));
        let rows = (0..batch * tokens).flat_map(|row| {
            let gelu = |x: &f32| {
                let x = f64::from(*x);
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                (0.5 * x * (1.0 + inner.tanh())) as f32
            };
            let behind = f[row * features + first..(row + 1) * features].iter().map(gelu);
            a[row * width..][..width].iter().copied().chain(behind).collect::<Vec<_>>()
        });
        let expected: Vec<f32> = rows.collect();
        let kept = fused();
        for joined in [
            join_activated(attended(), fused(), first),
            join_activated(attended(), kept.clone(), first),
            // Too few features lie before.
            join_activated(attended(), fused().narrow(2, first - 2, features + 2 - first), 2),
        ] {
            assert_eq!(joined.dims(), [batch, tokens, width + features - first]);
            let errors = all(joined).into_iter().zip(&expected).map(|(a, b)| (a - b).abs());
            assert!(errors.fold(0.0, f32::max) < 2e-6);
        }
        assert_eq!(all(kept), f);
        let half = join_activated(attended().cast(DType::F16), fused().cast(DType::F16), first);
        assert_eq!(
            (half.dtype(), half.dims()),
            (DType::F16, [batch, tokens, width + features - first])
        );
    }
}
