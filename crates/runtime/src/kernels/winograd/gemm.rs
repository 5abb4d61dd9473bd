//! Products of transformed values by the `gemm` crate, for processors without a unit.

use multiversion::multiversion;

use super::points::{IN, LANES, Lanes, POINTS, TAPS, filter_points};
use super::tiles::Layout;
use super::{Part, Products};
use crate::kernels::host::{Matrix, gemm};
use crate::kernels::line::{Line, room};

/// Values between the transformed channels besides their own: a stride that is no power of two
/// spreads them over the sets of a cache.
const GAP: usize = 16;

/// Filters `[out, in, 3, 3]` one after the other.
pub(super) struct ByGemm<'a> {
    pub(super) filters: &'a [f32],
    pub(super) inputs: usize,
}

impl Products for ByGemm<'_> {
    const FILTER_BYTES: usize = 12 << 20;
    const TILES: usize = 512;

    fn outputs_each(&self) -> usize {
        LANES
    }

    fn layout(&self, count: usize) -> Layout {
        let channel = POINTS * count + GAP;
        Layout { channel, point: count, strip: LANES, size: self.inputs * channel }
    }

    fn transform(&self, part: &Part, memory: &mut Vec<Line>) {
        let Self { filters, inputs } = *self;
        let (step, outputs) = (self.filter_step(), &part.outputs);
        let points = Line::values_mut(room(memory, (outputs.len() * step).div_ceil(LANES)));
        let taps = &filters[outputs.start * inputs * TAPS..outputs.end * inputs * TAPS];
        for (points, taps) in points.chunks_exact_mut(step).zip(taps.chunks_exact(inputs * TAPS)) {
            to_points(taps, points, inputs);
        }
    }

    fn multiply(&self, part: &Part, filters: &[Line], tiles: &[Line], out: &mut [f32]) {
        let (filters, tiles) = (Line::values(filters), Line::values(tiles));
        let size = [part.outputs.len(), self.inputs, part.tiles.len()];
        for (point, out) in out.chunks_exact_mut(out.len() / POINTS).enumerate() {
            let (row, values) = (self.filter_step(), &filters[point * self.inputs..]);
            let filters = Matrix { values, row, column: 1 };
            let row = self.layout(part.count).channel;
            let values = &tiles[point * part.count + part.tiles.start..];
            let tiles = Matrix { values, row, column: 1 };
            debug_assert!(out.len() >= size[0] * size[2]);
            // SAFETY: there is a row for each output channel.
            unsafe {
                let none = ::gemm::Parallelism::None;
                gemm(size, filters, tiles, out.as_mut_ptr(), [size[2], 1], false, none);
            }
        }
    }
}

impl ByGemm<'_> {
    /// Values from one filter's points to the next one's.
    fn filter_step(&self) -> usize {
        POINTS * self.inputs + GAP
    }
}

/// The 3×3 filters of one output channel to their points, for each point all input channels.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn to_points(taps: &[f32], out: &mut [f32], inputs: usize) {
    for first in (0..inputs).step_by(LANES) {
        let used = LANES.min(inputs - first);
        let taps = &taps[first * TAPS..];
        // Gathered: lanes that are written one by one are read together only when all of them left the store buffer.
        let lanes: [Lanes; TAPS] = match taps.first_chunk::<{ TAPS * LANES }>() {
            Some(taps) => {
                std::array::from_fn(|tap| std::array::from_fn(|lane| taps[TAPS * lane + tap]))
            }
            None => std::array::from_fn(|tap| {
                std::array::from_fn(|lane| taps.get(TAPS * lane + tap).copied().unwrap_or(0.0))
            }),
        };
        let [a, b, c, d, e, f, g, h, i] = lanes;
        let columns = [[a, d, g], [b, e, h], [c, f, i]].map(filter_points);
        for row in 0..IN {
            let points = filter_points([columns[0][row], columns[1][row], columns[2][row]]);
            for (column, lanes) in points.iter().enumerate() {
                let out = &mut out[(row * IN + column) * inputs + first..];
                match out.first_chunk_mut::<LANES>() {
                    Some(out) if used == LANES => *out = *lanes,
                    _ => out.iter_mut().zip(&lanes[..used]).for_each(|(out, lane)| *out = *lane),
                }
            }
        }
    }
}
