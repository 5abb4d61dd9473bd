//! A session or an executor as the shared options describe it, and its failures as a user reads them.

use std::collections::BTreeSet;
use std::path::Path;

use distorch_allocation::{ByteSize, DeviceId, Topology, report};
use distorch_pipeline::diffusion::noise::NoiseChoice;
use distorch_pipeline::models::Pinning;
use distorch_pipeline::{CancelToken, Session};
use distorch_runtime::DType;
use distorch_runtime::offload::StreamStats;
use distorch_workflow::validate::{Invalid, NodeProblems};
use distorch_workflow::{ExecutionError, NodeError};
use indexmap::IndexMap;

use crate::args::{ComputeArgs, Shared};
use crate::commands::Table;
use crate::ending;
use crate::error::CliError;
use crate::machine;

/// A session on the machine's devices and folders.
pub fn open(shared: &Shared, compute: &ComputeArgs) -> Result<Session, CliError> {
    on(machine::topology(&machine::survey_to_compute(shared)?)?, shared, compute)
}

/// A session on these devices and the folders.
pub fn on(topology: Topology, shared: &Shared, compute: &ComputeArgs) -> Result<Session, CliError> {
    let dtype = compute.dtype.map(DType::from);
    let mut session = Session::on(machine::folders(shared)?, topology).with_models(|models| {
        models.with_dtype(dtype).with_pin(compute.pin.choice()).with_auto_retry(compute.auto_retry)
    });
    session.allow_nan = compute.allow_nan;
    if let Some(layout) = compute.layout {
        session.layout = layout.into();
    }
    if let Some(noise) = compute.noise {
        session.noise = NoiseChoice::Always(noise.0);
    }
    Ok(session)
}

/// A session on the machine's devices and folders, and what cancels its run: Ctrl-C does so at the next step, also
/// before the run starts; a second one ends the program.
pub fn session(shared: &Shared, compute: &ComputeArgs) -> Result<(Session, CancelToken), CliError> {
    let session = open(shared, compute)?;
    let token = CancelToken::new();
    let cancel = token.clone();
    let stop = move || {
        if cancel.is_cancelled() {
            std::process::exit(130);
        }
        cancel.cancel();
        tell!("stopping after this step; again to end at once");
    };
    ctrlc::set_handler(stop).map_err(CliError::internal)?;
    Ok((session, token))
}

/// What to do about devices that a workflow names and this machine does not have.
pub fn absent_devices(
    node_errors: &IndexMap<String, NodeProblems>,
    topology: &Topology,
) -> Option<String> {
    let problems = node_errors.values().flat_map(|node| &node.errors);
    let named = problems.filter_map(|problem| match problem.kind {
        "value_not_in_list" => problem.extra_info["received_value"].as_str()?.parse().ok(),
        // Of an allocation only the message names the device.
        "custom_validation_failed" => {
            let after = problem.details.split_once("no device `")?.1;
            after.split('`').next()?.parse().ok()
        }
        _ => None,
    });
    let absent: BTreeSet<DeviceId> = named.filter(|id| topology.get(*id).is_err()).collect();
    let absent: Vec<DeviceId> = absent.into_iter().collect();
    (!absent.is_empty()).then(|| machine::advice(&absent))
}

/// A workflow that cannot be run, as a failure of the command.
pub fn invalid(invalid: &Invalid, topology: &Topology) -> CliError {
    let hint = absent_devices(&invalid.node_errors, topology);
    CliError::usage(invalid.to_string()).maybe_hint(hint).with_json(invalid)
}

/// A failed run as a failure of the command.
pub fn failure(error: ExecutionError) -> CliError {
    match error {
        ExecutionError::Interrupted { .. } => CliError::interrupted(error),
        ExecutionError::Invalid(ref invalid) => {
            CliError::usage(invalid.to_string()).with_json(invalid)
        }
        ExecutionError::Node { error: NodeError::Input { .. }, .. } => CliError::usage(error),
        ExecutionError::Node { .. } => failed(error.into()),
    }
}

/// A run that came to no end, with the place where a panic was raised, if one was.
pub fn failed(error: Box<dyn std::error::Error>) -> CliError {
    match ending::raised() {
        Some(place) => CliError::internal(format!("{error} ({place})")),
        None => CliError::internal(error),
    }
}

/// What each device was to hold for each model and what it held at most; empty where nothing is
/// loaded.
pub fn memory(session: &Session) -> String {
    let header = [
        "component",
        "device",
        "planned",
        "peak",
        "weights",
        "window",
        "activations",
        "moved",
        "waited",
    ];
    let mut table = Table::new(header, &[2, 3, 4, 5, 6, 7, 8]).optional(&[5, 6, 4, 8, 7]);
    let (mut rows, mut estimated, mut notes) = (0, false, String::new());
    for (part, stats) in session.models.stats() {
        notes += &pinned(&part.plan().component, part.pinning(), &stats);
        for held in &stats.devices {
            let compute = held.device == part.compute_device();
            let only = |shown: bool, text: String| if shown { text } else { String::new() };
            let size = |bytes: u64| ByteSize(bytes).to_string();
            let mark = if held.measured { "" } else { " *" };
            estimated |= compute && !held.measured;
            let streams = compute && stats.transfers > 0;
            table.add_row([
                part.plan().component.clone(),
                report::device_name(held.device, held.simulated),
                size(held.planned_bytes),
                size(held.peak_bytes),
                size(held.resident_bytes),
                only(streams, size(held.window_bytes)),
                only(compute, format!("{}{mark}", size(held.activation_bytes))),
                only(streams, size(stats.bytes_moved)),
                only(streams, format!("{:.2} s", stats.stall_seconds)),
            ]);
            rows += 1;
        }
    }
    match (rows, estimated) {
        (0, _) => String::new(),
        (_, true) => format!("{table}\n* as planned: this device does not tell{notes}"),
        (_, false) => format!("{table}{notes}"),
    }
}

/// What of a component is in page-locked memory, and why the rest is not; a line each.
fn pinned(component: &str, pinning: &Pinning, stats: &StreamStats) -> String {
    let mut text = String::new();
    if stats.pinned_bytes > 0 {
        text += &format!("\n{component}: pinned {}", ByteSize(stats.pinned_bytes));
    }
    if let Some(reason) = pinning.refused.as_ref().or(stats.pin_failure.as_ref()) {
        let all = if stats.pinned_bytes > 0 { "not all " } else { "not " };
        text += &format!("\n{component}: {all}pinned: {reason}");
    }
    text
}

/// A path as a user reads it: from the working directory where it lies below. Characters that would
/// control a terminal are written out.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    let text = relative.unwrap_or_else(|| path.to_owned()).display().to_string();
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_is_pinned_and_why_not() {
        let on = Pinning { on: true, refused: None };
        let mut stats = StreamStats { pinned_bytes: 3 << 30, ..StreamStats::default() };
        assert_eq!(pinned("unet", &on, &stats), "\nunet: pinned 3.00 GiB");
        stats.pin_failure = Some("the driver gave no more".to_owned());
        let told = "\nunet: pinned 3.00 GiB\nunet: not all pinned: the driver gave no more";
        assert_eq!(pinned("unet", &on, &stats), told);
        let refused = Some("6.10 GiB needed, 4.00 GiB free".to_owned());
        let refused = Pinning { on: false, refused };
        let told = "\nunet: not pinned: 6.10 GiB needed, 4.00 GiB free";
        assert_eq!(pinned("unet", &refused, &StreamStats::default()), told);
        assert_eq!(pinned("vae", &Pinning::default(), &StreamStats::default()), "");
    }
}
