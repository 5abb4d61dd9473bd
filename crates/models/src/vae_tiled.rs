//! Encoding and decoding large pictures piece by piece, so that memory follows the tile.
//!
//! Tiles overlap, and each fades in from its edges, so that no seam shows: a pixel is the mean of
//! the tiles over it, weighted by how far it is from their edges. A tile's
//! group normalisation sees that tile only, which may shift its colours a little; so the picture is
//! made three times, with square, high and wide tiles, and the mean is taken, as ComfyUI does. Each of
//! these passes is cut by itself: where one square tile would do, a high or wide one may not, since it
//! is half as long in the other direction.
//!
//! Latents are cut in latent pixels, pictures in pixels. The tests compare with an independent
//! computation (`tools/reference/make_tiles.py`).

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
    /// As [`Vae::decode`], and as [`Tiling::check_decode`].
    pub fn decode_tiled(&self, latent: Tensor<4>, tiling: Tiling) -> Result<Tensor<4>, ModelError> {
        let layout = Layout::decoding(tiling, self.config().downscale());
        layout.run(&latent, &mut |tile| self.decode(tile))
    }

    /// As [`Vae::encode`], tile by tile.
    ///
    /// # Errors
    /// As [`Vae::encode`], and as [`Tiling::check_encode`].
    pub fn encode_tiled(
        &self,
        picture: Tensor<4>,
        tiling: Tiling,
    ) -> Result<Posterior, ModelError> {
        let side = self.config().downscale();
        let [_, _, height, width] = picture.dims();
        if height < side || width < side {
            return self.encode(picture); // which says what is wrong
        }
        // Whole latent pixels only, as the encoder itself would leave the rest out.
        let picture = picture.narrow(2, 0, height / side * side).narrow(3, 0, width / side * side);
        let layout = Layout::encoding(tiling, side);
        let moments = layout.run(&picture, &mut |tile| {
            let posterior = self.encode(tile)?;
            Ok(Tensor::cat(vec![posterior.mean, posterior.log_variance], 1))
        })?;
        Posterior::from_moments(moments, self.config().latent_channels)
    }
}

/// As [`Vae::decode_tiled`], with another decoder of latents of `downscale` pixels.
///
/// # Errors
/// `convert`'s, and as [`Tiling::check_decode`].
pub(crate) fn decoded_in_tiles(
    latent: &Tensor<4>,
    tiling: Tiling,
    downscale: usize,
    convert: &mut Convert,
) -> Result<Tensor<4>, ModelError> {
    Layout::decoding(tiling, downscale).run(latent, convert)
}

/// As [`Vae::encode_tiled`], with another encoder to latents of `downscale` pixels.
///
/// # Errors
/// `convert`'s, and as [`Tiling::check_encode`].
pub(crate) fn encoded_in_tiles(
    picture: &Tensor<4>,
    tiling: Tiling,
    downscale: usize,
    convert: &mut Convert,
) -> Result<Tensor<4>, ModelError> {
    let [_, _, height, width] = picture.dims();
    if height < downscale || width < downscale {
        return convert(picture.clone()); // which says what is wrong
    }
    let whole = |length: usize| length / downscale * downscale;
    let picture = picture.clone().narrow(2, 0, whole(height)).narrow(3, 0, whole(width));
    Layout::encoding(tiling, downscale).run(&picture, convert)
}

/// What `convert` makes of a picture, `scale` times as large, in square tiles of `tile` pixels that share `overlap` and
/// fade into each other: one pass, for networks that look at a tile's neighbourhood alone.
///
/// # Errors
/// `convert`'s, and when a tile is no longer than its overlap.
pub(crate) fn one_pass(
    picture: &Tensor<4>,
    tile: usize,
    overlap: usize,
    scale: usize,
    convert: &mut Convert,
) -> Result<Tensor<4>, ModelError> {
    let layout =
        Layout { tiling: Tiling { tile, overlap }, tile, overlap, scale: Scale::Up(scale) };
    let [_, _, height, width] = picture.dims();
    if height <= tile && width <= tile {
        return convert(picture.clone());
    }
    let spans = [layout.spans(height, tile)?, layout.spans(width, tile)?];
    let canvas = layout.tiles(picture, &spans, convert)?;
    let data = TensorData::new(canvas.values, canvas.shape);
    Ok(Tensor::from_data(data, (&picture.device(), DType::F32)).cast(picture.dtype()))
}

