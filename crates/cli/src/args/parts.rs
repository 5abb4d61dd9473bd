//! What can be asked of the benchmarks of parts: a link, single operators, a patch.

use clap::{Args, ValueEnum};
use distorch_bench::operators;

use super::RandomModel;
use super::make::DtypeArg;
use super::number::whole;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch bench link --device cuda:0
  distorch bench link --device cuda:0 --mib 256 --json")]
pub struct LinkArgs {
    /// Device at the other end of the link
    #[arg(long, value_name = "DEVICE")]
    pub device: String,

    /// MiB of a copy
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = whole(1..=4096), allow_hyphen_values = true)]
    pub mib: u32,

    /// Copies that are timed in each direction, after one that isn't
    #[arg(long, default_value_t = 5, value_parser = whole(1..=1000), allow_hyphen_values = true)]
    pub copies: u32,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch bench operators --device cuda:0 --dtype f16
  distorch bench operators --set sdxl --device cuda:0 --dtype bf16 --json
  distorch bench operators --list --json

A call is timed from its start until the device has done it. Short calls are timed several at once,
so that what is counted is the device's work, not the wait for it. With `--json` each operator is a
line of its own as soon as it is timed, and one that fails says so in `error`.")]
pub struct OperatorsArgs {
    /// Whose shapes [default: sd15,sdxl,flux]
    #[arg(long, value_enum, value_name = "MODEL", value_delimiter = ',')]
    pub set: Vec<OperatorSet>,

    /// Only operators with this in their name, such as `conv` or `attention`
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,

    /// Device that computes
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,

    /// Dtype of weights and activations
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    pub dtype: DtypeArg,

    /// Times that are taken of each operator, after a call that isn't timed
    #[arg(long, default_value_t = 5, value_parser = whole(1..=1000), allow_hyphen_values = true)]
    pub rounds: u32,

    /// Threads that compute on the CPU [default: one for each core]
    #[arg(long, value_parser = whole(1..=1024), allow_hyphen_values = true)]
    pub threads: Option<u32>,

    /// List the operators and their shapes, and time nothing
    #[arg(long)]
    pub list: bool,

    /// Print JSON, a line for each operator
    #[arg(long)]
    pub json: bool,
}

/// Whose shapes operators have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OperatorSet {
    /// SD 1.5 at 512×512, both halves of the guidance
    Sd15,
    /// SDXL at 1024×1024, both halves of the guidance
    Sdxl,
    /// Flux at 1024×1024
    Flux,
    /// No model's: small and odd shapes, to see that it works
    Tiny,
}

impl From<OperatorSet> for operators::OperatorSet {
    fn from(set: OperatorSet) -> Self {
        match set {
            OperatorSet::Sd15 => operators::OperatorSet::Sd15,
            OperatorSet::Sdxl => operators::OperatorSet::Sdxl,
            OperatorSet::Flux => operators::OperatorSet::Flux,
            OperatorSet::Tiny => operators::OperatorSet::Tiny,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch bench lora --random sdxl --device cuda:0 --dtype f16
  distorch bench lora --ckpt v1-5-pruned-emaonly.safetensors --rank 128 --json

The LoRA is made up: it changes every linear layer of the transformers. The model lives on the device
that computes; a layer is read from its file, patched in f32 and put back in the compute dtype.")]
pub struct LoraBenchArgs {
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

    /// Device that holds the model
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,

    /// Dtype that weights are kept in
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    pub dtype: DtypeArg,

    /// Rank of the LoRA
    #[arg(long, default_value_t = 32, value_parser = whole(1..=1024), allow_hyphen_values = true)]
    pub rank: u32,

    /// How often it is put on and taken off; the first time counts apart
    #[arg(long, default_value_t = 2, value_parser = whole(1..=1000), allow_hyphen_values = true)]
    pub rounds: u32,

    /// Threads that compute on the CPU [default: one for each core]
    #[arg(long, value_parser = whole(1..=1024), allow_hyphen_values = true)]
    pub threads: Option<u32>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
