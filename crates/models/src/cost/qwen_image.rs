//! What Qwen-Image's layers cost.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::QwenImageConfig;

use super::transformer::{self, Transformer};
use crate::estimate::Workload;

/// Tokens of a prompt, in a chat's turn.
const WORDS: u64 = 64;

/// Pixels of a patch, along a side.
const CELL: u64 = 16;

/// The cost of each of these layers in one forward pass.
pub(crate) fn costs(config: &QwenImageConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
    QwenImage::new(config, workload).costs(layers)
}

/// A transformer's tokens.
struct QwenImage {
    width: u64,
    heads: u64,
    /// Latents at once.
    rows: u64,
    /// Of each latent.
    patches: u64,
}

impl QwenImage {
    fn new(config: &QwenImageConfig, workload: Workload) -> Self {
        Self {
            width: config.width as u64,
            heads: config.heads as u64,
            rows: workload.rows(),
            patches: transformer::patches(workload, CELL),
        }
    }
}

impl Transformer for QwenImage {
    fn rows(&self) -> u64 {
        self.rows
    }

    fn tokens(&self, name: &str) -> u64 {
        let of_text = [".txt_mlp.", ".attn.add_", ".attn.to_add_out", ".attn.norm_added_"];
        let of_vectors = ["time_text_embed.", "norm_out."];
        if name.ends_with("_mod.1") || of_vectors.iter().any(|start| name.starts_with(start)) {
            1
        } else if name.starts_with("txt_") || of_text.iter().any(|part| name.contains(part)) {
            WORDS
        } else {
            self.patches
        }
    }

    fn heads(&self, name: &str) -> u64 {
        if name.contains(".attn.") { self.heads } else { 1 }
    }

    fn attention(&self, name: &str) -> u64 {
        if !name.ends_with(".attn.add_v_proj") {
            return 0;
        }
        let tokens = self.patches.saturating_add(WORDS);
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

    /// By hand: each matrix by its tokens, and attention in each block.
    #[test]
    fn products_are_matrices_times_tokens() {
        let config = QwenImageConfig {
            in_channels: 16,
            out_channels: 16,
            width: 3072,
            heads: 24,
            context_dim: 3584,
            mlp_width: 12_288,
            depth: 60,
            references_at_zero: false,
        };
        let diffusion = Some(DiffusionConfig::QwenImage(config.clone()));
        let configs = Configs { diffusion, ..Configs::default() };
        let model = recognise(&blank("blank", &configs, Dtype::BF16).unwrap()).unwrap();
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        // Published: 20.4 billion parameters.
        assert_eq!(component.parameters(), 20_430_401_088);
        let (rows, patches, words) = (2, 64 * 64, 64);
        let workload = Workload { width: 1024, height: 1024, batch: 1, cfg_batch: 2 };
        let network = QwenImage::new(&config, workload);
        let sum: u64 = component.layers.iter().map(|layer| network.products(layer)).sum();
        let (width, all) = (3072, patches + words);
        let block = all * (4 * width * width + 2 * width * 12_288)
            + 2 * width * all * all
            + 2 * 6 * width * width;
        let ends = patches * 2 * 64 * width
            + words * 3584 * width
            + 256 * width
            + width * width
            + 2 * width * width;
        assert_eq!(sum, rows * (60 * block + ends));
        let costs = layer_costs(&model, component, workload).unwrap();
        assert_eq!(costs.len(), component.layers.len());
        assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
    }
}
