//! What the options of `distorch generate` mean on this machine, and what is wrong with them.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use distorch_allocation::{
    ComponentInputs, DeviceId, LoaderInputs, Setting, Topology, VirtualVram,
};
use distorch_checkpoint::folders::ModelKind;
use distorch_models::estimate::Workload;
use distorch_pipeline::error::{Argument, chain};
use distorch_pipeline::image::Pictures;
use distorch_pipeline::request::{ComponentPlacement, Placement};
use distorch_pipeline::{Guidance, Lora, PipelineError, Session, TextToImage};

use crate::args::{GenerateArgs, SeedArg};
use crate::commands::{native, recognise};
use crate::error::CliError;
use crate::machine;
use crate::model_file;
use crate::remedy;
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
    /// Where the components go.
    pub placement: Placement,
    /// The picture to start from.
    pub image: Option<Image>,
}

/// A picture to start from.
pub struct Image {
    /// Its file's name.
    pub name: String,
    /// The picture, or the frames of an animation.
    pub pictures: Pictures,
}

impl Meaning {
    /// Finds the files, reads the checkpoint's header for the size of its pictures, and draws a seed
    /// where none is given.
    pub fn new(session: &Session, args: &GenerateArgs) -> Result<Self, CliError> {
        let (placement, device) = place(args, session.topology())?;
        let folders = &session.folders;
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
            placement,
            image: args.image.as_deref().map(open_image).transpose()?,
        })
    }

    /// What is asked of the pipeline.
    pub fn request(&self, args: &GenerateArgs) -> TextToImage {
        let loras = self.loras.iter();
        TextToImage {
            negative_prompt: args.negative.clone(),
            width: args.width,
            height: args.height,
            batch: args.batch,
            seed: self.seed,
            steps: args.steps as usize,
            cfg: args.cfg,
            guidance: args.guidance.map_or(Guidance::Usual, Guidance::Strength),
            sampler: args.sampler.clone(),
            scheduler: args.scheduler.clone(),
            denoise: args.denoise,
            loras: loras.map(|(name, strength)| Lora::new(name.as_str(), *strength)).collect(),
            clip_skip: args.clip_skip.map(|layer| layer as usize),
            placement: self.placement.clone(),
            ..TextToImage::new(self.checkpoint.as_str(), args.prompt.as_str())
        }
    }
}

/// A seed that nobody chose, of 50 bits: readers of JSON that hold all numbers as floats keep it whole.
fn random_seed() -> u64 {
    // The standard library's way to numbers of the system's.
    RandomState::new().hash_one(()) >> 14
}

/// Where the components go, and the device that computes.
fn place(args: &GenerateArgs, topology: &Topology) -> Result<(Placement, DeviceId), CliError> {
    let whole = ComponentInputs::whole_on(args.device.clone());
    let virtual_vram = match (args.virtual_vram_gb, &args.donor_device) {
        (Some(gigabytes), _) => VirtualVram::gigabytes(gigabytes).map_err(CliError::usage)?,
        // Gigabytes are the loader's own where only a donor is named.
        (None, Some(_)) => LoaderInputs::default().unet.virtual_vram,
        (None, None) => whole.virtual_vram,
    };
    let inputs = LoaderInputs {
        unet: ComponentInputs {
            virtual_vram,
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
    let device = settings.unet.compute_device;
    let diffusion_model = ComponentPlacement::from(settings.unet);
    Ok((Placement { diffusion_model, ..Placement::on(device) }, device))
}

/// The picture to start from.
fn open_image(path: &Path) -> Result<Image, CliError> {
    let wrong =
        |problem: String| CliError::usage(format!("`--image {}`: {problem}", path.display()));
    let found = fs::canonicalize(path).map_err(|error| wrong(error.to_string()))?;
    if found.is_dir() {
        return Err(wrong("this is a folder; name a picture in it".to_owned()));
    }
    let name = found.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| wrong("its name is not Unicode".to_owned()))?.to_owned();
    let pictures = Pictures::open(&found).map_err(|error| wrong(error.to_string()))?;
    Ok(Image { name, pictures })
}

/// A run that made no picture, with what is wrong told by option.
pub fn failure(error: PipelineError) -> CliError {
    if let Some(helps) = error.remedy() {
        return CliError::internal(format!("{}; {}", chain(&error), remedy::in_options(&helps)));
    }
    match error {
        PipelineError::Cancelled => CliError::interrupted("stopped"),
        PipelineError::Argument { argument, problem } => CliError::usage(match option(argument) {
            Some(option) => format!("`{option}`: {problem}"),
            None => format!("the {argument}: {problem}"),
        }),
        PipelineError::Failed(error) => session::failed(error),
    }
}

/// The option that says what a run is given.
const fn option(argument: Argument) -> Option<&'static str> {
    Some(match argument {
        Argument::Model => "--ckpt",
        Argument::Lora => "--lora",
        Argument::Placement => "--device",
        Argument::Width => "--width",
        Argument::Height => "--height",
        Argument::Batch => "--batch",
        Argument::Steps => "--steps",
        Argument::Cfg => "--cfg",
        Argument::Sampler => "--sampler",
        Argument::Scheduler => "--scheduler",
        Argument::Denoise => "--denoise",
        Argument::ClipSkip => "--clip-skip",
        Argument::Image | Argument::Pictures => "--image",
        Argument::Positive => "--prompt",
        Argument::Negative => "--negative",
        Argument::Guidance => "--guidance",
        Argument::Mask | Argument::Latent | Argument::Latents | Argument::Tiling => return None,
    })
}
