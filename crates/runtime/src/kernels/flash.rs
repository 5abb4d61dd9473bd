//! Attention block by block of keys with a running softmax (Milakov & Gimelshein,
//! <https://arxiv.org/abs/1805.02867>; Dao et al., <https://arxiv.org/abs/2205.14135>), by a
//! [unit](super::product) of the processor.
//!
//! Keys and values of some heads are packed once, for all queries. Scores are in memory for a few
//! queries and one block of keys, so what is needed grows as the tokens do, not as their square.
//!
//! All is computed with the queries side by side, sixteen in a vector: keys by queries are scores, and values by
//! the scores' softmax the result. So the softmax goes from vector to vector, and its weights lie where the second
//! product reads them.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

use super::host::{Host, Output, filled};
use super::line::{Line, room};
use super::product::{
    Cut, Mode, Place, Plain, SMALL, Side, Unit, each, each_part, mask, pack_panels, product,
    transpose,
};
use crate::tensor::Tensor;

/// Keys of a block at most.
const KEYS: usize = 256;
/// Queries that are side by side in a product.
const ACROSS: usize = 32;
/// Queries that one task takes on.
const QUERIES: usize = 2 * ACROSS;
/// Bytes of packed keys and values at once, where one head does not take more.
const PACKED: usize = 8 << 20;

/// The shape of the work.
struct Shape {
    unit: Unit,
    heads: usize,
    queries: usize,
    keys: usize,
    /// Features of all heads.
    width: usize,
    /// Features of a head.
    dim: usize,
    causal: bool,
}

/// `query` `[batch, queries, heads × dim]`, `key` and `value` `[batch, keys, heads × dim]`, all in
/// order. With `causal`, there are no more queries than keys. `None` where a tensor lacks values.
pub(super) fn attend<'a>(
    unit: Unit,
    query: &'a Host<3>,
    key: &'a Host<3>,
    value: &'a Host<3>,
    heads: usize,
    causal: bool,
) -> Option<Tensor<3>> {
    let ([batch, queries, width], [_, keys, _]) = (query.dims(), key.dims());
    let shape = Shape { unit, heads, queries, keys, width, dim: width / heads, causal };
    let pairs = batch * heads;
    let sources = |pair: usize| {
        let (queries_at, keys_at) = (shape.at(pair, queries), shape.at(pair, keys));
        let rows = |values: &'a [f32], at: usize, tokens: usize| {
            Some(Rows { values: values.get(at..)?, tokens, width, dim: shape.dim })
        };
        Some([
            rows(query.values(), queries_at, queries)?,
            rows(key.values(), keys_at, keys)?,
            rows(value.values(), keys_at, keys)?,
        ])
    };
    let sources: Vec<_> = (0..pairs).map(sources).collect::<Option<_>>()?;
    let lines = shape.key_lines() + shape.value_lines();
    let small = pairs * queries * keys * shape.dim < SMALL;
    let at_once = (PACKED / (lines * size_of::<Line>()).max(1)).clamp(1, pairs.max(1));
    let groups = queries.div_ceil(QUERIES);
    // SAFETY: every query of every head is written by its task.
    let out = unsafe {
        filled([batch, queries, width], |out| {
            let mut packed = PACKED_MEMORY.take();
            for first in (0..pairs).step_by(at_once) {
                let count = at_once.min(pairs - first);
                let packed = room(&mut packed, count * lines);
                each_part(small, packed, lines, |at, lines| {
                    let [_, key, value] = &sources[first + at];
                    shape.pack(key, value, small, lines);
                });
                let packed = &*packed;
                each(small, count * groups, |task| {
                    let mut own = SCRATCH.take();
                    let (at, part) = (task / groups, task % groups);
                    let [query, ..] = &sources[first + at];
                    let queries = part * QUERIES..((part + 1) * QUERIES).min(queries);
                    let lines = &packed[at * lines..][..lines];
                    let out = out.after(shape.at(first + at, shape.queries));
                    shape.group(query, lines, queries, &mut own, out);
                    SCRATCH.set(own);
                });
            }
            // What one head of many tokens took beyond that goes back.
            if packed.len() * size_of::<Line>() <= PACKED {
                PACKED_MEMORY.set(packed);
            }
        })
    };
    Some(out)
}

