//! Matrix products in this processor's wide vectors and tiles, with operands in 32 or 16 bits.
//!
//! A product of `left` `[rows, depth]` and `right` `[depth, columns]` goes in three steps. Both
//! operands are cut into strips of up to 16 rows or columns and *packed*: converted to what the
//! [`Unit`] multiplies and laid out in the order in which it reads them. One of them, the
//! *stationary* one, is packed a few MiB at a time and shared by all threads; each thread packs
//! parts of the other for itself. A small block of the result is then summed over the whole depth in
//! registers and goes to a [`Sink`].
//!
//! Where an operand comes from is a [`Source`]: a matrix with any steps in f32, f16 or bf16, or the
//! patches of pictures. So weights are multiplied as they are stored, without a converted copy.
//!
//! A value of the result depends on the operands and the unit alone, not on how many threads there
//! are or how the work was cut.

mod lanes;
mod pack;
mod patches;
mod sink;
mod source;
mod tiles;

use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::Precision;

pub(super) use patches::{Patches, Shape};
pub(super) use sink::{Bias, Place, Planes, Rows, Sink};
pub(super) use source::{Element, Plain, Source};
pub(super) use tiles::Mode;

/// Sixteen values, or sixteen pairs of bf16, that a unit reads together.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Line([u32; 16]);

impl Line {
    pub(super) const ZERO: Line = Line([0; 16]);
}

/// Rows and columns of a block of the result at most.
pub(super) const TILE: usize = 32;

/// A block of the result, row by row.
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [[f32; TILE]; TILE]);

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// f32 in vectors of 512 bits.
    Avx512,
    /// Pairs of bf16 in vectors of 512 bits, summed in f32 (AVX512-BF16).
    Avx512Bf16,
    /// Tiles of 16×32 bf16, summed in f32 (AMX-BF16).
    Amx,
}

impl Unit {
    /// The unit of this processor for products of this precision.
    pub(super) fn of(precision: Precision) -> Option<Unit> {
        static UNITS: OnceLock<[Option<Unit>; 2]> = OnceLock::new();
        let [f32, bf16] = UNITS.get_or_init(|| {
            let vectors = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            let pairs = vectors && is_x86_feature_detected!("avx512bf16");
            let bf16 = match pairs {
                true if tiles::available() => Some(Unit::Amx),
                true => Some(Unit::Avx512Bf16),
                false => None,
            };
            [vectors.then_some(Unit::Avx512), bf16]
        });
        match precision {
            Precision::F32 => *f32,
            Precision::Bf16 => bf16.or(*f32),
        }
    }

    /// All that this processor has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Unit> {
        let mut units: Vec<_> = Unit::of(Precision::F32).into_iter().collect();
        match Unit::of(Precision::Bf16) {
            Some(Unit::Amx) => units.extend([Unit::Avx512Bf16, Unit::Amx]),
            Some(Unit::Avx512Bf16) => units.push(Unit::Avx512Bf16),
            _ => {}
        }
        units
    }

    /// Lines that a strip takes for so much of the depth.
    pub(super) fn lines(self, depth: usize) -> usize {
        match self {
            Unit::Avx512 => depth,
            Unit::Avx512Bf16 => depth.div_ceil(2),
            Unit::Amx => depth.div_ceil(32) * 16,
        }
    }

    /// How so many rows of the left operand are cut.
    pub(super) fn left(self, rows: usize) -> Cut {
        match self {
            Unit::Amx => Cut { strip: 16, together: 2 },
            // Strips of equal height, as high as the registers allow.
            _ => {
                let strips = rows.div_ceil(lanes::ROWS).max(1);
                Cut { strip: rows.div_ceil(strips).max(1), together: 1 }
            }
        }
    }

    /// How columns of the right operand are cut.
    pub(super) fn right(self) -> Cut {
        Cut { strip: 16, together: 2 }
    }
}

/// How a side of a product is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Rows or columns of a strip.
    pub(super) strip: usize,
    /// Strips that are multiplied together: a panel.
    pub(super) together: usize,
}

/// Which operand is packed once for all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stationary {
    Left,
    Right,
}

