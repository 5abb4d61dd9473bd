//! Matrix products in this processor's wide vectors and tiles, with operands in 32 or 16 bits.
//!
//! A product of `left` `[rows, depth]` and `right` `[depth, columns]` goes in three steps. Both
//! operands are cut into strips of up to 16 rows or columns and *packed*: converted to what the
//! [`Unit`] multiplies and laid out in the order in which it reads them. The right one is packed a
//! few MiB at a time and shared by all threads; each thread packs parts of the left one for itself, or the other way round
//! where there are few rows. A small block of the result is then summed over the whole depth in
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

use std::arch::x86_64::__cpuid;
use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::Precision;

pub(super) use patches::{Patches, Shape};
pub(super) use sink::{Bias, Place, Sink};
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
                true if !half_as_fast() => Some(Unit::Avx512Bf16),
                _ => None,
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
        if !units.is_empty() && is_x86_feature_detected!("avx512bf16") {
            units.push(Unit::Avx512Bf16);
        }
        units.extend(Unit::of(Precision::Bf16).filter(|unit| *unit == Unit::Amx));
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

/// Whether this processor takes longer for pairs of bf16 than for as many f32: Intel's do that have AVX512-FP16. An
/// Emerald Rapids starts one `vdpbf16ps` every other cycle, 86 GFLOP/s, and two `vfmadd231ps` in each, 173 GFLOP/s. Intel's
/// that came before have no AVX512-FP16.
fn half_as_fast() -> bool {
    let about = __cpuid(0);
    let maker = [about.ebx, about.edx, about.ecx].map(u32::to_le_bytes);
    maker.as_flattened() == b"GenuineIntel" && is_x86_feature_detected!("avx512fp16")
}

/// How a side of a product is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Rows or columns of a strip.
    pub(super) strip: usize,
    /// Strips that are multiplied together: a panel.
    pub(super) together: usize,
}

/// Bytes of the right operand that are packed at once.
const SHARED: usize = 8 << 20;
/// Bytes of the left operand that a thread packs at once, where four panels don't take more.
const OWN: usize = 384 << 10;
/// Bytes of the left operand, all of its panels over a part of the depth, that are few.
const FEW: usize = 1 << 20;
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

/// Who multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threads {
    /// All, where there is enough to do for them.
    All,
    /// The one that asks.
    This,
}

/// Multiplies `left` `[rows, depth]` by `right` `[depth, columns]` on all threads.
///
/// # Safety
/// The processor has the unit ([`Unit::of`] gave it), and the sources have all of their rows or columns
/// over the whole depth.
pub(super) unsafe fn multiply<L: Source, R: Source>(
    unit: Unit,
    size: [usize; 3],
    left: &L,
    right: &R,
    sink: &Sink,
) {
    // SAFETY: the caller's promises.
    unsafe { multiply_by(Threads::All, unit, size, left, right, sink) }
}

/// As [`multiply`], on this thread alone.
///
/// # Safety
/// As [`multiply`].
pub(super) unsafe fn multiply_here<L: Source, R: Source>(
    unit: Unit,
    size: [usize; 3],
    left: &L,
    right: &R,
    sink: &Sink,
) {
    // SAFETY: the caller's promises.
    unsafe { multiply_by(Threads::This, unit, size, left, right, sink) }
}

unsafe fn multiply_by<L: Source, R: Source>(
    threads: Threads,
    unit: Unit,
    [rows, depth, columns]: [usize; 3],
    left: &L,
    right: &R,
    sink: &Sink,
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
        unsafe { multiply_part(&left, &right, from..to, threads, take) };
        from = to;
        if from >= depth {
            return;
        }
    }
}

/// A packed panel and the rows or columns that it is of.
struct Block<'a> {
    lines: &'a [Line],
    /// Lines of one strip.
    strip: usize,
    span: Range<usize>,
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
    /// Panels of the right side that are packed at once.
    chunk: usize,
    /// Panels of the left side that a task packs.
    group: usize,
}

impl Work {
    fn new<L: Source, R: Source>(
        left: &Side<L>,
        right: &Side<R>,
        depth: usize,
        threads: Threads,
    ) -> Self {
        let lines = left.unit.lines(depth);
        let bytes = |cut: Cut| (lines * cut.together * size_of::<Line>()).max(1);
        let panels = right.panels();
        // Chunks of equal size.
        let chunk = (SHARED / bytes(right.cut)).clamp(1, panels);
        let chunk = panels.div_ceil(panels.div_ceil(chunk));
        let most = (OWN / bytes(left.cut)).max(4);
        let small = threads == Threads::This
            || left.count.saturating_mul(right.count).saturating_mul(depth) < SMALL;
        let tasks = 2 * rayon::current_num_threads();
        let group = left.panels().div_ceil(tasks).clamp(1, most);
        Self { small, lines, chunk, group }
    }

    /// In how many parts the tasks of `groups` groups go through `count` panels of the right side, so that every
    /// thread has something to do.
    fn share(groups: usize, count: usize) -> usize {
        let tasks = 2 * rayon::current_num_threads();
        count.div_ceil(tasks.div_ceil(groups.max(1)).clamp(1, count.max(1)))
    }
}

/// Hands out parts of `size` lines by number, on all threads or on this one.
pub(super) fn each_part(
    small: bool,
    lines: &mut [Line],
    size: usize,
    task: impl Fn(usize, &mut [Line]) + Sync + Send,
) {
    let size = size.max(1);
    match small {
        true => lines.chunks_exact_mut(size).enumerate().for_each(|(at, part)| task(at, part)),
        false => lines.par_chunks_exact_mut(size).enumerate().for_each(|(at, part)| task(at, part)),
    }
}

