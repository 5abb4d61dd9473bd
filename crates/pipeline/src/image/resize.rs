//! Other sizes for pictures, masks and latents, with PyTorch's and PIL's numbers.
//!
//! Nearest, bilinear and bicubic are those of `torch.nn.functional.interpolate` (half pixel
//! centres, no smoothing when a side shrinks), area is its adaptive average pooling, Lanczos is
//! PIL's for 8-bit pictures (`lanczos`), and bislerp is ComfyUI's interpolation of
//! directions (`bislerp`).
//!
//! Data is `[batch, height, width, channels]`, row by row. All but Lanczos take any values.

use rayon::prelude::*;

use super::neighbours::{centre, neighbours};
use super::{Mask, Pictures, TooLarge, bislerp, lanczos, room};

/// A way of resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The nearest pixel, by its centre.
    NearestExact,
    /// Between the two nearest pixels of each line.
    Bilinear,
    /// The mean of the pixels under the new one.
    Area,
    /// Between the four nearest pixels of each line, by Keys' kernel with a = -0.75.
    Bicubic,
    /// Between the two nearest pixels of each line, on the sphere of their directions.
    Bislerp,
    /// The sinc window of 3 lobes, on pictures of 8 bits a channel.
    Lanczos,
}

/// What [`Method::by_name`] knows for latents.
pub const LATENT_METHODS: &[&str] = &["nearest-exact", "bilinear", "area", "bicubic", "bislerp"];

/// What [`Method::by_name`] knows for pictures.
pub const PICTURE_METHODS: &[&str] = &["nearest-exact", "bilinear", "area", "bicubic", "lanczos"];

impl Method {
    /// The method of ComfyUI's name.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "nearest-exact" => Self::NearestExact,
            "bilinear" => Self::Bilinear,
            "area" => Self::Area,
            "bicubic" => Self::Bicubic,
            "bislerp" => Self::Bislerp,
            "lanczos" => Self::Lanczos,
            _ => return None,
        })
    }
}

/// The pictures at another size, `[height, width]`.
///
/// # Errors
/// When the result is too large, or a side is 0.
pub fn resize(
    pictures: &Pictures,
    method: Method,
    [height, width]: [usize; 2],
) -> Result<Pictures, TooLarge> {
    let from = pictures.shape();
    let shape = [from[0], height, width, from[3]];
    room(shape)?;
    room([from[0], from[1], width, from[3]])?; // what is between the two passes
    if from.contains(&0) || shape.contains(&0) {
        return Err(TooLarge { shape });
    }
    let values = match method {
        Method::Bislerp => bislerp::resize(pictures.values(), from, [height, width]),
        Method::Lanczos => lanczos::resize(pictures.values(), from, [height, width]),
        _ => linear(pictures.values(), from, [height, width], method),
    };
    Pictures::new(shape, values).ok_or(TooLarge { shape })
}

/// The masks at another size, `[height, width]`.
///
/// # Errors
/// When the result is too large, or a side is 0.
pub fn resize_mask(
    mask: &Mask,
    method: Method,
    [height, width]: [usize; 2],
) -> Result<Mask, TooLarge> {
    let resized = resize(&mask.pictures(), method, [height, width])?;
    Ok(resized.channel(0))
}

/// The middle of the pictures, as large as it can be with the sides' ratio of `[height, width]`.
pub fn centre_crop(pictures: &Pictures, [height, width]: [usize; 2]) -> Pictures {
    let [_, rows, columns, _] = pictures.shape();
    let (old, new) = (columns as f64 / rows as f64, width as f64 / height as f64);
    let off = |length: usize, share: f64| {
        let length = length as f64;
        ((length - length * share) / 2.0).round_ties_even() as usize
    };
    let (mut x, mut y) = (0, 0);
    if old > new {
        x = off(columns, new / old);
    } else if old < new {
        y = off(rows, old / new);
    }
    pictures.crop([y, x], [rows.saturating_sub(2 * y), columns.saturating_sub(2 * x)])
}

/// The pixels of a line that make one new pixel: from `start` on, with these weights.
pub(super) struct Tap {
    pub start: usize,
    pub weights: Vec<f32>,
}

/// Each new pixel's share in the old ones, along both sides.
fn linear(
    values: &[f32],
    [batch, height, width, depth]: [usize; 4],
    [rows, columns]: [usize; 2],
    method: Method,
) -> Vec<f32> {
    let across = taps(method, width, columns);
    let down = taps(method, height, rows);
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
    out
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
fn taps(method: Method, from: usize, to: usize) -> Vec<Tap> {
    (0..to)
        .map(|place| match method {
            Method::Area => area(from, to, place),
            Method::Bicubic => bicubic(from, to, place),
            Method::NearestExact => nearest(from, to, place),
            _ => bilinear(from, to, place),
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

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    /// Made by `tools/reference/make_resize.py` with PyTorch and PIL.
    const FIXTURE: &str = include_str!("../../tests/fixtures/resize.json");

    fn numbers(json: &Json) -> Vec<f32> {
        json.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect()
    }

    fn shape(json: &Json) -> [usize; 4] {
        serde_json::from_value(json.clone()).unwrap()
    }

    /// f32 sums in another order than PyTorch's: a few units of the last place of values up to 3.
    /// Lanczos is of whole numbers, and equal but for the digits of the file.
    #[test]
    fn sizes_are_those_of_pytorch_and_pil() {
        let fixture: Json = serde_json::from_str(FIXTURE).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let name = case["method"].as_str().unwrap();
            let input = &fixture["inputs"][case["input"].as_str().unwrap()];
            let pictures = Pictures::new(shape(&input["shape"]), numbers(&input["values"]));
            let [_, height, width, _] = shape(&case["shape"]);
            let method = Method::by_name(name).unwrap();
            let resized = resize(&pictures.unwrap(), method, [height, width]).unwrap();
            let expected = numbers(&case["values"]);
            assert_eq!(resized.shape(), shape(&case["shape"]));
            let tolerance = if method == Method::Lanczos { 1e-6 } else { 1e-5 };
            for (place, (a, b)) in resized.values().iter().zip(&expected).enumerate() {
                let place = format!("{name} {} {height}×{width} at {place}", case["input"]);
                assert!((a - b).abs() < tolerance, "{place}: {a}, not {b}");
            }
        }
    }

    #[test]
    fn the_middle_keeps_the_ratio() {
        let pictures = Pictures::from_fn([1, 6, 11, 1], |_, y, x, _| (10 * y + x) as f32);
        for (size, shape, first) in [
            ([4, 4], [1, 6, 7, 1], 2.0), // 2.5 is rounded to even
            ([6, 11], [1, 6, 11, 1], 0.0),
            ([2, 22], [1, 2, 11, 1], 20.0),
        ] {
            let cropped = centre_crop(&pictures, size);
            assert_eq!(cropped.shape(), shape, "{size:?}");
            assert_eq!(cropped.at(0, 0, 0, 0), first, "{size:?}");
        }
    }

    #[test]
    fn no_side_is_too_large_or_0() {
        let pictures = Pictures::from_fn([1, 2, 2, 3], |_, _, _, _| 0.5);
        for size in [[0, 3], [3, 0], [usize::MAX, 2], [1 << 20, 1 << 20], [1, 1 << 40]] {
            assert!(resize(&pictures, Method::Bilinear, size).is_err(), "{size:?}");
        }
    }
}
