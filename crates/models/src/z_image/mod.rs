//! Z-Image (<https://arxiv.org/abs/2511.22699>): a transformer with one stream for picture and text, each of which some
//! blocks refine alone before.

mod block;
mod patches;
pub mod text;
mod transformer;

pub use transformer::ZImageTransformer;

/// The network's name in errors.
const MODEL: &str = "Z-Image transformer";
