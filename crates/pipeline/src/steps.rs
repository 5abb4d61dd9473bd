//! The steps to a picture one by one, for programs that put them together themselves.
//!
//! All of them need a [`Run`], which has the devices that they compute on:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use distorch_pipeline::models::{Loader, Tasks};
//! use distorch_pipeline::request::Placement;
//! use distorch_pipeline::steps::{CHECKPOINT, Sampling};
//! use distorch_pipeline::{CancelToken, Latent, Phase, Session, Silent};
//! use distorch_pipeline::diffusion::guider::Guider;
//! use distorch_sampling::{sampler::Sampler, schedule::Scheduler};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Session::new(".".as_ref())?;
//! let cancel = CancelToken::new();
//! let active = session.begin(&cancel)?;
//! let run = active.reporting(&Silent);
//!
//! let loader = Loader {
//!     name: "mine",
//!     files: &Path::new("models/checkpoints/mine.safetensors").into(),
//!     settings: &Placement::default().settings(session.topology(), session.layout)?,
//!     kinds: CHECKPOINT,
//!     high_precision_loras: true,
//!     eject_models: true,
//!     tasks: Tasks::default(),
//! };
//! let checkpoint = run.load_checkpoint(&loader)?;
//! let positive = run.encode_prompt(&checkpoint.text_encoders, "a fox")?;
//! let negative = run.encode_prompt(&checkpoint.text_encoders, "")?;
//! let format = checkpoint.model.latent_format();
//! let latent = Latent::empty(1, format.channels, [64, 64]);
//! let guider = Guider::cfg(checkpoint.model, positive, negative, 7.0);
//! let sampling = Sampling {
//!     seed: 7,
//!     ..Sampling::new(Sampler::by_name("dpmpp_2m")?, Scheduler::by_name("karras")?)
//! };
//! run.phase(Phase::Sample);
//! let sampled = run.sample(&guider, &sampling, &latent)?;
//! run.phase(Phase::Decode);
//! let pictures = run.decode(&checkpoint.vae, &sampled)?;
//! # drop(pictures);
//! # Ok(())
//! # }
//! ```

use distorch_checkpoint::ComponentKind;
use distorch_models::text::{Prompt, TextOptions};
use distorch_sampling::model_sampling::ModelSampling;
use distorch_sampling::sampler::{Options, Sampler};
use distorch_sampling::schedule::{ScheduleError, Scheduler, Span};

use crate::diffusion::conditioning::Conditioning;
use crate::diffusion::guider::Guider;
use crate::diffusion::noise::NoiseSource;
use crate::diffusion::sample::sample;
use crate::diffusion::sampler::SamplerChoice;
use crate::error::{Argument, PipelineError};
use crate::events::Event;
use crate::image::Pictures;
use crate::latent::Latent;
use crate::models::{Clip, Loader, Model, Vae, in_words};
use crate::run::Run;

/// The components of a whole checkpoint.
pub const CHECKPOINT: &[ComponentKind] =
    &[ComponentKind::DiffusionModel, ComponentKind::TextEncoders, ComponentKind::Vae];

/// A checkpoint with a plan for each component. Weights are loaded when they are needed.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The diffusion model.
    pub model: Model,
    /// The text encoders.
    pub text_encoders: Clip,
    /// The autoencoder.
    pub vae: Vae,
}

/// How a latent is sampled.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Seed of the noise.
    pub seed: u64,
    /// Steps of the sampler.
    pub steps: usize,
    /// The sampler, with its own numbers.
    pub sampler: SamplerChoice,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// How much of the latent is replaced, from 0 to 1.
    pub denoise: f64,
}

impl Sampling {
    /// All of a latent in ComfyUI's 20 steps from the noise of seed 0, by a sampler with its own defaults.
    pub fn new(sampler: Sampler, scheduler: Scheduler) -> Self {
        let sampler = SamplerChoice { sampler, options: Options::default() };
        Self { seed: 0, steps: 20, sampler, scheduler, denoise: 1.0 }
    }

