//! What can be asked of the commands that make pictures.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use distorch_runtime::DType;

use super::LayoutArg;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch run workflow_api.json
  distorch run workflow_api.json --set 3.seed=7 --set 'CLIP Text Encode.text=a red circle'
  distorch run workflow_api.json --dry-run
  distorch run workflow_api.json --simulate 'cuda:0=8GiB,cuda:1=6GiB@12GB/s'

The workflow is ComfyUI's API format (Workflow, Export (API)). Pictures go to the output folder.")]
pub struct RunArgs {
    /// The workflow, or `-` for standard input
    pub workflow: PathBuf,

    /// Override an input: NODE is an id, a title or a class, VALUE is JSON or text; may repeat
    #[arg(long, value_name = "NODE.INPUT=VALUE", action = ArgAction::Append)]
    pub set: Vec<String>,

    /// Check the workflow and print what goes where, without loading anything
    #[arg(long)]
    pub dry_run: bool,

    /// Where pictures are saved [default: `output` in the base folder]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,

    /// Where pictures to load are found [default: `input` in the base folder]
    #[arg(long, value_name = "DIR")]
    pub input_dir: Option<PathBuf>,

    /// Leave the workflow out of the saved pictures
    #[arg(long)]
    pub disable_metadata: bool,

    /// Print what the output nodes show as JSON, and nothing else
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// How models are computed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Computing")]
pub struct ComputeArgs {
    /// Dtype of weights and activations [default: f32 on the CPU, f16 on accelerators]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeArg>,

    /// Which blocks leave the compute device
    #[arg(long, value_enum)]
    pub layout: Option<LayoutArg>,

    /// Keep weights that live on `cpu` in RAM, instead of in their file
    #[arg(long)]
    pub pin: bool,

    /// Where a device runs out of memory, take the allocation that would fit and go on
    #[arg(long)]
    pub auto_retry: bool,
}

/// A dtype to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    F32,
    F16,
    Bf16,
}

impl From<DtypeArg> for DType {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::F32 => DType::F32,
            DtypeArg::F16 => DType::F16,
            DtypeArg::Bf16 => DType::BF16,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch generate --ckpt tiny-shapes.safetensors --prompt 'a red circle on a white background'
  distorch generate --ckpt sd_xl_base_1.0.safetensors --prompt 'a lighthouse' --steps 30 \\
      --sampler dpmpp_2m --scheduler karras --cfg 6 --virtual-vram-gb 3 -o lighthouse.png
  distorch generate --ckpt v1-5-pruned.ckpt --prompt 'oil painting' --image photo.png --denoise 0.6")]
pub struct GenerateArgs {
    /// Name of a checkpoint in the model folders
    #[arg(long, value_name = "CKPT")]
    pub ckpt: String,

    /// What the picture should show; `(word:1.2)` weighs, `embedding:name` inserts an embedding
    #[arg(long, short)]
    pub prompt: String,

    /// What the picture should not show
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub negative: String,

    /// Width in pixels [default: the family's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..=16384))]
    pub width: Option<u32>,

    /// Height in pixels [default: the family's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..=16384))]
    pub height: Option<u32>,

    /// Steps of the sampler
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub steps: u32,

    /// How closely to follow the prompt; 1 leaves the negative prompt out
    #[arg(long, default_value_t = 8.0)]
    pub cfg: f64,

    /// Seed of the noise: the same one gives the same picture
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Sampler: euler, dpmpp_2m, … (`distorch nodes KSampler` lists them)
    #[arg(long, default_value = "euler")]
    pub sampler: String,

    /// Scheduler: normal, karras, …
    #[arg(long, default_value = "normal")]
    pub scheduler: String,

    /// Pictures at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,

    /// Start from this picture instead of nothing
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,

    /// How much of the picture is replaced, 0 to 1
    #[arg(long, default_value_t = 1.0)]
    pub denoise: f64,

    /// Layer of the text encoder to read, counted from the last, which is 1
    #[arg(long, value_name = "LAYER", value_parser = clap::value_parser!(u32).range(1..=24))]
    pub clip_skip: Option<u32>,

    /// Where the picture goes; with `--batch`, `out_00001.png` and so on
    #[arg(long, short, value_name = "FILE", default_value = "out.png")]
    pub output: PathBuf,

    /// Device that computes everything [default: the first accelerator, else cpu]
    #[arg(long, value_name = "DEVICE", help_heading = "Devices")]
    pub device: Option<String>,

    /// GiB of the diffusion model that move to the donor
    #[arg(long, value_name = "GIB", help_heading = "Devices")]
    pub virtual_vram_gb: Option<f64>,

    /// Device that lends its memory
    #[arg(long, value_name = "DEVICE", help_heading = "Devices")]
    pub donor_device: Option<String>,

    /// Where the diffusion model goes, instead of virtual VRAM: `cuda:0,70%;cuda:1,30%`
    #[arg(long, value_name = "ALLOCATION", help_heading = "Devices")]
    pub expert_mode_allocations: Option<String>,

    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch nodes
  distorch nodes KSampler
  distorch nodes --json > object_info.json")]
pub struct NodesArgs {
    /// A node class, to be described whole
    pub class: Option<String>,

    /// Print JSON, as ComfyUI's `/object_info` gives it
    #[arg(long)]
    pub json: bool,
}
