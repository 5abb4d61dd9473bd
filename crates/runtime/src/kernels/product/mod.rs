//! Matrix products in this processor's wide vectors and tiles, with operands in 32 or 16 bits.
//!
//! A product of `left` `[rows, depth]` and `right` `[depth, columns]` goes in three steps. Both
//! operands are cut into strips of up to 16 rows or columns and *packed*: converted to what the
//! [`Unit`] multiplies and laid out in the order in which it reads them. One of them is packed a few MiB at a time and
//! shared by all threads; each thread packs parts of the other one for itself. A small block of the result is then summed
//! over a part of the depth in registers and goes to a [`Sink`].
//!
//! Where an operand comes from is a [`Source`]: a matrix with any steps in f32, f16 or bf16, or the
//! patches of pictures. So weights are multiplied as they are stored, without a converted copy.
//!
//! A value of the result depends on the operands and the unit alone, not on how many threads there
//! are or how the work was cut.

mod gemv;
mod lanes;
mod multiply;
mod pack;
mod patches;
mod sink;
mod source;
mod tiles;

use std::arch::x86_64::__cpuid;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::Precision;
use super::line::{Line, room};

pub(super) use gemv::{ROWS as FEW_ROWS, multiply_rows};
pub(super) use multiply::multiply;
pub(super) use pack::{mask, transpose};
pub(super) use patches::{Patches, Shape};
pub(super) use sink::{Bias, Place, Sink};
pub(super) use source::{Element, Plain, Source};
pub(super) use tiles::Mode;

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

    /// Bytes of a panel of this depth.
    fn bytes(&self, depth: usize) -> usize {
        (self.unit.lines(depth) * self.cut.together * size_of::<Line>()).max(1)
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

/// Products of fewer multiplications are done by the thread that asks: waking others takes longer.
pub(super) const SMALL: usize = 1 << 19;

/// Does `count` tasks by number, on all threads or on this one.
pub(super) fn each(small: bool, count: usize, task: impl Fn(usize) + Sync + Send) {
    match small {
        true => (0..count).for_each(task),
        false => (0..count).into_par_iter().for_each(task),
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
    let packed = room(packed, panels.len() * side.cut.together * lines);
    let first = panels.start * side.cut.together;
    each_part(alone, packed, lines, |strip, lines| {
        // SAFETY: the caller's promise.
        unsafe { side.pack(first + strip, depth.clone(), lines) };
    });
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
