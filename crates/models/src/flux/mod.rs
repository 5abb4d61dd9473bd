//! The Flux.1 transformer (Black Forest Labs, <https://github.com/black-forest-labs/flux>): dev, schnell, Fill,
//! Canny and Depth, Kontext.
//!
//! Patches of 2×2 latent pixels and the text's states are tokens of one attention. The first blocks have weights for
//! either stream (`double`), the later ones weights for both together (`single`). A vector of the
//! time, the pooled text and, in distilled models, the guidance modulates every block. Places are told by
//! rotations (`rope`).

mod double;
mod modulation;
mod patches;
mod rope;
mod single;
pub mod text;
mod transformer;

pub use transformer::FluxTransformer;

/// What Chroma's transformer is made of, too.
pub(crate) mod blocks {
    pub(crate) use super::double::{DoubleBlock, EPSILON, Streams};
    pub(crate) use super::modulation::Step;
    pub(crate) use super::patches::{AREA, grid, pack, unpack};
    pub(crate) use super::rope::{Axes, ids};
    pub(crate) use super::single::SingleBlock;
}