/// The tokens of one head.
struct Rows<'a> {
    values: &'a [f32],
    tokens: usize,
    /// Features of all heads, and of this one.
    width: usize,
    dim: usize,
}

impl Rows<'_> {
    /// Tokens as rows or columns, features as depth.
    fn by_token(&self) -> Option<Plain<'_, f32>> {
        Plain::new(self.values, [self.tokens, self.dim], [self.width, 1])
    }

    /// Features as rows, tokens as depth.
    fn by_feature(&self) -> Option<Plain<'_, f32>> {
        Plain::new(self.values, [self.dim, self.tokens], [1, self.width])
    }
}

thread_local! {
    /// What a thread packed keys and values in for all threads, and what it works in: kept from call to call, and taken
    /// while they are in use, as a thread that waits for others may begin another call.
    static PACKED_MEMORY: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// What a task works in.
#[derive(Default)]
struct Scratch {
    queries: Vec<Line>,
    /// The scores of a block of keys, then their weights: for sixteen queries, then for the next sixteen, a line for
    /// each key.
    scores: Vec<Line>,
    /// The weights in pairs, for units that multiply those.
    weights: Vec<Line>,
    /// For each [`ACROSS`] queries a row of them for each feature.
    sums: Vec<f32>,
    softmax: Vec<Softmax>,
}

/// The softmax of sixteen queries as far as their keys were seen.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Softmax {
    /// The largest score, and the sum of the weights.
    largest: [f32; 16],
    total: [f32; 16],
}

impl Softmax {
    const NONE: Softmax = Softmax { largest: [f32::NEG_INFINITY; 16], total: [0.0; 16] };
}

/// Some queries of one head side by side.
#[derive(Clone, Copy)]
struct Across {
    /// The first one's place among all, and how many there are.
    first: usize,
    count: usize,
}

/// The same, packed, and what is known of their result as far as their keys were seen.
struct Panel<'a> {
    across: Across,
    queries: &'a [Line],
    softmax: &'a mut [Softmax],
    sums: &'a mut [f32],
}

/// Some keys of one head and their values, packed.
struct Block<'a> {
    range: Range<usize>,
    keys: &'a [Line],
    values: &'a [Line],
}

impl Shape {
    /// Where a head's values begin, of so many tokens.
    fn at(&self, pair: usize, tokens: usize) -> usize {
        pair / self.heads * tokens * self.width + pair % self.heads * self.dim
    }

    /// Lines that so many rows of a left operand are packed in, of this depth.
    fn lines(&self, rows: usize, depth: usize) -> usize {
        let cut = self.unit.left(rows);
        rows.div_ceil(cut.strip * cut.together) * cut.together * self.unit.lines(depth)
    }

    fn key_lines(&self) -> usize {
        self.lines(self.keys, self.dim)
    }

    fn value_lines(&self) -> usize {
        self.blocks().map(|block| self.lines(self.dim, block.len())).sum()
    }

