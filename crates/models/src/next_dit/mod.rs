//! NextDiT (Zhuo et al., <https://arxiv.org/abs/2406.18583>), the transformer of Lumina-Image 2.0
//! (<https://arxiv.org/abs/2503.21758>) and of Z-Image (<https://arxiv.org/abs/2511.22699>): one stream for picture and text, each of which some blocks refine alone before.

mod block;
mod patches;
mod rules;
mod transformer;

pub(crate) use rules::name;
pub use transformer::NextDit;
