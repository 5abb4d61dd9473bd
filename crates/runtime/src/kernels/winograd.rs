//! 3×3 convolution with fewer multiplications (Winograd's minimal filtering F(4×4, 3×3): Lavin & Gray,
//! <https://arxiv.org/abs/1509.09308>).
//!
//! The picture is cut into tiles of 4×4 output pixels. Each tile's 6×6 input pixels and each 3×3
//! filter are transformed to 36 values; there the convolution is a product, so that all tiles and
//! channels make 36 matrix products, with a quarter of the multiplications. Their results are
//! transformed back to the 4×4 pixels. In f32 this is off by about 1e-6 of the largest value, a few
//! times what summing directly is.

use multiversion::multiversion;
use rayon::prelude::*;

use super::host::{Host, Matrix, Output, gemm, tensor};
#[cfg(target_arch = "x86_64")]
use super::product::{self, Bias, Plain, Sink, Unit};
use crate::tensor::Tensor;

/// Output pixels of a tile along a side.
const OUT: usize = 4;
/// Input pixels of a tile along a side.
const IN: usize = 6;
/// Values of a transformed tile or filter.
const POINTS: usize = IN * IN;
/// Tiles or filters that are transformed side by side.
const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Bytes of transformed input that are in memory at once, and of transformed filters for each
/// thread: what a processor's last cache holds.
const INPUT_BYTES: usize = 24 << 20;
const FILTER_BYTES: usize = 12 << 20;

/// Values between the transformed channels besides their own: a stride that is no power of two
/// spreads them over the sets of a cache.
const GAP: usize = 16;

/// Whether a convolution of this size gains from the transforms: they pay where the pixels share a
/// filter's transform and the channels share a pixel's.
pub(super) fn pays(
    kernel: [usize; 2],
    stride: usize,
    channels: [usize; 2],
    out: [usize; 2],
) -> bool {
    kernel == [3, 3]
        && stride == 1
        && channels.iter().all(|channels| *channels >= 32)
        && out.iter().all(|side| *side >= 16)
        && out[0] * out[1] >= 24 * 24
}

/// What multiplies the transformed values, in f32.
#[derive(Clone, Copy, Debug)]
pub(super) enum Products {
    /// A unit of the processor.
    #[cfg(target_arch = "x86_64")]
    Unit(Unit),
    /// The `gemm` crate.
    Gemm,
}

impl Products {
    /// A unit, where this processor has one.
    pub(super) fn of_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(unit) = Unit::of(super::Precision::F32) {
            return Products::Unit(unit);
        }
        Products::Gemm
    }

    /// Filters `[outputs, inputs]`, rows `filter_step` apart, by tiles `[inputs, count]`, rows `step` apart, to rows of
    /// `count` values `step` apart, on this thread.
    fn multiply(
        self,
        [outputs, inputs, count]: [usize; 3],
        [filters, tiles]: [&[f32]; 2],
        [filter_step, step]: [usize; 2],
        out: &mut [f32],
    ) {
        let size = [outputs, inputs, count];
        #[cfg(target_arch = "x86_64")]
        if let Products::Unit(unit) = self
            && let Some(left) = Plain::new(filters, [outputs, inputs], [filter_step, 1])
            && let Some(right) = Plain::new(tiles, [count, inputs], [1, step])
        {
            let out = Output::new(out);
            let sink = Sink { out, rows: outputs, columns: step, bias: Bias::None };
            // SAFETY: the unit was found, and both operands lie in their memory. Each output channel has a row of
            // `count` values, `step` apart, in this thread's own memory.
            unsafe { product::multiply_here(unit, size, &left, &right, &sink) };
            return;
        }
        let filters = Matrix { values: filters, row: filter_step, column: 1 };
        let tiles = Matrix { values: tiles, row: step, column: 1 };
        // SAFETY: as above.
        unsafe {
            let none = gemm::Parallelism::None;
            gemm(size, filters, tiles, out.as_mut_ptr(), [step, 1], false, none);
        }
    }
}

