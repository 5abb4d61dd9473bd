//! What the layers of Flux, Flux.2 and Chroma cost.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{ChromaConfig, Flux2Config, FluxConfig};

use super::transformer::{self, Transformer};
use crate::estimate::Workload;

/// Tokens of T5 that a prompt has at least.
const WORDS: u64 = 256;

/// Tokens of a short prompt for Chroma.
const WORDS_OF_CHROMA: u64 = 32;

/// Tokens that a prompt has at least for Flux.2.
const WORDS_OF_2: u64 = 512;

/// The cost of each of these layers in one forward pass.
pub(crate) fn costs(config: &FluxConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
    Flux::new([config.width, config.heads], WORDS, workload).costs(layers)
}

/// As [`costs`], of Flux.2's.
pub(crate) fn costs_of_2(config: &Flux2Config, layers: &[Layer], workload: Workload) -> Vec<u64> {
    Flux::new([config.width, config.heads], WORDS_OF_2, workload).costs(layers)
}

/// As [`costs`], of Chroma's, whose prompts are not filled up.
pub(crate) fn costs_of_chroma(
    config: &ChromaConfig,
    layers: &[Layer],
    workload: Workload,
) -> Vec<u64> {
    Flux::new([config.width, config.heads], WORDS_OF_CHROMA, workload).costs(layers)
}

/// A Flux transformer's tokens.
struct Flux {
    width: u64,
    heads: u64,
    /// Tokens of text.
    words: u64,
    /// Latents at once.
    rows: u64,
    /// Of each latent.
    patches: u64,
}

impl Flux {
    fn new([width, heads]: [usize; 2], words: u64, workload: Workload) -> Self {
        Self {
            width: width as u64,
            heads: heads as u64,
            words,
            rows: workload.rows(),
            patches: transformer::patches(workload, 16),
        }
    }
}

impl Transformer for Flux {
    fn rows(&self) -> u64 {
        self.rows
    }

    fn tokens(&self, name: &str) -> u64 {
        let both = self.patches.saturating_add(self.words);
        // Those of the vector that modulates: of time, guidance and pooled text.
        let vectors = ["time_in.", "guidance_in.", "vector_in.", "distilled_guidance_layer."];
        if name.contains("mod.lin")
            || name.contains("modulation")
            || vectors.iter().any(|start| name.starts_with(start))
        {
            1
        } else if name.contains("txt_") {
            self.words
        } else if name.starts_with("single_blocks.") {
            both
        } else {
            self.patches
        }
    }

    /// All norms are of queries and keys.
    fn heads(&self, _: &str) -> u64 {
        self.heads
    }

    fn attention(&self, name: &str) -> u64 {
        if !name.ends_with(".txt_attn.qkv") && !name.ends_with(".linear1") {
            return 0;
        }
        let tokens = self.patches.saturating_add(self.words);
        transformer::attention(self.rows, self.width, tokens)
    }
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::config::DiffusionConfig;
    use distorch_checkpoint::family::{Configs, blank, recognise};
    use distorch_checkpoint::{ComponentKind, Dtype};

    use super::*;
    use crate::family::layer_costs;

    /// The sums are PyTorch's, of `tools/reference/flux_products.py`.
    #[test]
    fn products_are_those_that_pytorch_counts() {
        let config = FluxConfig {
            in_channels: 64,
            out_channels: 64,
            width: 3072,
            heads: 24,
            context_dim: 4096,
            vec_dim: 768,
            depth: 19,
            depth_single: 38,
            mlp_width: 12288,
            guidance_embed: true,
        };
        let diffusion = Some(DiffusionConfig::Flux(config.clone()));
        let configs = Configs { diffusion, ..Configs::default() };
        let model = recognise(&blank("blank", &configs, Dtype::BF16).unwrap()).unwrap();
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        for (width, height, batch, expected) in [
            (512, 512, 1, 8_843_126_636_544),
            (1024, 1024, 1, 34_733_323_714_560),
            (520, 328, 3, 19_343_991_490_560),
        ] {
            let workload = Workload { width, height, batch, cfg_batch: 1 };
            let flux = Flux::new([config.width, config.heads], WORDS, workload);
            let sum: u64 = component.layers.iter().map(|layer| flux.products(layer)).sum();
            assert_eq!(sum, expected, "{width}×{height}, {batch}");
            let costs = layer_costs(&model, component, workload).unwrap();
            assert_eq!(costs.len(), component.layers.len());
            assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
        }
    }

    /// By hand: each matrix by its tokens, and attention in each block.
    #[test]
    fn products_of_flux_2_are_matrices_times_tokens() {
        let config = Flux2Config {
            in_channels: 128,
            out_channels: 128,
            width: 3072,
            heads: 24,
            context_dim: 7680,
            depth: 5,
            depth_single: 20,
            mlp_width: 9216,
            guidance_embed: false,
        };
        let diffusion = Some(DiffusionConfig::Flux2(config.clone()));
        let configs = Configs { diffusion, ..Configs::default() };
        let model = recognise(&blank("blank", &configs, Dtype::BF16).unwrap()).unwrap();
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        let (rows, patches, words) = (2, 64 * 64, 512);
        let workload = Workload { width: 1024, height: 1024, batch: 1, cfg_batch: 2 };
        let flux = Flux::new([3072, 24], WORDS_OF_2, workload);
        let sum: u64 = component.layers.iter().map(|layer| flux.products(layer)).sum();
        let (square, mlp) = (3072 * 3072, 3072 * 9216);
        let both = patches + words;
        // Queries, keys, values and output; gate, features and output.
        let blocks = 25 * (both * (4 * square + 3 * mlp) + 2 * 3072 * both * both);
        let vectors = 3072 * 256 + square + (6 + 6 + 3 + 2) * square;
        let ends = 2 * patches * 128 * 3072 + words * 7680 * 3072;
        assert_eq!(sum, rows * (blocks + vectors + ends));
        let costs = layer_costs(&model, component, workload).unwrap();
        assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
    }
}