    /// Whole panels of keys.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (keys, cut) = (self.keys, self.unit.left(self.keys));
        let panel = cut.strip * cut.together;
        let block = KEYS / panel * panel;
        (0..keys).step_by(block).map(move |first| first..(first + block).min(keys))
    }

    /// Packs keys, then the values block by block.
    fn pack(&self, key: &Rows, value: &Rows, small: bool, lines: &mut [Line]) {
        let (Some(key), Some(value)) = (key.by_token(), value.by_feature()) else {
            return lines.fill(Line::ZERO);
        };
        let (keys, mut values) = lines.split_at_mut(self.key_lines());
        let side = Side::left(self.unit, &key, self.keys);
        each_part(small, keys, self.unit.lines(self.dim), |strip, lines| {
            // SAFETY: the unit was found; the keys lie in their memory.
            unsafe { side.pack(strip, 0..self.dim, lines) };
        });
        let side = Side::left(self.unit, &value, self.dim);
        for block in self.blocks() {
            let (now, rest) = values.split_at_mut(self.lines(self.dim, block.len()));
            each_part(small, now, self.unit.lines(block.len()), |strip, lines| {
                // SAFETY: as above.
                unsafe { side.pack(strip, block.clone(), lines) };
            });
            values = rest;
        }
    }

    /// Some queries of one head, by all of its keys. `out` is where the head's result begins.
    fn group(
        &self,
        query: &Rows,
        packed: &[Line],
        queries: Range<usize>,
        own: &mut Scratch,
        out: Output,
    ) {
        let unit = self.unit;
        let dim = self.dim;
        // Kernels write whole tiles.
        let sums_each = dim.next_multiple_of(32) * ACROSS;
        let panels = queries.len().div_ceil(ACROSS);
        own.sums.resize(panels * sums_each, 0.0);
        own.softmax.clear();
        own.softmax.resize(panels * 2, Softmax::NONE);

        // The queries of the group as columns of their own.
        let rows = query.values.get(queries.start * self.width..).unwrap_or_default();
        let Some(rows) = Plain::new(rows, [queries.len(), dim], [self.width, 1]) else { return };
        let side = Side::right(unit, &rows, queries.len());
        // SAFETY: the unit was found; the queries lie in their memory.
        unsafe { pack_panels(&side, 0..side.panels(), &(0..dim), true, &mut own.queries) };

        let _mode = Mode::enter(unit);
        let (keys, mut values) = packed.split_at(self.key_lines());
        let cut = unit.left(self.keys);
        let across = |panel: usize| {
            let first = queries.start + panel * ACROSS;
            Across { first, count: ACROSS.min(queries.end - first) }
        };
        let Scratch { queries: packed_queries, scores, weights, sums, softmax } = own;
        for range in self.blocks() {
            let (now, rest) = values.split_at(self.lines(dim, range.len()));
            values = rest;
            let keys = &keys[range.start / cut.strip * unit.lines(dim)..];
            let block = Block { range, keys, values: now };
            for panel in 0..panels {
                let panel = Panel {
                    across: across(panel),
                    queries: &packed_queries[panel * 2 * unit.lines(dim)..],
                    softmax: &mut softmax[panel * 2..][..2],
                    sums: &mut sums[panel * sums_each..][..sums_each],
                };
                self.block(&block, panel, [scores, weights]);
            }
        }
        for panel in 0..panels {
            let (sums, softmax) = (&sums[panel * sums_each..], &softmax[panel * 2..]);
            // SAFETY: the unit was found; these rows of the head's result are this task's alone.
            unsafe { self.finish(sums, softmax, across(panel), out) };
        }
    }

    /// Adds the values of a block of keys to the sums of some queries, by the softmax of their scores. The thread is in
    /// the unit's mode.
    fn block(&self, block: &Block, panel: Panel, [scores, weights]: [&mut Vec<Line>; 2]) {
        let unit = self.unit;
        let Panel { across, queries, softmax, sums } = panel;
        let (start, count) = (block.range.start, block.range.len());
        // Where vectors multiply single values, weights are multiplied where they are; else whole tiles are written.
        let pairs = unit != Unit::Avx512;
        let each = if pairs { count.next_multiple_of(32) } else { count };
        scores.resize(2 * each, Line::ZERO);

        let out = scores.as_mut_ptr().cast::<f32>();
        let place = |row| Place::strips(out.wrapping_add(row * 16), each * 16);
        let size = [count, self.dim, across.count];
        // SAFETY: there is room for whole tiles; the thread is in the unit's mode.
        unsafe { self.multiply(unit.left(self.keys), block.keys, queries, size, place) };

        let first = start == 0;
        let scale = std::f32::consts::LOG2_E / (self.dim as f32).sqrt();
        for half in 0..across.count.div_ceil(16) {
            let lines = &mut scores[half * each..][..count];
            let hidden = self.causal.then(|| {
                // The first of these queries sees so many keys more than lie before the block.
                let seen = self.keys - self.queries + across.first + half * 16 + 1;
                start as isize + 1 - seen as isize
            });
            // SAFETY: the unit was found.
            unsafe {
                let keep = weigh(lines, &mut softmax[half], scale, hidden);
                if !first {
                    keep_sums(&mut sums[half * 16..], keep);
                }
            }
        }
        let weights = match pairs {
            false => &*scores,
            true => {
                let lines = unit.lines(count);
                weights.resize(2 * lines, Line::ZERO);
                for (half, lines) in weights.chunks_exact_mut(lines).enumerate() {
                    let scores = Line::values(&scores[half * each..]);
                    let Some(strip) = Plain::new(scores, [16, count], [1, 16]) else {
                        return;
                    };
                    // SAFETY: the unit was found; the weights lie in their memory.
                    unsafe { Side::right(unit, &strip, 16).pack(0, 0..count, lines) };
                }
                &*weights
            }
        };
        let out = sums.as_mut_ptr();
        let place = |row: usize| {
            let out = out.wrapping_add(row * ACROSS);
            if first { Place::from_zero(out, ACROSS) } else { Place::adding(out, ACROSS) }
        };
        let size = [self.dim, count, across.count];
        // SAFETY: as above.
        unsafe { self.multiply(unit.left(self.dim), block.values, weights, size, place) };
    }

    /// Multiplies packed panels of a left operand `[rows, depth]` by one of a right operand `[depth, columns]`.
    ///
    /// # Safety
    /// The thread is in the unit's mode; there is room for whole tiles where `place` says for a row.
    unsafe fn multiply(
        &self,
        cut: Cut,
        left: &[Line],
        right: &[Line],
        [rows, depth, columns]: [usize; 3],
        place: impl Fn(usize) -> Place,
    ) {
        let strip = self.unit.lines(depth);
        let panel = cut.strip * cut.together;
        for (i, row) in (0..rows).step_by(panel).enumerate() {
            let left = &left[i * cut.together * strip..];
            let size = [panel.min(rows - row), columns];
            // SAFETY: the caller's promises.
            unsafe { product(self.unit, left, right, strip, size, &place(row)) };
        }
    }

    /// Writes the result of some queries: their sums by those of their weights.
    ///
    /// # Safety
    /// The processor has AVX-512; `out`, the head's result, has the queries' rows, which are no other thread's.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn finish(&self, sums: &[f32], softmax: &[Softmax], across: Across, out: Output) {
        for (half, softmax) in softmax.iter().enumerate().take(across.count.div_ceil(16)) {
            let count = (across.count - half * 16).min(16);
            // SAFETY: sixteen values.
            let total = unsafe { _mm512_load_ps(softmax.total.as_ptr()) };
            let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), total);
            for feature in (0..self.dim).step_by(16) {
                let sums = &sums[feature * ACROSS..][..16 * ACROSS];
                let mut rows: [_; 16] = std::array::from_fn(|i| {
                    // SAFETY: sixteen values inside of a row.
                    let sums =
                        unsafe { _mm512_loadu_ps(sums.as_ptr().add(i * ACROSS + half * 16)) };
                    _mm512_castps_si512(_mm512_mul_ps(sums, inverse))
                });
                transpose(&mut rows);
                let features = mask(self.dim - feature);
                for (query, row) in rows.iter().enumerate().take(count) {
                    let row_at = (across.first + half * 16 + query) * self.width + feature;
                    // SAFETY: the caller's promise.
                    unsafe {
                        let out = out.at(row_at);
                        _mm512_mask_storeu_ps(out, features, _mm512_castsi512_ps(*row));
                    }
                }
            }
        }
    }
}

