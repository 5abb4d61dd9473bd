//! What Qwen-Image 2.1's layers cost.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::QwenImage21Config;

use super::transformer::{self, Transformer};
use crate::estimate::Workload;

/// Tokens of a prompt, in a chat's turn.
const WORDS: u64 = 64;

/// Pixels of a token, along a side.
const CELL: u64 = 16;

/// The cost of each of these layers in one forward pass.
pub(crate) fn costs(config: &QwenImage21Config, layers: &[Layer], workload: Workload) -> Vec<u64> {
    QwenImage21::new(config, workload).costs(layers)
}

/// A transformer's tokens.
struct QwenImage21 {
    width: u64,
    heads: u64,
    /// Latents at once.
    rows: u64,
    /// Of each latent.
    pixels: u64,
}

impl QwenImage21 {
    fn new(config: &QwenImage21Config, workload: Workload) -> Self {
        Self {
            width: config.width as u64,
            heads: config.heads as u64,
            rows: workload.rows(),
            pixels: transformer::patches(workload, CELL),
        }
    }
}

impl Transformer for QwenImage21 {
    fn rows(&self) -> u64 {
        self.rows
    }

    fn tokens(&self, name: &str) -> u64 {
        let of_vectors = ["time_text_embed.", "modulation.", "norm_out."];
        if of_vectors.iter().any(|start| name.starts_with(start)) {
            1
        } else if name.starts_with("txt_in.") {
            WORDS
        } else if name.starts_with("transformer_blocks.") {
            self.pixels.saturating_add(WORDS)
        } else {
            self.pixels
        }
    }

    fn heads(&self, name: &str) -> u64 {
        if name.contains(".attn.") { self.heads } else { 1 }
    }

    /// The picture's tokens see all, the text's each other.
    fn attention(&self, name: &str) -> u64 {
        if !name.ends_with(".attn.to_v") {
            return 0;
        }
        let all = transformer::attention(self.rows, self.width, self.pixels.saturating_add(WORDS));
        let unseen = self.rows.saturating_mul(2).saturating_mul(self.width);
        all.saturating_sub(unseen.saturating_mul(WORDS).saturating_mul(self.pixels))
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
        let config = QwenImage21Config {
            in_channels: 64,
            out_channels: 64,
            width: 4096,
            heads: 32,
            context_dim: 4096,
            mlp_width: 12_288,
            depth: 32,
            fused_gate: true,
        };
        let diffusion = Some(DiffusionConfig::QwenImage21(config.clone()));
        let configs = Configs { diffusion, ..Configs::default() };
        let model = recognise(&blank("blank", &configs, Dtype::BF16).unwrap()).unwrap();
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        // Those of diffusers' class as published.
        assert_eq!(component.parameters(), 7_115_124_736);
        let (rows, pixels, words) = (2, 64 * 64, 64);
        let workload = Workload { width: 1024, height: 1024, batch: 1, cfg_batch: 2 };
        let network = QwenImage21::new(&config, workload);
        let sum: u64 = component.layers.iter().map(|layer| network.products(layer)).sum();
        let (width, all) = (4096, pixels + words);
        let block = all * (4 * width * width + 3 * width * 12_288)
            + 2 * width * (pixels * all + words * words);
        let text = words * 2 * width * width;
        let vectors = 256 * width + width * width + 4 * width * width + width * width;
        let ends = 2 * pixels * 64 * width;
        assert_eq!(sum, rows * (32 * block + text + vectors + ends));
        let costs = layer_costs(&model, component, workload).unwrap();
        assert_eq!(costs.len(), component.layers.len());
        assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
    }
}
