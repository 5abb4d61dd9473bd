//! Where the result of a product goes.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::host::Output;
use super::{TILE, Tile};

/// What is added to the result.
#[derive(Clone, Copy)]
pub(in super::super) enum Bias<'a> {
    None,
    /// One value for each column.
    Columns(&'a [f32]),
    /// One value for each row.
    Rows(&'a [f32]),
}

/// Where a block is written, and what its sums begin with.
#[derive(Clone, Copy)]
pub(in super::super) struct Place {
    pub(super) out: *mut f32,
    /// Values from one row to the next.
    pub(super) step: usize,
    /// Values from the first sixteen columns to the next.
    pub(super) half: usize,
    pub(super) begin: *const f32,
    pub(super) begin_step: usize,
    /// Values from the first sixteen columns to the next in what it begins with.
    pub(super) begin_half: usize,
}

/// Sixteen zeros.
#[repr(align(64))]
struct Zeros([f32; 16]);
static ZEROS: Zeros = Zeros([0.0; 16]);

impl Place {
    /// A whole tile's memory; sums begin with 0.
    pub(super) fn scratch(tile: *mut Tile) -> Self {
        Self::from_zero(tile.cast(), TILE)
    }

    /// Sums that begin with 0.
    pub(in super::super) fn from_zero(out: *mut f32, step: usize) -> Self {
        Self { out, step, half: 16, begin: ZEROS.0.as_ptr(), begin_step: 0, begin_half: 0 }
    }

    /// Adds to what is there.
    pub(in super::super) fn adding(out: *mut f32, step: usize) -> Self {
        Self { begin: out, begin_step: step, begin_half: 16, ..Self::from_zero(out, step) }
    }

    /// Sums that begin with 0, sixteen columns of a row after the other; so many values from the first sixteen
    /// columns of all rows to the next.
    pub(in super::super) fn strips(out: *mut f32, half: usize) -> Self {
        Self { half, ..Self::from_zero(out, 16) }
    }
}

impl Bias<'_> {
    /// What the sums of a new block begin with.
    fn begin(
        self,
        out: *mut f32,
        step: usize,
        row: usize,
        rows: usize,
        columns: &Range<usize>,
        begin: &mut MaybeUninit<Tile>,
    ) -> Place {
        let place = Place::from_zero(out, step);
        match self {
            Bias::None => place,
            Bias::Columns(bias) => match bias.get(columns.clone()) {
                Some(bias) => {
                    Place { begin: bias.as_ptr(), begin_step: 0, begin_half: 16, ..place }
                }
                None => place,
            },
            Bias::Rows(bias) => {
                let lines = begin.as_mut_ptr().cast::<[f32; 16]>();
                for (i, bias) in bias.iter().skip(row).take(rows.min(2 * TILE)).enumerate() {
                    // SAFETY: a tile has room for 64 lines of sixteen values.
                    unsafe { lines.add(i).write([*bias; 16]) };
                }
                Place { begin: lines.cast(), begin_step: 16, begin_half: 0, ..place }
            }
        }
    }

    fn of(self, row: usize, column: usize) -> f32 {
        let value = match self {
            Bias::None => None,
            Bias::Columns(bias) => bias.get(column),
            Bias::Rows(bias) => bias.get(row),
        };
        value.copied().unwrap_or(0.0)
    }
}

/// Matrices one after the other in memory, `[pictures, rows, columns]`: the columns of a product are
/// those of all pictures. Tokens are one picture.
pub(in super::super) struct Sink<'a> {
    pub(in super::super) out: Output,
    /// Rows of a picture.
    pub(in super::super) rows: usize,
    /// Columns of a picture, which lie next to each other.
    pub(in super::super) columns: usize,
    pub(in super::super) bias: Bias<'a>,
}

impl Sink<'_> {
    /// A row's values from this column on: where they begin, and how many follow.
    fn at(&self, row: usize, column: usize) -> (usize, usize) {
        let (picture, column) = (column / self.columns, column % self.columns);
        ((picture * self.rows + row) * self.columns + column, self.columns - column)
    }

    /// Where a block of `rows` rows from `row` on and of these columns can be written at once, in
    /// whole vectors of sixteen columns; `begin` is memory for what its sums begin with. `first` is
    /// whether nothing was summed there before.
    pub(super) fn place(
        &self,
        row: usize,
        columns: Range<usize>,
        rows: usize,
        first: bool,
        begin: &mut MaybeUninit<Tile>,
    ) -> Option<Place> {
        let (start, follow) = self.at(row, columns.start);
        if follow < columns.len() {
            return None;
        }
        // SAFETY: the block lies in the result.
        let out = unsafe { self.out.at(start) };
        Some(match first {
            true => self.bias.begin(out, self.columns, row, rows, &columns, begin),
            false => Place::adding(out, self.columns),
        })
    }

    /// Takes these rows and columns of the result from the start of `tile`, or adds them.
    ///
    /// # Safety
    /// No other thread has the same rows and columns now, and they are in the result.
    pub(super) unsafe fn take(
        &self,
        tile: &Tile,
        rows: Range<usize>,
        columns: Range<usize>,
        first: bool,
    ) {
        for (row, sums) in rows.zip(&tile.0) {
            let mut column = columns.start;
            while column < columns.end {
                let (start, follow) = self.at(row, column);
                let count = follow.min(columns.end - column);
                // SAFETY: the caller's promises.
                let out = unsafe { std::slice::from_raw_parts_mut(self.out.at(start), count) };
                let sums = &sums[column - columns.start..];
                for ((out, sum), column) in out.iter_mut().zip(sums).zip(column..) {
                    *out = sum + if first { self.bias.of(row, column) } else { *out };
                }
                column += count;
            }
        }
    }
}