impl Tiling {
    /// Whether a latent of these sides (height, width, in latent pixels of `downscale` pixels) can be
    /// decoded in such tiles.
    ///
    /// # Errors
    /// When the tiles do not get from one end of the picture to the other, or leave a gap.
    pub fn check_decode(self, sides: [usize; 2], downscale: usize) -> Result<(), ModelError> {
        Layout::decoding(self, downscale).passes(sides).map(drop)
    }

    /// Whether a picture of these sides (height, width, in pixels) can be encoded in such tiles.
    ///
    /// # Errors
    /// As [`check_decode`](Self::check_decode).
    pub fn check_encode(self, sides: [usize; 2], downscale: usize) -> Result<(), ModelError> {
        let side = downscale.max(1);
        Layout::encoding(self, side).passes(sides.map(|length| length / side * side)).map(drop)
    }
}

/// From a length of the input to one of the output.
#[derive(Clone, Copy)]
enum Scale {
    /// So many pixels for each latent pixel.
    Up(usize),
    /// One latent pixel for so many pixels.
    Down(usize),
}

impl Scale {
    /// A position or an overlap in the output: the nearest whole one, of two the even one, as Python rounds.
    fn position(self, input: usize) -> usize {
        match self {
            Scale::Up(side) => input.saturating_mul(side),
            Scale::Down(side) => {
                let (whole, twice) = (input / side, 2 * (input % side));
                let up = twice > side || (twice == side && !whole.is_multiple_of(2));
                whole + usize::from(up)
            }
        }
    }

    /// Pixels of the input that belong together.
    fn unit(self) -> usize {
        match self {
            Scale::Up(_) => 1,
            Scale::Down(side) => side,
        }
    }

    /// The length of what becomes of a tile.
    fn length(self, input: usize) -> usize {
        match self {
            Scale::Up(side) => input.saturating_mul(side),
            Scale::Down(side) => input / side,
        }
    }
}

/// How an input is cut, in its own pixels.
struct Layout {
    tiling: Tiling,
    tile: usize,
    overlap: usize,
    scale: Scale,
}

/// A part of an axis and where what becomes of it lies in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    length: usize,
    output: usize,
}

/// The tiles of one pass.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    /// The whole at once, as it fits one tile.
    Whole,
    /// Each of the rows' spans with each of the columns'.
    Tiles([Vec<Span>; 2]),
}

type Convert<'a> = dyn FnMut(Tensor<4>) -> Result<Tensor<4>, ModelError> + 'a;

impl Layout {
    fn decoding(tiling: Tiling, side: usize) -> Self {
        let side = side.max(1);
        let (tile, overlap) = (tiling.tile / side, tiling.overlap / side);
        Self { tiling, tile, overlap, scale: Scale::Up(side) }
    }

    fn encoding(tiling: Tiling, side: usize) -> Self {
        let Tiling { tile, overlap } = tiling;
        Self { tiling, tile, overlap, scale: Scale::Down(side.max(1)) }
    }

    /// The three passes over an input of these sides: square, high and wide tiles.
    fn passes(&self, sides: [usize; 2]) -> Result<[Pass; 3], ModelError> {
        let (tile, half, twice) = (self.tile, self.tile / 2, self.tile.saturating_mul(2));
        let pass = |tile: [usize; 2]| -> Result<Pass, ModelError> {
            let [height, width] = sides;
            let [rows, columns] = tile;
            if height <= rows && width <= columns {
                return Ok(Pass::Whole);
            }
            Ok(Pass::Tiles([self.spans(height, rows)?, self.spans(width, columns)?]))
        };
        Ok([pass([tile, tile])?, pass([twice, half])?, pass([half, twice])?])
    }

