//! 3×3 convolution with fewer multiplications (Winograd's minimal filtering F(4×4, 3×3): Lavin & Gray,
//! <https://arxiv.org/abs/1509.09308>).
//!
//! The picture is cut into tiles of 4×4 output pixels. Each tile's 6×6 input pixels and each 3×3
//! filter are transformed to 36 values; there the convolution is a product, so that all tiles and
//! channels make 36 matrix products, with a quarter of the multiplications. Their results are
//! transformed back to the 4×4 pixels. In f32 this is off by about 1e-6 of the largest value, a few
//! times what summing directly is.
//!
//! The tiles are transformed once, a block of them at a time, for all threads. A task transforms the filters of a few
//! output channels, multiplies them with a few tiles at a time and transforms those products back at once, while they
//! are near the core. Tiles and filters are written where [`Products`] read them.

mod gemm;
mod points;
mod shuffle;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod unit;

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use self::gemm::ByGemm;
use self::points::{LANES, POINTS, TAPS};
use self::tiles::{Geometry, Layout, Lines};
#[cfg(target_arch = "x86_64")]
use self::unit::ByUnit;
#[cfg(target_arch = "x86_64")]
use super::host::Numbers;
use super::host::{Host, Output, filled};
use super::line::{Line, room};
#[cfg(target_arch = "x86_64")]
use super::product::{Element, Plain, Unit};
use crate::tensor::Tensor;

/// Bytes of transformed input that are in memory at once: what stays in a processor's last cache.
const INPUT_BYTES: usize = 12 << 20;

/// Tiles of a block at least, where there are as many.
const LEAST: usize = 128;

/// Channels that a task transforms.
const CHANNELS: usize = 32;

/// Lines between one point's products and the next one's besides their own: a stride that is no power of two spreads them
/// over the sets of a cache.
const GAP: usize = 1;

/// Whether a convolution of this size gains from the transforms: they pay where the pixels share a
/// filter's transform and the channels share a pixel's. A unit gains from fewer pixels than the `gemm` crate, and is itself
/// faster where there are few channels.
pub(super) fn pays(
    kernel: [usize; 2],
    stride: usize,
    channels: [usize; 2],
    out: [usize; 2],
    by_unit: bool,
) -> bool {
    let (fewest, shortest, least) = if by_unit { (48, 12, 14 * 14) } else { (32, 16, 24 * 24) };
    kernel == [3, 3]
        && stride == 1
        && channels.iter().all(|channels| *channels >= fewest)
        && out.iter().all(|side| *side >= shortest)
        && out[0] * out[1] >= least
}

/// What multiplies the transformed values, in f32.
trait Products: Sync {
    /// Bytes of transformed filters of a task, where they are not more for as many as go together.
    const FILTER_BYTES: usize;

    /// Tiles that they are multiplied with at once: their products are transformed back while they are near the core.
    const TILES: usize;

    /// Output channels that it takes together.
    fn outputs_each(&self) -> usize;

    /// Where it reads the points of so many tiles.
    fn layout(&self, count: usize) -> Layout;

    /// Transforms the filters of a part.
    fn transform(&self, part: &Part, memory: &mut Vec<Line>);

    /// Multiplies filters with tiles, on this thread. For each of the points, which share `out` evenly, there is a row of
    /// tiles for each output channel.
    fn multiply(&self, part: &Part, filters: &[Line], tiles: &[Line], out: &mut [f32]);
}

/// A part of the work.
struct Part {
    outputs: Range<usize>,
    /// Those of `count` tiles.
    tiles: Range<usize>,
    count: usize,
}

/// What a thread works in.
#[derive(Default)]
struct Scratch {
    filters: Vec<Line>,
    /// For each point and output channel, some tiles.
    products: Vec<Line>,
}

