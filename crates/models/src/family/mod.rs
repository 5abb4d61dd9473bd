//! What tells the families of diffusion models apart: one file a family, one line each in [`of`].
//!
//! Nothing else in the program asks which family a model is of.

mod chroma;
mod flux;
mod flux2;
mod krea2;
mod lumina2;
mod next_dit;
mod planning;
mod qwen_image;
mod qwen_image21;
mod sd3;
mod stable_diffusion;
mod transformer;
mod z_image;

use distorch_checkpoint::Layer;
use distorch_checkpoint::family::{DiffusionModel, Family, TextEncoder};
use distorch_runtime::{DType, Scope, Tensor};

use crate::ModelError;
use crate::conditioning::{ConditioningError, PictureSize};
use crate::estimate::{Compute, Need, Workload};
use crate::freeu::FreeU;
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;

pub use planning::{accelerator_dtype, activation_bytes, layer_costs};

/// What a family of diffusion models is: its networks, its latents, and what it reads of a request.
pub trait DiffusionFamily: Sync {
    /// What its latents look like.
    fn latent_format(&self, model: &DiffusionModel) -> LatentFormat;

    /// How it sees noise.
    fn noise_levels(&self, model: &DiffusionModel) -> NoiseLevels;

    /// The side of the square pictures that it was trained on, in pixels.
    fn native_side(&self) -> u32;

    /// Whether pictures are guided by a second, negative prediction as a rule; not where guidance was distilled.
    fn is_guided(&self) -> bool {
        true
    }

    /// What its network computes in on an accelerator in ComfyUI: the first of these that the accelerator has, f32 without
    /// any.
    fn dtypes(&self) -> &'static [DType] {
        &[DType::F16, DType::BF16]
    }

    /// The names of the text encoders that read its prompts, in the order in which their states are joined. Those of the
    /// smallest model where models of a family differ in them.
    fn encoders(&self) -> Vec<&'static str>;

    /// What it reads of a conditioning.
    fn reads(&self, model: &DiffusionModel) -> Reads;

    /// The class vector of a conditioning, `[1, width]`: what the network takes as
    /// [`NetworkInput::vector`](crate::network::NetworkInput::vector); `None` for a network that takes none.
    ///
    /// # Errors
    /// When the conditioning lacks what the vector is made of.
    fn vector(&self, inputs: VectorInputs) -> Result<Option<Tensor<2>>, MissingPooled>;

    /// The network with the weights of a scope.
    ///
    /// # Errors
    /// When layers are missing or the configuration contradicts itself.
    fn network(
        &self,
        scope: &Scope,
        model: &DiffusionModel,
        patches: &NetworkPatches,
    ) -> Result<Box<dyn Network>, ModelError>;

    /// The text conditioner over a scope in which each encoder's layers' names start with its name.
    ///
    /// # Errors
    /// When an encoder that the family cannot do without, or a layer, is missing.
    fn text(
        &self,
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError>;

    /// What one evaluation needs besides weights.
    fn activations(&self, model: &DiffusionModel, workload: Workload, compute: Compute) -> Need;

    /// What computing with each of these layers of its network costs in one evaluation, in multiplications; `None` where
    /// the configuration is that of another network.
    fn layer_costs(
        &self,
        model: &DiffusionModel,
        layers: &[Layer],
        workload: Workload,
    ) -> Option<Vec<u64>>;
}

/// The family's description.
pub fn of(family: Family) -> &'static dyn DiffusionFamily {
    match family {
        Family::Sd1 => &stable_diffusion::SD1,
        Family::Sd2 => &stable_diffusion::SD2,
        Family::SdxlBase => &stable_diffusion::SDXL,
        Family::SdxlRefiner => &stable_diffusion::REFINER,
        Family::Sd3 => &sd3::Sd3,
        Family::Flux => &flux::Flux,
        Family::ZImage => &z_image::Z_IMAGE,
        Family::Lumina2 => &lumina2::LUMINA2,
        Family::Flux2 => &flux2::Flux2,
        Family::Chroma => &chroma::Chroma,
        Family::QwenImage => &qwen_image::QwenImage,
        Family::QwenImage21 => &qwen_image21::QwenImage21,
        Family::Krea2 => &krea2::Krea2,
    }
}

/// Changes to a network that leave its weights as they are. A network without what one changes ignores it.
#[derive(Clone, Debug, Default)]
pub struct NetworkPatches {
    /// What is done where skip connections of a UNet join, one after the other.
    pub freeu: Vec<FreeU>,
}

/// What a model reads of a conditioning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reads {
    /// Values of each token.
    pub context_width: usize,
    /// Tokens of a short prompt.
    pub tokens: usize,
    /// Values of the pooled text, where it is read.
    pub pooled_width: Option<usize>,
    /// Whether the tokens of a conditioning may be repeated, so that it goes into one call with a longer one.
    pub repeats_context: bool,
    /// The strength of a distilled guidance where nobody says another, for models that read one.
    pub guidance: Option<f64>,
    /// The channels beside the latent's.
    pub extra: ExtraChannels,
    /// Whether the latents of further pictures are read.
    pub reference_latents: bool,
}

/// Channels that a network takes behind the noisy latent's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExtraChannels {
    /// None.
    None,
    /// A mask (1 where the picture is to be filled in), then the latent of the picture (inpainting UNets).
    MaskAndPicture {
        /// The latent of grey, for runs without a picture.
        grey: &'static [f32],
    },
    /// The latent of a picture (InstructPix2Pix, Flux Canny and Depth).
    Picture {
        /// Whether it is scaled as the noisy latent is; InstructPix2Pix reads it as the autoencoder makes it.
        scaled: bool,
    },
    /// The latent of a picture, then a mask of 8×8 pixels for each of the latent's (Flux Fill).
    PictureAndMaskPatches,
    /// A map that nothing here makes.
    Unsupported,
}

impl ExtraChannels {
    /// How many there are.
    pub fn channels(&self, format: &LatentFormat) -> usize {
        match self {
            ExtraChannels::None | ExtraChannels::Unsupported => 0,
            ExtraChannels::MaskAndPicture { .. } => 1 + format.channels,
            ExtraChannels::Picture { .. } => format.channels,
            ExtraChannels::PictureAndMaskPatches => {
                format.channels + format.downscale * format.downscale
            }
        }
    }
}

/// What a class vector is made of.
#[derive(Clone, Debug)]
pub struct VectorInputs {
    /// The pooled text, `[1, width]`.
    pub pooled: Option<Tensor<2>>,
    /// The picture's size.
    pub size: PictureSize,
    /// The aesthetic score that was asked for.
    pub aesthetic_score: Option<f64>,
    /// Whether the conditioning is what the picture is to keep away from.
    pub is_negative: bool,
}

/// A conditioning without the pooled text that its model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the conditioning has no pooled output, which {family} needs: encode the prompt with the text encoders of {article} \
     {family} checkpoint"
)]
pub struct MissingPooled {
    /// The family, for people.
    pub family: &'static str,
    /// The article before it.
    pub article: &'static str,
}
