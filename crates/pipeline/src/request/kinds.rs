//! What can be asked for.

use super::placement::Placement;
use super::source::ModelSource;
use crate::diffusion::conditioning::Guidance;
use crate::image::{Mask, Pictures};

/// A picture from a prompt. [`new`](Self::new) has the defaults of ComfyUI's nodes.
///
/// ```
/// use distorch_pipeline::TextToImage;
///
/// let request = TextToImage {
///     steps: 30,
///     sampler: "dpmpp_2m".to_owned(),
///     scheduler: "karras".to_owned(),
///     seed: 7,
///     ..TextToImage::new("sd_xl_base_1.0.safetensors", "a lighthouse in a storm")
/// };
/// assert_eq!(request.cfg, 8.0);
/// ```
#[derive(Clone, Debug)]
pub struct TextToImage {
    /// The checkpoint: a diffusion model with its text encoders and autoencoder.
    pub checkpoint: ModelSource,
    /// What the picture should show; `(word:1.2)` weighs, `embedding:name` inserts a textual inversion.
    pub prompt: String,
    /// What the picture should not show.
    pub negative_prompt: String,
    /// Width in pixels, from 16 to 16384: a multiple of what a latent's pixel stands for, which is 8 as a rule. `None` is
    /// what the checkpoint was trained on.
    pub width: Option<u32>,
    /// Height in pixels, as `width`.
    pub height: Option<u32>,
    /// Pictures at once, from 1 to 4096.
    pub batch: u32,
    /// Seed of the noise: the same one gives the same pictures.
    pub seed: u64,
    /// Steps of the sampler, from 1 to 10000.
    pub steps: usize,
    /// How closely to follow the prompt, from 0 to 100; 1 leaves the negative prompt out.
    pub cfg: f64,
    /// The strength of a distilled guidance, from 0 to 100 (Flux.1 dev); models without one ignore it.
    pub guidance: Guidance,
    /// The sampler, by ComfyUI's name: one of [`SAMPLERS`](distorch_sampling::sampler::SAMPLERS).
    pub sampler: String,
    /// The scheduler, by ComfyUI's name: one of [`SCHEDULERS`](distorch_sampling::schedule::SCHEDULERS).
    pub scheduler: String,
    /// How much of the latent is replaced, from 0 to 1.
    pub denoise: f64,
    /// LoRAs, one after the other.
    pub loras: Vec<Lora>,
    /// The layer of CLIP encoders that is read, counted from the last, which is 1, to 24; `None` is the family's own.
    pub clip_skip: Option<usize>,
    /// Where the components live and compute.
    pub placement: Placement,
    /// Keep layers that a LoRA changes in the compute dtype, instead of the checkpoint's.
    pub high_precision_loras: bool,
    /// Whether other checkpoints that the session keeps leave first.
    pub eject_models: bool,
}

impl TextToImage {
    /// A picture of this prompt, with ComfyUI's defaults: 20 steps of euler on the normal schedule, cfg 8, seed 0, one
    /// picture of the size that the checkpoint was trained on, all on the session's default device.
    pub fn new(checkpoint: impl Into<ModelSource>, prompt: impl Into<String>) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            prompt: prompt.into(),
            negative_prompt: String::new(),
            width: None,
            height: None,
            batch: 1,
            seed: 0,
            steps: 20,
            cfg: 8.0,
            guidance: Guidance::Usual,
            sampler: "euler".to_owned(),
            scheduler: "normal".to_owned(),
            denoise: 1.0,
            loras: Vec::new(),
            clip_skip: None,
            placement: Placement::default(),
            high_precision_loras: true,
            eject_models: true,
        }
    }
}

/// A picture from a picture and a prompt.
#[derive(Clone, Debug)]
pub struct ImageToImage {
    /// What is wanted of it. A `width` or `height` is what the picture is brought to, by Lanczos' method after its middle
    /// is cut out in their ratio; one side alone keeps the picture's ratio, and none keeps its size. `denoise` below 1
    /// keeps something of the picture.
    pub request: TextToImage,
    /// The pictures to start from. Sides are cut to whole pixels of the latent.
    pub image: Pictures,
    /// Where the picture is to change: 1, and 0 where it stays. Of any size, laid over the whole picture. Inpainting
    /// models are told of what is around it.
    pub mask: Option<Mask>,
}

impl ImageToImage {
    /// A picture that follows a prompt from this one on.
    pub fn new(request: TextToImage, image: Pictures) -> Self {
        Self { request, image, mask: None }
    }
}

/// A LoRA of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The file.
    pub file: ModelSource,
    /// How strongly the diffusion model is changed, from -100 to 100.
    pub strength_model: f64,
    /// How strongly the text encoders are changed, from -100 to 100.
    pub strength_text: f64,
}

impl Lora {
    /// A LoRA of the same strength for the diffusion model and the text encoders.
    pub fn new(file: impl Into<ModelSource>, strength: f64) -> Self {
        Self { file: file.into(), strength_model: strength, strength_text: strength }
    }

    /// Whether it changes anything.
    pub(crate) fn is_used(&self) -> bool {
        self.strength_model != 0.0 || self.strength_text != 0.0
    }
}
