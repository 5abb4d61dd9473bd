//! How a product is cut and shared out among threads.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::super::line::{Line, room};
use super::{Mode, Place, SMALL, Side, Sink, Source, Tile, Unit, each, pack_panels, product};

/// Bytes of the shared operand that are packed at once.
const SHARED: usize = 8 << 20;
/// Bytes of the other one that a thread packs at once: they stay near its core, as the shared one's panels come by.
const OWN: usize = 1 << 20;
/// The depth that is summed in registers at most, in lines: the more, the less often a block of the result is read and
/// written, and the fewer columns are near the core.
const DEEPEST: usize = 1024;
/// Tasks of each thread, so that all end at about the same time.
const TASKS: usize = 8;
/// Panels of what is shared that a task goes through at least: each of its own is packed for as many.
const GROUP: usize = 32;

/// Multiplies `left` `[rows, depth]` by `right` `[depth, columns]` on all threads.
///
/// # Safety
/// The processor has the unit ([`Unit::of`] gave it), and the sources have all of their rows or columns
/// over the whole depth.
pub(in super::super) unsafe fn multiply<L: Source, R: Source>(
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
    let small = rows.saturating_mul(columns).saturating_mul(depth) < SMALL;
    let parts = Parts::new(unit, depth);
    let few = right.panels() * right.bytes(parts.size) <= OWN && right.panels() <= left.panels();
    // SAFETY: the caller's promises.
    unsafe {
        match few {
            true => {
                share(&right, &left, parts, small, |part, r, l| block(unit, l, r, part == 0, sink))
            }
            false => {
                share(&left, &right, parts, small, |part, l, r| block(unit, l, r, part == 0, sink))
            }
        }
    }
}

/// The depth in parts, each summed in registers.
#[derive(Clone, Copy)]
struct Parts {
    depth: usize,
    /// Steps of each but the last.
    size: usize,
    count: usize,
}

impl Parts {
    fn new(unit: Unit, depth: usize) -> Self {
        let parts = unit.lines(depth).div_ceil(DEEPEST).max(1);
        let size = depth.div_ceil(parts).next_multiple_of(32).max(32);
        Self { depth, size, count: depth.div_ceil(size).max(1) }
    }

    fn range(self, part: usize) -> Range<usize> {
        part * self.size..((part + 1) * self.size).min(self.depth)
    }
}

/// A packed panel and the rows or columns that it is of.
struct Block<'a> {
    lines: &'a [Line],
    /// Lines of one strip.
    strip: usize,
    span: Range<usize>,
}

/// A range in parts of equal size, as few as may be of at most so many.
fn ranges(all: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = all.len().div_ceil(most.max(1)).max(1);
    let size = all.len().div_ceil(parts).max(1);
    let end = all.end;
    all.step_by(size).map(move |first| first..(first + size).min(end))
}

/// Multiplies two operands, of which one is packed for all threads and the other one by each for itself, and hands every
/// pair of panels, the shared one first, to `take` with the part of the depth.
///
/// # Safety
/// As [`multiply`].
unsafe fn share<S: Source, O: Source>(
    shared: &Side<S>,
    own: &Side<O>,
    parts: Parts,
    small: bool,
    take: impl Fn(usize, Block, Block) + Sync,
) {
    let tasks = TASKS * if small { 1 } else { rayon::current_num_threads() };
    // Panels by parts of the depth.
    let at_once = SHARED / shared.bytes(parts.size);
    let mut memory = SHARED_MEMORY.take();
    for panels in ranges(0..shared.panels(), at_once) {
        for deep in ranges(0..parts.count, at_once / panels.len()) {
            // SAFETY: the caller's promise.
            unsafe { pack_parts(shared, &panels, parts, &deep, small, &mut memory) };
            // Where all that is shared stays near each core, one panel at a time meets it.
            let near = match panels.len() * deep.len() * shared.bytes(parts.size) {
                ..=OWN => 1,
                _ => OWN / own.bytes(parts.size),
            };
            let packed = Packed { panels: panels.clone(), deep, lines: &memory };
            let count = own.panels();
            let owns: Vec<_> = ranges(0..count, count.div_ceil(tasks)).collect();
            // Few panels of its own: share out those of the other side as well.
            let groups = (tasks / owns.len()).clamp(1, panels.len().div_ceil(GROUP));
            let groups: Vec<_> = ranges(panels.clone(), panels.len().div_ceil(groups)).collect();
            each(small, owns.len() * groups.len(), |task| {
                let (owns, group) = (&owns[task / groups.len()], &groups[task % groups.len()]);
                for owns in ranges(owns.clone(), near) {
                    // SAFETY: the caller's promise.
                    unsafe { meet(shared, own, parts, &packed, group, owns, &take) };
                }
            });
        }
    }
    SHARED_MEMORY.set(memory);
}

