//! The values that recognition hands out.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use crate::config::{
    DiffusionConfig, Prediction, TextEncoderConfig, TinyVaeConfig, TinyVaeHalf, UpscalerConfig,
    VaeConfig,
};
use crate::layer::{Component, ComponentKind};

/// What a file was recognised as, split into components.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// The diffusion model, where the file holds one.
    pub diffusion: Option<DiffusionModel>,
    /// The text encoders that the file holds, in the order in which their outputs are joined.
    pub text_encoders: Vec<TextEncoder>,
    /// The autoencoder's configuration, where the file holds one.
    pub vae: Option<VaeConfig>,
    /// Which half of a tiny autoencoder the file holds, where it holds one; its layers are a VAE's component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiny_vae: Option<TinyVaeConfig>,
    /// The configuration of the model that enlarges pictures, where the file holds one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upscaler: Option<UpscalerConfig>,
    /// The layers of what the file holds: at most one component of each kind, in the order of
    /// [`ComponentKind`].
    pub components: Vec<Component>,
    /// Tensors that no model uses, each with the reason, in file order.
    pub ignored: Vec<Ignored>,
    /// Tensors that nothing is known about, in file order.
    pub unknown: Vec<String>,
    /// What a reader of `inspect` ought to know.
    pub notes: Vec<String>,
}

/// A recognised diffusion model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiffusionModel {
    /// The family.
    pub family: Family,
    /// What the model takes beside the latent.
    pub variant: Variant,
    /// What its output means.
    pub prediction: Prediction,
    /// Whether it was trained on a schedule whose last step is pure noise,
    /// <https://arxiv.org/abs/2305.08891>.
    pub zero_terminal_snr: bool,
    /// Its architecture and sizes.
    pub config: DiffusionConfig,
}

/// A recognised text encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TextEncoder {
    /// `clip_l`, `clip_h`, `clip_g`, `t5xxl`, `qwen3`, …: what its layers' names start with.
    pub name: &'static str,
    /// Its architecture and sizes.
    pub config: TextEncoderConfig,
    /// The vocabulary of its tokenizer, where the file holds one beside the weights: a SentencePiece model
    /// (`spiece_model`), or Mistral's (`tekken_model`).
    #[serde(skip)]
    pub vocabulary: Option<Vocabulary>,
}

/// The bytes of a tokenizer's vocabulary.
#[derive(Clone, PartialEq, Eq)]
pub struct Vocabulary(Arc<[u8]>);

impl Vocabulary {
    /// A vocabulary of these bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Vocabulary {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A tensor that no model uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// The full key.
    pub key: String,
    /// Why it is not needed.
    pub reason: &'static str,
}

/// A family of diffusion models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// Stable Diffusion XL, base.
    SdxlBase,
    /// Stable Diffusion XL, refiner.
    SdxlRefiner,
    /// Stable Diffusion 3 and 3.5.
    Sd3,
    /// Flux.1.
    Flux,
    /// Z-Image, turbo and base.
    ZImage,
    /// Lumina-Image 2.0.
    Lumina2,
    /// Flux.2, dev and Klein.
    Flux2,
    /// Chroma.
    Chroma,
    /// Krea 2.
    Krea2,
    /// Qwen-Image and Qwen-Image-Edit.
    QwenImage,
    /// Qwen-Image 2.1.
    QwenImage21,
}

