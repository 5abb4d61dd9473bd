//! What is common to the costs of transformers: layers meet tokens, of a picture's patches, of a text, or of both.

use distorch_checkpoint::{Layer, LayerKind, Param};

use super::{READING, weight};
use crate::estimate::Workload;

/// A transformer at a workload.
pub(super) trait Transformer {
    /// Latents at once.
    fn rows(&self) -> u64;

    /// How many tokens of a latent a layer meets.
    fn tokens(&self, name: &str) -> u64;

    /// How often a token meets a norm: once, or with each head.
    fn heads(&self, name: &str) -> u64;

    /// The products of attention, which are made once the last projection of what is attended to is there: queries with
    /// keys, and what comes of it with values. 0 for layers that none follows.
    fn attention(&self, name: &str) -> u64;

    /// Values that a layer reads, beside what it multiplies.
    fn read(&self, layer: &Layer) -> u64 {
        read(self, layer)
    }

    /// Multiplications of matrices.
    fn products(&self, layer: &Layer) -> u64 {
        if !matches!(layer.kind, LayerKind::Linear | LayerKind::Conv) {
            return 0;
        }
        let tokens = self.rows().saturating_mul(self.tokens(&layer.name));
        weight(layer).saturating_mul(tokens).saturating_add(self.attention(&layer.name))
    }

    /// The cost of each of these layers in one forward pass.
    fn costs(&self, layers: &[Layer]) -> Vec<u64> {
        let cost = |layer| {
            let read = self.read(layer).saturating_mul(READING);
            self.products(layer).saturating_add(read)
        };
        layers.iter().map(cost).collect()
    }
}

/// What layers of most kinds read: their values, norms with each token.
pub(super) fn read<T: Transformer + ?Sized>(network: &T, layer: &Layer) -> u64 {
    let elements: u64 = layer.params.iter().map(Param::elements).sum();
    match layer.kind {
        LayerKind::Norm => {
            let tokens = network.rows().saturating_mul(network.tokens(&layer.name));
            elements.saturating_mul(network.heads(&layer.name)).saturating_mul(tokens)
        }
        _ => elements,
    }
}

/// Patches of a latent, of so many pixels along a side.
pub(super) fn patches(workload: Workload, pixels: u64) -> u64 {
    let side = |length: u32| u64::from(length).div_ceil(pixels.max(1));
    side(workload.width).saturating_mul(side(workload.height))
}

/// The products of attention of so many tokens with each other, all heads together.
pub(super) fn attention(rows: u64, width: u64, tokens: u64) -> u64 {
    let products = rows.saturating_mul(2).saturating_mul(width);
    products.saturating_mul(tokens).saturating_mul(tokens)
}