/// Panels of the shared operand that are packed, part by part of the depth.
struct Packed<'a> {
    panels: Range<usize>,
    deep: Range<usize>,
    lines: &'a [Line],
}

/// Packs some panels of this thread's own operand, part by part, and has a group of the shared ones meet each.
///
/// # Safety
/// As [`multiply`].
unsafe fn meet<S: Source, O: Source>(
    shared: &Side<S>,
    own: &Side<O>,
    parts: Parts,
    packed: &Packed,
    group: &Range<usize>,
    owns: Range<usize>,
    take: &impl Fn(usize, Block, Block),
) {
    let mut memory = OWN_MEMORY.take();
    let mut start = 0;
    for part in packed.deep.clone() {
        let depth = parts.range(part);
        let strip = own.unit.lines(depth.len());
        // SAFETY: the caller's promise.
        unsafe { pack_panels(own, owns.clone(), &depth, true, &mut memory) };
        let block = |lines, span| Block { lines, strip, span };
        let [shared_size, own_size] = [shared.cut, own.cut].map(|cut| cut.together * strip);
        let _mode = Mode::enter(own.unit);
        for panel in group.clone() {
            let at = start + (panel - packed.panels.start) * shared_size;
            let lines = &packed.lines[at..][..shared_size];
            for (i, own_panel) in owns.clone().enumerate() {
                let own_lines = &memory[i * own_size..][..own_size];
                let shared = block(lines, shared.span(panel));
                take(part, shared, block(own_lines, own.span(own_panel)));
            }
        }
        start += packed.panels.len() * shared_size;
    }
    OWN_MEMORY.set(memory);
}

/// Packs some panels over some parts of the depth, part by part, on all threads or on this one.
///
/// # Safety
/// As [`multiply`].
unsafe fn pack_parts<S: Source>(
    side: &Side<S>,
    panels: &Range<usize>,
    parts: Parts,
    deep: &Range<usize>,
    small: bool,
    memory: &mut Vec<Line>,
) {
    let strips = panels.len() * side.cut.together;
    let first = panels.start * side.cut.together;
    let lines = |part| side.unit.lines(parts.range(part).len());
    let needed = deep.clone().map(|part| strips * lines(part)).sum();
    let mut rest = room(memory, needed);
    let mut tasks = Vec::with_capacity(strips * deep.len());
    for part in deep.clone() {
        let (now, then) = std::mem::take(&mut rest).split_at_mut(strips * lines(part));
        let strips = now.chunks_exact_mut(lines(part).max(1)).zip(first..);
        tasks.extend(strips.map(|(now, strip)| (part, strip, now)));
        rest = then;
    }
    let pack = |(part, strip, lines): (usize, usize, &mut [Line])| {
        // SAFETY: the caller's promise.
        unsafe { side.pack(strip, parts.range(part), lines) };
    };
    match small {
        true => tasks.into_iter().for_each(pack),
        false => tasks.into_par_iter().for_each(pack),
    }
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
