//! Other sizes for pictures by shares of pixels along both sides, with PyTorch's numbers.
//!
//! Nearest, bilinear and bicubic are those of `torch.nn.functional.interpolate` (half pixel centres, no smoothing when a
//! side shrinks), area is its adaptive average pooling.

use rayon::prelude::*;

/// What a new pixel takes of the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel, by its centre.
    NearestExact,
    /// The two nearest pixels of each line.
    Bilinear,
    /// The mean of the pixels under the new one.
    Area,
    /// The four nearest pixels of each line, by Keys' kernel with a = -0.75.
    Bicubic,
}

/// Pictures `[batch, height, width, channels]`, row by row, at the size `[rows, columns]`; `None` where a side is 0 or
/// `values` are not as many as the shape says.
pub fn resample(
    values: &[f32],
    [batch, height, width, depth]: [usize; 4],
    [rows, columns]: [usize; 2],
    filter: Filter,
) -> Option<Vec<f32>> {
    let count = [batch, height, width, depth].into_iter().try_fold(1_usize, usize::checked_mul)?;
    if count == 0 || rows == 0 || columns == 0 || count != values.len() {
        return None;
    }
    let across = taps(filter, width, columns);
    let down = taps(filter, height, rows);
    let wide = resize_lines(values, width * depth, &across, depth);
    let mut out = vec![0.0; batch * rows * columns * depth];
    let line = columns * depth;
    out.par_chunks_mut(line).enumerate().for_each(|(row, out)| {
        let picture = &wide[row / rows * height * line..][..height * line];
        let Tap { start, weights } = &down[row % rows];
        for (from, weight) in picture[start * line..].chunks_exact(line).zip(weights) {
            out.iter_mut().zip(from).for_each(|(out, from)| *out += from * weight);
        }
    });
    Some(out)
}

/// The pixels of a line that make one new pixel: from `start` on, with these weights.
struct Tap {
    start: usize,
    weights: Vec<f32>,
}

/// All lines of `stride` values, each of pixels of `depth` values, at the length of `taps`.
fn resize_lines(values: &[f32], stride: usize, taps: &[Tap], depth: usize) -> Vec<f32> {
    let line = taps.len() * depth;
    let mut out = vec![0.0; values.len() / stride * line];
    out.par_chunks_mut(line).zip(values.par_chunks(stride)).for_each(|(out, from)| {
        for (out, Tap { start, weights }) in out.chunks_exact_mut(depth).zip(taps) {
            for (from, weight) in from[start * depth..].chunks_exact(depth).zip(weights) {
                out.iter_mut().zip(from).for_each(|(out, from)| *out += from * weight);
            }
        }
    });
    out
}

/// What each of `to` pixels of a line takes from `from` ones.
fn taps(filter: Filter, from: usize, to: usize) -> Vec<Tap> {
    (0..to)
        .map(|place| match filter {
            Filter::NearestExact => nearest(from, to, place),
            Filter::Bilinear => bilinear(from, to, place),
            Filter::Area => area(from, to, place),
            Filter::Bicubic => bicubic(from, to, place),
        })
        .collect()
}

fn nearest(from: usize, to: usize, place: usize) -> Tap {
    let start = ((centre(from, to, place).max(0.0) + 0.5) as usize).min(from - 1);
    Tap { start, weights: vec![1.0] }
}

fn bilinear(from: usize, to: usize, place: usize) -> Tap {
    let (low, high, share) = neighbours(from, to, place);
    match low == high {
        true => Tap { start: low, weights: vec![1.0] },
        false => Tap { start: low, weights: vec![1.0 - share, share] },
    }
}

fn area(from: usize, to: usize, place: usize) -> Tap {
    let start = place * from / to;
    let count = ((place + 1) * from).div_ceil(to) - start;
    Tap { start, weights: vec![1.0 / count as f32; count] }
}

/// Keys' cubic convolution, <https://doi.org/10.1109/TASSP.1981.1163711>, with a = -0.75. Beyond
/// its ends a line goes on with its last pixel.
fn bicubic(from: usize, to: usize, place: usize) -> Tap {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let centre = centre(from, to, place);
    let low = centre.floor();
    let t = centre - low;
    let last = from as i64 - 1;
    let at = |offset: i64| (low as i64 + offset).clamp(0, last) as usize;
    let (start, end) = (at(-1), at(2));
    let mut weights = vec![0.0; end - start + 1];
    for (offset, weight) in
        [(-1, far(t + 1.0)), (0, near(t)), (1, near(1.0 - t)), (2, far(2.0 - t))]
    {
        weights[at(offset) - start] += weight;
    }
    Tap { start, weights }
}

/// Where the centre of a new pixel lies among the centres of old ones. PyTorch computes it in f32.
fn centre(from: usize, to: usize, place: usize) -> f32 {
    from as f32 / to as f32 * (place as f32 + 0.5) - 0.5
}

/// The old pixel at or before the centre of a new one, the one after it, and the share of the
/// latter.
pub fn neighbours(from: usize, to: usize, place: usize) -> (usize, usize, f32) {
    if from == to {
        return (place, place, 0.0);
    }
    let centre = centre(from, to, place).max(0.0);
    let low = (centre as usize).min(from - 1);
    (low, (low + 1).min(from - 1), (centre - low as f32).min(1.0))
}
