//! The loaders of GGUF files, whose signatures are known so that workflows with them say what is the matter.

use super::checkpoint::{DONOR, EXPERT, VIRTUAL_VRAM};
use super::clip_loaders::{TYPE, TYPE_OF_TWO, text_encoders};
use super::forms::{DISTORCH2, GIGABYTES, LEGACY, MULTI_GPU, on_device, spread};
use super::loading::{compute_devices, devices_cpu_first, models};
use crate::context::Context;
use crate::environment::Environment;
use crate::inputs::{Inputs, NodeError};
use crate::signature::{Input, Node, Output};
use crate::value::{Type, Value};
use distorch_checkpoint::folders::ModelKind;

/// Any name: files of GGUF are not listed.
const UNET_NAME: Input =
    Input::file("unet_name", diffusion_models).tooltip("The name of the diffusion model.");
const CLIP_NAME: Input =
    Input::file("clip_name", text_encoders).tooltip("The name of the text encoder.");
const FIRST: Input = Input::file("clip_name1", text_encoders);
const SECOND: Input = Input::file("clip_name2", text_encoders);
const THIRD: Input = Input::file("clip_name3", text_encoders);
const FOURTH: Input = Input::file("clip_name4", text_encoders);

fn diffusion_models(environment: &Environment) -> Vec<String> {
    models(environment, ModelKind::DiffusionModels)
}

const DTYPES: &[&str] = &["default", "target", "float32", "float16", "bfloat16"];
const DEQUANT_DTYPE: Input = Input::choice("dequant_dtype", DTYPES);
const PATCH_DTYPE: Input = Input::choice("patch_dtype", DTYPES);
const PATCH_ON_DEVICE: Input = Input::boolean("patch_on_device", false);

const MODEL: &[Output] = &[Output::new(Type::Model)];
const CLIP: &[Output] = &[Output::new(Type::Clip)];

