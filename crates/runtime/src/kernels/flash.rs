//! Attention block by block of keys with a running softmax (Milakov & Gimelshein,
//! <https://arxiv.org/abs/1805.02867>; Dao et al., <https://arxiv.org/abs/2205.14135>), by a
//! [unit](super::product) of the processor.
//!
//! Keys and values of some heads are packed once, for all queries. Scores are in memory for a few
//! queries and one block of keys, so what is needed grows as the tokens do, not as their square.

use std::ops::Range;

use super::elementwise::exp;
use super::host::{Host, Output, filled};
use super::product::{
    Line, Mode, Place, Plain, SMALL, Side, Unit, each, each_part, pack_panels, product,
};
use super::softmax::{largest, scale_by, weigh};
use crate::tensor::Tensor;

/// Keys of a block.
const KEYS: usize = 512;
/// Rows of queries that one task takes on: panels of them.
const PANELS: usize = 4;
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
    let rows = shape.unit.left(queries);
    let group = (rows.strip * rows.together * PANELS).min(64.max(rows.strip));
    let groups = queries.div_ceil(group);
    // SAFETY: every query of every head is written by its task.
    let out = unsafe {
        filled([batch, queries, width], |out| {
            let mut packed = Vec::new();
            for first in (0..pairs).step_by(at_once) {
                let count = at_once.min(pairs - first);
                packed.resize(count * lines, Line::ZERO);
                each_part(small, &mut packed, lines, |at, lines| {
                    let [_, key, value] = &sources[first + at];
                    shape.pack(key, value, small, lines);
                });
                let packed = &*packed;
                each(small, count * groups, Scratch::default, |own, task| {
                    let (at, part) = (task / groups, task % groups);
                    let [query, ..] = &sources[first + at];
                    let queries = part * group..((part + 1) * group).min(queries);
                    let lines = &packed[at * lines..][..lines];
                    let out = out.after(shape.at(first + at, shape.queries));
                    shape.group(query, lines, queries, own, out);
                });
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

    /// Features as columns, tokens as depth.
    fn by_feature(&self) -> Option<Plain<'_, f32>> {
        Plain::new(self.values, [self.dim, self.tokens], [1, self.width])
    }
}

/// What a task works in.
#[derive(Default)]
struct Scratch {
    queries: Vec<Line>,
    weights: Vec<Line>,
    /// Rows of [`KEYS`] scores.
    scores: Vec<f32>,
    /// Rows of features, filled up to whole panels.
    sums: Vec<f32>,
    /// The largest score so far, and the sum of the weights, of each query.
    largest: Vec<f32>,
    totals: Vec<f32>,
}

impl Shape {
    /// Where a head's values begin, of so many tokens.
    fn at(&self, pair: usize, tokens: usize) -> usize {
        pair / self.heads * tokens * self.width + pair % self.heads * self.dim
    }

    /// Strips of whole panels over so many columns.
    fn strips(&self, columns: usize) -> usize {
        let cut = self.unit.right();
        columns.div_ceil(cut.strip * cut.together) * cut.together
    }

    fn key_lines(&self) -> usize {
        self.strips(self.keys) * self.unit.lines(self.dim)
    }

    fn value_lines(&self) -> usize {
        let strips = self.strips(self.dim);
        self.blocks().map(|block| strips * self.unit.lines(block.len())).sum()
    }

    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let keys = self.keys;
        (0..keys).step_by(KEYS).map(move |first| first..(first + KEYS).min(keys))
    }

    /// Packs keys, then the values block by block.
    fn pack(&self, key: &Rows, value: &Rows, small: bool, lines: &mut [Line]) {
        let (Some(key), Some(value)) = (key.by_token(), value.by_feature()) else {
            return lines.fill(Line::ZERO);
        };
        let (keys, mut values) = lines.split_at_mut(self.key_lines());
        let side = Side::right(self.unit, &key, self.keys);
        each_part(small, keys, self.unit.lines(self.dim), |strip, lines| {
            // SAFETY: the unit was found; the keys lie in their memory.
            unsafe { side.pack(strip, 0..self.dim, lines) };
        });
        let side = Side::right(self.unit, &value, self.dim);
        for block in self.blocks() {
            let strip_lines = self.unit.lines(block.len());
            let (now, rest) = values.split_at_mut(self.strips(self.dim) * strip_lines);
            each_part(small, now, strip_lines, |strip, lines| {
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
        let count = queries.len();
        let dim = self.dim;
        let scale = 1.0 / (dim as f32).sqrt();
        let padded = self.strips(dim) * unit.right().strip;
        // Kernels write whole tiles.
        let room = count.next_multiple_of(32);
        own.scores.resize(room * KEYS, 0.0);
        own.sums.resize(room * padded, 0.0);
        own.largest.clear();
        own.largest.resize(count, f32::NEG_INFINITY);
        own.totals.clear();
        own.totals.resize(count, 0.0);

        // The queries of the group as rows of their own.
        let rows = query.values.get(queries.start * self.width..).unwrap_or_default();
        let Some(rows) = Plain::new(rows, [count, dim], [self.width, 1]) else { return };
        // SAFETY: the unit was found; the queries lie in their memory.
        unsafe { pack_left(unit, &rows, count, dim, &mut own.queries) };

        let _mode = Mode::enter(unit);
        let (keys, mut values) = packed.split_at(self.key_lines());
        for block in self.blocks() {
            let first = block.start == 0;
            self.score(&own.queries, keys, &block, count, &mut own.scores);
            for (i, row) in own.scores.chunks_exact_mut(KEYS).take(count).enumerate() {
                let seen = match self.causal {
                    // Counted from the end of both.
                    true => self.keys - self.queries + queries.start + i + 1,
                    false => self.keys,
                };
                let seen = seen.saturating_sub(block.start).min(block.len());
                let (seen, hidden) = row[..block.len()].split_at_mut(seen);
                hidden.fill(0.0);
                let before = own.largest[i];
                let largest = before.max(largest(seen));
                let sum = weigh(seen, largest, scale);
                let keep = if first { 0.0 } else { exp((before - largest) * scale) };
                own.totals[i] = own.totals[i] * keep + sum;
                own.largest[i] = largest;
                if !first && keep != 1.0 {
                    scale_by(&mut own.sums[i * padded..][..padded], keep);
                }
            }
            let each = unit.lines(block.len());
            let (now, rest) = values.split_at(self.strips(dim) * each);
            let Scratch { scores, weights, sums, .. } = &mut *own;
            self.add(scores, now, block.len(), count, first, weights, sums);
            values = rest;
        }
        for (i, row) in queries.enumerate() {
            let sums = &own.sums[i * padded..][..dim];
            // SAFETY: this head's part of a row of the result, which is this task's alone.
            let out = unsafe {
                let start = out.at(row * self.width);
                std::slice::from_raw_parts_mut(start.cast::<std::mem::MaybeUninit<f32>>(), dim)
            };
            let inverse = 1.0 / own.totals[i];
            for (out, sum) in out.iter_mut().zip(sums) {
                out.write(sum * inverse);
            }
        }
    }

    /// Queries by the keys of a block.
    fn score(
        &self,
        queries: &[Line],
        keys: &[Line],
        block: &Range<usize>,
        count: usize,
        scores: &mut [f32],
    ) {
        let keys = &keys[block.start / self.unit.right().strip * self.unit.lines(self.dim)..];
        let place = |out| Place::from_zero(out, KEYS);
        self.multiply(queries, keys, [count, self.dim, block.len()], scores, KEYS, place);
    }

    /// Adds the values of a block, by their weights.
    #[allow(clippy::too_many_arguments)] // of one product
    fn add(
        &self,
        scores: &[f32],
        values: &[Line],
        keys: usize,
        count: usize,
        first: bool,
        weights: &mut Vec<Line>,
        sums: &mut [f32],
    ) {
        let Some(rows) = Plain::new(scores, [count, keys], [KEYS, 1]) else { return };
        // SAFETY: the unit was found; the scores lie in their memory.
        unsafe { pack_left(self.unit, &rows, count, keys, weights) };
        // Whole panels: what is beyond the head's features is 0.
        let padded = self.strips(self.dim) * self.unit.right().strip;
        let place = |out| match first {
            true => Place::from_zero(out, padded),
            false => Place::adding(out, padded),
        };
        self.multiply(weights, values, [count, keys, padded], sums, padded, place);
    }

    /// Multiplies packed panels `[rows, depth]` by `[depth, columns]`; `out` has room for whole tiles in
    /// rows of `step` values. The thread is in the unit's mode.
    fn multiply(
        &self,
        left: &[Line],
        right: &[Line],
        [rows, depth, columns]: [usize; 3],
        out: &mut [f32],
        step: usize,
        place: impl Fn(*mut f32) -> Place,
    ) {
        let strip = self.unit.lines(depth);
        let (tall, wide) = (self.unit.left(rows), self.unit.right());
        let (high, broad) = (tall.strip * tall.together, wide.strip * wide.together);
        for (i, row) in (0..rows).step_by(high).enumerate() {
            for (j, column) in (0..columns).step_by(broad).enumerate() {
                let size = [high.min(rows - row), broad.min(columns - column)];
                let place = place(out[row * step + column..].as_mut_ptr());
                let left = &left[i * tall.together * strip..];
                let right = &right[j * wide.together * strip..];
                // SAFETY: there is room for whole tiles; the unit was found, and the thread is in its
                // mode.
                unsafe { product(self.unit, left, right, strip, size, &place) };
            }
        }
    }
}

/// Packs rows as panels of a left operand.
///
/// # Safety
/// The unit was found, and the source has `count` rows of this depth.
unsafe fn pack_left(
    unit: Unit,
    rows: &Plain<f32>,
    count: usize,
    depth: usize,
    packed: &mut Vec<Line>,
) {
    let side = Side::left(unit, rows, count);
    // SAFETY: the caller's promises.
    unsafe { pack_panels(&side, 0..side.panels(), &(0..depth), true, packed) };
}
