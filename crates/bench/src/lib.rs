//! What `distorch bench` measures: how fast a machine runs a model, and with how much memory.
//!
//! [`stages`] times the stages of a picture, [`offload`] steps with a part of the model elsewhere, [`link`] copies over
//! a link, [`operators`] single kernels, [`lora`] putting a LoRA on. Weights come from a checkpoint or are
//! [`random`]. Results are values that serialise; nothing is printed here.

mod error;
pub mod link;
pub mod lora;
mod network;
pub mod offload;
pub mod operators;
pub mod progress;
pub mod random;
mod random_file;
pub mod stages;
mod subject;

pub use error::BenchError;
pub use random_file::random_file;
pub use subject::Subject;

/// Pixels of the picture to one of the latent.
const LATENT_CELL: u32 = 8;

/// The examples of the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