/// The shape of the work.
struct Geometry {
    by: Products,
    inputs: usize,
    outputs: usize,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
    padding: usize,
    /// Tiles in a row.
    tiles: usize,
}

/// `x` `[batch, in, height, width]` by `weight` `[out, in, 3, 3]` in steps of 1.
pub(super) fn convolve(
    x: &Host<4>,
    weight: &Host<4>,
    bias: Option<&[f32]>,
    padding: usize,
    by: Products,
) -> Tensor<4> {
    let [batch, inputs, height, width] = x.dims();
    let outputs = weight.dims()[0];
    let (out_height, out_width) = (height + 2 * padding - 2, width + 2 * padding - 2);
    let rows = batch * out_height.div_ceil(OUT);
    let tiles = out_width.div_ceil(OUT);
    let geometry =
        Geometry { by, inputs, outputs, height, width, out_height, out_width, padding, tiles };
    let mut out = vec![0.0; batch * outputs * out_height * out_width];
    let target = Output::new(&mut out);

    let row_bytes = POINTS * inputs * tiles * size_of::<f32>();
    // Blocks of equal height, each with enough tiles to be worth transforming the filters for.
    let at_once = (INPUT_BYTES / row_bytes).max(128_usize.div_ceil(tiles)).clamp(1, rows);
    let at_once = rows.div_ceil(rows.div_ceil(at_once));
    let mut transformed = Vec::new();
    for first in (0..rows).step_by(at_once) {
        let rows = first..(first + at_once).min(rows);
        geometry.block(x.values(), weight.values(), bias, rows, &mut transformed, target);
    }
    tensor(out, [batch, outputs, out_height, out_width])
}

impl Geometry {
    /// Computes some rows of tiles of all output channels.
    fn block(
        &self,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        rows: std::ops::Range<usize>,
        input: &mut Vec<f32>,
        target: Output,
    ) {
        // Tiles of the block; a multiple of the lanes, so that the products need not pack them.
        let count = (rows.len() * self.tiles).next_multiple_of(LANES);
        let step = POINTS * count + GAP;
        input.resize(self.inputs * step, 0.0);
        input.par_chunks_exact_mut(step).enumerate().for_each_init(
            || Phases::new(self.tiles),
            |phases, (channel, values)| {
                for (i, row) in rows.clone().enumerate() {
                    let plane = self.plane(x, row, channel);
                    phases.fill(plane, self, row);
                    transform_input(phases, &mut values[i * self.tiles..], self.tiles, count);
                }
            },
        );
        let threads = rayon::current_num_threads();
        let filter_bytes = POINTS * self.inputs * size_of::<f32>();
        let shares = (self.outputs * filter_bytes).div_ceil(FILTER_BYTES * threads) * threads;
        let share = self.outputs.div_ceil(shares).max(LANES);
        let shares = self.outputs.div_ceil(share);
        let input = &*input;
        (0..shares).into_par_iter().for_each_init(Scratch::default, |scratch, at| {
            let outputs = at * share..((at + 1) * share).min(self.outputs);
            self.products(weight, outputs.clone(), input, count, scratch);
            for (output, product) in outputs.zip(scratch.products.chunks_exact(step)) {
                let bias = bias.and_then(|bias| bias.get(output)).copied().unwrap_or(0.0);
                for (i, row) in rows.clone().enumerate() {
                    self.write_row(&product[i * self.tiles..], count, row, output, bias, target);
                }
            }
        });
    }

