//! The machine as the shared options describe it: its devices and its model folders.

use std::env;
use std::path::PathBuf;

use distorch_allocation::{DeviceId, DeviceInfo, Topology};
use distorch_checkpoint::folders::{FolderWarning, ModelFolders, default_base_dir};
use distorch_runtime::caches;
use distorch_runtime::devices::{self, Hardware, Survey};

use crate::args::Shared;
use crate::error::{CliError, cut};

/// The devices that are really there, and those that `--simulate` declares.
pub fn survey(shared: &Shared) -> Result<Survey, CliError> {
    let mut survey = devices::survey();
    if shared.simulate.trim().is_empty() {
        return Ok(survey);
    }
    let topology = topology(&survey)?
        .simulate(&shared.simulate)
        .map_err(|error| CliError::usage(format!("`--simulate`, {error}")))?;
    let hardware = |info: &DeviceInfo| {
        let real = survey.devices.iter().find(|device| device.info == *info);
        real.cloned().unwrap_or_else(|| simulated(info.clone()))
    };
    survey.devices = topology.devices().iter().map(hardware).collect();
    Ok(survey)
}

/// As [`survey`], for commands that compute: what accelerators learn from now on is kept for the next run.
pub fn survey_to_compute(shared: &Shared) -> Result<Survey, CliError> {
    let found = survey(shared)?;
    found.warnings.iter().for_each(|warning| warn(warning));
    caches::keep(&found);
    Ok(found)
}

/// The planner's view of the devices.
pub fn topology(survey: &Survey) -> Result<Topology, CliError> {
    let devices = survey.devices.iter().map(|device| device.info.clone()).collect();
    Topology::new(devices).map_err(CliError::internal)
}

/// A simulated device computes on the host, whatever it is called.
fn simulated(info: DeviceInfo) -> Hardware {
    Hardware {
        info,
        api: "simulated on flex".to_owned(),
        dtypes: vec!["f64", "f32", "f16", "bf16"],
    }
}

/// What to do about devices that are not there.
pub fn advice(absent: &[DeviceId]) -> String {
    let declared: Vec<String> = absent.iter().map(|device| format!("{device}=8GiB")).collect();
    let declare = format!("declare what is not there with `--simulate {}`", declared.join(","));
    match absent.iter().map(|device| device.kind()).find(|kind| !devices::is_built(*kind)) {
        None => format!("`distorch devices` says why a device may be missing; or {declare}"),
        Some(kind) => format!(
            "this build has no {kind} backend: build it with `--features {kind}`, or {declare}"
        ),
    }
}

/// The model folders below the base folder and those of the extra files.
pub fn folders(shared: &Shared) -> Result<ModelFolders, CliError> {
    let base = match &shared.base_dir {
        Some(dir) if !dir.is_dir() => {
            return Err(CliError::usage(format!("`--base-dir {}` is not a folder", dir.display()))
                .hint("name the folder that holds `models/`"));
        }
        Some(dir) => dir.clone(),
        None => {
            let comfyui = env::var_os("COMFYUI_PATH").map(PathBuf::from);
            default_base_dir(&env::current_dir()?, comfyui.as_deref())
        }
    };
    ModelFolders::new(&base, &shared.extra_model_paths).map_err(CliError::usage)
}

/// Prints what was noticed while looking for models.
pub fn print_warnings(warnings: &[FolderWarning]) {
    for warning in warnings {
        warn(&warning.to_string());
    }
}

/// Prints a warning to standard error.
pub fn warn(message: &str) {
    let style = clap::builder::styling::AnsiColor::Yellow.on_default().bold();
    tell!("{style}warning{style:#}: {}", cut(message));
}
