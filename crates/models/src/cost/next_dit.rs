//! What the layers of a NextDiT cost.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::NextDitConfig;

use super::transformer::{self, Transformer};
use crate::estimate::Workload;

/// Tokens of a prompt, in a chat's turn and padded.
const WORDS: u64 = 64;

/// The cost of each of these layers in one forward pass.
pub(crate) fn costs(config: &NextDitConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
    NextDit::new(config, workload).costs(layers)
}

/// A transformer's tokens.
struct NextDit {
    width: u64,
    heads: u64,
    /// Latents at once.
    rows: u64,
    /// Of each latent, with their padding.
    patches: u64,
}

impl NextDit {
    fn new(config: &NextDitConfig, workload: Workload) -> Self {
        let cell = (config.patch_size as u64).saturating_mul(8);
        Self {
            width: config.width as u64,
            heads: config.heads as u64,
            rows: workload.rows(),
            patches: transformer::patches(workload, cell),
        }
    }
}

impl Transformer for NextDit {
    fn rows(&self) -> u64 {
        self.rows
    }

    fn tokens(&self, name: &str) -> u64 {
        if name.contains("adaLN_modulation") || name.starts_with("t_embedder.") {
            1
        } else if name.starts_with("cap_embedder.") || name.starts_with("context_refiner.") {
            WORDS
        } else if name.starts_with("layers.") {
            self.patches.saturating_add(WORDS)
        } else {
            self.patches
        }
    }

    fn heads(&self, name: &str) -> u64 {
        if name.contains(".attention.") { self.heads } else { 1 }
    }

    fn attention(&self, name: &str) -> u64 {
        if !name.ends_with(".attention.qkv") {
            return 0;
        }
        transformer::attention(self.rows, self.width, self.tokens(name))
    }
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::config::{DiffusionConfig, NextDitKind};
    use distorch_checkpoint::family::{Configs, blank, recognise};
    use distorch_checkpoint::{ComponentKind, Dtype};

    use super::*;
    use crate::family::layer_costs;

    /// The published sizes of Z-Image and of Lumina 2, with their parameters.
    fn published() -> [(NextDitConfig, u64); 2] {
        let z_image = NextDitConfig {
            kind: NextDitKind::ZImage,
            in_channels: 16,
            out_channels: 16,
            patch_size: 2,
            width: 3840,
            heads: 30,
            kv_heads: 30,
            context_dim: 2560,
            mlp_width: 10_240,
            time_width: 1024,
            modulation_width: 256,
            refiner_depth: 2,
            depth: 30,
        };
        let lumina2 = NextDitConfig {
            kind: NextDitKind::Lumina2,
            width: 2304,
            heads: 24,
            kv_heads: 8,
            context_dim: 2304,
            mlp_width: 9216,
            modulation_width: 1024,
            depth: 26,
            ..z_image.clone()
        };
        [(z_image, 6_154_908_736), (lumina2, 2_609_769_152)]
    }

    /// By hand: each matrix by its tokens, and attention in the blocks of each list.
    #[test]
    fn products_are_matrices_times_tokens() {
        for (config, parameters) in published() {
            let diffusion = Some(DiffusionConfig::NextDit(config.clone()));
            let configs = Configs { diffusion, ..Configs::default() };
            let model = recognise(&blank("blank", &configs, Dtype::BF16).unwrap()).unwrap();
            let component = model.component(ComponentKind::DiffusionModel).unwrap();
            assert_eq!(component.parameters(), parameters);
            let (rows, patches, words) = (2, 64 * 64, 64);
            let workload = Workload { width: 1024, height: 1024, batch: 1, cfg_batch: 2 };
            let network = NextDit::new(&config, workload);
            let sum: u64 = component.layers.iter().map(|layer| network.products(layer)).sum();
            let of = |size: usize| size as u64;
            let (width, depth) = (of(config.width), of(config.depth));
            let (mlp, modulation) = (of(config.mlp_width), of(config.modulation_width));
            let shared = of(config.kv_heads) * (width / of(config.heads));
            let block = 2 * width * (width + shared) + 3 * width * mlp;
            let blocks =
                |count: u64, tokens: u64| count * (tokens * block + 2 * width * tokens * tokens);
            let modulations = (depth + 2) * 4 * width * modulation + width * modulation;
            let time = 1024 * 256 + modulation * 1024;
            let ends = time + words * of(config.context_dim) * width + 2 * patches * 64 * width;
            let all = blocks(depth, patches + words) + blocks(2, patches) + blocks(2, words);
            assert_eq!(sum, rows * (all + modulations + ends));
            let costs = layer_costs(&model, component, workload).unwrap();
            assert_eq!(costs.len(), component.layers.len());
            assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
        }
    }
}
