//! The softmax of a row of scores.

use multiversion::multiversion;

use super::elementwise::exp;

/// `softmax(scale · row)`, in place.
pub(super) fn softmax(row: &mut [f32], scale: f32) {
    let total = weigh(row, largest(row), scale);
    scale_by(row, 1.0 / total);
}

/// The largest value; negative infinity where there is none.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn largest(row: &[f32]) -> f32 {
    let (lanes, rest) = row.as_chunks::<16>();
    let mut largest = [f32::NEG_INFINITY; 16];
    for lane in lanes {
        largest.iter_mut().zip(lane).for_each(|(max, x)| *max = if *x > *max { *x } else { *max });
    }
    largest.iter().chain(rest).fold(f32::NEG_INFINITY, |max, x| max.max(*x))
}

/// `exp(scale · (row - largest))`, in place, and its sum.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn weigh(row: &mut [f32], largest: f32, scale: f32) -> f32 {
    let (lanes, rest) = row.as_chunks_mut::<16>();
    let mut sums = [0.0_f32; 16];
    for lane in lanes {
        for (x, sum) in lane.iter_mut().zip(&mut sums) {
            *x = exp((*x - largest) * scale);
            *sum += *x;
        }
    }
    let mut total = sums.iter().sum::<f32>();
    for x in rest {
        *x = exp((*x - largest) * scale);
        total += *x;
    }
    total
}

/// `by · row`, in place.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn scale_by(row: &mut [f32], by: f32) {
    row.iter_mut().for_each(|x| *x *= by);
}
