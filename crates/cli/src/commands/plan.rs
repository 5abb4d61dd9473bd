//! `distorch plan`.

use std::path::Path;

use distorch_allocation::{
    BlockFile, ComponentBlocks, ComponentSettings, DeviceInfo, Ledger, LoaderInputs,
    LoaderSettings, Plan, Topology, plan_model, report,
};
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::{Component, ComponentKind};
use distorch_models::estimate::{self, Compute, Picture};
use distorch_runtime::placement;
use serde::Serialize;

use super::{print_json, print_text, recognise};
use crate::args::{LoaderArgs, PlanArgs, Shared};
use crate::failure::Failure;
use crate::given_file;
use crate::machine;
use crate::model_file;

/// What `plan --json` prints.
#[derive(Serialize)]
struct PlanOutput<'a> {
    model: &'a str,
    fits: bool,
    devices: &'a [DeviceInfo],
    components: &'a [Plan],
}

/// Prints what goes where.
pub fn run(shared: &Shared, args: &PlanArgs) -> Result<(), Failure> {
    let topology = machine::topology(&machine::survey(shared)?)?;
    // Wrong inputs are told before a file is opened.
    let settings = settings(&args.loader, &topology)?;
    let (model, components) = components(shared, args, &settings, &topology)?;
    let parts: Vec<(ComponentBlocks, ComponentSettings)> = components
        .into_iter()
        .map(|component| {
            let settings = settings_for(component.name(), &settings);
            (component, settings)
        })
        .collect();
    let mut ledger = Ledger::new(topology.clone());
    let plans = plan_model(&model, &parts, &mut ledger).map_err(Failure::input)?;
    if args.json {
        return print_json(&PlanOutput {
            model: &model,
            fits: plans.iter().all(|plan| plan.fits),
            devices: topology.devices(),
            components: &plans,
        });
    }
    let mut text = format!("{model}\n\n");
    for plan in &plans {
        text += &format!("{}\n", report::component(plan));
    }
    text += &format!("all components together\n{}", report::totals(&plans, &topology));
    print_text(&text)
}

/// The loader's inputs on this machine.
fn settings(args: &LoaderArgs, topology: &Topology) -> Result<LoaderSettings, Failure> {
    let inputs = LoaderInputs {
        unet_compute_device: args.unet_compute_device.clone(),
        unet_virtual_vram_gb: args.unet_virtual_vram_gb.clone(),
        unet_donor_device: args.unet_donor_device.clone(),
        clip_compute_device: Some(args.clip_compute_device.clone()),
        clip_virtual_vram_gb: args.clip_virtual_vram_gb.clone(),
        clip_donor_device: args.clip_donor_device.clone(),
        vae_device: args.vae_device.clone(),
        unet_expert_mode_allocations: args.unet_expert_mode_allocations.clone(),
        clip_expert_mode_allocations: args.clip_expert_mode_allocations.clone(),
        layout: args.layout.into(),
    };
    inputs.settings(topology).map_err(|error| {
        let hint = error.unknown_device.as_ref();
        let hint = hint.map(|unknown| machine::advice(&[unknown.device]));
        Failure::input(error).maybe_hint(hint)
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

/// The name and the components of what is planned: a checkpoint, or a list of blocks.
fn components(
    shared: &Shared,
    args: &PlanArgs,
    settings: &LoaderSettings,
    topology: &Topology,
) -> Result<(String, Vec<ComponentBlocks>), Failure> {
    match (&args.ckpt_name, &args.blocks) {
        (Some(name), _) => {
            let path = model_file::path(&machine::folders(shared)?, ModelKind::Checkpoints, name)?;
            Ok((name.clone(), checkpoint_components(&path, args, settings, topology)?))
        }
        (None, Some(path)) => {
            let name = path.display().to_string();
            let text = given_file::read(path)
                .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
                .map_err(|error| Failure::input(format!("cannot read `{name}`: {error}")))?;
            let file = BlockFile::from_json(&text)
                .map_err(|error| Failure::input(format!("`{name}`: {error}")))?;
            Ok((name, file.components))
        }
        (None, None) => Err(Failure::input("name a checkpoint, or a file with `--blocks`")),
    }
}

fn checkpoint_components(
    path: &Path,
    args: &PlanArgs,
    settings: &LoaderSettings,
    topology: &Topology,
) -> Result<Vec<ComponentBlocks>, Failure> {
    let (_, model) = recognise(path)?;
    let native = Picture::native(&model);
    let picture = Picture {
        width: args.width.unwrap_or(native.width),
        height: args.height.unwrap_or(native.height),
        batch: args.batch,
        ..native
    };
    let blocks = |component: &Component| {
        let device = settings_for(component.kind.short_name(), settings).compute_device;
        let simulated = topology.get(device).is_ok_and(|info| info.simulated);
        // The CPU, which simulated devices are, computes in f32, and so does a VAE; accelerators
        // compute the rest in two bytes.
        let host = device.is_cpu() || simulated;
        let wide = host || component.kind == ComponentKind::Vae;
        let compute = Compute { element: if wide { 4 } else { 2 }, host };
        let activations = estimate::activation_bytes(&model, component, picture, compute);
        placement::blocks(component, activations).map_err(Failure::input)
    };
    model.components.iter().map(blocks).collect()
}
