//! Qwen-Image 2.1: a transformer for one sequence of text, references and picture, whose blocks share one modulation, with
//! Qwen3-VL as text encoder.
//!
//! A token sees those before it, and those of its own picture; only the tokens of the picture that is made know the time.

mod block;
mod sequence;
pub mod text;
mod transformer;

pub use transformer::QwenImage21Transformer;

/// The network's name in errors.
const MODEL: &str = "Qwen-Image 2.1 transformer";
