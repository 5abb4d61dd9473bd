//! `distorch bench`: how fast this machine runs a model, and with how much memory.
//!
//! What is measured is `distorch-bench`'s. This names the device and the model, and prints; [`offload`], [`link`],
//! [`operators`] and [`lora`] are benchmarks of their own.

mod link;
mod lora;
mod offload;
mod operators;
mod report;

use std::time::Instant;

use distorch_allocation::{DeviceId, DeviceIdError, DeviceInfo, Topology};
use distorch_bench::Subject;
use distorch_bench::stages::Stages;
use distorch_checkpoint::Checkpoint;
use distorch_checkpoint::family::Model;
use distorch_checkpoint::folders::ModelKind;
use distorch_models::estimate::Workload;
use distorch_runtime::{DType, Device, devices, usage};

use super::{native, print_json, print_text, recognise};
use crate::args::{BenchArgs, BenchCommand, Shared};
use crate::error::CliError;
use crate::machine;
use crate::model_file;
use crate::progress::Terminal;
use crate::threads;
use report::Report;

/// Times text encoding, steps of the diffusion model and decoding.
pub fn run(shared: &Shared, args: &BenchArgs) -> Result<(), CliError> {
    match &args.command {
        Some(BenchCommand::Offload(args)) => return offload::run(shared, args),
        Some(BenchCommand::Link(args)) => return link::run(shared, args),
        Some(BenchCommand::Operators(args)) => return operators::run(shared, args),
        Some(BenchCommand::Lora(args)) => return lora::run(shared, args),
        None => {}
    }
    let device = open(&listed(shared, &args.device)?.0)?;
    let threads = set_threads(args.threads)?;
    let start = Instant::now();
    let subject = subject(shared, args)?;
    let size = [args.width, args.height];
    let picture = picture(size, args.batch, &subject.checkpoint, &subject.model);
    let dtype = DType::from(args.dtype);
    let stages = Stages::load(&subject, &device, dtype, picture, &Terminal)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let loaded_peak = usage::peak_memory();
    let stages = stages.run(args.steps, &Terminal)?;
    let report = Report {
        model: subject.label(),
        weights: subject.weights(),
        device: args.device.clone(),
        dtype: dtype.name(),
        threads,
        width: picture.width,
        height: picture.height,
        batch: picture.batch,
        load_seconds,
        stages,
        loaded_peak_bytes: loaded_peak,
        peak_bytes: usage::peak_memory(),
    };
    if args.json { print_json(&report) } else { print_text(&report.text()) }
}

/// Opens the checkpoint that the arguments name, or lists the tensors of a random one.
fn subject(shared: &Shared, args: &BenchArgs) -> Result<Subject, CliError> {
    if let Some(random) = args.random {
        return Ok(Subject::random(random.into())?);
    }
    let folders = machine::folders(shared)?;
    let name = args.ckpt.as_deref().unwrap_or_default();
    let path = model_file::path(&folders, ModelKind::Checkpoints, name)?;
    let (checkpoint, model) = recognise(&path)?;
    Ok(Subject::opened(checkpoint, model))
}

/// The device of this name, with the machine that has it.
fn listed(shared: &Shared, name: &str) -> Result<(DeviceInfo, Topology), CliError> {
    let topology = machine::topology(&machine::survey_to_compute(shared)?)?;
    let wrong = |error| CliError::usage(format!("`--device {name}`: {error}"));
    let id: DeviceId = name.parse().map_err(|error: DeviceIdError| wrong(error.to_string()))?;
    let info = topology
        .get(id)
        .cloned()
        .map_err(|unknown| wrong(unknown.to_string()).hint(machine::advice(&[unknown.device])))?;
    Ok((info, topology))
}

/// The device, to compute on.
fn open(info: &DeviceInfo) -> Result<Device, CliError> {
    devices::open(info).map_err(|error| CliError::usage(format!("`--device`: {error}")))
}

/// Limits the CPU's kernels to so many threads, and tells how many there are.
fn set_threads(count: Option<u32>) -> Result<usize, CliError> {
    threads::start(count.map(|count| count as usize))?;
    Ok(rayon::current_num_threads())
}

/// The picture that is asked for, else one of the size that the model was made for.
fn picture(
    [width, height]: [Option<u32>; 2],
    batch: u32,
    checkpoint: &Checkpoint,
    model: &Model,
) -> Workload {
    let native = native(checkpoint, model);
    let (width, height) = (width.unwrap_or(native.width), height.unwrap_or(native.height));
    Workload { width, height, batch, ..native }
}