/// Packs these panels into the start of `packed`, which grows where it is too short, on all threads or on this one.
///
/// # Safety
/// As [`Side::pack`].
pub(super) unsafe fn pack_panels<S: Source>(
    side: &Side<S>,
    panels: Range<usize>,
    depth: &Range<usize>,
    alone: bool,
    packed: &mut Vec<Line>,
) {
    let lines = side.unit.lines(depth.len());
    let needed = panels.len() * side.cut.together * lines;
    // What is there is written over.
    if packed.len() < needed {
        packed.resize(needed, Line::ZERO);
    }
    let first = panels.start * side.cut.together;
    each_part(alone, &mut packed[..needed], lines, |strip, lines| {
        // SAFETY: the caller's promise.
        unsafe { side.pack(first + strip, depth.clone(), lines) };
    });
}

/// Multiplies over a part of the depth and hands every pair of panels to `take`.
///
/// # Safety
/// As [`multiply`].
unsafe fn multiply_part<L: Source, R: Source>(
    left: &Side<L>,
    right: &Side<R>,
    depth: Range<usize>,
    threads: Threads,
    take: impl Fn(Block, Block) + Sync,
) {
    let Work { small, lines, chunk, group } = Work::new(left, right, depth.len(), threads);
    if left.panels() * left.cut.together * lines * size_of::<Line>() <= FEW {
        // SAFETY: the caller's promise.
        return unsafe { multiply_few(left, right, depth, small, take) };
    }
    let groups = left.panels().div_ceil(group);
    let panel = |side: Cut| side.together * lines;
    let mut shared = SHARED_MEMORY.take();
    for first in (0..right.panels()).step_by(chunk) {
        let count = chunk.min(right.panels() - first);
        // SAFETY: the caller's promise.
        unsafe { pack_panels(right, first..first + count, &depth, small, &mut shared) };
        let (shared, share) = (&*shared, Work::share(groups, count));
        let shares = count.div_ceil(share);
        let task = |own: &mut Vec<Line>, task: usize| {
            let (at, part) = (task / shares, task % shares);
            let rows = at * group..((at + 1) * group).min(left.panels());
            // SAFETY: the caller's promise.
            unsafe { pack_panels(left, rows.clone(), &depth, true, own) };
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
        };
        each(
            small,
            groups * shares,
            || (),
            |(), at| {
                let mut own = OWN_MEMORY.take();
                task(&mut own, at);
                OWN_MEMORY.set(own);
            },
        );
    }
    SHARED_MEMORY.set(shared);
}

/// As [`multiply_part`], of so few rows that all of their panels stay near the core: those are what threads share, and
/// each panel of the right side meets them as soon as it is packed, without a way through memory.
///
/// # Safety
/// As [`multiply`].
unsafe fn multiply_few<L: Source, R: Source>(
    left: &Side<L>,
    right: &Side<R>,
    depth: Range<usize>,
    small: bool,
    take: impl Fn(Block, Block) + Sync,
) {
    let lines = left.unit.lines(depth.len());
    let mut shared = SHARED_MEMORY.take();
    // SAFETY: the caller's promise.
    unsafe { pack_panels(left, 0..left.panels(), &depth, small, &mut shared) };
    let (size, rows) = (left.cut.together * lines, &*shared);
    each(
        small,
        right.panels(),
        || (),
        |(), column| {
            let mut own = OWN_MEMORY.take();
            // SAFETY: as above.
            unsafe { pack_panels(right, column..column + 1, &depth, true, &mut own) };
            let _mode = Mode::enter(left.unit);
            for row in 0..left.panels() {
                take(
                    Block {
                        lines: &rows[row * size..][..size],
                        strip: lines,
                        span: left.span(row),
                    },
                    Block { lines: &own, strip: lines, span: right.span(column) },
                );
            }
            OWN_MEMORY.set(own);
        },
    );
    SHARED_MEMORY.set(shared);
}

thread_local! {
    /// What a thread packed operands in for all threads, and for itself: kept, so that it need not be asked for and
    /// cleared for every product. Both are taken while they are in use, as a thread that waits for others may begin another
    /// product.
    static SHARED_MEMORY: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static OWN_MEMORY: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Multiplies two panels and hands the result on. `first` is whether it is the first part of the
/// depth. The thread is in the unit's [`Mode`].
fn block(unit: Unit, left: Block, right: Block, first: bool, sink: &Sink) {
    let size = [left.span.len(), right.span.len()];
    let mut scratch = std::mem::MaybeUninit::<Tile>::uninit();
    let mut begin = std::mem::MaybeUninit::<Tile>::uninit();
    // Straight to where it belongs, where whole vectors do.
    let whole = size[1].is_multiple_of(16) && (unit != Unit::Amx || size[0].is_multiple_of(16));
    let place = match whole {
        true => sink.place(left.span.start, right.span.clone(), size[0], first, &mut begin),
        false => None,
    };
    // SAFETY: panels are as long as their strips say; the unit was found; a place has room for the
    // whole vectors, and the scratch for a whole tile, of which the sink takes what was written.
    unsafe {
        // By reference: a copy would read in wide words what was just written in narrow ones, and such a
        // read waits until everything written before, the last block of the result too, is out in the caches.
        match &place {
            Some(place) => {
                product(unit, left.lines, right.lines, left.strip, size, place);
            }
            None => {
                let place = Place::scratch(scratch.as_mut_ptr());
                product(unit, left.lines, right.lines, left.strip, size, &place);
                sink.take(&*scratch.as_ptr(), left.span, right.span, first);
            }
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
    place: &Place,
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
