//! OFT and BOFT: rotations of a weight's rows, with the formulas of [`Rotation`].

use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::lora::Rotation;
use rayon::prelude::*;

use super::data::read;

/// Added to the norm of the blocks before it is compared with its limit, as in ComfyUI.
const NORM_EPSILON: f32 = 1e-8;

/// The change `Δ` of `own`, the weight's rows, at a strength.
pub(super) fn evaluate(
    file: &Checkpoint,
    rotation: &Rotation,
    strength: f32,
    own: &[f32],
    width: usize,
) -> Result<Vec<f32>, String> {
    let Rotation { count, size, stages, .. } = *rotation;
    let blocks = stages.unwrap_or(1) * count;
    let mut rotations = read(file, &rotation.blocks.key, blocks * size * size)?;
    to_rotations(&mut rotations, size, rotation.limit);
    if own.len() != count * size * width {
        return Err(format!("it rotates {} rows of {} values", count * size, own.len()));
    }
    if stages.is_none() {
        let mut change = vec![0.0; own.len()];
        // Row m of a block becomes the sum over j of (R − I)[j, m] · row j, times the strength.
        let factor = |block: &[f32], m: usize, j: usize| {
            let identity = if j == m { 1.0 } else { 0.0 };
            strength * (block.get(j * size + m).copied().unwrap_or(0.0) - identity)
        };
        multiply(&rotations, own, &mut change, [size, width], factor);
        return Ok(change);
    }
    let mut rows = own.to_vec();
    for (stage, rotations) in rotations.chunks(count * size * size).enumerate() {
        let order = Order::of(stage, size);
        let gathered = permuted(&rows, width, |to| order.source(to));
        let mut turned = vec![0.0; rows.len()];
        let factor = |block: &[f32], i: usize, j: usize| {
            let identity = if i == j { 1.0 - strength } else { 0.0 };
            strength * block.get(i * size + j).copied().unwrap_or(0.0) + identity
        };
        multiply(rotations, &gathered, &mut turned, [size, width], factor);
        rows = permuted(&turned, width, |to| order.place(to));
    }
    if let Some(rescale) = &rotation.rescale {
        let lengths = read(file, &rescale.key, rescale.rows * rescale.columns)?;
        for (at, row) in rows.chunks_mut(width).enumerate() {
            let length = lengths.get(at % lengths.len().max(1)).copied().unwrap_or(1.0);
            row.iter_mut().for_each(|value| *value *= length);
        }
    }
    rows.iter_mut().zip(own).for_each(|(value, own)| *value -= own);
    Ok(rows)
}

/// Turns stored blocks into rotations, in place.
fn to_rotations(blocks: &mut [f32], size: usize, limit: f32) {
    let area = (size * size).max(1);
    // Q = B − Bᵀ.
    blocks.par_chunks_mut(area).for_each(|block| {
        for i in 0..size {
            for j in i..size {
                let (above, below) = (block[i * size + j], block[j * size + i]);
                block[i * size + j] = above - below;
                block[j * size + i] = below - above;
            }
        }
    });
    let square = |value: &f32| f64::from(*value).powi(2);
    let norm = blocks.iter().map(square).sum::<f64>().sqrt() as f32 + NORM_EPSILON;
    let scale = if limit > 0.0 && norm > limit { limit / norm } else { 1.0 };
    blocks.par_chunks_mut(area).for_each(|block| {
        let q: Vec<f64> = block.iter().map(|value| f64::from(value * scale)).collect();
        block.iter_mut().zip(cayley(&q, size)).for_each(|(value, r)| *value = r as f32);
    });
}