/// Bytes of the stationary operand that are packed at once.
const SHARED: usize = 4 << 20;
/// Bytes of the other operand that a thread packs at once, where four panels don't take more.
const OWN: usize = 384 << 10;
/// The depth that is summed in registers at most, in lines: panels of both operands then lie near
/// the core while they are used.
const DEEPEST: usize = 768;
/// Bytes of the right operand's panels that one panel of the left one meets in a row: they stay near
/// the core for the next one, and what is written lies near together.
const SWEEP: usize = 512 << 10;

/// Packs strips of one operand.
pub(super) struct Side<'a, S> {
    unit: Unit,
    source: &'a S,
    cut: Cut,
    count: usize,
    left: bool,
}

impl<'a, S: Source> Side<'a, S> {
    /// So many rows of a left operand.
    pub(super) fn left(unit: Unit, source: &'a S, rows: usize) -> Self {
        Self { unit, source, cut: unit.left(rows), count: rows, left: true }
    }

    /// So many columns of a right operand.
    pub(super) fn right(unit: Unit, source: &'a S, columns: usize) -> Self {
        Self { unit, source, cut: unit.right(), count: columns, left: false }
    }

    pub(super) fn panels(&self) -> usize {
        self.count.div_ceil(self.cut.strip * self.cut.together)
    }

    /// The rows or columns of a panel.
    pub(super) fn span(&self, panel: usize) -> Range<usize> {
        let size = self.cut.strip * self.cut.together;
        panel * size..((panel + 1) * size).min(self.count)
    }

    /// Packs one strip.
    ///
    /// # Safety
    /// The processor has the unit; the rows or columns over the whole depth lie in the source.
    pub(super) unsafe fn pack(&self, strip: usize, depth: Range<usize>, lines: &mut [Line]) {
        let first = strip * self.cut.strip;
        let count = self.count.saturating_sub(first).min(self.cut.strip);
        if count == 0 {
            return lines.fill(Line::ZERO);
        }
        // SAFETY: the caller's promise.
        unsafe { pack::strip(self.unit, self.left, self.source, first, count, depth, lines) }
    }
}

/// Multiplies `left` `[rows, depth]` by `right` `[depth, columns]` on all threads.
///
/// # Safety
/// The processor has the unit ([`Unit::of`] gave it), and the sources have all of their rows or columns
/// over the whole depth.
pub(super) unsafe fn multiply<L: Source, R: Source, K: Sink>(
    unit: Unit,
    [rows, depth, columns]: [usize; 3],
    left: &L,
    right: &R,
    sink: &K,
    stationary: Stationary,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let left = Side::left(unit, left, rows);
    let right = Side::right(unit, right, columns);
    let parts = unit.lines(depth).div_ceil(DEEPEST).max(1);
    let part = depth.div_ceil(parts).next_multiple_of(32).max(32);
    let mut from = 0;
    loop {
        let to = (from + part).min(depth);
        let take = |l: Block, r: Block| block(unit, l, r, from == 0, sink);
        // SAFETY: the caller's promises.
        unsafe {
            match stationary {
                Stationary::Left => by_left(&left, &right, from..to, take),
                Stationary::Right => by_right(&left, &right, from..to, take),
            }
        }
        from = to;
        if from >= depth {
            return;
        }
    }
}

/// A packed panel and the rows or columns that it is of.
pub(super) struct Block<'a> {
    pub(super) lines: &'a [Line],
    /// Lines of one strip.
    pub(super) strip: usize,
    pub(super) span: Range<usize>,
}

/// Products of fewer multiplications are done by the thread that asks: waking others takes longer.
pub(super) const SMALL: usize = 1 << 19;

/// Does `count` tasks, each with a scratch of its thread's, on all threads or on this one.
pub(super) fn each<T: Send>(
    small: bool,
    count: usize,
    scratch: impl Fn() -> T + Sync + Send,
    task: impl Fn(&mut T, usize) + Sync + Send,
) {
    if small {
        let mut scratch = scratch();
        (0..count).for_each(|at| task(&mut scratch, at));
    } else {
        (0..count).into_par_iter().for_each_init(scratch, task);
    }
}