/// What to load instead of a GGUF file.
fn instead(inputs: &Inputs) -> String {
    let is_unet = inputs.has("unet_name");
    let names = ["unet_name", "clip_name", "clip_name1", "clip_name2", "clip_name3", "clip_name4"];
    let found = names.into_iter().filter_map(|input| inputs.text(input).ok());
    let named: Vec<&str> = found.filter(|name| is_gguf(name)).collect();
    let files = match named.as_slice() {
        [] => "GGUF files are".to_owned(),
        [one] => format!("`{one}` is a GGUF file, and these are"),
        several => format!("`{}` are GGUF files, and these are", several.join("`, `")),
    };
    let (loader, folder) = match is_unet {
        true => ("UNETLoader or UNETLoaderDisTorch2MultiGPU", "models/diffusion_models"),
        false => ("CLIPLoader, DualCLIPLoader or their DisTorch2 forms", "models/text_encoders"),
    };
    format!(
        "{files} not read yet: take the model's safetensors file in FP8, FP16 or BF16, put it into {folder} \
         and load it with {loader}"
    )
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// A node of which nothing can come.
const REFUSED: Node = Node {
    category: MULTI_GPU,
    about: "Loads a GGUF file. These are not read yet; the error names the loader to take instead.",
    forecast: Some(|ahead| Err(NodeError::failed(instead(ahead.inputs())))),
    run: refuse,
    ..Node::EMPTY
};

fn refuse(_: &mut Context<'_>, inputs: &Inputs) -> Result<Vec<Value>, NodeError> {
    Err(NodeError::failed(instead(inputs)))
}

/// The inputs of the older nodes that spread a model.
macro_rules! spread_as_before {
    ($($input:expr),*) => {
        &[
            $($input,)*
            Input::found("device", compute_devices).optional(),
            Input::float("virtual_vram_gb", GIGABYTES, 0.0, 24.0, 0.1)
                .optional()
                .tooltip(VIRTUAL_VRAM),
            Input::boolean("use_other_vram", false).optional(),
            Input::string("expert_mode_allocations", "").optional().tooltip(EXPERT),
        ]
    };
}

/// A loader with its forms.
macro_rules! forms {
    ($outputs:ident, $legacy:ident, $device:literal, $ejects:literal, $core:literal, $on_device:literal,
     $before:literal, $spread:literal; $($input:expr),*) => {
        [
            Node { class: $core, title: $core, category: "bootleg", inputs: &[$($input),*], outputs: $outputs, ..REFUSED },
            Node { class: $on_device, title: $on_device, inputs: on_device![$($input),*], outputs: $outputs, ..REFUSED },
            Node {
                class: $before,
                title: $before,
                category: $legacy,
                inputs: spread_as_before![$($input),*],
                outputs: $outputs,
                ..REFUSED
            },
            Node {
                class: $spread,
                title: $spread,
                category: DISTORCH2,
                inputs: spread![$device, $ejects; $($input),*],
                outputs: $outputs,
                ..REFUSED
            },
        ]
    };
}

/// Diffusion models.
pub const UNET: [Node; 4] = forms!(
    MODEL, LEGACY, "compute_device", true, "UnetLoaderGGUF", "UnetLoaderGGUFMultiGPU",
    "UnetLoaderGGUFDisTorchMultiGPU", "UnetLoaderGGUFDisTorch2MultiGPU"; UNET_NAME
);
/// Diffusion models, with options.
pub const UNET_ADVANCED: [Node; 4] = forms!(
    MODEL, LEGACY, "compute_device", true, "UnetLoaderGGUFAdvanced", "UnetLoaderGGUFAdvancedMultiGPU",
    "UnetLoaderGGUFAdvancedDisTorchMultiGPU", "UnetLoaderGGUFAdvancedDisTorch2MultiGPU";
    UNET_NAME, DEQUANT_DTYPE, PATCH_DTYPE, PATCH_ON_DEVICE
);
/// Text encoders of one file.
pub const CLIP_ONE: [Node; 4] = forms!(
    CLIP, MULTI_GPU, "device", false, "CLIPLoaderGGUF", "CLIPLoaderGGUFMultiGPU",
    "CLIPLoaderGGUFDisTorchMultiGPU", "CLIPLoaderGGUFDisTorch2MultiGPU"; CLIP_NAME, TYPE
);
/// Text encoders of two files.
pub const CLIP_TWO: [Node; 4] = forms!(
    CLIP, MULTI_GPU, "device", false, "DualCLIPLoaderGGUF", "DualCLIPLoaderGGUFMultiGPU",
    "DualCLIPLoaderGGUFDisTorchMultiGPU", "DualCLIPLoaderGGUFDisTorch2MultiGPU";
    FIRST, SECOND, TYPE_OF_TWO
);
/// Text encoders of three files.
pub const CLIP_THREE: [Node; 4] = forms!(
    CLIP, MULTI_GPU, "device", false, "TripleCLIPLoaderGGUF", "TripleCLIPLoaderGGUFMultiGPU",
    "TripleCLIPLoaderGGUFDisTorchMultiGPU", "TripleCLIPLoaderGGUFDisTorch2MultiGPU";
    FIRST, SECOND, THIRD
);
/// Text encoders of four files.
pub const CLIP_FOUR: [Node; 4] = forms!(
    CLIP, MULTI_GPU, "device", false, "QuadrupleCLIPLoaderGGUF", "QuadrupleCLIPLoaderGGUFMultiGPU",
    "QuadrupleCLIPLoaderGGUFDisTorchMultiGPU", "QuadrupleCLIPLoaderGGUFDisTorch2MultiGPU";
    FIRST, SECOND, THIRD, FOURTH
);

/// All of them.
pub const ALL: [[Node; 4]; 6] = [UNET, UNET_ADVANCED, CLIP_ONE, CLIP_TWO, CLIP_THREE, CLIP_FOUR];