    /// The part of the input that a row of tiles reads.
    fn plane<'a>(&self, x: &'a [f32], row: usize, channel: usize) -> &'a [f32] {
        let size = self.height * self.width;
        let picture = row / self.out_height.div_ceil(OUT);
        &x[(picture * self.inputs + channel) * size..][..size]
    }

    /// Transforms the filters of some output channels and multiplies them with the input.
    fn products(
        &self,
        weight: &[f32],
        outputs: std::ops::Range<usize>,
        input: &[f32],
        count: usize,
        scratch: &mut Scratch,
    ) {
        let filter_step = POINTS * self.inputs + GAP;
        let step = POINTS * count + GAP;
        let Scratch { filters, products } = scratch;
        filters.resize(outputs.len() * filter_step, 0.0);
        products.resize(outputs.len() * step, 0.0);
        let taps = &weight[outputs.start * self.inputs * 9..outputs.end * self.inputs * 9];
        for (filters, taps) in
            filters.chunks_exact_mut(filter_step).zip(taps.chunks_exact(self.inputs * 9))
        {
            transform_filters(taps, filters, self.inputs);
        }
        let size = [outputs.len(), self.inputs, count];
        for point in 0..POINTS {
            let filters = &filters[point * self.inputs..];
            let (tiles, out) = (&input[point * count..], &mut products[point * count..]);
            debug_assert!((outputs.len() - 1) * step + count <= out.len());
            self.by.multiply(size, [filters, tiles], [filter_step, step], out);
        }
    }

    /// Transforms a row of tiles of one output channel back and writes its pixels.
    fn write_row(
        &self,
        values: &[f32],
        count: usize,
        row: usize,
        output: usize,
        bias: f32,
        target: Output,
    ) {
        let rows = self.out_height.div_ceil(OUT);
        let (picture, top) = (row / rows, row % rows * OUT);
        let plane = (picture * self.outputs + output) * self.out_height * self.out_width;
        let mut pixels = [[0.0; LANES * OUT]; OUT];
        for tile in (0..self.tiles).step_by(LANES) {
            transform_output(&values[tile..], count, bias, &mut pixels);
            let left = tile * OUT;
            let width = (LANES * OUT).min(self.out_width - left);
            for (y, pixels) in (top..self.out_height).zip(&pixels) {
                // SAFETY: a part of one line of this output channel's plane, which no other task
                // writes.
                let line = unsafe {
                    let start = target.at(plane + y * self.out_width + left);
                    std::slice::from_raw_parts_mut(start, width)
                };
                line.copy_from_slice(&pixels[..width]);
            }
        }
    }
}

/// What a thread works in.
#[derive(Default)]
struct Scratch {
    /// For each output channel, the points of its filters, for each point all input channels.
    filters: Vec<f32>,
    /// For each output channel, the points of its tiles, for each point all tiles.
    products: Vec<f32>,
}

/// Six lines of the picture, each as four: the pixels whose column is 0, 1, 2 and 3 more than a multiple
/// of 4. So the pixels of neighbouring tiles lie side by side.
struct Phases {
    lines: [[Vec<f32>; OUT]; IN],
    /// A line with its padding.
    padded: Vec<f32>,
}

impl Phases {
    fn new(tiles: usize) -> Self {
        // The next tile's first pixels belong to the last tile too.
        let tiles = tiles.next_multiple_of(LANES) + 1;
        let line = || std::array::from_fn(|_| vec![0.0; tiles]);
        Self { lines: std::array::from_fn(|_| line()), padded: vec![0.0; tiles * OUT] }
    }

    fn fill(&mut self, plane: &[f32], geometry: &Geometry, row: usize) {
        let Geometry { height, width, padding, .. } = *geometry;
        let top = row % geometry.out_height.div_ceil(OUT) * OUT;
        let Self { lines, padded } = self;
        for (y, line) in lines.iter_mut().enumerate() {
            let y = (top + y).checked_sub(padding).filter(|y| *y < height);
            let pixels = y.map_or(&[][..], |y| &plane[y * width..][..width]);
            let before = padding.min(padded.len());
            let (left, rest) = padded.split_at_mut(before);
            let used = pixels.len().min(rest.len());
            left.fill(0.0);
            rest[..used].copy_from_slice(&pixels[..used]);
            rest[used..].fill(0.0);
            let [a, b, c, d] = line;
            let phases = a.iter_mut().zip(b).zip(c).zip(d);
            for ((((a, b), c), d), pixels) in phases.zip(padded.as_chunks::<OUT>().0) {
                [*a, *b, *c, *d] = *pixels;
            }
        }
    }

