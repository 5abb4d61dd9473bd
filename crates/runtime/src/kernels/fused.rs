//! Attention in one kernel on accelerators, for those that prove themselves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::tensor::{DType, Device, Tensor, TensorData};

/// Queries, keys and values, `[batch, heads, tokens, d]`.
pub(super) type Operands = [Tensor<4>; 3];

/// The environment variable by which the kernel is used untried (`1`), or not at all (`0`).
const VARIABLE: &str = "DISTORCH_FLASH_ATTENTION";

/// Queries in multiples of so many tiles are the fastest.
const TILES: usize = 8;

/// For fewer queries, scores are made sooner than queries are filled up.
const FEW: usize = 128;

/// What differs in the kernel's code.
#[derive(Clone, Debug, PartialEq)]
struct Variant {
    device: Device,
    dtype: DType,
    /// The side of tiles.
    tile: usize,
    /// The size of a head, a multiple of the tile's.
    d: usize,
    /// Whether keys fill their last tile.
    full: bool,
    causal: bool,
}

/// What was tried, and whether it was right.
static TRIALS: Mutex<Vec<(Variant, bool)>> = Mutex::new(Vec::new());

/// Attention without a bias in one kernel, where the device has one for the operands that agrees with `by_scores`; else by
/// that.
///
/// Heads of other sizes than multiples of a tile's are filled up with zeros, which add nothing to scores, and so are queries,
/// whose results are left out. The kernel divides by the root of the size that it sees, so queries are scaled before.
pub(super) fn attend(
    operands: Operands,
    causal: bool,
    by_scores: &dyn Fn(Operands, bool) -> Tensor<4>,
) -> Tensor<4> {
    let [query, key, _] = &operands;
    let ([_, _, queries, d], keys) = (query.dims(), key.dims()[2]);
    let variant = Variant::of(&query.device(), query.dtype(), d, keys, causal);
    // With a mask, the kernel counts places from the first, scores from the last.
    let Some(variant) = variant.filter(|_| !causal || keys == queries) else {
        return by_scores(operands, causal);
    };
    let rows = rows(queries, variant.tile);
    let few = rows != queries && queries < FEW;
    if few || !variant.is_right(by_scores) {
        return by_scores(operands, causal);
    }
    let scale = (variant.d as f64 / d as f64).sqrt();
    let [query, key, value] = operands.clone();
    let query = if variant.d == d { query } else { query * scale };
    let query = filled(filled(query, 3, variant.d), 2, rows);
    let [key, value] = [key, value].map(|x| filled(x, 3, variant.d));
    match distorch_cube::flash_attention(query, key, value, causal) {
        Ok(y) => y.narrow(2, 0, queries).narrow(3, 0, d),
        Err(_) => by_scores(operands, causal),
    }
}

/// How many queries the kernel is given for so many: few as they are fewer than eight tiles, in twos, fours and eights.
fn rows(queries: usize, tile: usize) -> usize {
    if queries > TILES / 2 * tile {
        return queries.next_multiple_of(TILES * tile);
    }
    queries.div_ceil(tile).next_power_of_two() * tile
}

/// With zeros behind, so that there are so many along this axis.
fn filled(x: Tensor<4>, axis: usize, count: usize) -> Tensor<4> {
    let mut shape = x.dims();
    if shape[axis] == count {
        return x;
    }
    shape[axis] = count - shape[axis];
    let zeros = Tensor::zeros(shape, (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], axis)
}

/// Whether the kernels for heads of size `d` agree with the scores' way on this device, with keys that fill their tiles and
/// that do not, with a mask and without; `None` where there are none.
pub(super) fn all_are_right(
    device: &Device,
    dtype: DType,
    d: usize,
    by_scores: &dyn Fn(Operands, bool) -> Tensor<4>,
) -> Option<bool> {
    let cases = [(64, false), (77, false), (64, true), (77, true)];
    let variants = cases.map(|(keys, causal)| Variant::of(device, dtype, d, keys, causal));
    let variants: Option<Vec<_>> = variants.into_iter().collect();
    Some(variants?.iter().all(|variant| variant.is_right(by_scores)))
}

impl Variant {
    /// The one for heads of about this size and so many keys, where the device has it.
    fn of(device: &Device, dtype: DType, d: usize, keys: usize, causal: bool) -> Option<Self> {
        let tile = distorch_cube::flash_tile(device, dtype, d)?;
        let (d, full) = (d.next_multiple_of(tile), keys.is_multiple_of(tile));
        Some(Self { device: device.clone(), dtype, tile, d, full, causal })
    }

    /// Whether it agrees with the scores' way: tried out once, unless [`VARIABLE`] says it.
    fn is_right(&self, by_scores: &dyn Fn(Operands, bool) -> Tensor<4>) -> bool {
        match std::env::var(VARIABLE).as_deref() {
            Ok("0") => return false,
            Ok("1") => return true,
            _ => {}
        }
        let mut trials = TRIALS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, right)) = trials.iter().find(|(tried, _)| tried == self) {
            return *right;
        }
        // A kernel that could not be compiled panics when its result is read.
        let error = catch_unwind(AssertUnwindSafe(|| self.differs_by(by_scores))).ok().flatten();
        // Four roundings of values up to 1, as in the tests of a device.
        let most = if self.dtype == DType::F16 { 2e-3 } else { 1.6e-2 };
        let right = error.is_some_and(|error| error < most);
        trials.push((self.clone(), right));
        right
    }

    /// By how much results of some queries and keys differ at most; `None` where there is no result.
    fn differs_by(&self, by_scores: &dyn Fn(Operands, bool) -> Tensor<4>) -> Option<f32> {
        // Two images, whose tokens have their heads beside each other, as projections leave them.
        let made = |seed: usize, tokens: usize| {
            let [batch, heads, d] = [2, 3, self.d];
            let count = batch * tokens * heads * d;
            let value = |at: usize| ((at * 7919 + seed * 104_729) % 20_011) as f32 / 10_005.5 - 1.0;
            let values: Vec<f32> = (0..count).map(value).collect();
            let data = TensorData::new(values, [batch, tokens, heads, d]).convert_dtype(self.dtype);
            Tensor::<4>::from_data(data, (&self.device, self.dtype)).swap_dims(1, 2)
        };
        let queries = TILES * self.tile;
        let keys = if self.full { queries } else { queries - self.tile / 2 - 3 };
        let asked = if self.causal { keys } else { queries };
        let operands = || [made(1, queries), made(2, keys), made(3, keys)];
        let [query, key, value] = operands();
        let fused = distorch_cube::flash_attention(query, key, value, self.causal).ok()?;
        let read =
            |y: Tensor<4>| y.narrow(2, 0, asked).into_data().convert::<f32>().to_vec::<f32>().ok();
        let [query, key, value] = operands();
        let expected = by_scores([query.narrow(2, 0, asked), key, value], self.causal);
        let (fused, expected) = (read(fused)?, read(expected)?);
        let differences = || fused.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let right = fused.len() == expected.len() && differences().all(f32::is_finite);
        right.then(|| differences().fold(0.0, f32::max))
    }
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn queries_come_in_eights_of_tiles_or_are_few() {
        for (queries, expected) in
            [(5, 16), (40, 64), (64, 64), (77, 128), (4096, 4096), (4250, 4352)]
        {
            assert_eq!(rows(queries, 16), expected);
        }
        assert_eq!(rows(77, 8), 128);
        assert_eq!(rows(30, 8), 32);
    }
}
