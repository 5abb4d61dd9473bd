//! Chroma (<https://huggingface.co/lodestones/Chroma>): Flux.1 schnell whose modulations one small network makes, from the
//! time and a number for each of them.

mod approximator;
pub mod text;
mod transformer;

pub use transformer::ChromaTransformer;

/// The network's name in errors.
const MODEL: &str = "Chroma transformer";
