//! Stable Diffusion 3 and 3.5 (Esser et al., <https://arxiv.org/abs/2403.03206>).

mod block;
mod mmdit;
mod patches;
pub mod text;

pub use mmdit::Mmdit;

/// The network's name in errors.
const MODEL: &str = "MMDiT";