/// Turns the scores of sixteen queries, a line for each key, into their weights in a softmax, and returns by what
/// the sums of the keys before are to be multiplied. `scale` is that of the exponents to the base 2. `hidden`, if there
/// is any, is how many of the queries don't see the first key; each key is hidden from one more.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn weigh(
    lines: &mut [Line],
    softmax: &mut Softmax,
    scale: f32,
    hidden: Option<isize>,
) -> __m512 {
    let sees = |key: usize| match hidden {
        None => u16::MAX,
        Some(hidden) => match hidden + key as isize {
            ..=0 => u16::MAX,
            hidden @ 1..16 => u16::MAX << hidden,
            _ => 0,
        },
    };
    let values = lines.as_mut_ptr().cast::<f32>();
    let scale = _mm512_set1_ps(scale);
    // SAFETY: sixteen values each.
    let (before, total) = unsafe {
        (_mm512_load_ps(softmax.largest.as_ptr()), _mm512_load_ps(softmax.total.as_ptr()))
    };
    // Four side by side: each waits for the one before it.
    let mut largest = [before; 4];
    for key in 0..lines.len() {
        // SAFETY: a line of its own.
        let x = unsafe { _mm512_load_ps(values.add(key * 16)) };
        let max = &mut largest[key % 4];
        *max = _mm512_mask_max_ps(*max, sees(key), x, *max);
    }
    let [a, b, c, d] = largest;
    let largest = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
    let level = _mm512_mul_ps(largest, scale);
    let mut sums = [_mm512_setzero_ps(); 4];
    for key in 0..lines.len() {
        // SAFETY: as above.
        unsafe {
            let at = values.add(key * 16);
            let weight = exp2(_mm512_fmsub_ps(_mm512_load_ps(at), scale, level));
            let weight = _mm512_maskz_mov_ps(sees(key), weight);
            _mm512_store_ps(at, weight);
            sums[key % 4] = _mm512_add_ps(sums[key % 4], weight);
        }
    }
    let [a, b, c, d] = sums;
    let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
    let keep = exp2(_mm512_fmsub_ps(before, scale, level));
    // SAFETY: sixteen values each.
    unsafe {
        _mm512_store_ps(softmax.largest.as_mut_ptr(), largest);
        _mm512_store_ps(softmax.total.as_mut_ptr(), _mm512_fmadd_ps(total, keep, sum));
    }
    keep
}

