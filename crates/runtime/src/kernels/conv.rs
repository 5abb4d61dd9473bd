//! Two-dimensional convolution.

use rayon::prelude::*;

use super::Precision;
use super::host::{Host, Matrix, Output, gemm, tensor};
#[cfg(target_arch = "x86_64")]
use super::host::{Numbers, filled};
use super::picture::Addend;
#[cfg(target_arch = "x86_64")]
use super::product::{Bias, Element, Patches, Plain, Shape, Sink, Unit, multiply};
use super::winograd;
use crate::tensor::{DType, Tensor, is_host, ops};

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
    precision: Precision,
) -> Tensor<4> {
    Convolved::new(x, weight, bias, stride, padding, precision).finish()
}

/// A convolution to which something may be added: on accelerators together with its bias, when the result is written.
#[derive(Clone, Debug)]
pub struct Convolved {
    y: Tensor<4>,
    /// What is in the result already on the CPU.
    bias: Option<Tensor<1>>,
}

impl Convolved {
    /// As [`conv2d`].
    pub fn new(
        x: Tensor<4>,
        weight: Tensor<4>,
        bias: Option<Tensor<1>>,
        stride: usize,
        padding: usize,
        precision: Precision,
    ) -> Self {
        if !fits(&x, &weight, stride, padding) || is_host(&x.device()) {
            let y = convolved(x, weight, bias, stride, padding, precision);
            return Self { y, bias: None };
        }
        let dtype = x.dtype();
        let (weight, bias) = (weight.cast(dtype), bias.map(|bias| bias.cast(dtype)));
        match distorch_cube::conv2d(x, weight, stride, padding) {
            Ok(y) => Self { y, bias },
            Err((x, weight)) => {
                let y = convolved(x, weight, bias, stride, padding, precision);
                Self { y, bias: None }
            }
        }
    }

    /// `[batch, out, height', width']`.
    pub fn finish(self) -> Tensor<4> {
        Addend::add(self.y, self.bias, None)
    }

    /// The result and what is added to it.
    pub fn plus(self, addend: Addend) -> Tensor<4> {
        Addend::add(self.y, self.bias, Some(addend))
    }
}

/// Whether there is such a convolution.
fn fits(x: &Tensor<4>, weight: &Tensor<4>, stride: usize, padding: usize) -> bool {
    let [_, inputs, rows, columns] = weight.dims();
    let [_, channels, height, width] = x.dims();
    let covered = height + 2 * padding >= rows && width + 2 * padding >= columns;
    inputs == channels && stride > 0 && covered
}

fn convolved(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
    precision: Precision,
) -> Tensor<4> {
    let [outputs, inputs, rows, columns] = weight.dims();
    let [_, _, height, width] = x.dims();
    let fits = fits(&x, &weight, stride, padding);
    let burn = |x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>| {
        let options = ops::ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        let dtype = x.dtype();
        let (weight, bias) = (weight.cast(dtype), bias.map(|bias| bias.cast(dtype)));
        ops::module::conv2d(x, weight, bias, options)
    };
    let x = match (fits, Host::take(x)) {
        (true, Ok(x)) => x.contiguous(),
        (_, x) => return burn(x.map_or_else(|x| x, Host::give), weight, bias),
    };
    let given = bias.clone().map(|bias| bias.into_data().convert::<f32>());
    let values = given.as_ref().and_then(|bias| bias.as_slice::<f32>().ok());
    let out = [height + 2 * padding - (rows - 1), width + 2 * padding - (columns - 1)];
    let pays =
        |by_unit: bool| winograd::pays([rows, columns], stride, [inputs, outputs], out, by_unit);
    #[cfg(target_arch = "x86_64")]
    let weight = match (Unit::of(precision), Unit::of(Precision::F32)) {
        (Some(unit), Some(unit_f32)) => {
            // Tiles of bf16 are done with a convolution before its filters were transformed.
            let transformed = unit != Unit::Amx && pays(true);
            match Host::take_stored(weight) {
                Ok(weight) => {
                    let weight = weight.contiguous();
                    let shape = [inputs, height, width];
                    return match transformed {
                        true => winograd::by_unit(unit_f32, &x, &weight, values, padding),
                        false => wide(unit, &x, shape, &weight, values, stride, padding),
                    };
                }
                Err(weight) => weight,
            }
        }
        _ => weight,
    };
    let weight = match Host::take(weight.cast(DType::F32)) {
        Ok(weight) => weight.contiguous(),
        Err(weight) => return burn(x.give(), weight, bias),
    };
    match pays(false) {
        true => winograd::by_gemm(&x, &weight, values, padding),
        false => convolve(&x, &weight, values, stride, padding),
    }
}

