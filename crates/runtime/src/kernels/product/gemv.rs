//! Products of a few rows, such as the vector of a timestep, by a matrix: one pass over the matrix as it lies, as
//! packing it would take longer than multiplying by it.

use std::arch::x86_64::*;

use super::super::host::Output;
use super::pack::mask;
use super::source::Element;
use super::{SMALL, Unit, each};

/// Rows at most: their sums stay in registers.
pub(in super::super) const ROWS: usize = 4;

/// Columns that one task takes.
const COLUMNS: usize = 64;
/// Sums of a row by a column side by side: an addition waits for the one four before it.
const SUMS: usize = 4;

/// `left` `[rows, depth]` by the transposed `right` `[columns, depth]`, both in order, to `[rows, columns]`, with
/// `bias` `[columns]`, on all threads. The order of the sums depends on the depth alone.
///
/// # Safety
/// The processor has the unit; there are 1 to [`ROWS`] rows; both operands and the result have all of their values.
pub(in super::super) unsafe fn multiply_rows<E: Element>(
    unit: Unit,
    [rows, depth, columns]: [usize; 3],
    left: &[f32],
    right: &[E],
    bias: Option<&[f32]>,
    out: Output,
) {
    let rounded: Vec<f32>;
    let rounds = unit != Unit::Avx512;
    let left = match rounds {
        false => left,
        true => {
            rounded = left.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
            &rounded
        }
    };
    let small = rows * depth * columns < SMALL;
    each(small, columns.div_ceil(COLUMNS), |task| {
        for column in task * COLUMNS..columns.min((task + 1) * COLUMNS) {
            let right = &right[column * depth..][..depth];
            let bias = bias.and_then(|bias| bias.get(column)).copied().unwrap_or(0.0);
            // SAFETY: the caller's promises; each column is one task's.
            unsafe {
                let sums = match rows {
                    1 => sums::<E, 1>(left, right, rounds),
                    2 => sums::<E, 2>(left, right, rounds),
                    3 => sums::<E, 3>(left, right, rounds),
                    _ => sums::<E, 4>(left, right, rounds),
                };
                for (row, sum) in sums.iter().take(rows).enumerate() {
                    out.at(row * columns + column).write(sum + bias);
                }
            }
        }
    });
}

/// The products of each row by one column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn sums<E: Element, const COUNT: usize>(
    left: &[f32],
    right: &[E],
    rounds: bool,
) -> [f32; ROWS] {
    let depth = right.len();
    let mut sums = [[_mm512_setzero_ps(); SUMS]; COUNT];
    let mut add = |at: usize, sum: usize, mask: __mmask16| {
        // SAFETY: the caller's promise; beyond the depth, nothing is read.
        unsafe {
            let y = E::load(right.as_ptr().wrapping_add(at), mask);
            let y = if rounds { to_bf16(y) } else { y };
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_maskz_loadu_ps(mask, left.as_ptr().wrapping_add(row * depth + at));
                sums[sum] = _mm512_fmadd_ps(x, y, sums[sum]);
            }
        }
    };
    let whole = depth / (16 * SUMS) * 16 * SUMS;
    for start in (0..whole).step_by(16 * SUMS) {
        for sum in 0..SUMS {
            add(start + sum * 16, sum, u16::MAX);
        }
    }
    for (sum, at) in (whole..depth).step_by(16).enumerate() {
        add(at, sum, mask(depth - at));
    }
    let mut totals = [0.0; ROWS];
    for (total, [a, b, c, d]) in totals.iter_mut().zip(sums) {
        *total = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
    }
    totals
}

/// Rounded to the nearest bf16, to even ones between two.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn to_bf16(x: __m512) -> __m512 {
    let bits = _mm512_castps_si512(x);
    let even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    let up = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(!0xffff)));
    // What is no number stays none.
    _mm512_mask_mov_ps(up, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x)
}
