//! `distorch bench operators`: single operators in the shapes that models have.
//!
//! Programs get the table with `--list --json`, so that another library can be timed in the same shapes.

use distorch_bench::operators::{self, Operator, Times};
use distorch_bench::progress::Reporter as _;
use distorch_runtime::{DType, tensor};
use serde::Serialize;

use super::{listed, open, set_threads};
use crate::args::{OperatorSet, OperatorsArgs, Shared};
use crate::commands::{Table, print_text};
use crate::error::CliError;
use crate::progress::Terminal;

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
    Times {
        device: String,
        dtype: &'static str,
        threads: usize,
        #[serde(flatten)]
        times: Times,
    },
    Failed {
        device: String,
        dtype: &'static str,
        error: String,
    },
}

/// Times operators, or lists them.
pub fn run(shared: &Shared, args: &OperatorsArgs) -> Result<(), CliError> {
    let sets = match args.set.as_slice() {
        [] => &[OperatorSet::Sd15, OperatorSet::Sdxl, OperatorSet::Flux],
        sets => sets,
    };
    let only = args.only.as_deref().unwrap_or_default();
    let chosen: Vec<Operator> = sets
        .iter()
        .flat_map(|set| operators::operators((*set).into()))
        .filter(|operator| operator.name.contains(only))
        .collect();
    if chosen.is_empty() {
        return Err(CliError::usage(format!("`--only {only}`: no operator has that in its name"))
            .hint("`distorch bench operators --list` shows them"));
    }
    let show = |operator: &Operator, outcome: Option<Outcome>| {
        let line = Timed { operator, flops: operator.shape.flops(), outcome };
        match args.json {
            true => print_text(&serde_json::to_string(&line).map_err(CliError::internal)?),
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
        return Err(CliError::usage(format!("`--dtype`: {} does not compute in it", args.device)));
    }
    let threads = set_threads(args.threads)?;
    let mut rows = Table::new(["Operator", "First", "Best", "Median", "TFLOP/s"], &[1, 2, 3, 4]);
    let progress = Terminal.stage("operators", chosen.len() as u64);
    let mut failed = 0;
    for operator in &chosen {
        let timed = operators::time(operator, &device, dtype, args.rounds as usize);
        progress.advance();
        rows.add_row(row(operator, &timed));
        failed += usize::from(timed.is_err());
        let (device, dtype) = (args.device.clone(), dtype.name());
        let outcome = match timed {
            Ok(times) => Outcome::Times { device, dtype, threads, times },
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
        _ => Err(CliError::internal(format!("{failed} of {} operators failed", chosen.len()))),
    }
}

fn row(operator: &Operator, timed: &Result<Times, String>) -> [String; 5] {
    let milliseconds = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
    match timed {
        Err(error) => {
            [operator.name.clone(), error.clone(), String::new(), String::new(), String::new()]
        }
        Ok(times) => {
            let rate = match operator.shape.flops() {
                0 => String::new(),
                flops => format!("{:.2}", flops as f64 / times.min_seconds / 1e12),
            };
            let [first, least, median] =
                [times.first_seconds, times.min_seconds, times.median_seconds].map(milliseconds);
            [operator.name.clone(), first, least, median, rate]
        }
    }
}
