//! `distorch bench lora`: how long it takes to put a LoRA on a diffusion model, and to take it off.

use std::path::PathBuf;

use distorch_bench::lora::{LoraTimes, Target, measure};
use distorch_bench::random_file;
use distorch_checkpoint::folders::ModelKind;
use distorch_runtime::{DType, tensor};
use serde::Serialize;

use super::{listed, open, set_threads};
use crate::args::{LoraBenchArgs, Shared};
use crate::commands::{print_json, print_text, recognise};
use crate::error::CliError;
use crate::machine;
use crate::model_file;
use crate::progress::Terminal;

/// All figures of a run.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    device: String,
    dtype: &'static str,
    threads: usize,
    #[serde(flatten)]
    times: LoraTimes,
}

/// Times patching.
pub fn run(shared: &Shared, args: &LoraBenchArgs) -> Result<(), CliError> {
    let (info, topology) = listed(shared, &args.device)?;
    let device = open(&info)?;
    let dtype = DType::from(args.dtype);
    if !tensor::supports(&device, dtype) {
        return Err(CliError::usage(format!("`--dtype`: {} does not hold it", args.device)));
    }
    let threads = set_threads(args.threads)?;
    let (path, _file) = path(shared, args)?;
    let (checkpoint, model) = recognise(&path)?;
    let target = Target { info: &info, device: &device, topology, dtype };
    let times = measure(checkpoint, &model, target, (args.rank, args.rounds), &Terminal)?;
    let (device, dtype) = (args.device.clone(), dtype.name());
    let report = Report { model: model.label(), device, dtype, threads, times };
    if args.json { print_json(&report) } else { print_text(&text(&report)) }
}

/// The checkpoint, or a file of random weights.
fn path(
    shared: &Shared,
    args: &LoraBenchArgs,
) -> Result<(PathBuf, Option<tempfile::NamedTempFile>), CliError> {
    if let Some(random) = args.random {
        let file = random_file(random.into(), &Terminal)?;
        return Ok((file.path().to_owned(), Some(file)));
    }
    let folders = machine::folders(shared)?;
    let name = args.ckpt.as_deref().unwrap_or_default();
    Ok((model_file::path(&folders, ModelKind::Checkpoints, name)?, None))
}

fn text(report: &Report) -> String {
    let Report { model, device, dtype, threads, times } = report;
    let LoraTimes { rank, layers, first_seconds, .. } = times;
    let least = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let (on, off) = (least(&times.apply_seconds), least(&times.remove_seconds));
    format!(
        "{model}; {device} in {dtype}, {threads} threads, rank {rank}, {layers} layers\n\
         put on {on:.3} s ({first_seconds:.3} s the first time), taken off {off:.3} s"
    )
}
