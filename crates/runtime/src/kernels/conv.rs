//! Two-dimensional convolution.

use rayon::prelude::*;

use super::host::{Host, Matrix, Output, gemm, tensor};
use super::winograd;
use crate::tensor::{Tensor, ops};

/// Output pixels of one task. With [`CHANNELS`], a task's unrolled patches take 1.2 MB: what stays
/// near the core while each of them is used for every output channel.
const TILE: usize = 512;

/// Input channels that are unrolled at once.
const CHANNELS: usize = 64;

/// Convolves `x` `[batch, in, height, width]` with `weight` `[out, in, kernel, kernel]`, zeros
/// around, and adds `bias` `[out]`.
///
/// As matrix products of the weight with unrolled patches ("im2col": Chellapilla et al., 2006), a
/// tile of pixels and some channels at a time, so that it needs no more memory than the output.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let [_, inputs, rows, columns] = weight.dims();
    let [_, channels, height, width] = x.dims();
    let fits = inputs == channels
        && stride > 0
        && height + 2 * padding >= rows
        && width + 2 * padding >= columns;
    let (x, weight) = match (fits, Host::take(x), Host::take(weight)) {
        (true, Ok(x), Ok(weight)) => (x, weight),
        (_, x, weight) => {
            let options = ops::ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
            let [x, weight] = [x, weight].map(|t| t.map_or_else(|t| t, Host::give));
            return ops::module::conv2d(x, weight, bias, options);
        }
    };
    let bias = bias.map(|bias| bias.into_data().convert::<f32>());
    let bias = bias.as_ref().and_then(|bias| bias.as_slice::<f32>().ok());
    let (x, weight) = (x.contiguous(), weight.contiguous());
    let out = [height + 2 * padding - (rows - 1), width + 2 * padding - (columns - 1)];
    if winograd::pays([rows, columns], stride, [inputs, weight.dims()[0]], out) {
        return winograd::convolve(&x, &weight, bias, padding);
    }
    convolve(&x, &weight, bias, stride, padding)
}

/// What unrolling a patch needs to know.
struct Geometry {
    height: usize,
    width: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    out_width: usize,
}

fn convolve(
    x: &Host<4>,
    weight: &Host<4>,
    bias: Option<&[f32]>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let [batch, inputs, height, width] = x.dims();
    let [outputs, _, kernel_rows, kernel_columns] = weight.dims();
    let out_height = (height + 2 * padding - kernel_rows) / stride + 1;
    let out_width = (width + 2 * padding - kernel_columns) / stride + 1;
    let geometry = Geometry {
        height,
        width,
        kernel: [kernel_rows, kernel_columns],
        stride,
        padding,
        out_width,
    };
    let (pixels, taps) = (out_height * out_width, kernel_rows * kernel_columns);
    let mut out = vec![0.0; batch * outputs * pixels];
    let target = Output::new(&mut out);

    let tiles = pixels.div_ceil(TILE);
    // Small pictures have few tiles: share out the output channels as well.
    let threads = rayon::current_num_threads();
    let shares = threads.div_ceil((batch * tiles).max(1)).min(outputs.max(1));
    let share = outputs.div_ceil(shares.max(1));
    (0..batch * tiles * shares).into_par_iter().for_each_init(Vec::new, |patches, task| {
        let (image, rest) = (task / (tiles * shares), task % (tiles * shares));
        let (tile, first) = (rest / shares * TILE, rest % shares * share);
        let count = share.min(outputs.saturating_sub(first));
        let pixel = tile..(tile + TILE).min(pixels);
        let x = &x.values()[image * inputs * height * width..][..inputs * height * width];
        let start = (image * outputs + first) * pixels + pixel.start;
        if let Some(bias) = bias {
            for (channel, bias) in bias.iter().skip(first).take(count).enumerate() {
                // SAFETY: this tile's pixels of one of this task's channels.
                let row = unsafe { target.at(start + channel * pixels) };
                // SAFETY: as above; no other task has this tile and channel.
                unsafe { std::slice::from_raw_parts_mut(row, pixel.len()) }.fill(*bias);
            }
        }
        for channel in (0..inputs).step_by(CHANNELS) {
            let channels = channel..(channel + CHANNELS).min(inputs);
            let depth = channels.len() * taps;
            let weight = Matrix {
                values: &weight.values()[(first * inputs + channel) * taps..],
                row: inputs * taps,
                column: 1,
            };
            let direct = taps == 1 && stride == 1 && padding == 0;
            let rhs = if direct {
                let values = &x[channel * pixels + pixel.start..];
                Matrix { values, row: pixels, column: 1 }
            } else {
                patches.resize(CHANNELS.min(inputs) * taps * TILE, 0.0);
                geometry.unroll(x, channels, pixel.clone(), patches);
                Matrix { values: patches, row: TILE, column: 1 }
            };
            let accumulate = channel > 0 || bias.is_some();
            let size = [count, depth, pixel.len()];
            // SAFETY: the output is this tile's pixels of this task's channels.
            unsafe {
                let out = target.at(start);
                gemm(size, weight, rhs, out, [pixels, 1], accumulate, gemm::Parallelism::None);
            }
        }
    });
    tensor(out, [batch, outputs, out_height, out_width])
}

impl Geometry {
    /// Rows of `patches`, [`TILE`] apart: for each channel and tap, what it meets at each output pixel.
    fn unroll(
        &self,
        x: &[f32],
        channels: std::ops::Range<usize>,
        pixels: std::ops::Range<usize>,
        patches: &mut [f32],
    ) {
        let mut rows = patches.chunks_exact_mut(TILE);
        for channel in channels {
            let plane = &x[channel * self.height * self.width..][..self.height * self.width];
            for tap_y in 0..self.kernel[0] {
                for tap_x in 0..self.kernel[1] {
                    let Some(row) = rows.next() else { return };
                    self.unroll_tap(plane, [tap_y, tap_x], pixels.clone(), row);
                }
            }
        }
    }

    fn unroll_tap(
        &self,
        plane: &[f32],
        [tap_y, tap_x]: [usize; 2],
        pixels: std::ops::Range<usize>,
        mut row: &mut [f32],
    ) {
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (y, x) = (pixel / self.out_width, pixel % self.out_width);
            let count = (self.out_width - x).min(pixels.end - pixel);
            let (run, rest) = row.split_at_mut(count);
            let line = (y * self.stride + tap_y).checked_sub(self.padding);
            match line.filter(|line| *line < self.height) {
                Some(line) => {
                    let line = &plane[line * self.width..][..self.width];
                    self.unroll_line(line, x * self.stride + tap_x, run);
                }
                None => run.fill(0.0),
            }
            (row, pixel) = (rest, pixel + count);
        }
    }

    /// `start` counts from the left end of the padding.
    fn unroll_line(&self, line: &[f32], start: usize, run: &mut [f32]) {
        if self.stride == 1 {
            let before = self.padding.saturating_sub(start).min(run.len());
            let from = (start + before).saturating_sub(self.padding).min(line.len());
            let inside = (line.len() - from).min(run.len() - before);
            run[..before].fill(0.0);
            run[before..before + inside].copy_from_slice(&line[from..from + inside]);
            run[before + inside..].fill(0.0);
            return;
        }
        for (i, value) in run.iter_mut().enumerate() {
            let at = (start + i * self.stride).checked_sub(self.padding);
            *value = at.and_then(|at| line.get(at)).copied().unwrap_or(0.0);
        }
    }
}
