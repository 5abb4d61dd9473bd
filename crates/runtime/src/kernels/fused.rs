//! Attention in one kernel on accelerators, for those that prove themselves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::tensor::{DType, Device, Tensor, TensorData};

/// Queries, keys and values, `[batch, heads, tokens, d]`.
pub(super) type Operands = [Tensor<4>; 3];

/// The size of a head comes in multiples of so many.
const TILE: usize = 16;

/// The environment variable by which the kernel is used untried (`1`), or not at all (`0`).
const VARIABLE: &str = "DISTORCH_FLASH_ATTENTION";

/// What was tried where, for which size of a head, and whether it was right.
static TRIALS: Mutex<Vec<(Device, DType, usize, bool)>> = Mutex::new(Vec::new());

/// Attention without a bias in one kernel, where the device has one for the operands that agrees with `by_scores`; else by
/// that.
///
/// Heads of other sizes than multiples of 16 are filled up with zeros, which add nothing to scores. The kernel divides by the
/// root of the size that it sees, so queries are scaled before.
pub(super) fn attend(
    operands: Operands,
    causal: bool,
    by_scores: &dyn Fn(Operands, bool) -> Tensor<4>,
) -> Tensor<4> {
    let [query, key, value] = operands;
    let ([batch, heads, queries, d], keys) = (query.dims(), key.dims()[2]);
    let (device, dtype) = (query.device(), query.dtype());
    let filled = d.next_multiple_of(TILE);
    let size = [queries, keys, filled];
    if !distorch_cube::has_flash_attention(&device, dtype, size)
        || !is_right(&device, dtype, filled, by_scores)
    {
        return by_scores([query, key, value], causal);
    }
    if filled == d {
        return distorch_cube::flash_attention(query, key, value, causal)
            .unwrap_or_else(|operands| by_scores(operands, causal));
    }
    let fill = |x: Tensor<4>| {
        let tokens = x.dims()[2];
        let zeros = Tensor::zeros([batch, heads, tokens, filled - d], (&device, dtype));
        Tensor::cat(vec![x, zeros], 3)
    };
    let operands = [query * (filled as f64 / d as f64).sqrt(), key, value].map(fill);
    let [query, key, value] = operands;
    let y = distorch_cube::flash_attention(query, key, value, causal);
    y.unwrap_or_else(|operands| by_scores(operands, causal)).narrow(3, 0, d)
}

/// Whether the kernel for heads of this size agrees with the scores' way on this device: tried out once, unless
/// [`VARIABLE`] says it.
pub(super) fn is_right(
    device: &Device,
    dtype: DType,
    d: usize,
    by_scores: &dyn Fn(Operands, bool) -> Tensor<4>,
) -> bool {
    match std::env::var(VARIABLE).as_deref() {
        Ok("0") => return false,
        Ok("1") => return true,
        _ => {}
    }
    let mut trials = TRIALS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |trial: &&(Device, DType, usize, bool)| {
        &trial.0 == device && (trial.1, trial.2) == (dtype, d)
    };
    if let Some((.., right)) = trials.iter().find(known) {
        return *right;
    }
    let trial = || differs_by(device, dtype, d, by_scores);
    // A kernel that could not be compiled panics when its result is read.
    let error = catch_unwind(AssertUnwindSafe(trial)).ok().flatten();
    // Four roundings of values up to 1, as in the tests of a device.
    let most = if dtype == DType::F16 { 2e-3 } else { 1.6e-2 };
    let right = error.is_some_and(|error| error < most);
    trials.push((device.clone(), dtype, d, right));
    right
}

/// By how much results of some queries and keys differ at most; `None` where there is no result.
fn differs_by(
    device: &Device,
    dtype: DType,
    d: usize,
    by_scores: &dyn Fn(Operands, bool) -> Tensor<4>,
) -> Option<f32> {
    // Two images, whose tokens have their heads beside each other, as projections leave them.
    let made = |seed: usize| {
        let [batch, tokens, heads] = [2, 8 * TILE, 3];
        let count = batch * tokens * heads * d;
        let value = |at: usize| ((at * 7919 + seed * 104_729) % 20_011) as f32 / 10_005.5 - 1.0;
        let values: Vec<f32> = (0..count).map(value).collect();
        let data = TensorData::new(values, [batch, tokens, heads, d]).convert_dtype(dtype);
        Tensor::<4>::from_data(data, (device, dtype)).swap_dims(1, 2)
    };
    let operands = || [1, 2, 3].map(made);
    let [query, key, value] = operands();
    let fused = distorch_cube::flash_attention(query, key, value, false).ok()?;
    let read = |y: Tensor<4>| y.into_data().convert::<f32>().to_vec::<f32>().ok();
    let (fused, expected) = (read(fused)?, read(by_scores(operands(), false))?);
    let differences = || fused.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let right = fused.len() == expected.len() && differences().all(f32::is_finite);
    right.then(|| differences().fold(0.0, f32::max))
}