/// `(I + Q)(I − Q)⁻¹` of a matrix with `Qᵀ = −Q`. Both factors commute, so that it solves `(I − Q) R = I + Q`.
/// `I − Q` has an inverse: the eigenvalues of `Q` are imaginary. NaN goes through.
fn cayley(q: &[f64], size: usize) -> Vec<f64> {
    let identity = |i: usize, j: usize| if i == j { 1.0 } else { 0.0 };
    let of = |sign: f64| -> Vec<f64> {
        let value = |at: usize| identity(at / size, at % size) + sign * q[at];
        (0..size * size).map(value).collect()
    };
    let (mut left, mut right) = (of(-1.0), of(1.0));
    // Gauss and Jordan, with the largest pivot of each column.
    for column in 0..size {
        let magnitude = |row: &usize| left[row * size + column].abs();
        let pivot = (column..size).max_by(|a, b| magnitude(a).total_cmp(&magnitude(b)));
        let pivot = pivot.unwrap_or(column);
        if pivot != column {
            for at in 0..size {
                left.swap(pivot * size + at, column * size + at);
                right.swap(pivot * size + at, column * size + at);
            }
        }
        let inverse = 1.0 / left[column * size + column];
        for at in 0..size {
            left[column * size + at] *= inverse;
            right[column * size + at] *= inverse;
        }
        let (pivot_left, pivot_right) = (
            left[column * size..(column + 1) * size].to_vec(),
            right[column * size..(column + 1) * size].to_vec(),
        );
        for row in (0..size).filter(|row| *row != column) {
            let factor = left[row * size + column];
            if factor == 0.0 {
                continue;
            }
            for at in column..size {
                left[row * size + at] -= factor * pivot_left[at];
            }
            for at in 0..size {
                right[row * size + at] -= factor * pivot_right[at];
            }
        }
    }
    right
}

/// `out = factors · rows`, for each block of `size` rows its own factors: `factor(block, i, j)`.
fn multiply(
    blocks: &[f32],
    rows: &[f32],
    out: &mut [f32],
    [size, width]: [usize; 2],
    factor: impl Fn(&[f32], usize, usize) -> f32 + Sync,
) {
    let group = (size * width).max(1);
    let blocks = blocks.par_chunks((size * size).max(1));
    out.par_chunks_mut(group).zip(rows.par_chunks(group)).zip(blocks).for_each(
        |((out, rows), block)| {
            for (i, out) in out.chunks_mut(width).enumerate() {
                for (j, row) in rows.chunks(width).enumerate() {
                    let factor = factor(block, i, j);
                    out.iter_mut().zip(row).for_each(|(out, value)| *out += factor * value);
                }
            }
        },
    );
}

/// The order in which a stage of a BOFT takes the rows: of every `2 · half` rows, the first and the one `half`
/// further, then the next two.
struct Order {
    half: usize,
}

impl Order {
    fn of(stage: usize, size: usize) -> Self {
        Self { half: (size / 2) << stage }
    }

    /// The row that comes to this place.
    fn source(&self, place: usize) -> usize {
        let (group, within) = (place / (2 * self.half), place % (2 * self.half));
        group * 2 * self.half + within % 2 * self.half + within / 2
    }

    /// The place that this row comes to.
    fn place(&self, row: usize) -> usize {
        let (group, within) = (row / (2 * self.half), row % (2 * self.half));
        group * 2 * self.half + within % self.half * 2 + within / self.half
    }
}

/// Rows in another order: row `n` of the result is row `source(n)`.
fn permuted(rows: &[f32], width: usize, source: impl Fn(usize) -> usize + Sync) -> Vec<f32> {
    let mut out = vec![0.0; rows.len()];
    out.par_chunks_mut(width.max(1)).enumerate().for_each(|(to, out)| {
        let from = source(to) * width;
        if let Some(row) = rows.get(from..from + width) {
            out.copy_from_slice(row);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cayley_transform_is_a_rotation() {
        // Q = [[0, t], [−t, 0]] turns by twice the arc tangent of t.
        let t = 0.4_f64;
        let (sin, cos) = (2.0 * t.atan()).sin_cos();
        let expected = [cos, sin, -sin, cos];
        for (value, expected) in cayley(&[0.0, t, -t, 0.0], 2).iter().zip(expected) {
            assert!((value - expected).abs() < 1e-12, "{value}, not {expected}");
        }
    }

    #[test]
    fn places_and_sources_are_inverse() {
        for (stage, size) in [(0, 4), (1, 4), (2, 2), (0, 2)] {
            let order = Order::of(stage, size);
            for row in 0..48 {
                assert_eq!(order.source(order.place(row)), row);
            }
        }
        // Rows 0 and 2 of each four, then 1 and 3.
        let order = Order::of(0, 4);
        assert_eq!([0, 1, 2, 3, 4].map(|place| order.source(place)), [0, 2, 1, 3, 4]);
    }
}
