//! Other sizes for pictures, masks and latents, with PyTorch's and PIL's numbers.
//!
//! Nearest, bilinear and bicubic are those of `torch.nn.functional.interpolate` (half pixel
//! centres, no smoothing when a side shrinks), area is its adaptive average pooling, Lanczos is
//! PIL's for 8-bit pictures (`lanczos`), and bislerp is ComfyUI's interpolation of
//! directions (`bislerp`).
//!
//! Data is `[batch, height, width, channels]`, row by row. All but Lanczos take any values.

use distorch_models::resample::{Filter, resample};

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
    let linear = |filter| resample(pictures.values(), from, [height, width], filter);
    let values = match method {
        Method::Bislerp => Some(bislerp::resize(pictures.values(), from, [height, width])),
        Method::Lanczos => Some(lanczos::resize(pictures.values(), from, [height, width])),
        Method::NearestExact => linear(Filter::NearestExact),
        Method::Bilinear => linear(Filter::Bilinear),
        Method::Area => linear(Filter::Area),
        Method::Bicubic => linear(Filter::Bicubic),
    };
    values.and_then(|values| Pictures::new(shape, values)).ok_or(TooLarge { shape })
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
