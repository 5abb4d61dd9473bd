//! Noise, sigma schedules, samplers and guidance.
//!
//! A model is a [`Denoiser`](sampler::Denoiser): what makes a noisy latent into a guess of the clean
//! one. No model family is known here, and no file.

pub mod model_sampling;
mod names;
pub mod noise;
pub mod sampler;
pub mod schedule;

pub use names::UnknownName;