    /// Column `column` of line `line` of the tiles from `tile` on.
    #[inline(always)]
    fn lanes(&self, line: usize, column: usize, tile: usize) -> Lanes {
        let values = &self.lines[line][column % OUT][tile + column / OUT..];
        *values.first_chunk::<LANES>().unwrap_or(&[0.0; LANES])
    }
}

#[inline(always)]
fn each<const N: usize>(lanes: [&Lanes; N], f: impl Fn([f32; N]) -> f32) -> Lanes {
    std::array::from_fn(|i| f(std::array::from_fn(|n| lanes[n][i])))
}

/// Writes the first `used` lanes.
#[inline(always)]
fn store(lanes: &Lanes, used: usize, out: &mut [f32]) {
    match out.first_chunk_mut::<LANES>() {
        Some(out) if used == LANES => *out = *lanes,
        _ => out.iter_mut().zip(&lanes[..used]).for_each(|(out, lane)| *out = *lane),
    }
}

/// `Bᵀ d`: what six pixels in a line are at the points 0, 1, -1, 2, -2 and ∞.
#[inline(always)]
fn input_points([a, b, c, d, e, f]: [Lanes; IN]) -> [Lanes; IN] {
    [
        each([&a, &c, &e], |[a, c, e]| 4.0 * a - 5.0 * c + e),
        each([&b, &c, &d, &e], |[b, c, d, e]| (d + e) - 4.0 * (b + c)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (e - d) + 4.0 * (b - c)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (e - c) + 2.0 * (d - b)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (e - c) - 2.0 * (d - b)),
        each([&b, &d, &f], |[b, d, f]| 4.0 * b - 5.0 * d + f),
    ]
}

/// `G g`: the same of three taps.
#[inline(always)]
fn filter_points([a, b, c]: [Lanes; 3]) -> [Lanes; IN] {
    [
        each([&a], |[a]| a / 4.0),
        each([&a, &b, &c], |[a, b, c]| (a + b + c) / -6.0),
        each([&a, &b, &c], |[a, b, c]| (a - b + c) / -6.0),
        each([&a, &b, &c], |[a, b, c]| a / 24.0 + b / 12.0 + c / 6.0),
        each([&a, &b, &c], |[a, b, c]| a / 24.0 - b / 12.0 + c / 6.0),
        c,
    ]
}

/// `Aᵀ m`: back from the points to four pixels.
#[inline(always)]
fn output_pixels([a, b, c, d, e, f]: [Lanes; IN]) -> [Lanes; OUT] {
    [
        each([&a, &b, &c, &d, &e], |[a, b, c, d, e]| a + (b + c) + (d + e)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (b - c) + 2.0 * (d - e)),
        each([&b, &c, &d, &e], |[b, c, d, e]| (b + c) + 4.0 * (d + e)),
        each([&b, &c, &d, &e, &f], |[b, c, d, e, f]| (b - c) + 8.0 * (d - e) + f),
    ]
}

/// One row of tiles to its points, `count` values from one point to the next.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn transform_input(phases: &Phases, out: &mut [f32], tiles: usize, count: usize) {
    for tile in (0..tiles).step_by(LANES) {
        let mut columns = [[[0.0; LANES]; IN]; IN];
        for (column, points) in columns.iter_mut().enumerate() {
            *points = input_points(std::array::from_fn(|line| phases.lanes(line, column, tile)));
        }
        let used = LANES.min(tiles - tile);
        for row in 0..IN {
            let points = input_points(std::array::from_fn(|column| columns[column][row]));
            for (column, lanes) in points.iter().enumerate() {
                store(lanes, used, &mut out[(row * IN + column) * count + tile..]);
            }
        }
    }
}

