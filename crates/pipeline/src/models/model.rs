//! A diffusion model as nodes hand it on.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::config::Prediction as Stored;
use distorch_checkpoint::family::DiffusionModel;
use distorch_models::estimate::Workload;
use distorch_models::family::{self, DiffusionFamily, NetworkPatches, Reads};
use distorch_models::latent_format::LatentFormat;
use distorch_models::network::{Network, NoiseLevels, SkipLayers};
use distorch_runtime::lora::{LoraFile, LoraPatch};
use distorch_runtime::shared_pass::SharedPass;
use distorch_runtime::{DType, Device, LayerSource, Scope};
use distorch_sampling::guidance::{Correction, Formula};
use distorch_sampling::model_sampling::{ModelSampling, Prediction};

use crate::error::PipelineError;
use crate::models::part::Part;
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
    /// How the positive and the negative guess are put together.
    pub formula: Formula,
    /// What is done to the guided guess, one after the other.
    pub corrections: Vec<Correction<SkipLayers>>,
    /// What is changed inside the network.
    pub patches: NetworkPatches,
    /// How much the grey of a noise mask says when a pixel begins to change, instead of how much it does.
    pub differential: Option<f64>,
    /// Layers that the negative guess is made without, and the sigmas at which it is.
    pub negative_without: Option<(SkipLayers, RangeInclusive<f64>)>,
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

    /// The same model with one LoRA more, which may make it take more than it did: a control picture.
    pub fn with_lora(&self, file: &Arc<LoraFile>, strength: f32) -> Self {
        let widened = file.widened().filter(|_| strength != 0.0);
        let diffusion = widened.and_then(|to| self.diffusion.widened(to)).map(Arc::new);
        Self {
            loras: self.loras.with(file, strength),
            diffusion: diffusion.unwrap_or_else(|| Arc::clone(&self.diffusion)),
            ..self.clone()
        }
    }

    /// How it sees noise.
    pub fn sampling(&self) -> ModelSampling {
        if let Some(sampling) = &self.options.sampling {
            return sampling.clone();
        }
        trained_sampling(&self.diffusion)
    }

    /// What tells its family from others.
    pub fn family(&self) -> &'static dyn DiffusionFamily {
        family::of(self.diffusion.family)
    }

    /// What its latents look like.
    pub fn latent_format(&self) -> LatentFormat {
        self.family().latent_format(&self.diffusion)
    }

    /// What it reads of a conditioning.
    pub fn reads(&self) -> Reads {
        self.family().reads(&self.diffusion)
    }

    /// The network with its weights, to make a picture with; they are loaded now if they are not yet.
    /// Calls side by side share the layers that come over a link.
    ///
    /// # Errors
    /// When its weights cannot be had.
    pub fn network(
        &self,
        run: &Run<'_>,
        picture: Workload,
    ) -> Result<(Box<dyn Network>, Arc<SharedPass>), PipelineError> {
        let scope = run.load(&self.part, &self.loras, picture)?;
        let steps = SharedPass::new(Arc::clone(scope.source()));
        let scope = Scope::new(Arc::clone(&steps) as Arc<dyn LayerSource>);
        let network = self.family().network(&scope, &self.diffusion, &self.options.patches);
        Ok((network.map_err(PipelineError::failed)?, steps))
    }
}

/// How a diffusion model was trained to see noise.
pub fn trained_sampling(diffusion: &DiffusionModel) -> ModelSampling {
    match family::of(diffusion.family).noise_levels(diffusion) {
        NoiseLevels::ScaledLinear { prediction, zero_terminal_snr } => {
            let prediction = match prediction {
                Stored::Epsilon => Prediction::Eps,
                Stored::V => Prediction::V,
                Stored::X0 => Prediction::X0,
                Stored::Flow => Prediction::Flow,
            };
            let sampling = ModelSampling::stable_diffusion(prediction);
            if zero_terminal_snr { sampling.zero_terminal_snr() } else { sampling }
        }
        NoiseLevels::Flow { shift, multiplier } => ModelSampling::flow(shift, multiplier),
        NoiseLevels::ExponentialFlow { mu } => ModelSampling::flux(mu),
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.diffusion.label(), self.name())
    }
}
