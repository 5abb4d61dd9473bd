//! NextDiT (Zhuo et al., <https://arxiv.org/abs/2406.18583>), the transformer of Z-Image
//! (<https://arxiv.org/abs/2511.22699>): one stream for picture and text, each of which some blocks refine alone before.

mod block;
mod patches;
mod transformer;

pub use transformer::NextDit;

/// The network's name in errors.
const MODEL: &str = "Z-Image transformer";
