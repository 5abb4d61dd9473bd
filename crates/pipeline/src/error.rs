//! Why no picture came of it.

use std::error::Error;
use std::fmt;

use thiserror::Error;

/// Why no picture came of it.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// Something was asked for that cannot be done.
    #[error("the {argument}: {problem}")]
    Argument {
        /// What cannot be worked with.
        argument: Argument,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// The work failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// What a run is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// The latent that sampling starts from.
    Latent,
    /// What the picture is to follow.
    Positive,
    /// What the picture is to keep away from.
    Negative,
    /// Latents to be decoded.
    Latents,
    /// Pictures to be encoded.
    Pictures,
    /// The tiles that an autoencoder works in.
    Tiling,
    /// The model file.
    Model,
    /// A LoRA.
    Lora,
    /// Where components live and compute.
    Placement,
    /// The width in pixels.
    Width,
    /// The height in pixels.
    Height,
    /// How many pictures are made at once.
    Batch,
    /// The number of steps.
    Steps,
    /// The scale of the guidance.
    Cfg,
    /// The strength of a distilled guidance.
    Guidance,
    /// The sampler's name.
    Sampler,
    /// The scheduler's name.
    Scheduler,
    /// How much of the latent is replaced.
    Denoise,
    /// The layer of the text encoders that is read.
    ClipSkip,
    /// The picture to start from.
    Image,
    /// Where the picture is to change.
    Mask,
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Argument::Latent => "latent",
            Argument::Positive => "positive conditioning",
            Argument::Negative => "negative conditioning",
            Argument::Latents => "latents",
            Argument::Pictures => "pictures",
            Argument::Tiling => "tiles",
            Argument::Model => "model",
            Argument::Lora => "LoRA",
            Argument::Placement => "placement",
            Argument::Width => "width",
            Argument::Height => "height",
            Argument::Batch => "batch",
            Argument::Steps => "steps",
            Argument::Cfg => "cfg",
            Argument::Guidance => "guidance",
            Argument::Sampler => "sampler",
            Argument::Scheduler => "scheduler",
            Argument::Denoise => "denoise",
            Argument::ClipSkip => "clip skip",
            Argument::Image => "image",
            Argument::Mask => "mask",
        })
    }
}

impl PipelineError {
    /// Something that cannot be worked with.
    pub fn argument(argument: Argument, problem: impl ToString) -> Self {
        Self::Argument { argument, problem: problem.to_string() }
    }

    /// The work failed.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// An error with all that it came from, each said once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