/// The 3×3 filters of one output channel to their points, for each point all input channels.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn transform_filters(taps: &[f32], out: &mut [f32], inputs: usize) {
    for first in (0..inputs).step_by(LANES) {
        let used = LANES.min(inputs - first);
        let taps = &taps[first * 9..];
        // Gathered: lanes that are written one by one are read together only when all of them left the store buffer.
        let lanes: [Lanes; 9] = match taps.first_chunk::<{ 9 * LANES }>() {
            Some(taps) => {
                std::array::from_fn(|tap| std::array::from_fn(|lane| taps[9 * lane + tap]))
            }
            None => std::array::from_fn(|tap| {
                std::array::from_fn(|lane| taps.get(9 * lane + tap).copied().unwrap_or(0.0))
            }),
        };
        let columns: [[Lanes; IN]; 3] = std::array::from_fn(|column| {
            filter_points([lanes[column], lanes[3 + column], lanes[6 + column]])
        });
        for row in 0..IN {
            let points = filter_points(std::array::from_fn(|column| columns[column][row]));
            for (column, lanes) in points.iter().enumerate() {
                store(lanes, used, &mut out[(row * IN + column) * inputs + first..]);
            }
        }
    }
}

/// Tiles side by side from their points, `count` values from one to the next, to their pixels.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn transform_output(
    values: &[f32],
    count: usize,
    bias: f32,
    pixels: &mut [[f32; LANES * OUT]; OUT],
) {
    // Behind the last point lie the values of the gap, so there are always enough.
    let lanes = |point: usize| {
        let values = values.get(point * count..).unwrap_or_default();
        values.first_chunk::<LANES>().copied().unwrap_or([0.0; LANES])
    };
    let mut columns = [[[0.0; LANES]; OUT]; IN];
    for (column, pixels) in columns.iter_mut().enumerate() {
        *pixels = output_pixels(std::array::from_fn(|row| lanes(row * IN + column)));
    }
    for (row, pixels) in pixels.iter_mut().enumerate() {
        let line = output_pixels(std::array::from_fn(|column| columns[column][row]));
        for (x, lanes) in line.iter().enumerate() {
            for (lane, value) in lanes.iter().enumerate() {
                pixels[lane * OUT + x] = value + bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::made_up::tensor as values;
    use crate::tensor::ops;

    fn host<const D: usize>(tensor: Tensor<D>) -> Host<D> {
        Host::take(tensor).unwrap_or_else(|_| panic!("an f32 tensor on the CPU"))
    }

    /// Sizes that fill no tile, lane or block, and one of several blocks.
    #[test]
    fn it_is_burns_convolution() {
        for (shape, outputs, padding) in [
            ([1, 32, 24, 24], 32, 1),
            ([2, 33, 27, 30], 35, 1),
            ([1, 40, 3, 3], 32, 0),
            ([1, 32, 5, 70], 34, 0),
            ([2, 32, 1, 6], 9, 3),
            ([1, 3, 9, 2], 1, 6),
            ([1, 64, 130, 250], 33, 1),
        ] {
            let x = values(shape, 1);
            let weight = values([outputs, shape[1], 3, 3], 2);
            let bias = values([outputs], 3);
            let options = ops::ConvOptions::new([1; 2], [padding; 2], [1, 1], 1);
            let (input, filters) = (x.clone(), weight.clone());
            let expected = ops::module::conv2d(input, filters, Some(bias.clone()), options);
            let bias = bias.into_data().to_vec::<f32>().unwrap();
            let (x, weight) = (host(x), host(weight));
            for by in [Products::of_processor(), Products::Gemm] {
                let result = convolve(&x, &weight, Some(&bias), padding, by);
                assert_eq!(result.dims(), expected.dims());
                let scale = expected.clone().abs().max().into_scalar();
                let error = (result - expected.clone()).abs().max().into_scalar() / scale;
                // Lavin & Gray measure a few times the error of direct sums, which is near 1e-6 here.
                assert!(error < 2e-5, "{by:?}, {shape:?} to {outputs}: {error:e}");
            }
        }
    }
}
