//! A diffusion model as nodes hand it on.

use std::fmt;
use std::sync::Arc;

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::config::{DiffusionConfig, Prediction as Stored};
use distorch_checkpoint::family::{DiffusionModel, Family};
use distorch_models::estimate::Workload;
use distorch_models::freeu::FreeU;
use distorch_models::latent_format::LatentFormat;
use distorch_models::unet::Unet;
use distorch_runtime::lora::{LoraFile, LoraPatch};
use distorch_runtime::shared_pass::SharedPass;
use distorch_runtime::{DType, Device, LayerSource, Scope};
use distorch_sampling::model_sampling::{ModelSampling, Prediction};

use crate::error::PipelineError;
use crate::models::Part;
use crate::run::Run;

/// A diffusion model: weights, and how they are to be used.
#[derive(Clone)]
pub struct Model {
    part: Arc<Part>,
    diffusion: Arc<DiffusionModel>,
    loras: LoraPatch,
    options: ModelOptions,
}

/// What nodes change about a model without touching its weights.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// How the model sees noise, instead of how it was trained.
    pub sampling: Option<ModelSampling>,
    /// The part of the guided guess whose deviation is brought back.
    pub rescale_cfg: Option<f64>,
    /// What is done where skip connections join, one after the other.
    pub freeu: Vec<FreeU>,
}

impl Model {
    /// The diffusion model of a part.
    ///
    /// # Errors
    /// When the part's file holds none.
    pub fn new(part: Arc<Part>) -> Result<Self, PipelineError> {
        let file = part.file();
        let diffusion = file.model.diffusion.clone().ok_or_else(|| {
            PipelineError::failed(format!("`{}` has no diffusion model", file.name))
        })?;
        let options = ModelOptions::default();
        let loras = LoraPatch::new(ComponentKind::DiffusionModel);
        Ok(Self { part, diffusion: Arc::new(diffusion), loras, options })
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.part.file().name
    }

    /// What it is.
    pub fn diffusion(&self) -> &DiffusionModel {
        &self.diffusion
    }

    /// Its weights.
    pub fn part(&self) -> &Arc<Part> {
        &self.part
    }

    /// The device that computes.
    pub fn device(&self) -> Device {
        self.part.device().clone()
    }

    /// The dtype of what it computes with beside weights.
    pub fn activation_dtype(&self) -> DType {
        self.part.activation_dtype()
    }

    /// How it is to be used.
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// The same weights used in another way: `change` says how.
    pub fn with_options(&self, change: impl FnOnce(&mut ModelOptions)) -> Self {
        let mut model = self.clone();
        change(&mut model.options);
        model
    }

    /// The same model with one LoRA more.
    pub fn with_lora(&self, file: &Arc<LoraFile>, strength: f32) -> Self {
        Self { loras: self.loras.with(file, strength), ..self.clone() }
    }

    /// How it sees noise.
    pub fn sampling(&self) -> ModelSampling {
        if let Some(sampling) = &self.options.sampling {
            return sampling.clone();
        }
        let prediction = match self.diffusion.prediction {
            Stored::Epsilon => Prediction::Eps,
            Stored::V => Prediction::V,
            Stored::X0 => Prediction::X0,
            Stored::Flow => Prediction::Flow,
        };
        let sampling = ModelSampling::stable_diffusion(prediction);
        if self.diffusion.zero_terminal_snr { sampling.zero_terminal_snr() } else { sampling }
    }

    /// What an autoencoder's latent is multiplied with for this model.
    pub fn latent_scale(&self) -> f64 {
        match self.diffusion.family {
            Family::SdxlBase | Family::SdxlRefiner => 0.13025,
            _ => 0.18215,
        }
    }

    /// What its latents look like.
    pub fn latent_format(&self) -> LatentFormat {
        LatentFormat {
            channels: self.latent_channels(),
            downscale: self.downscale(),
            scale: self.latent_scale(),
            shift: 0.0,
            rgb_factors: &[],
            rgb_bias: [0.0; 3],
        }
    }

    /// Channels of the latents that it samples.
    pub fn latent_channels(&self) -> usize {
        match &self.diffusion.config {
            DiffusionConfig::Unet(config) => config.out_channels,
            _ => 16,
        }
    }

    /// Pixels of the picture to one of the latent.
    pub fn downscale(&self) -> usize {
        8
    }

    /// The UNet with its weights, to make a picture with; they are loaded now if they are not yet.
    /// Calls side by side share the layers that come over a link.
    ///
    /// # Errors
    /// When the model is no UNet, or its weights cannot be had.
    pub fn unet(
        &self,
        run: &Run<'_>,
        picture: Workload,
    ) -> Result<(Unet, Arc<SharedPass>), PipelineError> {
        let DiffusionConfig::Unet(config) = &self.diffusion.config else {
            return Err(PipelineError::failed(format!(
                "`{}` is {}, which can be planned but not run yet: SD 1.x, SD 2.x and SDXL can",
                self.name(),
                self.diffusion.label(),
            )));
        };
        let scope = run.load(&self.part, &self.loras, picture)?;
        let steps = SharedPass::new(Arc::clone(scope.source()));
        let scope = Scope::new(Arc::clone(&steps) as Arc<dyn LayerSource>);
        Ok((Unet::load(&scope, config).map_err(PipelineError::failed)?, steps))
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.diffusion.label(), self.name())
    }
}
