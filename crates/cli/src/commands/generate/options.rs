//! What the options of `distorch generate` mean on this machine, and what is wrong with them.

use std::hash::{BuildHasher, RandomState};

use distorch_allocation::{
    ComponentInputs, DeviceId, LoaderInputs, Setting, Topology, VirtualVram,
};
use distorch_checkpoint::folders::ModelKind;
use distorch_models::estimate::Workload;
use distorch_workflow::validate::{Invalid, Problem};
use distorch_workflow::{Environment, ExecutionError};

use super::workflow::{FIRST_LORA, LOADER, SAMPLER};
use crate::args::{GenerateArgs, SeedArg};
use crate::commands::{native, recognise};
use crate::error::CliError;
use crate::machine;
use crate::model_file;
use crate::session;

/// What the options mean on this machine.
pub struct Meaning {
    /// The name that nodes find the checkpoint by.
    pub checkpoint: String,
    /// The names of LoRAs, with their strengths.
    pub loras: Vec<(String, f64)>,
    /// Width and height of the pictures.
    pub size: [u32; 2],
    /// Where noise starts.
    pub seed: u64,
    /// The device that computes.
    pub device: String,
}

impl Meaning {
    /// Finds the files, reads the checkpoint's header for the size of its pictures, and draws a seed
    /// where none is given.
    pub fn new(environment: &Environment, args: &GenerateArgs) -> Result<Self, CliError> {
        let device = check_devices(args, environment.session.topology())?;
        let folders = &environment.session.folders;
        let checkpoint = model_file::find(folders, ModelKind::Checkpoints, &args.ckpt)?;
        let loras = args.lora.iter().map(|lora| {
            let file = model_file::find(folders, ModelKind::Loras, &lora.name)?;
            Ok((file.name, lora.strength))
        });
        let loras = loras.collect::<Result<_, CliError>>()?;
        let (file, model) = recognise(&checkpoint.path)?;
        let Workload { width, height, .. } = native(&file, &model);
        Ok(Self {
            checkpoint: checkpoint.name,
            loras,
            size: [args.width.unwrap_or(width), args.height.unwrap_or(height)],
            seed: match args.seed {
                SeedArg::Given(seed) => seed,
                SeedArg::Random => random_seed(),
            },
            device: device.to_string(),
        })
    }
}

/// A seed that nobody chose, of 50 bits: readers of JSON that hold all numbers as floats keep it whole.
fn random_seed() -> u64 {
    // The standard library's way to numbers of the system's.
    RandomState::new().hash_one(()) >> 14
}

/// Checks what says where weights go, and returns the device that computes.
fn check_devices(args: &GenerateArgs, topology: &Topology) -> Result<DeviceId, CliError> {
    let whole = ComponentInputs::whole_on(args.device.clone());
    let gigabytes = VirtualVram::gigabytes(args.virtual_vram_gb.unwrap_or(0.0));
    let inputs = LoaderInputs {
        unet: ComponentInputs {
            virtual_vram: gigabytes.map_err(CliError::usage)?,
            donors: args.donor_device.clone().unwrap_or(whole.donors),
            allocation: args.expert_mode_allocations.clone().unwrap_or_default(),
            compute_device: whole.compute_device,
        },
        ..LoaderInputs::default()
    };
    let settings = inputs.settings(topology).map_err(|error| {
        let hint = error.unknown_device.as_ref();
        let hint = hint.map(|unknown| machine::advice(&[unknown.device]));
        let option = match error.setting {
            Setting::ComputeDevice => "--device",
            Setting::VirtualVram => "--virtual-vram-gb",
            Setting::Donors => "--donor-device",
            Setting::Allocation => "--expert-mode-allocations",
        };
        CliError::usage(error.named(option)).maybe_hint(hint)
    })?;
    Ok(settings.unet.compute_device)
}

/// Inputs of loaders, and the options that stand for them.
const LOADER_OPTIONS: [(&str, &str); 9] = [
    ("unet_compute_device", "--device"),
    ("clip_compute_device", "--device"),
    ("vae_device", "--device"),
    ("compute_device", "--device"),
    ("unet_virtual_vram_gb", "--virtual-vram-gb"),
    ("unet_donor_device", "--donor-device"),
    ("donor_device", "--donor-device"),
    ("unet_expert_mode_allocations", "--expert-mode-allocations"),
    ("ckpt_name", "--ckpt"),
];

/// Inputs of other nodes, and the options that stand for them.
const OPTIONS: [(&str, &str, &str); 12] = [
    (SAMPLER, "sampler_name", "--sampler"),
    (SAMPLER, "scheduler", "--scheduler"),
    (SAMPLER, "cfg", "--cfg"),
    (SAMPLER, "steps", "--steps"),
    (SAMPLER, "seed", "--seed"),
    (SAMPLER, "denoise", "--denoise"),
    ("5", "width", "--width"),
    ("5", "height", "--height"),
    ("5", "batch_size", "--batch"),
    ("10", "image", "--image"),
    ("11", "stop_at_clip_layer", "--clip-skip"),
    ("13", "amount", "--batch"),
];

/// A loader's message, with the options in the place of its inputs.
fn in_options(message: &str) -> String {
    LOADER_OPTIONS.iter().fold(message.to_owned(), |message, (input, option)| {
        message.replace(&format!("`{input}`"), &format!("`{option}`"))
    })
}

/// A failed run, with what is wrong told by option: the user wrote no workflow.
pub fn failure(error: ExecutionError) -> CliError {
    match error {
        ExecutionError::Invalid(invalid) => CliError::usage(lines(&invalid)),
        other => session::failure(other),
    }
}

fn lines(invalid: &Invalid) -> String {
    let mut lines = Vec::new();
    for (id, node) in &invalid.node_errors {
        for problem in &node.errors {
            lines.push(match option(id, problem) {
                Some(option) => {
                    let input = problem.extra_info["input_name"].as_str().unwrap_or_default();
                    let details = problem.details.strip_prefix(input).unwrap_or(&problem.details);
                    let details = details.trim_start_matches([':', ' ']);
                    let colon = if details.is_empty() { "" } else { ": " };
                    format!("`{option}`: {}{colon}{details}", problem.message)
                }
                None if problem.kind == "custom_validation_failed" => in_options(&problem.details),
                None => format!("{} ({}): {}", node.class_type, problem.message, problem.details),
            });
        }
    }
    lines.join("\n")
}

/// The option that a node's input stands for.
fn option(id: &str, problem: &Problem) -> Option<&'static str> {
    let input = problem.extra_info["input_name"].as_str()?;
    let loader = LOADER_OPTIONS.iter().find(|(name, _)| id == LOADER && *name == input);
    let lora = id.parse().is_ok_and(|id: usize| id >= FIRST_LORA).then_some("--lora");
    let other = OPTIONS.iter().find(|(node, name, _)| *node == id && *name == input);
    loader.map(|(_, option)| *option).or(other.map(|(.., option)| *option)).or(lora)
}
