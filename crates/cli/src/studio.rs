//! An executor as the shared options describe it, and its failures as a user reads them.

use std::path::Path;

use distorch_allocation::{ByteSize, report};
use distorch_runtime::DType;
use distorch_workflow::{Environment, ExecutionError, Executor, NodeError};

use crate::args::{ComputeArgs, Shared};
use crate::commands::table;
use crate::failure::Failure;
use crate::machine;

/// An executor on the machine's devices and folders. Ctrl-C stops its runs at the next step; a
/// second one ends the program.
pub fn executor(shared: &Shared, compute: &ComputeArgs) -> Result<Executor, Failure> {
    let topology = machine::topology(&machine::survey(shared)?)?;
    let dtype = compute.dtype.map(DType::from);
    let mut environment = Environment::on(machine::folders(shared)?, topology)
        .with_models(|models| models.with_dtype(dtype).with_pin(compute.pin));
    if let Some(layout) = compute.layout {
        environment.layout = layout.into();
    }
    let interrupt = environment.interrupt();
    let stop = move || {
        if interrupt.is_raised() {
            std::process::exit(130);
        }
        interrupt.raise();
        anstream::eprintln!("stopping after this step; again to end at once");
    };
    ctrlc::set_handler(stop).map_err(Failure::machine)?;
    Ok(Executor::new(environment))
}

/// A failed run as a failure of the command.
pub fn failure(error: ExecutionError) -> Failure {
    match error {
        ExecutionError::Interrupted { .. } => Failure::interrupted(error),
        ExecutionError::Invalid(_)
        | ExecutionError::Node { source: NodeError::Input { .. }, .. } => Failure::input(error),
        ExecutionError::Node { .. } => Failure::machine(error),
    }
}

/// What each device was to hold for each model and what it held at most; empty where nothing is
/// loaded.
pub fn memory(executor: &Executor) -> String {
    let mut table =
        table(["component", "device", "planned", "peak", "moved", "waited"], &[2, 3, 4, 5]);
    let mut rows = 0;
    for (part, stats) in executor.environment().models.stats() {
        for held in &stats.devices {
            let compute = held.device == part.compute_device();
            let only =
                |text: String| if compute && stats.transfers > 0 { text } else { String::new() };
            table.add_row([
                part.plan().component.clone(),
                report::device_name(held.device, held.simulated),
                ByteSize(held.planned_bytes).to_string(),
                ByteSize(held.peak_bytes).to_string(),
                only(ByteSize(stats.bytes_moved).to_string()),
                only(format!("{:.2} s", stats.stall_seconds)),
            ]);
            rows += 1;
        }
    }
    if rows == 0 { String::new() } else { table.to_string() }
}

/// A path as a user reads it: from the working directory where it lies below.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    relative.unwrap_or_else(|| path.to_owned()).display().to_string()
}
