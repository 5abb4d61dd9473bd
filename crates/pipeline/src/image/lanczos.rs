//! PIL's Lanczos resampling of 8-bit pictures, bit for bit.
//!
//! PIL resamples in whole numbers: weights of 22 binary places, rounded to 8 bits after each of its
//! two passes, the width's and then the height's. (Pillow 13 turns them round where the height
//! shrinks much more than the width; values differ by a step then, more at the sharpest edges.)
//! Pictures with alpha go through it with their colours multiplied by it.

use rayon::prelude::*;

/// Binary places of a weight.
const PLACES: u32 = 22;

/// Lobes of the window.
const LOBES: f64 = 3.0;

/// `[batch, height, width, channels]` of 0 to 1 at `[rows, columns]`. Four channels are colours and
/// alpha.
pub(super) fn resize(
    values: &[f32],
    [batch, height, width, depth]: [usize; 4],
    [rows, columns]: [usize; 2],
) -> Vec<f32> {
    let mut bytes: Vec<u8> =
        values.par_iter().map(|value| (value * 255.0).clamp(0.0, 255.0) as u8).collect();
    if (height, width) != (rows, columns) {
        if depth == 4 {
            bytes.par_chunks_exact_mut(4).for_each(multiply);
        }
        if width != columns {
            bytes = resize_width(&bytes, width, columns, depth);
        }
        if height != rows {
            bytes = resize_height(&bytes, batch, [height, rows], columns * depth);
        }
        if depth == 4 {
            bytes.par_chunks_exact_mut(4).for_each(divide);
        }
    }
    bytes.into_par_iter().map(|byte| f32::from(byte) / 255.0).collect()
}

fn resize_width(bytes: &[u8], width: usize, columns: usize, depth: usize) -> Vec<u8> {
    let taps = taps(width, columns);
    let mut out = vec![0; bytes.len() / width * columns];
    let lines = out.par_chunks_mut(columns * depth).zip(bytes.par_chunks(width * depth));
    lines.for_each(|(out, from)| {
        for (out, (start, weights)) in out.chunks_exact_mut(depth).zip(&taps) {
            for (channel, out) in out.iter_mut().enumerate() {
                let from = from[start * depth + channel..].iter().step_by(depth);
                *out = weighted(from, weights);
            }
        }
    });
    out
}

fn resize_height(bytes: &[u8], batch: usize, [height, rows]: [usize; 2], line: usize) -> Vec<u8> {
    let taps = taps(height, rows);
    let mut out = vec![0; batch * rows * line];
    out.par_chunks_mut(line).enumerate().for_each(|(row, out)| {
        let picture = &bytes[row / rows * height * line..][..height * line];
        let (start, weights) = &taps[row % rows];
        for (place, out) in out.iter_mut().enumerate() {
            *out = weighted(picture[start * line + place..].iter().step_by(line), weights);
        }
    });
    out
}

fn weighted<'a>(bytes: impl Iterator<Item = &'a u8>, weights: &[i64]) -> u8 {
    let half = 1_i64 << (PLACES - 1);
    let sum: i64 = bytes.zip(weights).map(|(byte, weight)| i64::from(*byte) * weight).sum();
    ((sum + half) >> PLACES).clamp(0, 255) as u8
}

/// For each new pixel of a line the first old one that it takes from, and the weights from there.
fn taps(from: usize, to: usize) -> Vec<(usize, Vec<i64>)> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    let support = LOBES * wide;
    (0..to)
        .map(|place| {
            let centre = (place as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> =
                (start..end).map(|x| window((x as f64 - centre + 0.5) * (1.0 / wide))).collect();
            let sum: f64 = weights.iter().sum();
            let whole = |weight: f64| (weight / sum * f64::from(1 << PLACES)).round() as i64;
            (start, weights.into_iter().map(whole).collect())
        })
        .collect()
}

fn window(x: f64) -> f64 {
    let sinc = |x: f64| {
        let x = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

/// Colours times alpha.
fn multiply(pixel: &mut [u8]) {
    let [colours @ .., alpha] = pixel else { return };
    for colour in colours {
        let product = u32::from(*colour) * u32::from(*alpha) + 128;
        *colour = (((product >> 8) + product) >> 8) as u8;
    }
}

/// Colours over alpha.
fn divide(pixel: &mut [u8]) {
    let [colours @ .., alpha] = pixel else { return };
    if *alpha == 0 || *alpha == 255 {
        return;
    }
    for colour in colours {
        *colour = (255 * u32::from(*colour) / u32::from(*alpha)).min(255) as u8;
    }
}
