//! What can be asked of the commands that make pictures.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};
use distorch_pipeline::diffusion::noise::NoiseDevice;
use distorch_pipeline::models::Pin;
use distorch_runtime::DType;

use super::LayoutArg;
use super::number::{SeedArg, side, whole, within};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  distorch run workflow_api.json
  distorch run workflow_api.json --set 3.seed=7 --set 'CLIP Text Encode.text=a red circle'
  distorch run workflow_api.json --dry-run
  distorch run workflow_api.json --simulate 'cuda:0=8GiB,cuda:1=6GiB@12GB/s'
  distorch run picture.png --set KSampler.seed=8

The workflow is what ComfyUI saves or exports (API), or a picture (PNG, WebP, JPEG) that carries the
one that made it. Pictures go to the output folder.")]
pub struct RunArgs {
    /// The workflow or a picture that carries one, or `-` for standard input
    pub workflow: PathBuf,

    /// Override an input: NODE is an id, a title or a class, VALUE is JSON or text; may repeat
    #[arg(long, value_name = "NODE.INPUT=VALUE", action = ArgAction::Append)]
    pub set: Vec<String>,

    /// What the choices in an editor file's texts (`{red|blue}`) follow from
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub prompt_seed: u64,

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
    /// Dtype of weights and activations [default: f32 on the CPU, on accelerators f16 or bf16 as ComfyUI has it for the model]
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeArg>,

    /// Which blocks leave the compute device [default: auto]
    #[arg(long, value_enum)]
    pub layout: Option<LayoutArg>,

    /// Whose random numbers the noise between steps is: `cpu`, or `cuda` for those of an RTX 4090,
    /// `cuda=BLOCKS` of another GPU (multiprocessors × threads of each ÷ 256; large latents differ)
    /// [default: as ComfyUI on the device that computes]
    #[arg(long, value_name = "cpu|cuda[=BLOCKS]")]
    pub noise: Option<NoiseArg>,

    #[command(flatten)]
    pub pin: PinArgs,

    /// Where a device runs out of memory, take the allocation that would fit and go on
    #[arg(long)]
    pub auto_retry: bool,

    /// Go on where a model gives NaN or infinity, with a warning: such pixels are saved as black
    #[arg(long)]
    pub allow_nan: bool,
}

/// Whether weights that live on `cpu` are kept in RAM.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// Keep weights that live on `cpu` in RAM instead of in their file, page-locked where the device fetches them from
    /// there (CUDA); `auto`: only there, and where a quarter of RAM stays free [without a value: on]
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "on",
        default_value = "auto"
    )]
    pin: PinArg,

    /// Leave them in their file: `--pin=off`
    #[arg(long, conflicts_with = "pin")]
    no_pin: bool,
}

impl PinArgs {
    /// What both options come to.
    pub fn choice(&self) -> Pin {
        match self.pin {
            _ if self.no_pin => Pin::Off,
            PinArg::On => Pin::On,
            PinArg::Off => Pin::Off,
            PinArg::Auto => Pin::Auto,
        }
    }
}

/// When weights are kept in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PinArg {
    On,
    Off,
    Auto,
}

/// Whose random numbers the noise between steps is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseArg(pub NoiseDevice);

impl FromStr for NoiseArg {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let wrong = || "write `cpu`, `cuda` or `cuda=BLOCKS`, such as `cuda=1056`".to_owned();
        let noise = match given.trim().split_once('=') {
            None if given.trim().eq_ignore_ascii_case("cpu") => NoiseDevice::Cpu,
            None if given.trim().eq_ignore_ascii_case("cuda") => {
                NoiseDevice::Cuda { blocks: NoiseDevice::BLOCKS }
            }
            Some((kind, blocks)) if kind.trim().eq_ignore_ascii_case("cuda") => {
                let blocks = blocks.trim().parse().ok().filter(|blocks| *blocks > 0);
                NoiseDevice::Cuda { blocks: blocks.ok_or_else(wrong)? }
            }
            _ => return Err(wrong()),
        };
        Ok(Self(noise))
    }
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
  distorch generate --ckpt v1-5-pruned.ckpt --prompt 'oil painting' --image photo.png --denoise 0.6
  distorch generate --ckpt v1-5-pruned.ckpt --prompt 'a fox' --lora ink.safetensors:0.8")]