/// How the panels of both sides are shared out.
struct Work {
    small: bool,
    /// Lines of a strip.
    lines: usize,
    /// Panels of the stationary side that are packed at once.
    chunk: usize,
    /// Panels of the other side that a task packs.
    group: usize,
}

impl Work {
    fn new<S: Source, M: Source>(fixed: &Side<S>, moving: &Side<M>, depth: usize) -> Self {
        let lines = fixed.unit.lines(depth);
        let bytes = |cut: Cut| (lines * cut.together * size_of::<Line>()).max(1);
        let panels = fixed.panels();
        // Chunks of equal size.
        let chunk = (SHARED / bytes(fixed.cut)).clamp(1, panels);
        let chunk = panels.div_ceil(panels.div_ceil(chunk));
        let most = (OWN / bytes(moving.cut)).max(4);
        let threads = rayon::current_num_threads();
        let group = moving.panels().div_ceil(2 * threads).clamp(1, most);
        let small = fixed.count.saturating_mul(moving.count).saturating_mul(depth) < SMALL;
        Self { small, lines, chunk, group }
    }

    /// In how many parts the tasks of `groups` groups go through `count` stationary panels, so that every
    /// thread has something to do.
    fn share(groups: usize, count: usize) -> usize {
        let tasks = 2 * rayon::current_num_threads();
        count.div_ceil(tasks.div_ceil(groups.max(1)).clamp(1, count.max(1)))
    }
}

/// Packs some panels of the side that all threads share.
///
/// # Safety
/// As [`Side::pack`].
unsafe fn pack_shared<S: Source>(
    side: &Side<S>,
    panels: Range<usize>,
    depth: &Range<usize>,
    lines: usize,
    small: bool,
    shared: &mut Vec<Line>,
) {
    let strips = panels.len() * side.cut.together;
    shared.resize(strips * lines, Line::ZERO);
    if lines == 0 {
        return;
    }
    let first = panels.start * side.cut.together;
    let pack = |(strip, lines): (usize, &mut [Line])| {
        // SAFETY: the caller's promise.
        unsafe { side.pack(first + strip, depth.clone(), lines) };
    };
    match small {
        true => shared.chunks_exact_mut(lines).enumerate().for_each(pack),
        false => shared.par_chunks_exact_mut(lines).enumerate().for_each(pack),
    }
}

/// Packs some panels of a task's own side.
///
/// # Safety
/// As [`Side::pack`].
unsafe fn pack_own<S: Source>(
    side: &Side<S>,
    panels: Range<usize>,
    depth: &Range<usize>,
    lines: usize,
    own: &mut Vec<Line>,
) {
    own.resize(panels.len() * side.cut.together * lines, Line::ZERO);
    let first = panels.start * side.cut.together;
    for (strip, lines) in own.chunks_exact_mut(lines.max(1)).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { side.pack(first + strip, depth.clone(), lines) };
    }
}

/// # Safety
/// As [`multiply`].
unsafe fn by_left<L: Source, R: Source>(
    left: &Side<L>,
    right: &Side<R>,
    depth: Range<usize>,
    take: impl Fn(Block, Block) + Sync,
) {
    let Work { small, lines, chunk, group } = Work::new(left, right, depth.len());
    let groups = right.panels().div_ceil(group);
    let panel = |side: Cut| side.together * lines;
    let mut shared = Vec::new();
    for first in (0..left.panels()).step_by(chunk) {
        let count = chunk.min(left.panels() - first);
        // SAFETY: the caller's promise.
        unsafe { pack_shared(left, first..first + count, &depth, lines, small, &mut shared) };
        let (shared, share) = (&*shared, Work::share(groups, count));
        let shares = count.div_ceil(share);
        each(small, groups * shares, Vec::new, |own, task| {
            let (at, part) = (task / shares, task % shares);
            let columns = at * group..((at + 1) * group).min(right.panels());
            // SAFETY: the caller's promise.
            unsafe { pack_own(right, columns.clone(), &depth, lines, own) };
            let _mode = Mode::enter(left.unit);
            for row in part * share..((part + 1) * share).min(count) {
                for (i, column) in columns.clone().enumerate() {
                    let (l, r) = (panel(left.cut), panel(right.cut));
                    take(
                        Block {
                            lines: &shared[row * l..][..l],
                            strip: lines,
                            span: left.span(first + row),
                        },
                        Block { lines: &own[i * r..][..r], strip: lines, span: right.span(column) },
                    );
                }
            }
        });
    }
}

