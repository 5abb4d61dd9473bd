//! Products in vectors of 512 bits, of f32 or of pairs of bf16.

use std::arch::x86_64::*;

use super::super::line::Line;
use super::Unit;
use super::sink::Place;

/// Rows of a block at most: with 32 columns their sums fill 28 of the 32 registers.
pub(super) const ROWS: usize = 14;

/// How many lines before its use one is asked for. Each takes 14 cycles, and what lies in the third cache some hundred.
const AHEAD: usize = 16;

/// Multiplies a strip of the left operand by one or two of the right one. The place gets `rows` rows
/// of 16 or 32 values.
///
/// # Safety
/// The processor has the unit; both sides have `lines` lines for each strip; the place has room.
pub(super) unsafe fn multiply(
    unit: Unit,
    left: &[Line],
    right: &[Line],
    lines: usize,
    [rows, columns]: [usize; 2],
    place: &Place,
) {
    assert!(left.len() >= lines && right.len() >= lines * columns.div_ceil(16));
    let (a, b) = (left.as_ptr().cast::<f32>(), right.as_ptr().cast::<f32>());
    macro_rules! by_rows {
        ($kernel:ident, $($n:literal)*) => {
            match (rows, columns > 16) {
                $(
                    ($n, true) => $kernel::<$n, 2>(lines, a, b, place),
                    ($n, false) => $kernel::<$n, 1>(lines, a, b, place),
                )*
                _ => unreachable!("strips have no more rows than registers"),
            }
        };
    }
    // SAFETY: the caller's promises.
    unsafe {
        match unit {
            Unit::Avx512 => by_rows!(single, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            _ => by_rows!(pairs, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        }
    }
}

macro_rules! kernel {
    ($name:ident, $features:literal, |$sum:ident, $x:ident, $y:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const ROWS: usize, const COLUMNS: usize>(
            lines: usize,
            a: *const f32,
            b: *const f32,
            place: &Place,
        ) {
            let mut sums = [[_mm512_setzero_ps(); COLUMNS]; ROWS];
            // SAFETY: the caller's promises.
            unsafe {
                // The result's lines are asked for now, to be there when they are written.
                for i in 0..ROWS {
                    for j in 0..COLUMNS {
                        let out = place.out.wrapping_add(i * place.step + j * place.half);
                        _mm_prefetch::<_MM_HINT_T0>(out.cast());
                    }
                }
                for line in 0..lines {
                    // Beyond the end of a strip, the next one's follow, or nothing that is read.
                    _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add((line + AHEAD) * 16).cast());
                    for i in 0..COLUMNS {
                        let ahead = b.wrapping_add((i * lines + line + AHEAD) * 16);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    }
                    let mut y = [_mm512_setzero_ps(); COLUMNS];
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = _mm512_load_ps(b.add((i * lines + line) * 16));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let $x = _mm512_set1_ps(*a.add(line * 16 + i));
                        for (sum, $y) in sums.iter_mut().zip(y) {
                            let $sum = *sum;
                            *sum = $step;
                        }
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    for (j, sum) in sums.iter().enumerate() {
                        let from = i * place.begin_step + j * place.begin_half;
                        let sum = _mm512_add_ps(*sum, _mm512_loadu_ps(place.begin.add(from)));
                        _mm512_storeu_ps(place.out.add(i * place.step + j * place.half), sum);
                    }
                }
            }
        }
    };
}

kernel!(single, "avx512f,avx512bw,avx512vl,avx512dq", |sum, x, y| _mm512_fmadd_ps(x, y, sum));
kernel!(pairs, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16", |sum, x, y| {
    _mm512_dpbf16_ps(
        sum,
        std::mem::transmute::<__m512, __m512bh>(x),
        std::mem::transmute::<__m512, __m512bh>(y),
    )
});
