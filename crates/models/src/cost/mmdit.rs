//! What an MMDiT's layers cost.

use distorch_checkpoint::config::MmditConfig;
use distorch_checkpoint::{Layer, LayerKind};

use super::transformer::{self, Transformer};
use crate::estimate::Workload;

/// Tokens of a text: 77 of both CLIPs side by side and the 77 that T5 has at least.
const TEXT: u64 = 154;

/// The cost of each of these layers in one forward pass.
pub(crate) fn costs(config: &MmditConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
    Mmdit::new(config, workload).costs(layers)
}

/// An MMDiT's tokens.
struct Mmdit {
    width: u64,
    heads: u64,
    /// Latents at once.
    rows: u64,
    /// Of each latent.
    patches: u64,
}

impl Mmdit {
    fn new(config: &MmditConfig, workload: Workload) -> Self {
        let cell = (config.patch_size as u64).saturating_mul(8);
        Self {
            width: config.width as u64,
            heads: config.heads as u64,
            rows: workload.rows(),
            patches: transformer::patches(workload, cell),
        }
    }
}

impl Transformer for Mmdit {
    fn rows(&self) -> u64 {
        self.rows
    }

    fn tokens(&self, name: &str) -> u64 {
        let of_vectors = ["t_embedder.", "y_embedder."].iter().any(|start| name.starts_with(start));
        if of_vectors || name.contains("adaLN_modulation") {
            1
        } else if name == "context_embedder" || name.contains(".context_block.") {
            TEXT
        } else {
            self.patches
        }
    }

    /// All norms are of queries and keys.
    fn heads(&self, _: &str) -> u64 {
        self.heads
    }

    fn read(&self, layer: &Layer) -> u64 {
        match layer.kind {
            // Of the table of positions, those that the picture has.
            LayerKind::Param => self.patches.saturating_mul(self.width),
            _ => transformer::read(self, layer),
        }
    }

    fn attention(&self, name: &str) -> u64 {
        let tokens = match () {
            () if name.ends_with("context_block.attn.qkv") => self.patches.saturating_add(TEXT),
            () if name.ends_with("x_block.attn2.qkv") => self.patches,
            () => return 0,
        };
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

    /// The sums are PyTorch's, of `tools/reference/mmdit_products.py`.
    #[test]
    fn products_are_those_that_pytorch_counts() {
        let medium = MmditConfig {
            in_channels: 16,
            out_channels: 16,
            patch_size: 2,
            depth: 24,
            width: 1536,
            heads: 24,
            pos_embed_max_size: 192,
            adm_in_channels: 2048,
            context_dim: 4096,
            qk_norm: false,
            dual_attention_layers: vec![],
        };
        let medium_35 = MmditConfig {
            pos_embed_max_size: 384,
            qk_norm: true,
            dual_attention_layers: (0..13).collect(),
            ..medium.clone()
        };
        let large_35 =
            MmditConfig { depth: 38, width: 2432, heads: 38, qk_norm: true, ..medium.clone() };
        for (config, [width, height], cfg_batch, expected) in [
            (&medium, [512; 2], 1, 901_318_606_848),
            (&medium, [1024; 2], 2, 8_437_355_053_056),
            (&medium_35, [512; 2], 1, 1_068_914_343_936),
            (&medium_35, [1024; 2], 2, 10_782_591_221_760),
            (&large_35, [512; 2], 1, 3_429_992_990_720),
            (&large_35, [1024; 2], 2, 29_596_766_900_224),
        ] {
            let diffusion = Some(DiffusionConfig::Mmdit(config.clone()));
            let configs = Configs { diffusion, ..Configs::default() };
            let model = recognise(&blank("blank", &configs, Dtype::F16).unwrap()).unwrap();
            let component = model.component(ComponentKind::DiffusionModel).unwrap();
            let workload = Workload { width, height, batch: 1, cfg_batch };
            let mmdit = Mmdit::new(config, workload);
            let sum: u64 = component.layers.iter().map(|layer| mmdit.products(layer)).sum();
            assert_eq!(sum, expected, "{} blocks, {width}×{height}", config.depth);
            let costs = layer_costs(&model, component, workload).unwrap();
            assert_eq!(costs.len(), component.layers.len());
            assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
        }
    }
}