/// # Safety
/// As [`multiply`].
unsafe fn by_right<L: Source, R: Source>(
    left: &Side<L>,
    right: &Side<R>,
    depth: Range<usize>,
    take: impl Fn(Block, Block) + Sync,
) {
    let Work { small, lines, chunk, group } = Work::new(right, left, depth.len());
    let groups = left.panels().div_ceil(group);
    let panel = |side: Cut| side.together * lines;
    let mut shared = Vec::new();
    for first in (0..right.panels()).step_by(chunk) {
        let count = chunk.min(right.panels() - first);
        // SAFETY: the caller's promise.
        unsafe { pack_shared(right, first..first + count, &depth, lines, small, &mut shared) };
        let (shared, share) = (&*shared, Work::share(groups, count));
        let shares = count.div_ceil(share);
        each(small, groups * shares, Vec::new, |own, task| {
            let (at, part) = (task / shares, task % shares);
            let rows = at * group..((at + 1) * group).min(left.panels());
            // SAFETY: the caller's promise.
            unsafe { pack_own(left, rows.clone(), &depth, lines, own) };
            let _mode = Mode::enter(left.unit);
            let columns = part * share..((part + 1) * share).min(count);
            let near = (SWEEP / (panel(right.cut) * size_of::<Line>()).max(1)).max(2);
            for sweep in columns.clone().step_by(near) {
                for (i, row) in rows.clone().enumerate() {
                    for column in sweep..(sweep + near).min(columns.end) {
                        let (l, r) = (panel(left.cut), panel(right.cut));
                        let span = right.span(first + column);
                        take(
                            Block { lines: &own[i * l..][..l], strip: lines, span: left.span(row) },
                            Block { lines: &shared[column * r..][..r], strip: lines, span },
                        );
                    }
                }
            }
        });
    }
}

/// Multiplies two panels and hands the result on. `first` is whether it is the first part of the
/// depth. The thread is in the unit's [`Mode`].
pub(super) fn block<K: Sink>(unit: Unit, left: Block, right: Block, first: bool, sink: &K) {
    let size = [left.span.len(), right.span.len()];
    let mut scratch = std::mem::MaybeUninit::<Tile>::uninit();
    let mut begin = std::mem::MaybeUninit::<Tile>::uninit();
    // Straight to where it belongs, where whole vectors do.
    let whole = size[1].is_multiple_of(16) && (unit != Unit::Amx || size[0].is_multiple_of(16));
    let place = match whole {
        true => sink.place(left.span.start, right.span.clone(), size[0], first, &mut begin),
        false => None,
    };
    let direct = place.is_some();
    let place = place.unwrap_or_else(|| Place::scratch(scratch.as_mut_ptr()));
    // SAFETY: panels are as long as their strips say; the unit was found; a place has room for the
    // whole vectors, and the scratch for a whole tile, of which the sink takes what was written.
    unsafe {
        product(unit, left.lines, right.lines, left.strip, size, place);
        if !direct {
            sink.take(&*scratch.as_ptr(), left.span, right.span, first);
        }
    }
}

/// Multiplies two panels of `lines` lines a strip. Whole vectors of sixteen columns are written, and
/// by tiles whole sixteen rows.
///
/// # Safety
/// The unit was found and the thread is in its [`Mode`]; the place has room.
pub(super) unsafe fn product(
    unit: Unit,
    left: &[Line],
    right: &[Line],
    lines: usize,
    size: [usize; 2],
    place: Place,
) {
    // SAFETY: the caller's promises.
    unsafe {
        match unit {
            Unit::Amx => tiles::multiply(left, right, lines, size, place),
            _ => lanes::multiply(unit, left, right, lines, size, place),
        }
    }
}

#[cfg(test)]
mod tests;
