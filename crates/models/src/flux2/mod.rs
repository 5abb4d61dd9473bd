//! Flux.2 (Black Forest Labs, <https://bfl.ai/blog/flux-2>): Flux with gated feed-forward layers, and modulations that all
//! blocks of a kind share.

mod block;
pub mod text;
mod transformer;

pub use transformer::Flux2Transformer;

/// The network's name in errors.
const MODEL: &str = "Flux.2 transformer";
