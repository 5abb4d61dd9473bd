//! Products of transformed values by a unit of the processor: filters and tiles are written where it reads them.

use std::ops::Range;

use multiversion::multiversion;

use super::points::{IN, LANES, POINTS, TAPS, filter_points};
use super::tiles::Layout;
use super::{Part, Products};
use crate::kernels::line::{Line, room};
use crate::kernels::product::{Element, Mode, Place, Plain, Side, TILE, Unit, product};

/// Lines between one point's values and the next one's besides their own: a stride that is no power of two spreads them
/// over the sets of a cache.
const GAP: usize = 1;

/// Input channels whose filters are packed at once.
const CHANNELS: usize = 32;

/// Filters `[out, in, 3, 3]` as they are stored.
pub(super) struct ByUnit<'a, E> {
    pub(super) unit: Unit,
    pub(super) filters: Plain<'a, E>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl<E: Element> Products for ByUnit<'_, E> {
    const FILTER_BYTES: usize = 3 << 19;
    const TILES: usize = TILE;

    fn outputs_each(&self) -> usize {
        self.unit.left(self.outputs).strip
    }

    fn layout(&self, count: usize) -> Layout {
        // Panels of the right operand, point by point.
        let strip = self.inputs * LANES;
        let point = count / LANES * strip + GAP * LANES;
        Layout { channel: LANES, point, strip, size: POINTS * point }
    }

    fn transform(&self, part: &Part, memory: &mut Vec<Line>) {
        let Self { unit, ref filters, inputs, outputs } = *self;
        let (side, strips) = (Side::left(unit, filters, outputs), self.strips(part));
        let point = strips.len() * inputs + GAP;
        let (packed, taps) =
            room(memory, POINTS * point + CHANNELS * TAPS).split_at_mut(POINTS * point);
        for (i, strip) in strips.enumerate() {
            for first in (0..inputs).step_by(CHANNELS) {
                let count = CHANNELS.min(inputs - first);
                let taps = &mut taps[..count * TAPS];
                // SAFETY: the unit was found; filters lie in their memory.
                unsafe { side.pack(strip, first * TAPS..(first + count) * TAPS, taps) };
                let packed = &mut packed[i * inputs + first..];
                to_points(Line::values(taps), point * LANES, Line::values_mut(packed));
            }
        }
    }

    fn multiply(&self, part: &Part, filters: &[Line], tiles: &[Line], out: &mut [f32]) {
        let Self { unit, inputs, .. } = *self;
        let (each, strips) = (self.outputs_each(), self.strips(part));
        let (from, to) = (part.tiles.start, part.tiles.end);
        let step = to - from;
        let filter_point = strips.len() * inputs + GAP;
        let tile_point = self.layout(part.count).point / LANES;
        let _mode = Mode::enter(unit);
        for (point, out) in out.chunks_exact_mut(out.len() / POINTS).enumerate() {
            for first in (from..to).step_by(TILE) {
                let tiles = &tiles[point * tile_point + first / LANES * inputs..];
                for (i, strip) in strips.clone().enumerate() {
                    let rows = each.min(part.outputs.end - strip * each);
                    let filters = &filters[point * filter_point + i * inputs..];
                    let out = &mut out[i * each * step + first - from..];
                    let size = [rows, TILE.min(to - first)];
                    debug_assert!(out.len() >= (rows - 1) * step + size[1]);
                    let place = Place::from_zero(out.as_mut_ptr(), step);
                    // SAFETY: there are these rows of `step` values. The thread is in the unit's mode.
                    unsafe { product(unit, filters, tiles, inputs, size, &place) };
                }
            }
        }
    }
}

impl<E: Element> ByUnit<'_, E> {
    /// The strips of filters that a part has.
    fn strips(&self, part: &Part) -> Range<usize> {
        let each = self.outputs_each();
        part.outputs.start / each..part.outputs.end.div_ceil(each)
    }
}

/// Filters of neighbouring output channels, side by side for each input channel and tap, to their points, `step` values
/// from one to the next.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma"))]
fn to_points(taps: &[f32], step: usize, out: &mut [f32]) {
    let taps = taps.as_chunks::<LANES>().0.as_chunks::<TAPS>().0;
    for (channel, taps) in taps.iter().enumerate() {
        let mut down = [[[0.0; LANES]; IN]; 3];
        for (column, down) in down.iter_mut().enumerate() {
            *down = filter_points([taps[column], taps[3 + column], taps[6 + column]]);
        }
        for row in 0..IN {
            let points = filter_points([down[0][row], down[1][row], down[2][row]]);
            for (column, lanes) in points.iter().enumerate() {
                out[(row * IN + column) * step + channel * LANES..][..LANES].copy_from_slice(lanes);
            }
        }
    }
}
