//! The tiles of pictures: their pixels to points, and points back to pixels.

use std::array::from_fn;
use std::ops::Range;

use multiversion::multiversion;
use multiversion::target::selected_target;

use super::points::{IN, LANES, Lanes, OUT, input_points, output_pixels};
use super::shuffle::{PIXELS, put_together, take_apart};
use crate::kernels::host::Output;

/// The shape of the work.
pub(super) struct Geometry {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    pub(super) padding: usize,
}

/// Where the points of some channels' tiles lie: values from one channel, one point and one [strip](Geometry::strip) to the
/// next, and how many there are.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) channel: usize,
    pub(super) point: usize,
    pub(super) strip: usize,
    pub(super) size: usize,
}

/// Sixteen tiles one after the other, in their rows.
pub(super) struct Strip {
    runs: Vec<Run>,
}

/// Tiles that are neighbours in a row.
struct Run {
    /// The picture's number.
    picture: usize,
    /// The first output pixel.
    top: usize,
    left: usize,
    /// How many lanes come before, and which are these tiles'.
    before: usize,
    lanes: [bool; LANES],
    count: usize,
}

/// Pixels of the lines of a strip at most: four for each tile, and four beyond the end of each run.
const WIDTH: usize = 2 * LANES * OUT;

/// What a strip is transformed in.
pub(super) struct Lines {
    /// The six lines of its tiles.
    pixels: [[f32; WIDTH]; IN],
    /// Their points down.
    down: [[f32; WIDTH]; IN],
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { pixels: [[0.0; WIDTH]; IN], down: [[0.0; WIDTH]; IN] }
    }
}

impl Geometry {
    /// Tiles in a row.
    pub(super) fn tiles(&self) -> usize {
        self.out_width.div_ceil(OUT)
    }

    /// Rows of tiles in a picture.
    pub(super) fn rows(&self) -> usize {
        self.out_height.div_ceil(OUT)
    }

    /// The first sixteen of these tiles, or all. They are counted row by row through all pictures.
    pub(super) fn strip(&self, tiles: Range<usize>) -> Strip {
        let end = tiles.end.min(tiles.start + LANES);
        let mut runs = Vec::new();
        let mut at = tiles.start;
        while at < end {
            let (row, tile) = (at / self.tiles(), at % self.tiles());
            let count = (self.tiles() - tile).min(end - at);
            let before = at - tiles.start;
            runs.push(Run {
                picture: row / self.rows(),
                top: row % self.rows() * OUT,
                left: tile * OUT,
                before,
                lanes: from_fn(|lane| (before..before + count).contains(&lane)),
                count,
            });
            at += count;
        }
        Strip { runs }
    }

