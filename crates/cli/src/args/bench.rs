//! What can be asked of the benchmarks.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use distorch_bench::random::PublishedModel;

use super::LayoutArg;
use super::make::DtypeArg;
use super::number::{side, whole};
use super::parts::{LinkArgs, LoraBenchArgs, OperatorsArgs};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Examples:
  distorch bench --ckpt sd_xl_base_1.0.safetensors --steps 5
  distorch bench --random sd15 --threads 1
  distorch bench --random sdxl --width 768 --height 768 --json

A step is one call of the diffusion model with both halves of the guidance, so it takes twice
`--batch` latents. Every stage runs once before it is timed.")]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,

    /// Name of a checkpoint, or the path of one
    #[arg(
        long,
        value_name = "CKPT",
        required_unless_present = "random",
        conflicts_with = "random"
    )]
    pub ckpt: Option<String>,

    /// Random weights in the sizes of a published model, instead of a file
    #[arg(long, value_enum, value_name = "MODEL")]
    pub random: Option<RandomModel>,

    /// Width of the picture in pixels [default: what the model was made for]
    #[arg(long, value_parser = side(64..=16384), allow_hyphen_values = true)]
    pub width: Option<u32>,

    /// Height of the picture in pixels
    #[arg(long, value_parser = side(64..=16384), allow_hyphen_values = true)]
    pub height: Option<u32>,

    /// Pictures at once
    #[arg(long, default_value_t = 1, value_parser = whole(1..=4096), allow_hyphen_values = true)]
    pub batch: u32,

    /// Calls of each stage that are timed
    #[arg(long, default_value_t = 3, value_parser = whole(1..=1000), allow_hyphen_values = true)]
    pub steps: u32,

    /// Threads that compute on the CPU [default: one for each core]
    #[arg(long, value_parser = whole(1..=1024), allow_hyphen_values = true)]
    pub threads: Option<u32>,

    /// Dtype of weights and activations
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    pub dtype: DtypeArg,

    /// Device that holds and computes everything
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time steps with a part of the diffusion model elsewhere, against the roofline
    Offload(OffloadArgs),
    /// Time copies between the host and a device
    Link(LinkArgs),
    /// Time single operators in the shapes that models have
    Operators(OperatorsArgs),
    /// Time putting a LoRA on a diffusion model and taking it off
    Lora(LoraBenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch bench offload --random sd15
  distorch bench offload --ckpt sd_xl_base_1.0.safetensors --shares 50,100 --bandwidth 6GB/s,12GB/s
  distorch bench offload --random sd15 --width 256 --height 256 --svg offload.svg --json
  distorch bench offload --random sdxl --device cuda:0 --pin")]
pub struct OffloadArgs {
    /// Name of a checkpoint, or the path of one
    #[arg(
        long,
        value_name = "CKPT",
        required_unless_present = "random",
        conflicts_with = "random"
    )]
    pub ckpt: Option<String>,

    /// Random f16 weights in the sizes of a published model, instead of a file
    #[arg(long, value_enum, value_name = "MODEL")]
    pub random: Option<RandomModel>,

    /// Parts of the model that live on the host, in per cent
    #[arg(
        long,
        value_name = "PERCENT",
        value_delimiter = ',',
        default_values_t = [0, 25, 50, 75, 100],
        value_parser = whole(0..=100)
    )]
    pub shares: Vec<u32>,

    /// An accelerator to compute on, with its own link, whose speed is measured [default: a simulated
    /// device]
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["bandwidth", "paced"])]
    pub device: Option<String>,

    /// Dtype of activations on that device [default: f16]
    #[arg(long, value_enum, requires = "device")]
    pub dtype: Option<DtypeArg>,

    /// Keep what lives on the host in memory, pinned where the device has that, instead of the file
    #[arg(long)]
    pub pin: bool,

    /// Speeds of the link: `4GB/s` [default: moving takes from a quarter of computing to four times
    /// as long]
    #[arg(long, value_name = "SPEED", value_delimiter = ',')]
    pub bandwidth: Vec<String>,

    /// Bytes of the window: `512MiB`, and never less than the two largest layers [default: the plan's]
    #[arg(long, value_name = "SIZE")]
    pub window: Option<String>,

    /// The layout [default: distorch2 and interleave]
    #[arg(long, value_enum)]
    pub layout: Option<LayoutArg>,

    /// Width of the picture in pixels [default: what the model was made for]
    #[arg(long, value_parser = side(64..=16384), allow_hyphen_values = true)]
    pub width: Option<u32>,

    /// Height of the picture in pixels
    #[arg(long, value_parser = side(64..=16384), allow_hyphen_values = true)]
    pub height: Option<u32>,

    /// Pictures at once
    #[arg(long, default_value_t = 1, value_parser = whole(1..=4096), allow_hyphen_values = true)]
    pub batch: u32,

    /// Steps that are timed at each point, after one that isn't
    #[arg(long, default_value_t = 2, value_parser = whole(1..=1000), allow_hyphen_values = true)]
    pub steps: u32,

    /// Threads that compute on the CPU [default: one for each core]
    #[arg(long, value_parser = whole(1..=1024), allow_hyphen_values = true)]
    pub threads: Option<u32>,

    /// Compute one step with everything on the device, and in the others let its time pass instead:
    /// what streaming costs then hardly depends on what else the machine does
    #[arg(long)]
    pub paced: bool,

    /// Draw the ratios as an SVG picture
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A published model whose sizes are built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RandomModel {
    Sd15,
    Sd21,
    Sdxl,
    /// The transformer and the VAE, without text encoders.
    Sd35Medium,
    /// Flux dev cut to 6 blocks of full width, and the VAE, without text encoders.
    FluxSmall,
    /// Z-Image cut to 4 blocks of full width, and the VAE, without text encoders.
    ZImageSmall,
    /// Qwen-Image cut to 3 blocks of full width, and the VAE, without text encoders.
    QwenImageSmall,
}

impl From<RandomModel> for PublishedModel {
    fn from(model: RandomModel) -> Self {
        match model {
            RandomModel::Sd15 => PublishedModel::Sd15,
            RandomModel::Sd21 => PublishedModel::Sd21,
            RandomModel::Sdxl => PublishedModel::Sdxl,
            RandomModel::Sd35Medium => PublishedModel::Sd35Medium,
            RandomModel::FluxSmall => PublishedModel::FluxSmall,
            RandomModel::ZImageSmall => PublishedModel::ZImageSmall,
            RandomModel::QwenImageSmall => PublishedModel::QwenImageSmall,
        }
    }
}