/// 2ˣ to within 2 units in the last place, 2⁻¹²⁶ below: `2ⁿ · 2ʳ` with n the nearest whole number, and for `2ʳ` its Taylor
/// series to the sixth degree.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn exp2(x: __m512) -> __m512 {
    // The second of both where one is no number.
    let x = _mm512_max_ps(_mm512_set1_ps(-126.0), x);
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let r = _mm512_sub_ps(x, n);
    let mut series = _mm512_set1_ps(1.540_353e-4);
    for coefficient in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0]
    {
        series = _mm512_fmadd_ps(series, r, _mm512_set1_ps(coefficient));
    }
    _mm512_scalef_ps(series, n)
}

/// Multiplies the sums of sixteen queries, the first of each row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn keep_sums(sums: &mut [f32], keep: __m512) {
    if _mm512_cmp_ps_mask(keep, _mm512_set1_ps(1.0), _CMP_NEQ_UQ) == 0 {
        return;
    }
    for row in sums.chunks_mut(ACROSS) {
        let row = row[..16].as_mut_ptr();
        // SAFETY: sixteen values.
        unsafe { _mm512_storeu_ps(row, _mm512_mul_ps(_mm512_loadu_ps(row), keep)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_near_the_standard_one() {
        if Unit::of(super::super::Precision::F32).is_none() {
            return;
        }
        let of = |x: f32| {
            let mut values = [0.0_f32; 16];
            // SAFETY: the processor has the unit; sixteen values.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), exp2(_mm512_set1_ps(x))) };
            values[0]
        };
        for i in -125_999..10_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp2();
            let error = (f64::from(of(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "{x}: {} {exact}", of(x));
        }
        assert!(of(f32::NEG_INFINITY) < 2e-38 && of(f32::NAN).is_nan());
    }
}