pub struct GenerateArgs {
    /// Name of a checkpoint in the model folders, or the path of one
    #[arg(long, value_name = "CKPT")]
    pub ckpt: String,

    /// What the picture should show; `(word:1.2)` weighs, `embedding:name` inserts an embedding
    #[arg(long, short, allow_hyphen_values = true)]
    pub prompt: String,

    /// What the picture should not show
    #[arg(long, short, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub negative: String,

    /// Width in pixels, a multiple of 8 [default: what the checkpoint was made for]
    #[arg(long, value_name = "PIXELS", value_parser = side(16..=16384), allow_hyphen_values = true)]
    pub width: Option<u32>,

    /// Height in pixels, a multiple of 8 [default: what the checkpoint was made for]
    #[arg(long, value_name = "PIXELS", value_parser = side(16..=16384), allow_hyphen_values = true)]
    pub height: Option<u32>,

    /// Steps of the sampler
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 20,
        value_parser = whole(1..=10000),
        allow_hyphen_values = true
    )]
    pub steps: u32,

    /// How closely to follow the prompt, 0 to 100; 1 leaves the negative prompt out
    #[arg(
        long,
        value_name = "SCALE",
        default_value_t = 8.0,
        value_parser = within(0.0..=100.0),
        allow_hyphen_values = true
    )]
    pub cfg: f64,

    /// Strength of the guidance that a model was distilled with (Flux.1 dev), 0 to 100; other models do not read it
    /// [default: the model's own, 3.5]
    #[arg(
        long,
        value_name = "STRENGTH",
        value_parser = within(0.0..=100.0),
        allow_hyphen_values = true
    )]
    pub guidance: Option<f64>,

    /// Seed of the noise, a whole number: the same one gives the same picture. `random`, or -1, draws
    /// another one each time and prints it
    #[arg(long, default_value = "0", allow_hyphen_values = true)]
    pub seed: SeedArg,

    /// Sampler: euler, dpmpp_2m, … (`distorch nodes KSampler` lists them)
    #[arg(long, default_value = "euler")]
    pub sampler: String,

    /// Scheduler: normal, karras, …
    #[arg(long, default_value = "normal")]
    pub scheduler: String,

    /// Pictures at once
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = whole(1..=4096),
        allow_hyphen_values = true
    )]
    pub batch: u32,

    /// Start from this picture instead of nothing
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,

    /// How much of the picture is replaced, 0 to 1
    #[arg(
        long,
        value_name = "PART",
        default_value_t = 1.0,
        value_parser = within(0.0..=1.0),
        allow_hyphen_values = true
    )]
    pub denoise: f64,

    /// Layer of the text encoder to read, counted from the last, which is 1
    #[arg(long, value_name = "LAYER", value_parser = whole(1..=24), allow_hyphen_values = true)]
    pub clip_skip: Option<u32>,

    /// A LoRA by name or path, and how much it counts, for the diffusion model and the text encoders; may
    /// repeat
    #[arg(long, value_name = "NAME[:STRENGTH]", action = ArgAction::Append)]
    pub lora: Vec<LoraArg>,

    /// Where the picture goes. A file that is there stays: the next free name of `out_00001.png`,
    /// `out_00002.png`, … is taken then, as always with `--batch`. Several runs at once lose nothing
    #[arg(long, short, value_name = "FILE", default_value = "out.png")]
    pub output: PathBuf,

    /// Replace a file of this name, or of these numbers, that is there
    #[arg(long)]
    pub overwrite: bool,

    /// Device that computes everything [default: the first accelerator, else cpu]
    #[arg(long, value_name = "DEVICE", help_heading = "Devices")]
    pub device: Option<String>,

    /// GiB of the diffusion model that move to the donor, 0 to 128
    #[arg(
        long,
        value_name = "GIB",
        help_heading = "Devices",
        value_parser = within(0.0..=128.0),
        allow_hyphen_values = true
    )]
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

