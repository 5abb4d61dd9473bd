//! What can be asked on the command line.

mod bench;
mod make;
mod number;
mod parts;
mod serve;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use distorch_allocation::{Layout, LayoutChoice, LoaderInputs, Number};

use number::whole;

pub use bench::{BenchArgs, BenchCommand, OffloadArgs, RandomModel};
pub use make::{ComputeArgs, GenerateArgs, NodesArgs, RunArgs};
pub use number::SeedArg;
pub use parts::{LinkArgs, LoraBenchArgs, OperatorSet, OperatorsArgs};
pub use serve::{LogFormat, RunningArgs, ServeArgs, WorkerArgs};

/// Runs diffusion checkpoints that do not fit on one device.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub shared: Shared,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  distorch run workflow_api.json
  distorch generate --ckpt sd_xl_base_1.0.safetensors --prompt 'a lighthouse at dawn'
  distorch devices
  distorch models checkpoints
  distorch inspect sd_xl_base_1.0.safetensors
  distorch plan sd_xl_base_1.0.safetensors --unet-virtual-vram-gb 3
  distorch plan big.safetensors --simulate 'cuda:0=8GiB,cuda:1=6GiB@12GB/s' \\
      --unet-expert-mode-allocations 'cuda:0,70%;cuda:1,30%'

Exit codes: 0 done, 1 failure, 2 bad usage or input, 130 stopped.";

/// What every command takes.
#[derive(Debug, Args)]
pub struct Shared {
    /// Folder that holds `models/` [default: the working directory if it has one, else $COMFYUI_PATH]
    #[arg(long, global = true, value_name = "DIR")]
    pub base_dir: Option<PathBuf>,

    /// A further `extra_model_paths.yaml`; may repeat
    #[arg(long, global = true, value_name = "YAML", action = ArgAction::Append)]
    pub extra_model_paths: Vec<PathBuf>,

    /// Declare simulated devices, held in RAM under a hard limit:
    /// `cuda:0=8GiB,cuda:1=6GiB@12GB/s`
    #[arg(
        long,
        global = true,
        value_name = "DEVICES",
        default_value = "",
        hide_default_value = true
    )]
    pub simulate: String,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the devices that this build can reach
    Devices(DevicesArgs),
    /// List the model files
    Models(ModelsArgs),
    /// Tell what a checkpoint is and what is in it
    Inspect(InspectArgs),
    /// Tell what goes where, and whether it fits, without loading anything
    Plan(Box<PlanArgs>),
    /// Make a picture from a checkpoint and a prompt
    Generate(Box<GenerateArgs>),
    /// Run a ComfyUI workflow
    Run(Box<RunArgs>),
    /// Serve ComfyUI's API: a queue of prompts, their progress and their pictures
    Serve(Box<ServeArgs>),
    /// Run prompts of a queue that servers on other machines fill
    Worker(Box<WorkerArgs>),
    /// List the nodes that workflows may use
    Nodes(NodesArgs),
    /// Time a model on this machine
    Bench(Box<BenchArgs>),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch devices
  distorch devices --json
  distorch devices --simulate 'cuda:0=24GiB,cuda:1=8GiB@6GB/s'")]
pub struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch models
  distorch models loras --base-dir ~/ComfyUI
  distorch models checkpoints --extra-model-paths ~/ComfyUI/extra_model_paths.yaml --json")]
pub struct ModelsArgs {
    /// Kind of model: checkpoints, loras, vae, vae_approx, text_encoders (clip), diffusion_models (unet),
    /// embeddings, upscale_models, controlnet [default: all]
    pub kind: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch inspect sd_xl_base_1.0.safetensors
  distorch inspect ./downloads/model.ckpt --layers
  distorch inspect flux1-dev-fp8.safetensors --json | jq .family")]
pub struct InspectArgs {
    /// Name of a checkpoint, or the path of any model file
    pub checkpoint: String,

    /// List every layer in definition order
    #[arg(long)]
    pub layers: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch plan sd_xl_base_1.0.safetensors
  distorch plan sd_xl_base_1.0.safetensors --unet-virtual-vram-gb auto
  distorch plan flux1-dev.safetensors --unet-compute-device cuda:0 --unet-virtual-vram-gb 8 \\
      --unet-donor-device cuda:1,cpu
  distorch plan flux1-dev.safetensors --unet-expert-mode-allocations 'cuda:0,6gb;cpu,*'
  distorch plan big.safetensors --width 1536 --height 1024 --batch 2 --check
  distorch plan --blocks model.json --simulate 'cuda:0=24GiB' --json")]
pub struct PlanArgs {
    /// Name of a checkpoint, or the path of one
    #[arg(value_name = "CKPT", required_unless_present = "blocks", conflicts_with = "blocks")]
    pub ckpt_name: Option<String>,