    /// Transforms the tiles of a strip in one channel of `x`.
    ///
    /// # Safety
    /// The points of this strip and channel lie in `out`, and no one else writes them now.
    pub(super) unsafe fn transform(
        &self,
        x: &[f32],
        strip: &Strip,
        channel: usize,
        lines: &mut Lines,
        layout: Layout,
        out: Output,
    ) {
        let size = self.height * self.width;
        for (number, run) in strip.runs.iter().enumerate() {
            let plane = &x[(run.picture * self.inputs + channel) * size..][..size];
            let at = (run.before + number) * OUT..(run.before + run.count + number + 1) * OUT;
            for (y, line) in lines.pixels.iter_mut().enumerate() {
                let y = (run.top + y).checked_sub(self.padding).filter(|y| *y < self.height);
                let pixels = y.map_or(&[][..], |y| &plane[y * self.width..][..self.width]);
                padded(pixels, run.left, self.padding, &mut line[at.clone()]);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { to_points(lines, strip, layout.point, out) };
    }

    /// Transforms the tiles of a strip in one output channel back and writes their pixels. `points` begin with the first
    /// point's values, `step` from one point to the next.
    ///
    /// # Safety
    /// `target` is the result, and no one else writes these tiles of this channel now.
    pub(super) unsafe fn transform_back(
        &self,
        points: &[f32],
        step: usize,
        strip: &Strip,
        output: usize,
        bias: f32,
        target: Output,
    ) {
        let mut pixels = [[0.0; PIXELS]; OUT];
        to_pixels(points, step, bias, &mut pixels);
        for run in &strip.runs {
            let plane = (run.picture * self.outputs + output) * self.out_height * self.out_width;
            let width = (run.count * OUT).min(self.out_width - run.left);
            for (y, pixels) in (run.top..self.out_height).zip(&pixels) {
                let start = plane + y * self.out_width + run.left;
                // SAFETY: the caller's promise: a part of one line of these tiles.
                let line = unsafe { target.slice(start, width) };
                line.copy_from_slice(&pixels[run.before * OUT..][..width]);
            }
        }
    }
}

/// Sixteen values from `at` on.
#[inline(always)]
fn lanes(values: &[f32], at: usize) -> Lanes {
    *values.get(at..).unwrap_or_default().first_chunk().unwrap_or(&[0.0; LANES])
}

/// A part of a line of the picture with zeros around, `left` pixels from the padding's start.
fn padded(pixels: &[f32], left: usize, padding: usize, out: &mut [f32]) {
    let before = padding.saturating_sub(left).min(out.len());
    let pixels = pixels.get((left + before).saturating_sub(padding)..).unwrap_or_default();
    let (zeros, out) = out.split_at_mut(before);
    let (inside, behind) = out.split_at_mut(pixels.len().min(out.len()));
    zeros.fill(0.0);
    inside.copy_from_slice(&pixels[..inside.len()]);
    behind.fill(0.0);
}

/// Points of the tiles of a strip, `step` values from one to the next: down the lines, which are then taken apart by
/// column, so that the pixels of neighbouring tiles lie side by side; then across.
///
/// # Safety
/// Each point's values lie in `out`, and no one else writes them now.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
unsafe fn to_points(lines: &mut Lines, strip: &Strip, step: usize, out: Output) {
    const WIDE: bool = selected_target!().supports_feature_str("avx512f");
    let pixels = (LANES + strip.runs.len()) * OUT;
    let Lines { pixels: [a, b, c, d, e, f], down } = lines;
    for at in (0..pixels).step_by(LANES) {
        let points = input_points([
            lanes(a, at),
            lanes(b, at),
            lanes(c, at),
            lanes(d, at),
            lanes(e, at),
            lanes(f, at),
        ]);
        for (down, points) in down.iter_mut().zip(points) {
            down[at..at + LANES].copy_from_slice(&points);
        }
    }
    for (row, down) in down.iter().enumerate() {
        let mut all = [[0.0; LANES]; IN];
        for (number, run) in strip.runs.iter().enumerate() {
            // The pixels of a tile and the first two of the next one, from the run's first tile on.
            let [own, next] = [number, number + 1]
                .map(|tile| down[tile * OUT..].first_chunk().unwrap_or(&[0.0; PIXELS]));
            // SAFETY: with wide vectors, this function is for processors that have them.
            let ([a, b, c, d], [e, f, ..]) =
                unsafe { (take_apart::<WIDE>(own), take_apart::<WIDE>(next)) };
            let columns = [a, b, c, d, e, f];
            if number == 0 {
                all = columns;
                continue;
            }
            for (lanes, theirs) in all.iter_mut().zip(columns) {
                for ((lane, theirs), is) in lanes.iter_mut().zip(theirs).zip(&run.lanes) {
                    *lane = if *is { theirs } else { *lane };
                }
            }
        }
        for (column, lanes) in input_points(all).iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { out.slice((row * IN + column) * step, LANES).copy_from_slice(lanes) };
        }
    }
}

/// Sixteen tiles from their points, `step` values from one to the next, to their pixels, line by line.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn to_pixels(points: &[f32], step: usize, bias: f32, pixels: &mut [[f32; PIXELS]; OUT]) {
    const WIDE: bool = selected_target!().supports_feature_str("avx512f");
    let mut columns = [[[0.0; LANES]; OUT]; IN];
    for (at, column) in columns.iter_mut().enumerate() {
        *column = output_pixels([
            lanes(points, at * step),
            lanes(points, (IN + at) * step),
            lanes(points, (2 * IN + at) * step),
            lanes(points, (3 * IN + at) * step),
            lanes(points, (4 * IN + at) * step),
            lanes(points, (5 * IN + at) * step),
        ]);
    }
    let [a, b, c, d, e, f] = columns;
    for (row, pixels) in pixels.iter_mut().enumerate() {
        let line = output_pixels([a[row], b[row], c[row], d[row], e[row], f[row]]);
        // SAFETY: as in `to_points`.
        *pixels = unsafe { put_together::<WIDE>(&line) };
        pixels.iter_mut().for_each(|pixel| *pixel += bias);
    }
}
