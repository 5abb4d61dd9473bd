//! Encoding and decoding large pictures piece by piece, so that memory follows the tile.
//!
//! Tiles overlap, and each fades in from its edges, so that no seam shows: a pixel is the mean of
//! the tiles over it, weighted by how far it is from their edges. A tile's
//! group normalisation sees that tile only, which may shift its colours a little; so the picture is
//! made three times, with square, wide and high tiles, and the mean is taken, as ComfyUI does.

use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Tensor};

use crate::ModelError;
use crate::vae::{Posterior, Vae};

/// How a picture is cut, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// The side of a square tile.
    pub tile: usize,
    /// How much neighbouring tiles share.
    pub overlap: usize,
}

impl Default for Tiling {
    fn default() -> Self {
        Self { tile: 512, overlap: 64 }
    }
}

impl Vae {
    /// As [`Vae::decode`], tile by tile.
    ///
    /// # Errors
    /// As [`Vae::decode`], and when the tiling leaves no step between tiles.
    pub fn decode_tiled(&self, latent: Tensor<4>, tiling: Tiling) -> Result<Tensor<4>, ModelError> {
        let side = self.config().downscale();
        let layout = Layout::new(tiling, side, Units { input: 1, output: side })?;
        layout.run(&latent, &mut |tile| self.decode(tile))
    }

    /// As [`Vae::encode`], tile by tile.
    ///
    /// # Errors
    /// As [`Vae::encode`], and when the tiling leaves no step between tiles.
    pub fn encode_tiled(
        &self,
        picture: Tensor<4>,
        tiling: Tiling,
    ) -> Result<Posterior, ModelError> {
        let side = self.config().downscale();
        let layout = Layout::new(tiling, side, Units { input: side, output: 1 })?;
        let [_, _, height, width] = picture.dims();
        if height < side || width < side {
            return self.encode(picture); // which says what is wrong
        }
        // Whole latent pixels only, as the encoder itself would leave the rest out.
        let picture = picture.narrow(2, 0, height / side * side).narrow(3, 0, width / side * side);
        let moments = layout.run(&picture, &mut |tile| {
            let posterior = self.encode(tile)?;
            Ok(Tensor::cat(vec![posterior.mean, posterior.log_variance], 1))
        })?;
        Posterior::from_moments(moments, self.config().latent_channels)
    }
}

/// The side of a latent pixel in the input and in the output.
#[derive(Clone, Copy)]
struct Units {
    input: usize,
    output: usize,
}

/// Tiles in latent pixels.
struct Layout {
    tile: usize,
    overlap: usize,
    units: Units,
}

type Convert<'a> = dyn FnMut(Tensor<4>) -> Result<Tensor<4>, ModelError> + 'a;

impl Layout {
    fn new(tiling: Tiling, side: usize, units: Units) -> Result<Self, ModelError> {
        let (tile, overlap) = (tiling.tile / side, tiling.overlap / side);
        // A tile of the flat shapes is half as high.
        if tile / 2 <= overlap {
            return Err(ModelError::Input {
                model: "VAE",
                input: "tiling",
                expected: format!("a tile over twice its overlap, in steps of {side} pixels"),
                found: format!("a tile of {} with an overlap of {}", tiling.tile, tiling.overlap),
            });
        }
        Ok(Self { tile, overlap, units })
    }

    /// The mean of three runs over the whole input.
    fn run(&self, input: &Tensor<4>, convert: &mut Convert) -> Result<Tensor<4>, ModelError> {
        let [height, width] = self.size(input);
        if height <= self.tile && width <= self.tile {
            return convert(input.clone());
        }
        let tile = self.tile;
        let mut sum: Option<Canvas> = None;
        for (rows, columns) in [(tile, tile), (tile / 2, tile * 2), (tile * 2, tile / 2)] {
            let canvas = self.pass(input, rows, columns, convert)?;
            match &mut sum {
                Some(sum) => sum.add(&canvas),
                None => sum = Some(canvas),
            }
        }
        let device = input.device();
        Ok(match sum {
            Some(sum) => {
                let data = TensorData::new(
                    sum.values.into_iter().map(|value| value / 3.0).collect::<Vec<f32>>(),
                    sum.shape,
                );
                Tensor::from_data(data, (&device, DType::F32)).cast(input.dtype())
            }
            None => input.clone(),
        })
    }

    /// The size of the input in latent pixels.
    fn size(&self, input: &Tensor<4>) -> [usize; 2] {
        let [_, _, height, width] = input.dims();
        [height, width].map(|length| length / self.units.input)
    }