    /// Plan the components and blocks that this JSON file lists, instead of a checkpoint
    /// (docs/blocks.md)
    #[arg(long, value_name = "FILE")]
    pub blocks: Option<PathBuf>,

    #[command(flatten)]
    pub loader: LoaderArgs,

    /// Width of the picture in pixels, for the estimate of activations [default: the family's own]
    #[arg(
        long,
        value_parser = whole(16..=16384),
        allow_hyphen_values = true,
        help_heading = "Estimate"
    )]
    pub width: Option<u32>,

    /// Height of the picture in pixels
    #[arg(
        long,
        value_parser = whole(16..=16384),
        allow_hyphen_values = true,
        help_heading = "Estimate"
    )]
    pub height: Option<u32>,

    /// Pictures at once
    #[arg(
        long,
        default_value_t = 1,
        value_parser = whole(1..=4096),
        allow_hyphen_values = true,
        help_heading = "Estimate"
    )]
    pub batch: u32,

    /// End with exit code 1 where a component does not fit
    #[arg(long)]
    pub check: bool,

    /// Print JSON, with the placement block by block
    #[arg(long)]
    pub json: bool,
}

/// The inputs of `CheckpointLoaderAdvancedDisTorch2MultiGPU`, by name, with its defaults.
#[derive(Debug, Args)]
#[command(next_help_heading = "The loader's inputs")]
pub struct LoaderArgs {
    /// Device that computes the diffusion model [default: the first accelerator, else cpu]
    #[arg(long, value_name = "DEVICE")]
    pub unet_compute_device: Option<String>,

    /// GiB of the diffusion model that move to the donors, 0.0 to 128.0, or `auto`: the least
    /// that fits
    #[arg(long, value_name = "GIB", default_value_t = gigabytes(LoaderInputs::UNET_GIGABYTES), allow_hyphen_values = true)]
    pub unet_virtual_vram_gb: String,

    /// Devices that lend their memory to the diffusion model, in order: `cuda:1,cpu`
    #[arg(long, value_name = "DEVICES", default_value = "cpu")]
    pub unet_donor_device: String,

    /// Device that computes the text encoders
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub clip_compute_device: String,

    /// GiB of the text encoders that move to the donors, 0.0 to 128.0, or `auto`
    #[arg(long, value_name = "GIB", default_value_t = gigabytes(LoaderInputs::CLIP_GIGABYTES), allow_hyphen_values = true)]
    pub clip_virtual_vram_gb: String,

    /// Devices that lend their memory to the text encoders, in order
    #[arg(long, value_name = "DEVICES", default_value = "cpu")]
    pub clip_donor_device: String,

    /// Device that holds and computes the VAE [default: the first accelerator, else cpu]
    #[arg(long, value_name = "DEVICE")]
    pub vae_device: Option<String>,

    /// Where the diffusion model goes, instead of virtual VRAM: `cuda:0,70%;cuda:1,30%` (ratio),
    /// `cuda:0,2gb;cpu,*` (bytes) or `cuda:0,0.5;cpu,0.2` (fraction of each device)
    #[arg(long, value_name = "ALLOCATION", default_value = "", hide_default_value = true)]
    pub unet_expert_mode_allocations: String,

    /// Where the text encoders go, instead of virtual VRAM
    #[arg(long, value_name = "ALLOCATION", default_value = "", hide_default_value = true)]
    pub clip_expert_mode_allocations: String,

    /// Keep layers that a LoRA changes in the compute dtype, instead of the checkpoint's
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub high_precision_loras: bool,

    /// Which blocks leave: `distorch2` takes them from the end, `interleave` spreads them evenly, `auto`
    /// does so where the window is small and a step waits less for them
    #[arg(long, value_enum, default_value_t = LayoutArg::Auto)]
    pub layout: LayoutArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayoutArg {
    Auto,
    Distorch2,
    Interleave,
}

impl From<LayoutArg> for LayoutChoice {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Auto => LayoutChoice::Auto,
            LayoutArg::Distorch2 => LayoutChoice::Fixed(Layout::Distorch2),
            LayoutArg::Interleave => LayoutChoice::Fixed(Layout::Interleave),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch completions bash > ~/.local/share/bash-completion/completions/distorch
  distorch completions zsh > ~/.zfunc/_distorch")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

fn gigabytes(number: Number) -> String {
    format!("{:.1}", number.to_f64())
}
