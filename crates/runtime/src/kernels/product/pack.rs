//! Strips of operands in the order in which a unit reads them.
//!
//! A strip of the right operand, and of the left one for vectors, has a line for each step in
//! depth, in which its 16 columns (or rows) lie side by side; for pairs of bf16 two steps share a line. A strip
//! of the left operand for tiles has its 16 rows below each other, 32 values of depth in each.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::line::Line;
use super::{Source, Unit};

/// Packs up to 16 rows (columns) from `first` on.
///
/// # Safety
/// The processor has the unit; the rows and the depth lie in the source; `lines` has as many as the
/// unit asks for.
pub(super) unsafe fn strip<S: Source>(
    unit: Unit,
    left: bool,
    source: &S,
    first: usize,
    count: usize,
    depth: Range<usize>,
    lines: &mut [Line],
) {
    assert!(lines.len() >= unit.lines(depth.len()) && count <= 16);
    // SAFETY: the caller's promise.
    unsafe {
        match unit {
            Unit::Avx512 => single(source, first, count, depth, lines),
            Unit::Avx512Bf16 => pairs(source, first, count, depth, false, lines),
            Unit::Amx => pairs(source, first, count, depth, left, lines),
        }
    }
}

/// So many of sixteen lanes, from the first on.
#[inline]
pub(in super::super) fn mask(count: usize) -> __mmask16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn single<S: Source>(
    source: &S,
    first: usize,
    count: usize,
    depth: Range<usize>,
    lines: &mut [Line],
) {
    let out = lines.as_mut_ptr().cast::<f32>();
    let strip = source.strip(first);
    if !source.along_depth() {
        let mask = mask(count);
        for (i, depth) in depth.enumerate() {
            // SAFETY: the caller's promises.
            unsafe { _mm512_store_ps(out.add(i * 16), source.load(strip, 0, depth, mask)) };
        }
        return;
    }
    for (block, start) in depth.clone().step_by(16).enumerate() {
        let steps = (depth.end - start).min(16);
        // All sixteen, so that they stay in registers: of rows that are not there, nothing is read.
        let mut rows = [_mm512_setzero_si512(); 16];
        let along = mask(steps);
        for (at, row) in rows.iter_mut().enumerate() {
            let mask = if at < count { along } else { 0 };
            // SAFETY: as above.
            *row = _mm512_castps_si512(unsafe { source.load(strip, at, start, mask) });
        }
        transpose(&mut rows);
        for (i, row) in rows.iter().take(steps).enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_store_si512(out.add((block * 16 + i) * 16).cast(), *row) };
        }
    }
}

/// `below`: rows below each other, in blocks of 16 lines; the depth is filled up with zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn pairs<S: Source>(
    source: &S,
    first: usize,
    count: usize,
    depth: Range<usize>,
    below: bool,
    lines: &mut [Line],
) {
    let out = lines.as_mut_ptr();
    let strip = source.strip(first);
    let along = source.along_depth();
    let across = mask(count);
    let mut filled = 0;
    for start in depth.clone().step_by(32) {
        let steps = (depth.end - start).min(32);
        let mut rows = [_mm512_setzero_si512(); 16];
        if along {
            let halves = [mask(steps), mask(steps.saturating_sub(16))];
            // All sixteen, so that they stay in registers: of rows that are not there, nothing is read.
            for (at, row) in rows.iter_mut().enumerate() {
                let [low, high] = if at < count { halves } else { [0; 2] };
                // SAFETY: the caller's promises.
                let (a, b) = unsafe {
                    (source.load(strip, at, start, low), source.load(strip, at, start + 16, high))
                };
                *row = together(a, b);
            }
        } else {
            let order = interleaved();
            for (i, row) in rows.iter_mut().enumerate().take(steps.div_ceil(2)) {
                let depth = start + 2 * i;
                // SAFETY: the caller's promises.
                let (a, b) = unsafe {
                    let b = if 2 * i + 1 < steps {
                        source.load(strip, 0, depth + 1, across)
                    } else {
                        _mm512_setzero_ps()
                    };
                    (source.load(strip, 0, depth, across), b)
                };
                *row = _mm512_permutexvar_epi16(order, together(a, b));
            }
        }
        if along != below {
            transpose(&mut rows);
        }
        let room = lines.len() - filled;
        for (i, row) in rows.iter().take(room).enumerate() {
            // SAFETY: inside `lines`.
            unsafe { _mm512_store_si512(out.add(filled + i).cast(), *row) };
        }
        filled += room.min(16);
    }
    // The unit may want more than one block to be there, and reads it.
    lines[filled..].fill(Line::ZERO);
}

/// The values of `a`, then those of `b`, rounded to bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn together(a: __m512, b: __m512) -> __m512i {
    // SAFETY: both types are 512 bits without any meaning but their lanes'.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a)) }
}

/// 0, 16, 1, 17, … : pairs of the values of both halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn interleaved() -> __m512i {
    let lane = |i: i32| (i + 16) << 16 | i;
    _mm512_setr_epi32(
        lane(0),
        lane(1),
        lane(2),
        lane(3),
        lane(4),
        lane(5),
        lane(6),
        lane(7),
        lane(8),
        lane(9),
        lane(10),
        lane(11),
        lane(12),
        lane(13),
        lane(14),
        lane(15),
    )
}

/// Sixteen rows of sixteen values, mirrored at the diagonal.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in super::super) fn transpose(rows: &mut [__m512i; 16]) {
    let mut t = [_mm512_setzero_si512(); 16];
    // Pairs of rows: values alternate in each quarter of a vector.
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Four rows each: a quarter has one column of four rows.
    for i in 0..4 {
        rows[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        rows[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        rows[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        rows[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // Quarters of eight rows.
    for half in 0..2 {
        for i in 0..4 {
            let (a, b) = (rows[8 * half + i], rows[8 * half + 4 + i]);
            t[8 * half + i] = _mm512_shuffle_i32x4(a, b, 0b10_00_10_00);
            t[8 * half + 4 + i] = _mm512_shuffle_i32x4(a, b, 0b11_01_11_01);
        }
    }
    for i in 0..4 {
        rows[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0b10_00_10_00);
        rows[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0b11_01_11_01);
        rows[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0b10_00_10_00);
        rows[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0b11_01_11_01);
    }
}
