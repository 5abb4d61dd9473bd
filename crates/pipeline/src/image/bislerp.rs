//! Interpolation of directions: between two pixels, the vector of channels turns from the one to
//! the other on a sphere, while its length changes in a straight line. Latents keep their contrast
//! so, which a mean takes from them.
//!
//! The turn is Shoemake's spherical linear interpolation,
//! <https://doi.org/10.1145/325334.325242>: `(sin((1-t)ω)·a + sin(tω)·b) / sin ω`.

use distorch_models::resample::neighbours;
use rayon::prelude::*;

/// Vectors closer to one direction, or to opposite ones, than this (by their dot product) have no
/// plane to turn in.
const PARALLEL: f32 = 1e-5;

/// `[batch, height, width, channels]` at `[rows, columns]`: along the width first, then the height.
pub(super) fn resize(
    values: &[f32],
    [batch, height, width, depth]: [usize; 4],
    [rows, columns]: [usize; 2],
) -> Vec<f32> {
    let across: Vec<_> = (0..columns).map(|x| neighbours(width, columns, x)).collect();
    let down: Vec<_> = (0..rows).map(|y| neighbours(height, rows, y)).collect();
    let line = columns * depth;
    let mut wide = vec![0.0; batch * height * line];
    wide.par_chunks_mut(line).zip(values.par_chunks(width * depth)).for_each(|(out, from)| {
        let pixel = |x: usize| &from[x * depth..][..depth];
        for (out, &(low, high, share)) in out.chunks_exact_mut(depth).zip(&across) {
            turn(pixel(low), pixel(high), share, out);
        }
    });
    let mut out = vec![0.0; batch * rows * line];
    out.par_chunks_mut(line).enumerate().for_each(|(row, out)| {
        let picture = &wide[row / rows * height * line..][..height * line];
        let (low, high, share) = down[row % rows];
        let (low, high) = (&picture[low * line..][..line], &picture[high * line..][..line]);
        let pairs = low.chunks_exact(depth).zip(high.chunks_exact(depth));
        for (out, (low, high)) in out.chunks_exact_mut(depth).zip(pairs) {
            turn(low, high, share, out);
        }
    });
    out
}

/// From `a` towards `b` by `share`.
fn turn(a: &[f32], b: &[f32], share: f32, out: &mut [f32]) {
    let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    let (length_a, length_b) = (length(a), length(b));
    let unit = |x: f32, length: f32| if length == 0.0 { 0.0 } else { x / length };
    let pairs = || a.iter().zip(b);
    let dot: f32 = pairs().map(|(a, b)| unit(*a, length_a) * unit(*b, length_b)).sum();
    if dot > 1.0 - PARALLEL {
        out.copy_from_slice(a);
        return;
    }
    if dot < PARALLEL - 1.0 {
        for (out, (a, b)) in out.iter_mut().zip(pairs()) {
            *out = a * (1.0 - share) + b * share;
        }
        return;
    }
    let angle = dot.acos();
    let scale = (length_a * (1.0 - share) + length_b * share) / angle.sin();
    let from_a = ((1.0 - share) * angle).sin() * scale;
    let from_b = (share * angle).sin() * scale;
    for (out, (a, b)) in out.iter_mut().zip(pairs()) {
        *out = unit(*a, length_a) * from_a + unit(*b, length_b) * from_b;
    }
}
