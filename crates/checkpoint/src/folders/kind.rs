//! The kinds of model, their folders and the names that ComfyUI knows them by.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::suggest;
use crate::source::MODEL_INDEX;

/// A kind of model file, which decides the folders that are searched for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelKind {
    /// Whole checkpoints: diffusion model, text encoders and VAE in one file.
    Checkpoints,
    /// LoRA patches.
    Loras,
    /// VAEs of their own.
    Vae,
    /// Small stand-ins for VAEs, as previews use them (TAESD).
    VaeApprox,
    /// Text encoders of their own; also called `clip`.
    TextEncoders,
    /// Diffusion models of their own; also called `unet`.
    DiffusionModels,
    /// Textual-inversion embeddings.
    Embeddings,
    /// Models that enlarge pictures.
    UpscaleModels,
    /// ControlNets and T2I adapters.
    Controlnet,
    /// Folders that diffusers saved a pipeline in; listed by their `model_index.json`.
    Diffusers,
}

impl ModelKind {
    /// Every kind, in the order they are shown.
    pub const ALL: [Self; 10] = [
        Self::Checkpoints,
        Self::Loras,
        Self::Vae,
        Self::VaeApprox,
        Self::TextEncoders,
        Self::DiffusionModels,
        Self::Embeddings,
        Self::UpscaleModels,
        Self::Controlnet,
        Self::Diffusers,
    ];

    /// The file extensions of models, without the dot. They are compared without regard to case.
    pub const EXTENSIONS: [&'static str; 8] =
        ["ckpt", "pt", "pt2", "bin", "pth", "safetensors", "pkl", "sft"];

    /// The name used on the command line and in `extra_model_paths.yaml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Checkpoints => "checkpoints",
            Self::Loras => "loras",
            Self::Vae => "vae",
            Self::VaeApprox => "vae_approx",
            Self::TextEncoders => "text_encoders",
            Self::DiffusionModels => "diffusion_models",
            Self::Embeddings => "embeddings",
            Self::UpscaleModels => "upscale_models",
            Self::Controlnet => "controlnet",
            Self::Diffusers => "diffusers",
        }
    }

    /// The folders under `models/`, in search order.
    pub fn folders(self) -> &'static [&'static str] {
        match self {
            Self::Checkpoints => &["checkpoints"],
            Self::Loras => &["loras"],
            Self::Vae => &["vae"],
            Self::VaeApprox => &["vae_approx"],
            Self::TextEncoders => &["text_encoders", "clip"],
            Self::DiffusionModels => &["unet", "diffusion_models"],
            Self::Embeddings => &["embeddings"],
            Self::UpscaleModels => &["upscale_models"],
            Self::Controlnet => &["controlnet", "t2i_adapter"],
            Self::Diffusers => &["diffusers"],
        }
    }

    /// One model of the kind, in words, for messages.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Checkpoints => "checkpoint",
            Self::Loras => "LoRA",
            Self::Vae => "VAE",
            Self::VaeApprox => "tiny VAE",
            Self::TextEncoders => "text encoder",
            Self::DiffusionModels => "diffusion model",
            Self::Embeddings => "embedding",
            Self::UpscaleModels => "upscale model",
            Self::Controlnet => "ControlNet",
            Self::Diffusers => "diffusers pipeline",
        }
    }

    /// Whether a file is listed among the models of this kind.
    pub(super) fn lists(self, path: &Path) -> bool {
        match self {
            Self::Diffusers => Self::is_model_index(path),
            _ => Self::has_model_extension(path),
        }
    }

    /// Whether the path is that of a pipeline's index.
    pub(super) fn is_model_index(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name == MODEL_INDEX)
    }

    /// Whether the path ends in one of [`ModelKind::EXTENSIONS`].
    pub fn has_model_extension(path: &Path) -> bool {
        path.extension()
            .is_some_and(|ext| Self::EXTENSIONS.iter().any(|known| ext.eq_ignore_ascii_case(known)))
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ModelKind {
    type Err = UnknownKind;

    /// Takes the [name](ModelKind::name) of a kind, or ComfyUI's older names `clip`
    /// (text encoders) and `unet` (diffusion models).
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        match text {
            "clip" => return Ok(Self::TextEncoders),
            "unet" => return Ok(Self::DiffusionModels),
            _ => {}
        }
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownKind { given: text.to_owned() })
    }
}

/// A name that is no [`ModelKind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no kind of model{}; the kinds are {}", self.hint(), kind_names())]
pub struct UnknownKind {
    /// The name given.
    pub given: String,
}

impl UnknownKind {
    /// The kind that was probably meant.
    pub fn suggestion(&self) -> Option<ModelKind> {
        let name = suggest::nearest(&self.given, ModelKind::ALL.into_iter().map(ModelKind::name))?;
        name.parse().ok()
    }

    fn hint(&self) -> String {
        self.suggestion().map_or_else(String::new, |kind| format!(" (did you mean `{kind}`?)"))
    }
}

fn kind_names() -> String {
    ModelKind::ALL.map(ModelKind::name).join(", ")
}

/// Kinds that ComfyUI itself knows and this program has no use for: an extra model paths file
/// that names them is not mistaken.
pub(super) const OTHER_COMFYUI_KINDS: [&str; 13] = [
    "audio_encoders",
    "classifiers",
    "clip_vision",
    "configs",
    "custom_nodes",
    "download_model_base",
    "gligen",
    "hypernetworks",
    "latent_upscale_models",
    "model_patches",
    "photomaker",
    "style_models",
    "vae_approx",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back_and_the_old_names_work() {
        for kind in ModelKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!("clip".parse(), Ok(ModelKind::TextEncoders));
        assert_eq!("unet".parse(), Ok(ModelKind::DiffusionModels));
    }

    #[test]
    fn an_unknown_kind_is_answered_with_the_nearest_and_the_list() {
        let error = "lora".parse::<ModelKind>().unwrap_err();
        assert_eq!(error.suggestion(), Some(ModelKind::Loras));
        let message = error.to_string();
        assert!(message.contains("did you mean `loras`?"), "{message}");
        assert!(message.contains("upscale_models"), "{message}");
        assert_eq!("zebra".parse::<ModelKind>().unwrap_err().suggestion(), None);
    }

    #[test]
    fn extensions_are_compared_without_case() {
        for yes in ["a.safetensors", "a.SafeTensors", "a.b.CKPT", "x/a.pt2", "a.sft", "a.Pkl"] {
            assert!(ModelKind::has_model_extension(Path::new(yes)), "{yes}");
        }
        for no in ["a.gguf", "a.onnx", "safetensors", ".safetensors", "a.ckpt.txt", "a."] {
            assert!(!ModelKind::has_model_extension(Path::new(no)), "{no}");
        }
    }
}
