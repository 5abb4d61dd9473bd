//! What a node is given when it runs, and how it fails.

use std::error::Error;
use std::sync::Arc;

use distorch_pipeline::error::{Argument, PipelineError};
use indexmap::IndexMap;
use serde_json::Value as Json;
use thiserror::Error;

use crate::remedy;
use crate::value::{Type, Value};
use distorch_pipeline::Latent;
use distorch_pipeline::diffusion::conditioning::Conditioning;
use distorch_pipeline::diffusion::guider::Guider;
use distorch_pipeline::diffusion::noise::NoiseSource;
use distorch_pipeline::diffusion::sampler::SamplerChoice;
use distorch_pipeline::image::{Mask, Pictures};
use distorch_pipeline::models::{Clip, Model, Upscaler, Vae};

/// Why a node came to no end.
#[derive(Debug, Error)]
pub enum NodeError {
    /// An input that the node cannot work with.
    #[error("`{input}`: {problem}")]
    Input {
        /// The input.
        input: String,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// The work failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
    /// The user stopped the run.
    #[error("stopped")]
    Interrupted,
}

impl From<PipelineError> for NodeError {
    fn from(error: PipelineError) -> Self {
        match error {
            PipelineError::Argument { argument, problem } => {
                Self::Input { input: input_of(argument).to_owned(), problem }
            }
            PipelineError::Failed(_) if let Some(text) = remedy::told(&error) => Self::failed(text),
            PipelineError::Failed(error) => Self::Failed(error),
            PipelineError::Cancelled => Self::Interrupted,
        }
    }
}

/// What ComfyUI's nodes call what the pipeline is given.
const fn input_of(argument: Argument) -> &'static str {
    match argument {
        Argument::Latent => "latent_image",
        Argument::Positive => "positive",
        Argument::Negative => "negative",
        Argument::Latents => "samples",
        Argument::Pictures => "pixels",
        Argument::Tiling => "tile_size",
        Argument::Model => "model",
        Argument::Lora => "lora_name",
        Argument::Placement => "compute_device",
        Argument::Width => "width",
        Argument::Height => "height",
        Argument::Batch => "batch_size",
        Argument::Steps => "steps",
        Argument::Cfg => "cfg",
        Argument::Guidance => "guidance",
        Argument::Sampler => "sampler_name",
        Argument::Scheduler => "scheduler",
        Argument::Denoise => "denoise",
        Argument::ClipSkip => "stop_at_clip_layer",
        Argument::Image => "image",
        Argument::Mask => "mask",
    }
}

impl NodeError {
    /// An input that the node cannot work with.
    pub fn input(input: &str, problem: impl ToString) -> Self {
        Self::Input { input: input.to_owned(), problem: problem.to_string() }
    }

    /// The work failed.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// The inputs of a node that is run, by name. Those that were left out are not among them.
#[derive(Clone, Debug, Default)]
pub struct Inputs(IndexMap<String, Value>);

impl FromIterator<(String, Value)> for Inputs {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// An accessor for one type of value.
macro_rules! typed {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $kind:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When the input is missing or of another type, which validation rules out.
        pub fn $name(&self, name: &str) -> Result<$kind, NodeError> {
            match self.0.get(name) {
                Some(Value::$variant(value)) => Ok(value.clone()),
                other => Err(wrong(name, Type::$variant, other)),
            }
        }
    };
}

fn wrong(name: &str, expected: Type, found: Option<&Value>) -> NodeError {
    if let Some(Value::Absent(why)) = found {
        return NodeError::input(name, why);
    }
    let found = found.and_then(Value::value_type).map_or("nothing", Type::name);
    NodeError::input(name, format!("expected {expected}, found {found}"))
}

impl Inputs {
    /// The input, where it is given.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All inputs that are given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The same with one input more.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Whether the input is given.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    typed!(/// A whole number.
        int, Int, i128);
    typed!(/// A number.
        float, Float, f64);
    typed!(/// A switch.
        boolean, Boolean, bool);
    typed!(/// A diffusion model.
        model, Model, Model);
    typed!(/// Text encoders.
        clip, Clip, Clip);
    typed!(/// An autoencoder.
        vae, Vae, Vae);
    typed!(/// A model that enlarges pictures.
        upscale_model, UpscaleModel, Upscaler);
    typed!(/// Conditioning.
        conditioning, Conditioning, Conditioning);
    typed!(/// Latents.
        latent, Latent, Latent);
    typed!(/// Pictures.
        image, Image, Pictures);
    typed!(/// Masks.
        mask, Mask, Mask);
    typed!(/// A sampler with its options.
        sampler, Sampler, SamplerChoice);
    typed!(/// Noise levels.
        sigmas, Sigmas, Arc<[f64]>);
    typed!(/// Where noise comes from.
        noise, Noise, NoiseSource);
    typed!(/// A guided model.
        guider, Guider, Guider);

    /// A text or a choice.
    ///
    /// # Errors
    /// When the input is missing or of another type, which validation rules out.
    pub fn text(&self, name: &str) -> Result<&str, NodeError> {
        match self.0.get(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(wrong(name, Type::String, other)),
        }
    }

    /// Records as JSON, of whichever type.
    ///
    /// # Errors
    /// When the input is missing or of another type, which validation rules out.
    pub fn data(&self, name: &str) -> Result<&Json, NodeError> {
        match self.0.get(name) {
            Some(Value::Data(_, json)) => Ok(json),
            other => Err(wrong(name, Type::Array, other)),
        }
    }

    /// A whole number that counts something.
    ///
    /// # Errors
    /// As [`int`](Self::int), and when it is negative.
    pub fn count(&self, name: &str) -> Result<usize, NodeError> {
        let number = self.int(name)?;
        usize::try_from(number).map_err(|_| NodeError::input(name, format!("{number} is no count")))
    }

    /// A seed.
    ///
    /// # Errors
    /// As [`int`](Self::int), and when it is no unsigned 64-bit number.
    pub fn seed(&self, name: &str) -> Result<u64, NodeError> {
        let number = self.int(name)?;
        u64::try_from(number).map_err(|_| NodeError::input(name, format!("{number} is no seed")))
    }
}
