//! Pictures as patches: resized to whole patches, normalised, and cut up.

use super::MERGED;
use crate::ModelError;
use crate::resample::{Filter, resample};
use crate::text::PromptPicture;

/// Frames of a patch: a picture is there twice.
const FRAMES: usize = 2;

/// How a model reads pictures.
pub(super) struct Form {
    /// The model, for errors.
    pub model: &'static str,
    /// Pixels of a patch along a side.
    pub patch: usize,
    /// The least and the most pixels of a picture.
    pub pixels: [usize; 2],
    /// What is taken off each channel, and what the rest is divided by.
    pub mean: [f32; 3],
    pub deviation: [f32; 3],
    /// How other sizes are made.
    pub filter: Filter,
}

/// A picture's patches.
pub(super) struct Patches {
    /// Those of each 2×2 that are one token together, row by row, and within them row by row; each with its channels, and
    /// in these its frames, row by row.
    pub values: Vec<f32>,
    /// Rows and columns of patches, both even.
    pub grid: [usize; 2],
}

impl Form {
    /// Values of a patch.
    pub fn features(&self) -> usize {
        3 * FRAMES * self.patch * self.patch
    }

    /// The patches of a picture.
    pub fn patches(&self, picture: &PromptPicture) -> Result<Patches, ModelError> {
        let [height, width] = picture.size();
        let [rows, columns] = self.size([height, width])?;
        let shape = [1, height, width, 3];
        let error = || self.error([height, width]);
        let pixels = resample(picture.values(), shape, [rows, columns], self.filter);
        let pixels = pixels.ok_or_else(error)?;
        let (patch, grid) = (self.patch, [rows / self.patch, columns / self.patch]);
        let mut values = Vec::with_capacity(grid[0] * grid[1] * self.features());
        for [row, column] in tokens([grid[0] / MERGED, grid[1] / MERGED]).flat_map(patches_of) {
            for (channel, (mean, deviation)) in self.mean.iter().zip(&self.deviation).enumerate() {
                let line = |y: usize| {
                    let start = ((row * patch + y) * columns + column * patch) * 3 + channel;
                    let line = pixels.get(start..).unwrap_or_default();
                    line.iter().step_by(3).take(patch).map(|value| (value - mean) / deviation)
                };
                for _ in 0..FRAMES {
                    values.extend((0..patch).flat_map(line));
                }
            }
        }
        Ok(Patches { values, grid })
    }

    /// The size that a picture is brought to: whole tokens along both sides, and no more and no fewer pixels than a model
    /// reads, in about the same ratio.
    fn size(&self, [height, width]: [usize; 2]) -> Result<[usize; 2], ModelError> {
        let unit = (self.patch * MERGED) as f64;
        let (rows, columns) = (height as f64, width as f64);
        let whole = |side: f64| (side / unit).round_ties_even() * unit;
        let [least, most] = self.pixels.map(|pixels| pixels as f64);
        let near = whole(rows) * whole(columns);
        let size = if near > most {
            let smaller = (rows * columns / most).sqrt();
            [rows, columns].map(|side| ((side / smaller / unit).floor() * unit).max(unit))
        } else if near < least {
            let larger = (least / (rows * columns)).sqrt();
            [rows, columns].map(|side| (side * larger / unit).ceil() * unit)
        } else {
            [whole(rows), whole(columns)]
        };
        // A picture without pixels has no ratio, one that is far longer than wide no size.
        match height > 0 && width > 0 && size[0] * size[1] <= 4.0 * most {
            true => Ok(size.map(|side| side as usize)),
            false => Err(self.error([height, width])),
        }
    }

    fn error(&self, [height, width]: [usize; 2]) -> ModelError {
        ModelError::Input {
            model: self.model,
            input: "picture",
            expected: "pixels, in a ratio that fits".to_owned(),
            found: format!("{width}×{height}"),
        }
    }
}

/// The tokens of a grid, row by row.
pub(super) fn tokens([rows, columns]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    (0..rows).flat_map(move |row| (0..columns).map(move |column| [row, column]))
}

/// Row and column of each patch of a token.
pub(super) fn patches_of([row, column]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    tokens([MERGED; 2]).map(move |[y, x]| [row * MERGED + y, column * MERGED + x])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(pixels: [usize; 2]) -> Form {
        Form {
            model: "test",
            patch: 14,
            pixels,
            mean: [0.5; 3],
            deviation: [0.25; 3],
            filter: Filter::Bilinear,
        }
    }

    /// After ComfyUI's rule by hand.
    #[test]
    fn sizes_are_whole_tokens_within_bounds() {
        let size = |size| form([3136, 12_845_056]).size(size).ok();
        assert_eq!(size([384, 384]), Some([392, 392]));
        assert_eq!(size([1024, 1024]), Some([1036, 1036]));
        assert_eq!(size([100, 42]), Some([112, 56])); // 42 / 28 is 1.5, which is rounded to even
        assert_eq!(size([70, 98]), Some([56, 112])); // 2.5 and 3.5
        assert_eq!(size([20, 20]), Some([56, 56])); // 28² are too few: √(3136 / 400) is 2.8
        assert_eq!(size([5, 300]), Some([28, 448])); // 0 rows: √(3136 / 1500) is 1.446, 300 · 1.446 / 28 is 15.49
        assert_eq!(size([8000, 4000]), Some([5068, 2520])); // √(32e6 / 12845056) is 1.5784: 181.02, 90.5
        assert_eq!(size([0, 4]), None);
        assert_eq!(form([3136, 4000]).size([28, 100_000]).ok(), None);
    }

    #[test]
    fn a_patch_has_its_channels_one_after_the_other_and_each_twice() {
        let values: Vec<f32> = (0..56 * 56 * 3).map(|at| (at % 3) as f32 / 2.0).collect();
        let picture = PromptPicture::new([56, 56], values).unwrap();
        let form = form([3136, 12_845_056]);
        let patches = form.patches(&picture).unwrap();
        assert_eq!((patches.grid, patches.values.len()), ([4, 4], 16 * form.features()));
        let area = 14 * 14;
        for patch in patches.values.chunks(form.features()) {
            for (channel, values) in patch.chunks(2 * area).enumerate() {
                assert!(values.iter().all(|value| *value == [-2.0, 0.0, 2.0][channel]));
            }
        }
    }
}
