//! Single operators in the shapes that models have.
//!
//! [`operators`] lists them, [`time`] times one with the kernels that models call.

mod table;

use std::any::Any;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use distorch_runtime::tensor::{self, AnyTensor, TensorData};
use distorch_runtime::{DType, Device, Tensor, kernels};
use serde::Serialize;

pub use self::table::{Operator, Shape, operators};
use crate::random;

/// Whose shapes operators have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorSet {
    /// SD 1.5 at 512×512, both halves of the guidance.
    Sd15,
    /// SDXL at 1024×1024, both halves of the guidance.
    Sdxl,
    /// Flux at 1024×1024.
    Flux,
    /// No model's: small and odd shapes, to see that it works.
    Tiny,
}

/// Calls are timed together until they take this long, which waiting for the device is little of.
const LONG_ENOUGH: f64 = 0.005;
/// But no more than so many, and none whose results take more than this together.
const MOST_CALLS: usize = 64;
const MOST_BYTES: usize = 1 << 30;

/// How long an operator took.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// Seconds of the first call, which tunes and compiles kernels.
    pub first_seconds: f64,
    /// Calls that are timed together.
    pub calls: usize,
    /// Seconds of one call, each time.
    pub seconds: Vec<f64>,
    /// Seconds of the fastest.
    pub min_seconds: f64,
    /// Seconds of the one in the middle.
    pub median_seconds: f64,
}

/// Times an operator.
///
/// # Errors
/// With what Burn or a driver panicked with: other operators can be timed all the same.
pub fn time(
    operator: &Operator,
    device: &Device,
    dtype: DType,
    rounds: usize,
) -> Result<Times, String> {
    let (first_seconds, calls, seconds) = calls(operator.shape, device, dtype, rounds)?;
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let (low, high) =
        (sorted.get((sorted.len().saturating_sub(1)) / 2), sorted.get(sorted.len() / 2));
    let (Some(least), Some(low), Some(high)) = (sorted.first(), low, high) else {
        return Err("it was timed in no round".to_owned());
    };
    let (min_seconds, median_seconds) = (*least, (low + high) / 2.0);
    Ok(Times { first_seconds, calls, min_seconds, median_seconds, seconds })
}

/// The first call, the calls of a round, and each round's seconds of a call.
fn calls(
    shape: Shape,
    device: &Device,
    dtype: DType,
    rounds: usize,
) -> Result<(f64, usize, Vec<f64>), String> {
    let work = || {
        let call = prepare(shape, device, dtype);
        let elapsed = |calls: usize| {
            tensor::wait(device);
            let start = Instant::now();
            // Results that nobody keeps might not be computed.
            let results: Vec<AnyTensor> = (0..calls).map(|_| call()).collect();
            tensor::wait(device);
            let seconds = start.elapsed().as_secs_f64();
            black_box(results);
            seconds
        };
        let first = elapsed(1);
        let one = elapsed(1).max(1e-7);
        let fit = MOST_BYTES / (shape.values() * dtype.size()).max(1);
        let calls = ((LONG_ENOUGH / one).ceil() as usize).clamp(1, MOST_CALLS).min(fit.max(1));
        if calls > 1 {
            // Takes the memory for as many results.
            elapsed(calls);
        }
        let seconds = (0..rounds).map(|_| elapsed(calls) / calls as f64).collect();
        // What went wrong on the device is met by who reads.
        call().into_data()?;
        Ok((first, calls, seconds))
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(message(&*panic)))
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked without a word").to_owned()
}

/// The operator with random inputs on the device.
fn prepare(shape: Shape, device: &Device, dtype: DType) -> Box<dyn Fn() -> AnyTensor> {
    let inputs = Inputs { device, dtype };
    let precision = kernels::Precision::of(dtype);
    match shape {
        Shape::Conv { batch, inputs: channels, outputs, height, width, kernel, stride } => {
            let x = inputs.activations([batch, channels, height, width]);
            let weight = inputs.weight([outputs, channels, kernel, kernel]);
            let bias = inputs.activations([outputs]);
            Box::new(move || {
                let (x, weight, bias) = (x.clone(), weight.clone(), Some(bias.clone()));
                AnyTensor::from_tensor(kernels::conv2d(
                    x,
                    weight,
                    bias,
                    stride,
                    kernel / 2,
                    precision,
                ))
            })
        }
        Shape::Linear { batch, rows, inputs: features, outputs } => {
            let x = inputs.activations([batch, rows, features]);
            let weight = inputs.weight([outputs, features]);
            let bias = inputs.activations([outputs]);
            Box::new(move || {
                let (x, weight, bias) = (x.clone(), weight.clone(), Some(bias.clone()));
                AnyTensor::from_tensor(kernels::linear(
                    x,
                    weight,
                    bias,
                    kernels::Rows::Tokens,
                    precision,
                ))
            })
        }
        Shape::Attention { batch, queries, keys, heads, dim } => {
            let query = inputs.activations([batch, queries, heads * dim]);
            let [key, value] = [1, 2].map(|_| inputs.activations([batch, keys, heads * dim]));
            Box::new(move || {
                let (query, key, value) = (query.clone(), key.clone(), value.clone());
                let result = kernels::attention(query, key, value, heads, false, None, precision);
                AnyTensor::from_tensor(result)
            })
        }
        Shape::GroupNorm { batch, channels, height, width, groups } => {
            let x = inputs.activations([batch, channels, height, width]);
            let [weight, bias] = [1, 2].map(|_| inputs.activations([channels]));
            Box::new(move || {
                let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
                AnyTensor::from_tensor(kernels::group_norm(x, groups, weight, bias, 1e-5, true))
            })
        }
        Shape::LayerNorm { batch, rows, features } => {
            let x = inputs.activations([batch, rows, features]);
            let [weight, bias] = [1, 2].map(|_| inputs.activations([features]));
            Box::new(move || {
                let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
                AnyTensor::from_tensor(kernels::layer_norm(x, weight, bias, 1e-5))
            })
        }
    }
}

/// Makes inputs.
struct Inputs<'a> {
    device: &'a Device,
    dtype: DType,
}

impl Inputs<'_> {
    /// Values from -1 to 1.
    fn activations<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        self.scaled(shape, 1.0, kernels::activation_dtype(self.device, self.dtype))
    }

    /// Values that keep results as large as inputs.
    fn weight<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let inputs: usize = shape.iter().skip(1).product();
        self.scaled(shape, (3.0 / inputs as f32).sqrt(), self.dtype)
    }

    fn scaled<const D: usize>(&self, shape: [usize; D], scale: f32, dtype: DType) -> Tensor<D> {
        let mut values = random::uniform(1, shape.iter().product());
        values.iter_mut().for_each(|value| *value *= scale);
        let data = TensorData::new(values, shape).convert_dtype(dtype);
        Tensor::from_data(data, (self.device, dtype))
    }
}
