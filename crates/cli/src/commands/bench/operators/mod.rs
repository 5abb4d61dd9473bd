//! `distorch bench operators`: single operators in the shapes that models have.
//!
//! [`table`] says which, this file times them with the kernels that models call. Programs get the
//! table with `--list --json`, so that another library can be timed in the same shapes.

mod table;

use std::any::Any;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use distorch_runtime::tensor::{self, AnyTensor, TensorData};
use distorch_runtime::{DType, Device, Tensor, kernels};
use serde::Serialize;

use self::table::{Operator, Shape};
use super::{listed, open, random, set_threads};
use crate::args::{OperatorSet, OperatorsArgs, Shared};
use crate::commands::{Table, print_text};
use crate::failure::Failure;
use crate::progress::Progress;

/// Calls are timed together until they take this long, which waiting for the device is little of.
const LONG_ENOUGH: f64 = 0.005;
/// But no more than so many, and none whose results take more than this together.
const MOST_CALLS: usize = 64;
const MOST_BYTES: usize = 1 << 30;

/// An operator and how long it took.
#[derive(Debug, Serialize)]
struct Timed<'a> {
    #[serde(flatten)]
    operator: &'a Operator,
    /// Of the products in a call.
    flops: u64,
    #[serde(flatten)]
    outcome: Option<Outcome>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Times(Times),
    Failed { device: String, dtype: &'static str, error: String },
}

#[derive(Debug, Serialize)]
struct Times {
    device: String,
    dtype: &'static str,
    threads: usize,
    /// Seconds of the first call, which tunes and compiles kernels.
    first_seconds: f64,
    /// Calls that are timed together.
    calls: usize,
    /// Seconds of one call, each time.
    seconds: Vec<f64>,
    min_seconds: f64,
    median_seconds: f64,
}

/// Times operators, or lists them.
pub fn run(shared: &Shared, args: &OperatorsArgs) -> Result<(), Failure> {
    let sets = match args.set.as_slice() {
        [] => &[OperatorSet::Sd15, OperatorSet::Sdxl, OperatorSet::Flux],
        sets => sets,
    };
    let only = args.only.as_deref().unwrap_or_default();
    let chosen: Vec<Operator> = sets
        .iter()
        .flat_map(|set| table::operators(*set))
        .filter(|operator| operator.name.contains(only))
        .collect();
    if chosen.is_empty() {
        return Err(Failure::input(format!("`--only {only}`: no operator has that in its name"))
            .hint("`distorch bench operators --list` shows them"));
    }
    let show = |operator: &Operator, outcome: Option<Outcome>| {
        let line = Timed { operator, flops: operator.shape.flops(), outcome };
        match args.json {
            true => print_text(&serde_json::to_string(&line).map_err(Failure::machine)?),
            false => Ok(()),
        }
    };
    if args.list {
        for operator in &chosen {
            show(operator, None)?;
        }
        let names: Vec<&str> = chosen.iter().map(|operator| operator.name.as_str()).collect();
        return if args.json { Ok(()) } else { print_text(&names.join("\n")) };
    }
    let device = open(&listed(shared, &args.device)?.0)?;
    let dtype = DType::from(args.dtype);
    if !tensor::supports(&device, dtype) {
        return Err(Failure::input(format!("`--dtype`: {} does not compute in it", args.device)));
    }
    let threads = set_threads(args.threads)?;
    let mut rows = Table::new(["Operator", "First", "Best", "Median", "TFLOP/s"], &[1, 2, 3, 4]);
    let progress = Progress::new("operators", chosen.len() as u64);
    let mut failed = 0;
    for operator in &chosen {
        let timed = time(operator.shape, &device, dtype, args.rounds as usize);
        progress.advance();
        rows.add_row(row(operator, &timed));
        failed += usize::from(timed.is_err());
        let (device, dtype) = (args.device.clone(), dtype.name());
        let outcome = match timed {
            Ok((first_seconds, calls, seconds)) => {
                let mut sorted = seconds.clone();
                sorted.sort_by(f64::total_cmp);
                let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
                Outcome::Times(Times {
                    device,
                    dtype,
                    threads,
                    first_seconds,
                    calls,
                    min_seconds: sorted[0],
                    median_seconds: median,
                    seconds,
                })
            }
            Err(error) => Outcome::Failed { device, dtype, error },
        };
        show(operator, Some(outcome))?;
    }
    drop(progress);
    if !args.json {
        let head = format!("{} in {}, {threads} threads", args.device, dtype.name());
        print_text(&format!("{head}\n{rows}"))?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::machine(format!("{failed} of {} operators failed", chosen.len()))),
    }
}

fn row(operator: &Operator, timed: &Result<(f64, usize, Vec<f64>), String>) -> [String; 5] {
    let milliseconds = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
    match timed {
        Err(error) => {
            [operator.name.clone(), error.clone(), String::new(), String::new(), String::new()]
        }
        Ok((first, _, seconds)) => {
            let mut sorted = seconds.clone();
            sorted.sort_by(f64::total_cmp);
            let rate = match operator.shape.flops() {
                0 => String::new(),
                flops => format!("{:.2}", flops as f64 / sorted[0] / 1e12),
            };
            let median = milliseconds(sorted[sorted.len() / 2]);
            [operator.name.clone(), milliseconds(*first), milliseconds(sorted[0]), median, rate]
        }
    }
}

/// Times one operator: the first call, the calls of a round, and each round's seconds of a call.
///
/// # Errors
/// With what Burn or a driver panicked with: other operators can be timed all the same.
fn time(
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
