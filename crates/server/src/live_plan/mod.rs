//! Where the layers of a checkpoint would go, as a page that asks for it at each change of a form needs it.

mod problem;

use distorch_allocation::{
    ComponentInputs, LayoutChoice, LoaderInputs, LoaderSettings, Plan, Setting, Topology,
    VirtualVram,
};
use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::source::ModelFiles;
use distorch_models::estimate::Workload;
use distorch_pipeline::Session;
use distorch_pipeline::error::chain;
use distorch_pipeline::models::{Loader, Tasks};
use distorch_workflow::remedy;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use problem::Problem;

/// The components that are planned.
const COMPONENTS: [ComponentKind; 3] =
    [ComponentKind::DiffusionModel, ComponentKind::TextEncoders, ComponentKind::Vae];

/// The most pictures and the longest side that are planned for.
const MOST: u32 = 16_384;

/// The inputs of `CheckpointLoaderAdvancedDisTorch2MultiGPU`, and the picture that is to be made. What is left out is as
/// the node has it by default.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct Asked {
    /// The checkpoint.
    pub ckpt_name: String,
    /// The device that computes the diffusion model.
    pub unet_compute_device: Option<String>,
    /// GiB of it that live on the donor; `"auto"` for the least that fits.
    #[schema(value_type = Option<Object>)]
    pub unet_virtual_vram_gb: Option<Gigabytes>,
    /// The donor.
    pub unet_donor_device: Option<String>,
    /// Where it goes, instead of virtual VRAM.
    pub unet_expert_mode_allocations: String,
    /// The device that computes the text encoders.
    pub clip_compute_device: Option<String>,
    /// GiB of them that live on the donor; `"auto"` for the least that fits.
    #[schema(value_type = Option<Object>)]
    pub clip_virtual_vram_gb: Option<Gigabytes>,
    /// The donor.
    pub clip_donor_device: Option<String>,
    /// Where they go, instead of virtual VRAM.
    pub clip_expert_mode_allocations: String,
    /// The device of the VAE.
    pub vae_device: Option<String>,
    /// Whether other models leave first; true where it is left out.
    pub eject_models: Option<bool>,
    /// `auto`, `distorch2` or `interleave`; the server's own where it is left out.
    pub layout: Option<String>,
    /// The picture's width in pixels; what the checkpoint was trained on where it is left out.
    pub width: Option<u32>,
    /// The picture's height in pixels.
    pub height: Option<u32>,
    /// Pictures at once.
    pub batch_size: Option<u32>,
}

/// An amount of virtual VRAM.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Gigabytes {
    /// GiB.
    Number(f64),
    /// A number, or `auto`.
    Text(String),
}

/// What is answered.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The plan.
    Planned(Box<Planned>),
    /// Why there is none.
    Failed(Failed),
}

/// Why there is no plan.
#[derive(Debug, Serialize, ToSchema)]
pub struct Failed {
    /// What is wrong, the first problem of each component.
    pub errors: Vec<Problem>,
}

/// A plan.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The checkpoint.
    pub model: PlannedModel,
    /// Whether every component fits.
    pub fits: bool,
    /// What each device is to hold, and the most it needs.
    pub devices: Vec<PlannedDevice>,
    /// The components' plans, as `distorch plan --json` prints them.
    pub components: Vec<PlannedComponent>,
}

/// The checkpoint of a plan.
#[derive(Debug, Serialize)]
pub struct PlannedModel {
    /// Its name.
    pub name: String,
    /// Its family, in words.
    pub label: String,
    /// Bytes of its components.
    pub bytes: u64,
    /// The size of the pictures that it was trained on.
    pub native: Size,
}

/// A size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// From left to right.
    pub width: u32,
    /// From top to bottom.
    pub height: u32,
}

/// A device in a plan.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct PlannedDevice {
    /// Its name in this program.
    pub id: String,
    /// The hardware's name.
    pub name: String,
    /// All of its memory, in bytes.
    pub total: u64,
    /// What was free of it before any model was loaded.
    pub free: u64,
    /// Whether it is simulated.
    pub simulated: bool,
    /// Bytes of weights that are to live there.
    pub held_bytes: u64,
    /// Those, and the most that a component needs while it computes there.
    pub peak_bytes: u64,
    /// Whether that is there.
    pub fits: bool,
}

/// A component's plan.
#[derive(Debug, Serialize)]
pub struct PlannedComponent {
    /// The plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// Its warnings in words.
    pub messages: Vec<String>,
}

/// Plans what is asked for. Nothing is loaded or promised.
pub fn answer(session: &Session, asked: &Asked) -> Answer {
    match plan(session, asked) {
        Ok(planned) => Answer::Planned(Box::new(planned)),
        Err(errors) => Answer::Failed(Failed { errors }),
    }
}

