//! Noise, sigma schedules, samplers and guidance.
//!
//! A model is a [`Denoiser`](sampler::Denoiser): what makes a noisy latent into a guess of the clean
//! one. No model family is known here, and no file. The way of a run:
//!
//! 1. [`model_sampling`] says which sigmas a model knows and what its output means;
//! 2. [`schedule`] chooses the sigmas of the run;
//! 3. [`noise`] makes the noise of a seed;
//! 4. [`guidance`] makes a model with two conditionings into one denoiser;
//! 5. [`sampler`] goes from sigma to sigma; [`ksampler`] wraps it for img2img and [`inpaint`]ing.

pub mod guidance;
pub mod inpaint;
pub mod ksampler;
pub mod model_sampling;
mod names;
pub mod noise;
mod process;
pub mod sampler;
pub mod schedule;

pub use names::UnknownName;
pub use process::NoiseProcess;

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