    /// The tiles along a side.
    fn spans(&self, length: usize, tile: usize) -> Result<Vec<Span>, ModelError> {
        let span = |start: usize, length: usize| Span {
            start,
            length,
            output: self.scale.position(start),
        };
        if length <= tile {
            return Ok(vec![span(0, length)]);
        }
        if tile <= self.overlap {
            return Err(self.refused("a tile of more than twice its overlap".to_owned()));
        }
        let starts = (0..length - self.overlap).step_by(tile - self.overlap);
        let spans: Vec<Span> = starts.map(|start| span(start, tile.min(length - start))).collect();
        // Tiles that are not made of whole latent pixels may leave a latent pixel to none of them.
        let mut covered = 0;
        for span in &spans {
            let end = span.output + self.scale.length(span.length);
            if span.output > covered || end <= span.output {
                break;
            }
            covered = covered.max(end);
        }
        match covered == self.scale.length(length) {
            true => Ok(spans),
            false => Err(self.refused(format!(
                "a tile and an overlap that cover {length} pixels without gaps; multiples of {} do",
                self.scale.unit(),
            ))),
        }
    }

    fn refused(&self, expected: String) -> ModelError {
        let Tiling { tile, overlap } = self.tiling;
        let found = format!("a tile of {tile} with an overlap of {overlap}");
        ModelError::Input { model: "VAE", input: "tiling", expected, found }
    }

    /// The mean of three passes over the whole input.
    fn run(&self, input: &Tensor<4>, convert: &mut Convert) -> Result<Tensor<4>, ModelError> {
        let [_, _, height, width] = input.dims();
        let passes = self.passes([height, width])?;
        if passes.iter().all(|pass| *pass == Pass::Whole) {
            return convert(input.clone());
        }
        let mut sum = Canvas::default();
        let mut whole: Option<Canvas> = None;
        for pass in &passes {
            match (pass, &whole) {
                (Pass::Whole, Some(canvas)) => sum.add(canvas),
                (Pass::Whole, None) => {
                    let canvas = Canvas::of(convert(input.clone())?)?;
                    sum.add(&canvas);
                    whole = Some(canvas);
                }
                (Pass::Tiles(spans), _) => sum.add(&self.tiles(input, spans, convert)?),
            }
        }
        let values: Vec<f32> = sum.values.into_iter().map(|value| value / 3.0).collect();
        let data = TensorData::new(values, sum.shape);
        Ok(Tensor::from_data(data, (&input.device(), DType::F32)).cast(input.dtype()))
    }

    /// One pass over the whole input.
    fn tiles(
        &self,
        input: &Tensor<4>,
        [rows, columns]: &[Vec<Span>; 2],
        convert: &mut Convert,
    ) -> Result<Canvas, ModelError> {
        let [_, _, height, width] = input.dims();
        let fade = self.scale.position(self.overlap);
        let mut canvas = Canvas::default();
        for row in rows {
            for column in columns {
                let tile = input.clone().narrow(2, row.start, row.length);
                let tile = convert(tile.narrow(3, column.start, column.length))?;
                if canvas.values.is_empty() {
                    let [batch, channels, _, _] = tile.dims();
                    let sides = [height, width].map(|length| self.scale.length(length));
                    canvas = Canvas::new([batch, channels, sides[0], sides[1]]);
                }
                canvas.blend(tile, row.output, column.output, fade)?;
            }
        }
        canvas.normalise();
        Ok(canvas)
    }
}