    /// The noise levels of the run of a model that sees noise so.
    ///
    /// # Errors
    /// When there are no steps or too many, or `denoise` is not from 0 to 1.
    pub fn sigmas(&self, sampling: &ModelSampling) -> Result<Vec<f64>, ScheduleError> {
        let span = Span { denoise: self.denoise, ..Span::whole(self.steps) };
        span.sigmas(self.scheduler, sampling, self.sampler.sampler.discards_penultimate())
    }
}

impl Run<'_> {
    /// Plans a checkpoint and promises its memory, and reports the plans. The session keeps it until another takes its
    /// place or [`Session::unload`](crate::Session::unload).
    ///
    /// # Errors
    /// When the file cannot be opened, lacks a component, or its settings cannot be planned.
    pub fn load_checkpoint(&self, loader: &Loader<'_>) -> Result<Checkpoint, PipelineError> {
        let parts = self.session().place(self.id(), loader)?;
        let (model, tasks, plans) = (loader.name.to_owned(), loader.tasks, parts.plans());
        self.tell(Event::Planned { model, tasks, plans });
        let part = |kind| {
            parts.get(kind).cloned().ok_or_else(|| {
                let label = parts.file.model.label();
                let problem = format!("`{}` has no {}; it is {label}", loader.name, in_words(kind));
                PipelineError::argument(Argument::Model, problem)
            })
        };
        Ok(Checkpoint {
            model: Model::new(part(ComponentKind::DiffusionModel)?)?,
            text_encoders: Clip::new(part(ComponentKind::TextEncoders)?)?,
            vae: Vae::new(part(ComponentKind::Vae)?)?,
        })
    }

    /// Encodes a prompt, the same for each text encoder.
    ///
    /// # Errors
    /// When the weights cannot be had, or the prompt cannot be encoded.
    pub fn encode_prompt(
        &self,
        text_encoders: &Clip,
        prompt: &str,
    ) -> Result<Conditioning, PipelineError> {
        let prompt = Prompt::Same(prompt.into());
        let cond = text_encoders.encode(self, &prompt, &TextOptions::default())?;
        Ok(Conditioning::new(vec![cond]))
    }

    /// The latents of pictures, whose sides are cut to whole latent pixels.
    ///
    /// # Errors
    /// As [`Vae::encode`].
    pub fn encode_pictures(&self, vae: &Vae, pictures: &Pictures) -> Result<Latent, PipelineError> {
        vae.encode(self, pictures, None).map(Latent::new)
    }

    /// Denoises a latent.
    ///
    /// # Errors
    /// As [`Sampling::sigmas`] and [`sample`].
    pub fn sample(
        &self,
        guider: &Guider,
        sampling: &Sampling,
        latent: &Latent,
    ) -> Result<Latent, PipelineError> {
        let sigmas = sampling.sigmas(&guider.model.sampling()).map_err(|error| schedule(&error))?;
        let noise = NoiseSource::seed(sampling.seed);
        Ok(sample(self, guider, noise, sampling.sampler, &sigmas, latent)?.latent)
    }

    /// The pictures of latents.
    ///
    /// # Errors
    /// As [`Vae::decode`].
    pub fn decode(&self, vae: &Vae, latent: &Latent) -> Result<Pictures, PipelineError> {
        vae.decode(self, &latent.samples, None)
    }
}

/// A schedule that cannot be, as the argument that is wrong.
pub(crate) fn schedule(error: &ScheduleError) -> PipelineError {
    let argument = match error {
        ScheduleError::Unknown(_) => Argument::Scheduler,
        ScheduleError::NoSteps | ScheduleError::TooManySteps { .. } => Argument::Steps,
        ScheduleError::Denoise(_) => Argument::Denoise,
    };
    PipelineError::argument(argument, error)
}
