//! A run of a sampler: what a model is told, how its guesses are put together, and the way from
//! one latent to another.

pub mod conditioning;
pub mod denoise;
pub mod evaluations;
pub mod fit;
pub mod guider;
pub mod inpaint;
pub mod noise;
pub mod region;
pub mod sample;
pub mod sampler;