/// A LoRA file and its strength.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraArg {
    pub name: String,
    pub strength: f64,
}

/// The largest strength that the node for LoRAs takes.
const MAX_STRENGTH: f64 = 100.0;

impl FromStr for LoraArg {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        // A colon may also be a part of the name.
        let parts = given
            .rsplit_once(':')
            .and_then(|(name, strength)| Some((name, strength.trim().parse::<f64>().ok()?)));
        let (name, strength) = parts.unwrap_or((given, 1.0));
        if !(-MAX_STRENGTH..=MAX_STRENGTH).contains(&strength) {
            return Err(format!(
                "the strength after the colon is a number from -{MAX_STRENGTH} to {MAX_STRENGTH}"
            ));
        }
        match name.trim() {
            "" => Err("write the name of a LoRA file, such as `style.safetensors:0.8`".to_owned()),
            name => Ok(Self { name: name.to_owned(), strength }),
        }
    }
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn noise_is_the_cpus_or_a_gpus() {
        let noise = |given: &str| given.parse::<NoiseArg>().map(|noise| noise.0);
        assert_eq!(noise("cpu"), Ok(NoiseDevice::Cpu));
        assert_eq!(noise("CUDA"), Ok(NoiseDevice::Cuda { blocks: 768 }));
        assert_eq!(noise("cuda=1056"), Ok(NoiseDevice::Cuda { blocks: 1056 }));
        for wrong in ["", "gpu", "cpu=3", "cuda=", "cuda=0", "cuda=-1", "cuda=99999999999"] {
            assert!(noise(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_lora_has_a_name_and_maybe_a_strength() {
        let lora = |given: &str| given.parse::<LoraArg>().map(|lora| (lora.name, lora.strength));
        assert_eq!(lora("a/ink.safetensors"), Ok(("a/ink.safetensors".to_owned(), 1.0)));
        assert_eq!(lora("ink.safetensors:-0.5"), Ok(("ink.safetensors".to_owned(), -0.5)));
        assert_eq!(lora("a:b.safetensors"), Ok(("a:b.safetensors".to_owned(), 1.0)));
        for strength in ["inf", "nan", "100.5", "-101"] {
            let error = lora(&format!("x:{strength}")).unwrap_err();
            assert!(error.contains("from -100 to 100"), "{error}");
        }
        assert!(lora(":1").is_err() && lora("").is_err());
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        compute: ComputeArgs,
        workflow: Option<String>,
    }

    fn pin(options: &[&str]) -> Result<Pin, String> {
        let line = Line::try_parse_from([&["distorch"][..], options].concat());
        line.map(|line| line.compute.pin.choice()).map_err(|error| error.to_string())
    }

    #[test]
    fn pinning_is_on_off_or_by_itself() {
        assert_eq!(pin(&[]), Ok(Pin::Auto));
        assert_eq!(pin(&["--pin"]), Ok(Pin::On));
        assert_eq!(pin(&["--pin=on"]), Ok(Pin::On));
        assert_eq!(pin(&["--pin=off"]), Ok(Pin::Off));
        assert_eq!(pin(&["--pin=auto"]), Ok(Pin::Auto));
        assert_eq!(pin(&["--no-pin"]), Ok(Pin::Off));
        // As before: what follows is another argument.
        let line = Line::try_parse_from(["distorch", "--pin", "workflow.json"]).unwrap();
        assert_eq!(line.workflow.as_deref(), Some("workflow.json"));
        assert_eq!(line.compute.pin.choice(), Pin::On);
        assert!(pin(&["--pin=yes"]).unwrap_err().contains("[possible values: on, off, auto]"));
        assert!(pin(&["--pin", "--no-pin"]).unwrap_err().contains("cannot be used with"));
    }
}