    /// One run over the whole input with tiles of this size.
    fn pass(
        &self,
        input: &Tensor<4>,
        rows: usize,
        columns: usize,
        convert: &mut Convert,
    ) -> Result<Canvas, ModelError> {
        let [height, width] = self.size(input);
        let Units { input: from, output: to } = self.units;
        let mut canvas = Canvas::default();
        for (top, tile_height) in spans(height, rows, self.overlap) {
            for (left, tile_width) in spans(width, columns, self.overlap) {
                let tile = input.clone().narrow(2, top * from, tile_height * from);
                let tile = convert(tile.narrow(3, left * from, tile_width * from))?;
                if canvas.values.is_empty() {
                    let [batch, channels, _, _] = tile.dims();
                    canvas = Canvas::new([batch, channels, height * to, width * to]);
                }
                canvas.blend(tile, top * to, left * to, self.overlap * to)?;
            }
        }
        canvas.normalise();
        Ok(canvas)
    }
}

/// Starts and lengths of tiles along a side.
fn spans(length: usize, tile: usize, overlap: usize) -> Vec<(usize, usize)> {
    if length <= tile {
        return vec![(0, length)];
    }
    let starts = (0..length - overlap).step_by(tile - overlap);
    starts.map(|start| (start, tile.min(length - start))).collect()
}

/// The weight of a pixel, along one side of its tile.
fn ramp(position: usize, length: usize, fade: usize) -> f32 {
    let edge = position.min(length - 1 - position) + 1;
    if edge >= fade { 1.0 } else { edge as f32 / fade as f32 }
}

/// Weighted sums of pixels, in f32 on the host, where a large picture ends anyway.
#[derive(Default)]
struct Canvas {
    shape: [usize; 4],
    values: Vec<f32>,
    /// One weight for each pixel of `[height, width]`.
    weights: Vec<f32>,
}

impl Canvas {
    fn new(shape: [usize; 4]) -> Self {
        let pixels = shape[2] * shape[3];
        let values = vec![0.0; shape[0] * shape[1] * pixels];
        Self { shape, values, weights: vec![0.0; pixels] }
    }

    fn blend(
        &mut self,
        tile: Tensor<4>,
        top: usize,
        left: usize,
        fade: usize,
    ) -> Result<(), ModelError> {
        let [batch, channels, height, width] = tile.dims();
        let [_, _, rows, columns] = self.shape;
        let data = tile.into_data().convert::<f32>();
        let (true, true, Ok(tile)) =
            (top + height <= rows, left + width <= columns, data.as_slice::<f32>())
        else {
            return Err(ModelError::Config {
                model: "VAE",
                reason: format!("a tile of {height}×{width} lies outside {rows}×{columns}"),
            });
        };
        let across: Vec<f32> = (0..width).map(|x| ramp(x, width, fade)).collect();
        let down: Vec<f32> = (0..height).map(|y| ramp(y, height, fade)).collect();
        for plane in 0..batch * channels {
            for (y, down) in down.iter().enumerate() {
                let start = (plane * rows + top + y) * columns + left;
                let source = &tile[(plane * height + y) * width..][..width];
                let target = &mut self.values[start..start + width];
                for ((target, source), across) in target.iter_mut().zip(source).zip(&across) {
                    *target += source * across * down;
                }
            }
        }
        for (y, down) in down.iter().enumerate() {
            let start = (top + y) * columns + left;
            for (target, across) in self.weights[start..start + width].iter_mut().zip(&across) {
                *target += across * down;
            }
        }
        Ok(())
    }

    fn normalise(&mut self) {
        for plane in self.values.chunks_exact_mut(self.weights.len().max(1)) {
            plane.iter_mut().zip(&self.weights).for_each(|(value, weight)| *value /= weight);
        }
    }

    fn add(&mut self, other: &Self) {
        self.values.iter_mut().zip(&other.values).for_each(|(value, other)| *value += other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_the_side_and_overlap() {
        for length in 1..300 {
            let spans = spans(length, 64, 16);
            assert_eq!(spans[0].0, 0);
            let (last, size) = spans[spans.len() - 1];
            assert_eq!(last + size, length);
            for pair in spans.windows(2) {
                assert!(pair[0].0 + pair[0].1 >= pair[1].0 + 16, "{length}: {pair:?}");
            }
        }
    }

    #[test]
    fn a_tile_fades_in_from_its_edges() {
        let ramp: Vec<f32> = (0..6).map(|x| ramp(x, 6, 4)).collect();
        assert_eq!(ramp, [0.25, 0.5, 0.75, 0.75, 0.5, 0.25]);
    }

    /// Tiles that do not change their pixels give the picture back.
    #[test]
    fn the_identity_has_no_seams() {
        let device = distorch_runtime::tensor::cpu();
        let values: Vec<f32> = (0..2 * 3 * 37 * 50).map(|i| (i % 97) as f32).collect();
        let data = TensorData::new(values.clone(), [2, 3, 37, 50]);
        let input = Tensor::<4>::from_data(data, (&device, DType::F32));
        let layout =
            Layout::new(Tiling { tile: 16, overlap: 4 }, 1, Units { input: 1, output: 1 }).unwrap();
        let output = layout.run(&input, &mut Ok).unwrap().into_data().to_vec::<f32>().unwrap();
        for (a, b) in output.iter().zip(&values) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}
