//! `distorch plan`.

use distorch_allocation::{
    BlockFile, ComponentBlocks, ComponentInputs, ComponentSettings, DeviceInfo, Ledger,
    LoaderInputs, LoaderSettings, Plan, PlanWarning, Setting, Topology, VirtualVram, plan_model,
    report,
};
use distorch_checkpoint::family::Model;
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::{Checkpoint, ComponentKind};
use distorch_models::estimate::Workload;
use distorch_pipeline::models::Tasks;
use distorch_pipeline::models::planning::{Planning, Subject};
use distorch_workflow::remedy;
use serde::Serialize;
use serde_json::Value as Json;

use super::{native, print_json, print_text, recognise};
use crate::args::{LoaderArgs, PlanArgs, Shared};
use crate::error::CliError;
use crate::given_file;
use crate::machine;
use crate::model_file;
use crate::terminal;

/// What `plan --json` prints.
#[derive(Serialize)]
struct PlanOutput<'a> {
    model: &'a str,
    fits: bool,
    devices: &'a [DeviceInfo],
    components: &'a [Plan],
}

/// Prints what goes where. With `--check`, what does not fit is a failure.
pub fn run(shared: &Shared, args: &PlanArgs) -> Result<(), CliError> {
    let topology = machine::topology(&machine::survey(shared)?)?;
    // Wrong inputs are told before a file is opened.
    let settings = settings(&args.loader, &topology)?;
    let (model, plans) = plans(shared, args, &settings, &topology)?;
    if args.json {
        print_json(&PlanOutput {
            model: &model,
            fits: plans.iter().all(|plan| plan.fits),
            devices: topology.devices(),
            components: &plans,
        })?;
    } else {
        let mut text = format!("{model}\n\n");
        for plan in &plans {
            text += &format!("{}\n", report::component(plan, terminal::columns()));
        }
        let totals = report::totals(&plans, &topology, terminal::columns());
        text += &format!("all components together\n{totals}");
        print_text(&text)?;
    }
    match plans.iter().find(|plan| !plan.fits) {
        // Programs have been told in the plan.
        Some(plan) if args.check => Err(too_large(plan).with_json(&Json::Null)),
        _ => Ok(()),
    }
}

/// What does not fit, with what it needs and what there is.
fn too_large(plan: &Plan) -> CliError {
    let told = plan.warnings.iter().filter(|warning| {
        matches!(warning, PlanWarning::DoesNotFit { .. } | PlanWarning::RoomFromAnother { .. })
    });
    let told: Vec<String> = told.map(ToString::to_string).collect();
    CliError::internal(format!("`{}` does not fit: {}", plan.component, told.join("; ")))
}

/// The loader's inputs on this machine.
fn settings(args: &LoaderArgs, topology: &Topology) -> Result<LoaderSettings, CliError> {
    let virtual_vram = |component: &str, text: &str| {
        text.parse::<VirtualVram>().map_err(|error| {
            let name = remedy::input_name(component, Setting::VirtualVram);
            CliError::usage(format!("`{name}`: {error}"))
        })
    };
    let inputs = LoaderInputs {
        unet: ComponentInputs {
            compute_device: args.unet_compute_device.clone(),
            virtual_vram: virtual_vram("unet", &args.unet_virtual_vram_gb)?,
            donors: args.unet_donor_device.clone(),
            allocation: args.unet_expert_mode_allocations.clone(),
        },
        clip: ComponentInputs {
            compute_device: Some(args.clip_compute_device.clone()),
            virtual_vram: virtual_vram("clip", &args.clip_virtual_vram_gb)?,
            donors: args.clip_donor_device.clone(),
            allocation: args.clip_expert_mode_allocations.clone(),
        },
        vae_device: args.vae_device.clone(),
        layout: args.layout.into(),
    };
    inputs.settings(topology).map_err(|error| {
        let hint = error.unknown_device.as_ref();
        let hint = hint.map(|unknown| machine::advice(&[unknown.device]));
        CliError::usage(remedy::input_error(&error)).maybe_hint(hint)
    })
}

/// The settings for a component by its name; what is none of the three is placed whole with the
/// diffusion model.
fn settings_for(component: &str, settings: &LoaderSettings) -> ComponentSettings {
    match component {
        "unet" => settings.unet.clone(),
        "clip" => settings.clip.clone(),
        "vae" => settings.vae.clone(),
        _ => ComponentSettings::new(settings.unet.compute_device),
    }
}

/// The name and the plans of what is planned: a checkpoint, or a list of blocks.
fn plans(
    shared: &Shared,
    args: &PlanArgs,
    settings: &LoaderSettings,
    topology: &Topology,
) -> Result<(String, Vec<Plan>), CliError> {
    let mut ledger = Ledger::new(topology.clone());
    match (&args.ckpt_name, &args.blocks) {
        (Some(name), _) => {
            let path = model_file::path(&machine::folders(shared)?, ModelKind::Checkpoints, name)?;
            let (checkpoint, model) = recognise(&path)?;
            let kinds: Vec<ComponentKind> = model.components.iter().map(|part| part.kind).collect();
            let tasks = Tasks::picture(picture(args, &checkpoint, &model));
            let subject = Subject { name, model: &model, kinds: &kinds, settings, tasks: &tasks };
            let planning = Planning { topology, dtype: None };
            let plans = planning.plans(&subject, &mut ledger, |_| None).map_err(CliError::usage)?;
            Ok((name.clone(), plans))
        }
        (None, Some(path)) => {
            let name = path.display().to_string();
            let text = given_file::read(path)
                .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
                .map_err(|error| CliError::usage(format!("cannot read `{name}`: {error}")))?;
            let file = BlockFile::from_json(&text)
                .map_err(|error| CliError::usage(format!("`{name}`: {error}")))?;
            let settings_for = |component: ComponentBlocks| {
                let settings = settings_for(component.name(), settings);
                (component, settings)
            };
            let parts: Vec<_> = file.components.into_iter().map(settings_for).collect();
            let plans = plan_model(&name, &parts, &mut ledger).map_err(CliError::usage)?;
            Ok((name, plans))
        }
        (None, None) => Err(CliError::usage("name a checkpoint, or a file with `--blocks`")),
    }
}

/// The picture to plan for.
fn picture(args: &PlanArgs, checkpoint: &Checkpoint, model: &Model) -> Workload {
    let native = native(checkpoint, model);
    Workload {
        width: args.width.unwrap_or(native.width),
        height: args.height.unwrap_or(native.height),
        batch: args.batch,
        ..native
    }
}
