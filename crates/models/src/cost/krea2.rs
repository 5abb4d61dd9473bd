//! What Krea 2's layers cost.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::Krea2Config;

use super::transformer::{self, Transformer};
use crate::estimate::Workload;

/// Tokens of a short prompt, in a chat's turn.
const WORDS: u64 = 64;

/// The cost of each of these layers in one forward pass.
pub(crate) fn costs(config: &Krea2Config, layers: &[Layer], workload: Workload) -> Vec<u64> {
    Krea2::new(config, workload).costs(layers)
}

/// A transformer's tokens.
struct Krea2<'c> {
    config: &'c Krea2Config,
    /// Latents at once.
    rows: u64,
    /// Of each latent.
    patches: u64,
}

impl<'c> Krea2<'c> {
    fn new(config: &'c Krea2Config, workload: Workload) -> Self {
        let cell = (config.patch_size as u64).saturating_mul(8);
        let patches = transformer::patches(workload, cell);
        Self { config, rows: workload.rows(), patches }
    }

    fn is_of_text(&self, name: &str) -> bool {
        name.starts_with("txtfusion.")
    }
}

impl Transformer for Krea2<'_> {
    fn rows(&self) -> u64 {
        self.rows
    }

    /// In the first blocks of the text each layer of a token is one, and the projector meets each feature of a token.
    fn tokens(&self, name: &str) -> u64 {
        let each = |count: usize| WORDS.saturating_mul(count as u64);
        if name.starts_with("tmlp.") || name.starts_with("tproj.") {
            1
        } else if name.starts_with("txtfusion.layerwise_blocks.") {
            each(self.config.text_layers)
        } else if name == "txtfusion.projector" {
            each(self.config.text_width)
        } else if self.is_of_text(name) || name.starts_with("txtmlp.") {
            WORDS
        } else if name.starts_with("blocks.") {
            self.patches.saturating_add(WORDS)
        } else {
            self.patches
        }
    }

    fn heads(&self, name: &str) -> u64 {
        match name.contains(".qknorm.") {
            true if self.is_of_text(name) => self.config.text_heads as u64,
            true => self.config.heads as u64,
            false => 1,
        }
    }

    fn attention(&self, name: &str) -> u64 {
        if !name.ends_with(".attn.wq") {
            return 0;
        }
        let (width, seen) = if name.starts_with("txtfusion.layerwise_blocks.") {
            (self.config.text_width, self.config.text_layers as u64)
        } else if self.is_of_text(name) {
            (self.config.text_width, WORDS)
        } else {
            (self.config.width, self.patches.saturating_add(WORDS))
        };
        let tokens = self.rows.saturating_mul(self.tokens(name));
        tokens.saturating_mul(2 * width as u64).saturating_mul(seen)
    }
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::config::DiffusionConfig;
    use distorch_checkpoint::family::{Configs, blank, recognise};
    use distorch_checkpoint::{ComponentKind, Dtype};

    use super::*;
    use crate::family::layer_costs;

    /// By hand: each matrix by its tokens, and attention in the blocks of each list.
    #[test]
    fn products_are_matrices_times_tokens() {
        let config = Krea2Config {
            in_channels: 16,
            out_channels: 16,
            patch_size: 2,
            width: 6144,
            heads: 48,
            kv_heads: 12,
            mlp_width: 16_384,
            depth: 28,
            time_frequencies: 256,
            text_width: 2560,
            text_layers: 12,
            text_heads: 20,
            text_kv_heads: 20,
            text_mlp_width: 6912,
            layerwise_depth: 2,
            refiner_depth: 2,
        };
        let diffusion = Some(DiffusionConfig::Krea2(config.clone()));
        let configs = Configs { diffusion, ..Configs::default() };
        let model = recognise(&blank("blank", &configs, Dtype::BF16).unwrap()).unwrap();
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        let (rows, patches, words) = (2, 64 * 64, 64);
        let workload = Workload { width: 1024, height: 1024, batch: 1, cfg_batch: 2 };
        let network = Krea2::new(&config, workload);
        let sum: u64 = component.layers.iter().map(|layer| network.products(layer)).sum();
        let block = 3 * 6144 * 6144 + 2 * 6144 * 1536 + 3 * 6144 * 16_384;
        let text_block = 5 * 2560 * 2560 + 3 * 2560 * 6912;
        let tokens = patches + words;
        let blocks = 28 * (tokens * block + 2 * 6144 * tokens * tokens);
        let layerwise = 2 * 12 * words * (text_block + 2 * 2560 * 12);
        let refiner = 2 * words * (text_block + 2 * 2560 * words);
        let text = layerwise + refiner + words * (12 * 2560 + 2560 * 6144 + 6144 * 6144);
        let time = 256 * 6144 + 6144 * 6144 + 6 * 6144 * 6144;
        let ends = 2 * patches * 64 * 6144;
        assert_eq!(sum, rows * (blocks + text + time + ends));
        let costs = layer_costs(&model, component, workload).unwrap();
        assert_eq!(costs.len(), component.layers.len());
        assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
    }
}