impl Family {
    /// The name that people know.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Sd1 => "SD 1.x",
            Family::Sd2 => "SD 2.x",
            Family::SdxlBase => "SDXL base",
            Family::SdxlRefiner => "SDXL refiner",
            Family::Sd3 => "SD3",
            Family::Flux => "Flux",
            Family::ZImage => "Z-Image",
            Family::Lumina2 => "Lumina 2",
            Family::Flux2 => "Flux.2",
            Family::Chroma => "Chroma",
            Family::Krea2 => "Krea 2",
            Family::QwenImage => "Qwen-Image",
            Family::QwenImage21 => "Qwen-Image 2.1",
        }
    }

    /// Whether its models are rectified flows.
    pub const fn is_flow(self) -> bool {
        use Family::{Chroma, Flux, Flux2, Krea2, Lumina2, QwenImage, QwenImage21, Sd3, ZImage};
        match self {
            Sd3 | Flux | ZImage | Lumina2 | Flux2 | Chroma | Krea2 | QwenImage | QwenImage21 => {
                true
            }
            Family::Sd1 | Family::Sd2 | Family::SdxlBase | Family::SdxlRefiner => false,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A layer of a diffusion model whose weight a patch gives more columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Widened {
    /// The layer's canonical name.
    pub layer: String,
    /// Columns of its weight.
    pub columns: usize,
}

/// What a diffusion model takes beside the noisy latent and the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Nothing.
    Base,
    /// A mask and the latent of the masked picture.
    Inpaint,
    /// The latent of the picture to edit, <https://arxiv.org/abs/2211.09800>.
    InstructPix2Pix,
    /// A depth map.
    Depth,
    /// The latent of a control picture: edges or depth (Flux).
    Control,
}

impl Model {
    /// The family of the diffusion model, where the file holds one.
    pub fn family(&self) -> Option<Family> {
        self.diffusion.as_ref().map(|diffusion| diffusion.family)
    }

    /// The component of a kind, where the file holds it.
    pub fn component(&self, kind: ComponentKind) -> Option<&Component> {
        self.components.iter().find(|component| component.kind == kind)
    }

    /// The components of a checkpoint that the file does not hold; none of an upscaler or a tiny autoencoder.
    pub fn missing(&self) -> Vec<ComponentKind> {
        if self.upscaler.is_some() || self.tiny_vae.is_some() {
            return Vec::new();
        }
        ComponentKind::ALL.into_iter().filter(|kind| self.component(*kind).is_none()).collect()
    }

    /// What the file is, for people: "SDXL base", "SD 2.x v-prediction", "Flux schnell", "VAE".
    pub fn label(&self) -> String {
        if let Some(upscaler) = &self.upscaler {
            return format!("{} ×{}", upscaler.name(), upscaler.scale());
        }
        if let Some(tiny) = &self.tiny_vae {
            let half = match tiny.half {
                TinyVaeHalf::Encoder => "encoder",
                TinyVaeHalf::Decoder => "decoder",
            };
            return format!("tiny {half} (TAESD)");
        }
        match &self.diffusion {
            Some(diffusion) => diffusion.label(),
            None if self.text_encoders.is_empty() => "VAE".to_owned(),
            None => {
                let encoders: Vec<_> = self.text_encoders.iter().map(|e| e.name).collect();
                let vae = if self.vae.is_some() { " and VAE" } else { "" };
                format!("text encoder {}{vae}", encoders.join(" + "))
            }
        }
    }
}

impl DiffusionModel {
    /// What the model is, for people.
    pub fn label(&self) -> String {
        let mut label = match &self.config {
            DiffusionConfig::Unet(_)
            | DiffusionConfig::NextDit(_)
            | DiffusionConfig::Chroma(_)
            | DiffusionConfig::Krea2(_)
            | DiffusionConfig::QwenImage(_)
            | DiffusionConfig::QwenImage21(_) => self.family.to_string(),
            DiffusionConfig::Mmdit(config) => match config.qk_norm {
                false => "SD3".to_owned(),
                true if config.dual_attention_layers.is_empty() => "SD3.5 large".to_owned(),
                true => "SD3.5 medium".to_owned(),
            },
            DiffusionConfig::Flux(config) if config.guidance_embed => "Flux dev".to_owned(),
            DiffusionConfig::Flux(_) => "Flux schnell".to_owned(),
            DiffusionConfig::Flux2(config) if config.guidance_embed => "Flux.2 dev".to_owned(),
            DiffusionConfig::Flux2(_) => "Flux.2 Klein".to_owned(),
        };
        label.push_str(match self.variant {
            Variant::Base => "",
            Variant::Inpaint => " inpainting",
            Variant::InstructPix2Pix => " instruct-pix2pix",
            Variant::Depth => " depth",
            Variant::Control => " control",
        });
        if self.prediction == Prediction::V {
            label.push_str(" v-prediction");
        }
        label
    }
}