/// By a unit of the processor: filters by patches, which are unrolled as they are packed.
#[cfg(target_arch = "x86_64")]
fn wide(
    unit: Unit,
    x: &Host<4>,
    [channels, height, width]: [usize; 3],
    weight: &Host<4>,
    bias: Option<&[f32]>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let [outputs, _, rows, columns] = weight.dims();
    let batch = x.dims()[0];
    let kernel = [rows, columns];
    let shape = Shape { batch, channels, height, width, kernel, stride, padding };
    let [out_height, out_width] = shape.out();
    let (depth, pixels) = (channels * rows * columns, out_height * out_width);
    let patches = Patches::new(x.values(), shape);
    let bias = bias.map_or(Bias::None, Bias::Rows);
    let by = Wide { unit, size: [outputs, depth, batch * pixels], patches: &patches };
    // SAFETY: rows and columns of the product are all channels and pixels.
    unsafe {
        filled([batch, outputs, out_height, out_width], |out| {
            let sink = Sink { out, rows: outputs, columns: pixels, bias };
            match weight.numbers() {
                Numbers::F32(weight) => by.multiply(weight, &sink),
                Numbers::F16(weight) => by.multiply(weight, &sink),
                Numbers::Bf16(weight) => by.multiply(weight, &sink),
            }
        })
    }
}

/// A convolution as a product of filters and patches.
#[cfg(target_arch = "x86_64")]
struct Wide<'a> {
    unit: Unit,
    /// Outputs, values of a filter, pixels of all pictures.
    size: [usize; 3],
    patches: &'a Patches<'a>,
}

#[cfg(target_arch = "x86_64")]
impl Wide<'_> {
    /// By filters one after the other; all of the result is written.
    fn multiply<E: Element>(&self, weight: &[E], sink: &Sink) {
        let [outputs, depth, _] = self.size;
        let Some(filters) = Plain::new(weight, [outputs, depth], [depth, 1]) else {
            unreachable!("a contiguous tensor has all of its values")
        };
        // SAFETY: the unit was found; the filters lie in their memory, and there are patches for every
        // pixel.
        unsafe { multiply(self.unit, self.size, &filters, self.patches, sink) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::made_up::{self, tensor as values};

    /// `[batch, in, height, width]`, out, kernel, stride, padding: rows of pixels that fill no strip and
    /// several that share one, pictures that share one, kernels of other sizes, filters that are
    /// transformed in f32.
    const SHAPES: [([usize; 4], usize, usize, usize, usize); 11] = [
        ([2, 5, 9, 11], 7, 3, 1, 1),
        ([1, 3, 17, 16], 8, 3, 2, 1),
        ([2, 16, 8, 8], 33, 3, 1, 1),
        ([3, 32, 5, 4], 40, 1, 1, 0),
        ([1, 4, 7, 7], 6, 3, 2, 0),
        ([2, 7, 30, 33], 3, 4, 3, 2),
        ([1, 8, 2, 50], 4, 3, 1, 1),
        ([2, 48, 32, 32], 64, 3, 1, 1),
        ([2, 50, 14, 17], 49, 3, 1, 1),
        ([2, 200, 6, 16], 20, 3, 1, 1),
        ([1, 1, 1, 1], 1, 1, 1, 0),
    ];

    #[test]
    fn it_is_burns_convolution() {
        for (shape, outputs, kernel, stride, padding) in SHAPES {
            let x = values(shape, 1);
            let weight = values([outputs, shape[1], kernel, kernel], 2);
            let bias = values([outputs], 3);
            let burn = |x: Tensor<4>, weight: Tensor<4>| {
                let options = ops::ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
                ops::module::conv2d(x, weight, Some(bias.clone()), options)
            };
            for stored in [DType::F32, DType::F16, DType::BF16] {
                for precision in [Precision::F32, Precision::Bf16] {
                    let weight = weight.clone().cast(stored);
                    let seen = made_up::seen(precision, stored);
                    let expected = burn(
                        made_up::rounded(x.clone(), seen[0]),
                        made_up::rounded(weight.clone(), seen[1]),
                    );
                    let (x, bias) = (x.clone(), Some(bias.clone()));
                    let result = conv2d(x, weight, bias, stride, padding, precision);
                    assert_eq!(result.dims(), expected.dims());
                    let scale = expected.clone().abs().max().into_scalar();
                    let error = (result - expected).abs().max().into_scalar() / scale;
                    // Winograd's sums are off by up to 2e-5. For transformed filters, inputs are not
                    // rounded to bf16, which changes up to 1/256.
                    let most = if seen[0] == DType::F32 { 2e-5 } else { 4e-3 };
                    let of = format!("{shape:?} to {outputs}, {stored:?} {precision:?}");
                    assert!(error < most, "{of}: {error:e}");
                }
            }
            // The way of processors without a unit.
            let expected = burn(x.clone(), weight.clone());
            let host = |x: Tensor<4>| Host::take(x).unwrap_or_else(|_| panic!("f32 on the CPU"));
            let given = bias.clone().into_data().to_vec::<f32>().unwrap();
            let result = convolve(&host(x), &host(weight), Some(&given), stride, padding);
            let scale = expected.clone().abs().max().into_scalar();
            let error = (result - expected).abs().max().into_scalar() / scale;
            assert!(error < 5e-6, "{shape:?} to {outputs}: {error:e}");
        }
    }
}