fn plan(session: &Session, asked: &Asked) -> Result<Planned, Vec<Problem>> {
    let settings = settings(session, asked)?;
    let of_checkpoint = |problem: String| vec![Problem { problem, ..Problem::of("ckpt_name") }];
    let name = &asked.ckpt_name;
    let path = session.folders.resolve(ModelKind::Checkpoints, name);
    let path = path.map_err(|error| of_checkpoint(error.to_string()))?;
    let files = ModelFiles::from(path);
    let file = session.models.open(name, &files).map_err(|error| of_checkpoint(chain(&error)))?;
    let native = file.native();
    let side = |given: Option<u32>, native: u32| given.unwrap_or(native).clamp(16, MOST);
    let picture = Workload {
        width: side(asked.width, native.width),
        height: side(asked.height, native.height),
        batch: asked.batch_size.unwrap_or(1).clamp(1, MOST),
        ..native
    };
    let kinds: Vec<ComponentKind> = file.model.components.iter().map(|part| part.kind).collect();
    let kinds: Vec<ComponentKind> =
        COMPONENTS.into_iter().filter(|kind| kinds.contains(kind)).collect();
    let plans = session.models.plan(&Loader {
        name,
        files: &files,
        settings: &settings,
        kinds: &kinds,
        high_precision_loras: true,
        eject_models: asked.eject_models.unwrap_or(true),
        tasks: Tasks::picture(picture),
    });
    let plans =
        plans.map_err(|error| vec![Problem { problem: chain(&error), ..Problem::default() }])?;
    Ok(Planned {
        model: PlannedModel {
            name: name.clone(),
            label: file.model.label(),
            bytes: plans.iter().fold(0, |sum, plan| sum.saturating_add(plan.bytes)),
            native: Size { width: native.width, height: native.height },
        },
        fits: plans.iter().all(|plan| plan.fits),
        devices: devices(&plans, session.topology()),
        components: plans
            .into_iter()
            .map(|plan| PlannedComponent {
                messages: plan.warnings.iter().map(ToString::to_string).collect(),
                plan,
            })
            .collect(),
    })
}

/// What every device holds of all plans together, and the most it needs while one of them runs.
fn devices(plans: &[Plan], topology: &Topology) -> Vec<PlannedDevice> {
    let of_device = |info: &distorch_allocation::DeviceInfo| {
        let shares =
            plans.iter().flat_map(|plan| &plan.devices).filter(|share| share.device == info.id);
        let held = shares.fold(0_u64, |sum, share| sum.saturating_add(share.memory_bytes));
        let running = || plans.iter().filter(|plan| plan.compute_device == info.id);
        let transient =
            running().map(|plan| plan.peak_bytes.saturating_sub(plan.resident_bytes)).max();
        let peak = held.saturating_add(transient.unwrap_or(0));
        PlannedDevice {
            id: info.id.to_string(),
            name: info.name.clone(),
            total: info.total,
            free: info.free,
            simulated: info.simulated,
            held_bytes: held,
            peak_bytes: peak,
            fits: running().all(|plan| plan.fits) && held <= info.free,
        }
    };
    topology.devices().iter().map(of_device).collect()
}

/// The settings that the inputs mean, or the first problem of each component.
fn settings(session: &Session, asked: &Asked) -> Result<LoaderSettings, Vec<Problem>> {
    let topology = session.topology();
    let mut errors = Vec::new();
    let layout = asked.layout.as_deref().map_or(Ok(session.layout), str::parse::<LayoutChoice>);
    let layout = layout.unwrap_or_else(|error| {
        errors.push(Problem { problem: error.to_string(), ..Problem::of("layout") });
        session.layout
    });
    let standard = LoaderInputs { layout, ..LoaderInputs::default() };
    let unet = asked.component("unet", &standard.unet);
    let clip = asked.component("clip", &standard.clip);
    let vae_device = asked.vae_device.clone();
    // One component at a time, so that a problem of one does not hide those of others.
    let mut alone = |inputs: LoaderInputs, standing: &[Problem]| match standing {
        [] => inputs
            .settings(topology)
            .map_err(|error| errors.push(Problem::of_setting(&error, &inputs, topology)))
            .ok(),
        found => {
            errors.extend_from_slice(found);
            None
        }
    };
    let (unet_problem, unet) = split(unet, &standard.unet);
    let (clip_problem, clip) = split(clip, &standard.clip);
    let whole = LoaderInputs { vae_device, ..standard.clone() };
    let with_unet = alone(LoaderInputs { unet: unet.clone(), ..standard.clone() }, &unet_problem);
    let with_clip = alone(LoaderInputs { clip: clip.clone(), ..standard.clone() }, &clip_problem);
    let with_vae = alone(whole, &[]);
    match (with_unet, with_clip, with_vae) {
        (Some(unet), Some(clip), Some(vae)) if errors.is_empty() => {
            Ok(LoaderSettings { unet: unet.unet, clip: clip.clip, vae: vae.vae })
        }
        _ => Err(errors),
    }
}

/// The inputs of a component, or the problem and what stands for them.
fn split(
    inputs: Result<ComponentInputs, Problem>,
    standard: &ComponentInputs,
) -> (Vec<Problem>, ComponentInputs) {
    match inputs {
        Ok(inputs) => (Vec::new(), inputs),
        Err(problem) => (vec![problem], standard.clone()),
    }
}

impl Asked {
    /// The inputs of a component.
    fn component(
        &self,
        component: &str,
        standard: &ComponentInputs,
    ) -> Result<ComponentInputs, Problem> {
        let (device, gigabytes, donor, allocation) = match component {
            "unet" => (
                &self.unet_compute_device,
                &self.unet_virtual_vram_gb,
                &self.unet_donor_device,
                &self.unet_expert_mode_allocations,
            ),
            _ => (
                &self.clip_compute_device,
                &self.clip_virtual_vram_gb,
                &self.clip_donor_device,
                &self.clip_expert_mode_allocations,
            ),
        };
        let virtual_vram = match gigabytes {
            None => Ok(standard.virtual_vram),
            Some(Gigabytes::Number(number)) => VirtualVram::gigabytes(*number),
            Some(Gigabytes::Text(text)) => text.parse(),
        };
        let virtual_vram = virtual_vram.map_err(|error| Problem {
            problem: error.to_string(),
            ..Problem::of(&remedy::input_name(component, Setting::VirtualVram))
        })?;
        Ok(ComponentInputs {
            compute_device: device.clone().or_else(|| standard.compute_device.clone()),
            virtual_vram,
            donors: donor.clone().unwrap_or_else(|| standard.donors.clone()),
            allocation: allocation.clone(),
        })
    }
}