thread_local! {
    /// The transformed input, and what a thread works in: kept, so that it need not be asked for and cleared for every
    /// convolution, and taken while they are in use, as a thread that waits for others may begin another one.
    static INPUT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// `x` `[batch, in, height, width]` by `weight` `[out, in, 3, 3]`, as it is stored, in steps of 1.
#[cfg(target_arch = "x86_64")]
pub(super) fn by_unit(
    unit: Unit,
    x: &Host<4>,
    weight: &Host<4>,
    bias: Option<&[f32]>,
    padding: usize,
) -> Tensor<4> {
    match weight.numbers() {
        Numbers::F32(filters) => by_unit_from(unit, x, weight, filters, bias, padding),
        Numbers::F16(filters) => by_unit_from(unit, x, weight, filters, bias, padding),
        Numbers::Bf16(filters) => by_unit_from(unit, x, weight, filters, bias, padding),
    }
}

#[cfg(target_arch = "x86_64")]
fn by_unit_from<E: Element>(
    unit: Unit,
    x: &Host<4>,
    weight: &Host<4>,
    filters: &[E],
    bias: Option<&[f32]>,
    padding: usize,
) -> Tensor<4> {
    let [outputs, inputs, ..] = weight.dims();
    let Some(filters) = Plain::new(filters, [outputs, inputs * TAPS], [inputs * TAPS, 1]) else {
        unreachable!("a contiguous tensor has all of its values")
    };
    convolve(x, outputs, &ByUnit { unit, filters, inputs, outputs }, bias, padding)
}

/// As [`by_unit`], by the `gemm` crate.
pub(super) fn by_gemm(
    x: &Host<4>,
    weight: &Host<4>,
    bias: Option<&[f32]>,
    padding: usize,
) -> Tensor<4> {
    let [outputs, inputs, ..] = weight.dims();
    convolve(x, outputs, &ByGemm { filters: weight.values(), inputs }, bias, padding)
}

fn convolve(
    x: &Host<4>,
    outputs: usize,
    by: &impl Products,
    bias: Option<&[f32]>,
    padding: usize,
) -> Tensor<4> {
    let [batch, inputs, height, width] = x.dims();
    let (out_height, out_width) = (height + 2 * padding - 2, width + 2 * padding - 2);
    let geometry = Geometry { inputs, outputs, height, width, out_height, out_width, padding };
    let tiles = batch * geometry.rows() * geometry.tiles();
    // Blocks of equal size, each with enough tiles to be worth transforming the filters for.
    let most = (INPUT_BYTES / (POINTS * inputs * size_of::<f32>())).max(LEAST);
    let at_once = tiles.div_ceil(tiles.div_ceil(most)).next_multiple_of(LANES);
    // SAFETY: each tile of each output channel is written by a task.
    unsafe {
        filled([batch, outputs, out_height, out_width], |out| {
            let mut input = INPUT.take();
            for first in (0..tiles).step_by(at_once) {
                let tiles = first..(first + at_once).min(tiles);
                block(&geometry, x.values(), by, bias, tiles, &mut input, out);
            }
            // What a few tiles of many channels took beyond that goes back.
            if input.len() * size_of::<Line>() <= 2 * INPUT_BYTES {
                INPUT.set(input);
            }
        })
    }
}

/// Computes some tiles of all output channels.
fn block<P: Products>(
    geometry: &Geometry,
    x: &[f32],
    by: &P,
    bias: Option<&[f32]>,
    tiles: Range<usize>,
    input: &mut Vec<Line>,
    target: Output,
) {
    let Geometry { inputs, outputs, .. } = *geometry;
    let strips: Vec<_> =
        tiles.clone().step_by(LANES).map(|first| geometry.strip(first..tiles.end)).collect();
    let count = strips.len() * LANES;
    let layout = by.layout(count);
    let input = room(input, layout.size.div_ceil(LANES));
    let out = Output::new(Line::values_mut(input));
    let tasks = inputs.div_ceil(CHANNELS);
    (0..strips.len() * tasks).into_par_iter().for_each(|task| {
        let (at, first) = (task / tasks, task % tasks * CHANNELS);
        let (strip, mut lines) = (&strips[at], Lines::new());
        for channel in first..inputs.min(first + CHANNELS) {
            let out = out.after(channel * layout.channel + at * layout.strip);
            // SAFETY: there is room for all points of this strip and channel, which are this task's.
            unsafe { geometry.transform(x, strip, channel, &mut lines, layout, out) };
        }
    });
    let input = &*input;
    let threads = rayon::current_num_threads();
    let filter_bytes = POINTS * inputs * size_of::<f32>();
    let shares = (outputs * filter_bytes).div_ceil(P::FILTER_BYTES * threads) * threads;
    let share = outputs.div_ceil(shares).next_multiple_of(by.outputs_each());
    (0..outputs.div_ceil(share)).into_par_iter().for_each(|at| {
        let outputs = at * share..((at + 1) * share).min(outputs);
        let Scratch { mut filters, mut products } = SCRATCH.take();
        let mut part = Part { outputs: outputs.clone(), tiles: 0..0, count };
        by.transform(&part, &mut filters);
        for from in (0..count).step_by(P::TILES) {
            part.tiles = from..(from + P::TILES).min(count);
            let lines = part.tiles.len() / LANES;
            let point = outputs.len() * lines + GAP;
            let products = Line::values_mut(room(&mut products, POINTS * point));
            by.multiply(&part, &filters, input, products);
            for (line, tiles) in strips[from / LANES..][..lines].iter().enumerate() {
                for (i, output) in outputs.clone().enumerate() {
                    let points = &products[(i * lines + line) * LANES..];
                    let bias = bias.and_then(|bias| bias.get(output)).copied().unwrap_or(0.0);
                    // SAFETY: these tiles of this channel are this task's.
                    unsafe {
                        let step = point * LANES;
                        geometry.transform_back(points, step, tiles, output, bias, target);
                    }
                }
            }
        }
        SCRATCH.set(Scratch { filters, products });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::made_up::tensor as values;
    use crate::tensor::{DType, ops};

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
            ([3, 70, 14, 18], 50, 1),
        ] {
            let x = values(shape, 1);
            let weight = values([outputs, shape[1], 3, 3], 2);
            let bias = values([outputs], 3);
            let options = ops::ConvOptions::new([1; 2], [padding; 2], [1, 1], 1);
            let (input, filters) = (x.clone(), weight.clone());
            let expected = ops::module::conv2d(input, filters, Some(bias.clone()), options);
            let bias = bias.into_data().to_vec::<f32>().unwrap();
            let (x, weight) = (host(x), host(weight));
            let mut results = vec![("gemm", by_gemm(&x, &weight, Some(&bias), padding))];
            #[cfg(target_arch = "x86_64")]
            if let Some(unit) = Unit::of(super::super::Precision::F32) {
                results.push(("unit", by_unit(unit, &x, &weight, Some(&bias), padding)));
            }
            for (by, result) in results {
                assert_eq!(result.dims(), expected.dims());
                let scale = expected.clone().abs().max().into_scalar();
                let error = (result - expected.clone()).abs().max().into_scalar() / scale;
                // Lavin & Gray measure a few times the error of direct sums, which is near 1e-6 here.
                assert!(error < 2e-5, "{by}, {shape:?} to {outputs}: {error:e}");
            }
        }
    }

    /// A result has the same bits on one thread and on several, from filters in f32 and from the same numbers in 16 bits.
    #[test]
    fn threads_and_dtypes_change_no_bit() {
        let bits = |tensor: Tensor<4>| -> Vec<u32> {
            tensor.into_data().to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
        };
        let x = host(values([2, 96, 20, 40], 1));
        for stored in [DType::F16, DType::BF16] {
            let narrow = values([100, 96, 3, 3], 2).cast(stored);
            let wide = host(narrow.clone().cast(DType::F32));
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut results = vec![bits(by_gemm(&x, &wide, None, 1))];
                    #[cfg(target_arch = "x86_64")]
                    if let Some(unit) = Unit::of(super::super::Precision::F32) {
                        results.push(bits(by_unit(unit, &x, &wide, None, 1)));
                        let narrow = Host::take_stored(narrow.clone());
                        let narrow = narrow.unwrap_or_else(|_| panic!("16 bits on the CPU"));
                        results.push(bits(by_unit(unit, &x, &narrow, None, 1)));
                    }
                    results
                })
            };
            let (one, five) = (on(1), on(5));
            assert_eq!(one, five);
            assert!(one.len() < 3 || one[1] == one[2]);
        }
    }
}