/// The weights of a tile's pixels along one side: a ramp of `fade` pixels from either end, at the
/// picture's edge too; where the tile is shorter than two ramps, both count. A tile that is no longer than
/// one ramp has none.
fn ramps(length: usize, fade: usize) -> Vec<f32> {
    let ramp = |from_edge: usize| match from_edge < fade {
        true => (from_edge + 1) as f32 / fade as f32,
        false => 1.0,
    };
    match fade >= length {
        true => vec![1.0; length],
        false => (0..length).map(|place| ramp(place) * ramp(length - 1 - place)).collect(),
    }
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

    /// A picture as it is.
    fn of(picture: Tensor<4>) -> Result<Self, ModelError> {
        let shape = picture.dims();
        let values = picture.into_data().convert::<f32>().into_vec::<f32>();
        let values = values.map_err(|error| ModelError::Config {
            model: "VAE",
            reason: format!("its output cannot be read: {error:?}"),
        })?;
        Ok(Self { shape, values, weights: Vec::new() })
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
        let (across, down) = (ramps(width, fade), ramps(height, fade));
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

    /// Adds the values of another canvas; none is there at first.
    fn add(&mut self, other: &Self) {
        if self.values.is_empty() {
            self.shape = other.shape;
            self.values = vec![0.0; other.values.len()];
        }
        self.values.iter_mut().zip(&other.values).for_each(|(value, other)| *value += other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(tile: usize, overlap: usize, scale: Scale) -> Layout {
        Layout { tiling: Tiling { tile, overlap }, tile, overlap, scale }
    }

    #[test]
    fn spans_cover_the_side_and_overlap() {
        let layout = layout(64, 16, Scale::Up(8));
        for length in 1..300 {
            let spans = layout.spans(length, 64).unwrap();
            assert_eq!(spans[0].start, 0);
            let last = spans[spans.len() - 1];
            assert_eq!(last.start + last.length, length);
            assert_eq!(last.output, 8 * last.start);
            for pair in spans.windows(2) {
                assert!(pair[0].start + pair[0].length >= pair[1].start + 16, "{length}: {pair:?}");
            }
        }
    }

    #[test]
    fn a_tile_fades_in_from_its_edges() {
        assert_eq!(ramps(9, 4), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]);
        // Both ramps of a short tile.
        assert_eq!(ramps(5, 4), [0.25, 0.5, 0.5625, 0.5, 0.25]);
        assert_eq!(ramps(4, 4), [1.0; 4]);
        assert_eq!(ramps(3, 0), [1.0; 3]);
    }

    #[test]
    fn halves_round_to_even_positions() {
        let scale = Scale::Down(8);
        let positions = [0, 3, 4, 5, 12, 20, 28, 100].map(|pixels| scale.position(pixels));
        assert_eq!(positions, [0, 0, 0, 1, 2, 2, 4, 12]);
    }

    /// Where one square tile would do, the other two passes are cut all the same.
    #[test]
    fn each_pass_is_cut_by_itself() {
        let [square, high, wide] = layout(16, 4, Scale::Up(8)).passes([12, 12]).unwrap();
        assert_eq!(square, Pass::Whole);
        let starts = |spans: &[Span]| spans.iter().map(|span| span.start).collect::<Vec<_>>();
        let Pass::Tiles([rows, columns]) = high else { panic!("{high:?}") };
        assert_eq!((starts(&rows), starts(&columns)), (vec![0], vec![0, 4]));
        let Pass::Tiles([rows, columns]) = wide else { panic!("{wide:?}") };
        assert_eq!((starts(&rows), starts(&columns)), (vec![0, 4], vec![0]));
    }

    #[test]
    fn tiles_that_do_not_reach_the_end_are_refused() {
        let encode = |tile, overlap, sides| Tiling { tile, overlap }.check_encode(sides, 8);
        // As large as half a tile, and larger: only where that pass has more than one tile.
        for overlap in [48, 64, 96, 200] {
            let error = encode(96, overlap, [128, 64]).unwrap_err().to_string();
            assert!(error.contains("twice its overlap"), "{error}");
        }
        assert!(encode(128, 64, [64, 64]).is_ok());
        // A last tile that starts at 13.25 latent pixels starts at 13 and ends a pixel early.
        let error = encode(130, 24, [136, 136]).unwrap_err().to_string();
        assert!(error.contains("multiples of 8"), "{error}");
        // A last tile of less than a latent pixel.
        assert!(encode(100, 0, [304, 304]).is_err());
        assert!(encode(512, 64, [1024, 768]).is_ok());
        assert!(Tiling { tile: 64, overlap: 16 }.check_decode([999, 3], 8).is_ok());
        assert!(Tiling { tile: 4, overlap: 0 }.check_decode([2, 2], 8).is_err());
    }

    /// A tile as `make_tiles.py` converts it.
    fn convert(tile: &Tensor<4>, scale: Scale) -> Tensor<4> {
        let [_, _, height, width] = tile.dims();
        let values = tile.clone().into_data().to_vec::<f32>().unwrap();
        let [rows, columns] = [height, width].map(|length| scale.length(length));
        let at = |y: usize, x: usize| f64::from(values[y * width + x]);
        let pixel = |y: usize, x: usize| match scale {
            Scale::Up(side) => at(y / side, x / side),
            Scale::Down(side) => {
                let block = (0..side * side).map(|i| at(y * side + i / side, x * side + i % side));
                block.sum::<f64>() / (side * side) as f64
            }
        };
        let out = (0..rows * columns).map(|i| {
            let (y, x) = (i / columns, i % columns);
            (pixel(y, x) + 0.02 * y as f64 - 0.013 * x as f64) as f32
        });
        let data = TensorData::new(out.collect::<Vec<f32>>(), [1, 1, rows, columns]);
        Tensor::from_data(data, (&tile.device(), DType::F32))
    }

    #[test]
    fn tiles_are_put_together_as_written_out_pixel_by_pixel() {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../tests/fixtures/tiles.json")).unwrap();
        let cases = cases.as_array().unwrap();
        assert!(cases.len() > 15);
        for case in cases {
            let number = |name: &str| case[name].as_u64().unwrap() as usize;
            let (height, width, side) = (number("height"), number("width"), number("side"));
            let scale = if case["up"] == true { Scale::Up(side) } else { Scale::Down(side) };
            let values = (0..height * width).map(|i| {
                let (y, x) = ((i / width) as f64, (i % width) as f64);
                ((0.7 * y).sin() + (0.45 * x).cos() + (0.03 * y * x) % 1.0) as f32
            });
            let data = TensorData::new(values.collect::<Vec<f32>>(), [1, 1, height, width]);
            let device = distorch_runtime::tensor::cpu();
            let input = Tensor::<4>::from_data(data, (&device, DType::F32));
            let layout = layout(number("tile"), number("overlap"), scale);
            let output = layout.run(&input, &mut |tile| Ok(convert(&tile, scale))).unwrap();
            let output = output.into_data().to_vec::<f32>().unwrap();
            let expected = case["expected"].as_array().unwrap();
            assert_eq!(output.len(), expected.len());
            for (value, expected) in output.iter().zip(expected) {
                let expected = expected.as_f64().unwrap();
                assert!((f64::from(*value) - expected).abs() < 1e-4, "{value}, not {expected}");
            }
        }
    }

    /// Tiles that do not change their pixels give the picture back.
    #[test]
    fn the_identity_has_no_seams() {
        let device = distorch_runtime::tensor::cpu();
        let values: Vec<f32> = (0..2 * 3 * 37 * 50).map(|i| (i % 97) as f32).collect();
        let data = TensorData::new(values.clone(), [2, 3, 37, 50]);
        let input = Tensor::<4>::from_data(data, (&device, DType::F32));
        for (tile, overlap) in [(16, 4), (40, 19), (64, 8)] {
            let layout = layout(tile, overlap, Scale::Up(1));
            let output = layout.run(&input, &mut Ok).unwrap().into_data().to_vec::<f32>().unwrap();
            for (a, b) in output.iter().zip(&values) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
}
