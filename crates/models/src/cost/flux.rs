//! What Flux's layers cost.

use distorch_checkpoint::config::FluxConfig;
use distorch_checkpoint::{Layer, LayerKind, Param};

use super::{READING, weight};
use crate::estimate::Workload;

/// Tokens of T5 that a prompt has at least.
const WORDS: u64 = 256;

/// The cost of each of these layers in one forward pass.
pub(crate) fn costs(config: &FluxConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
    let flux = Flux::new(config, workload);
    layers.iter().map(|layer| flux.cost(layer)).collect()
}

/// A Flux transformer's tokens.
struct Flux {
    width: u64,
    heads: u64,
    /// Latents at once.
    rows: u64,
    /// Of each latent.
    patches: u64,
}

impl Flux {
    fn new(config: &FluxConfig, workload: Workload) -> Self {
        let side = |pixels: u32| u64::from(pixels).div_ceil(16);
        Self {
            width: config.width as u64,
            heads: config.heads as u64,
            rows: workload.rows(),
            patches: side(workload.width).saturating_mul(side(workload.height)),
        }
    }

    fn cost(&self, layer: &Layer) -> u64 {
        let elements: u64 = layer.params.iter().map(Param::elements).sum();
        let read = match layer.kind {
            // Each token's heads, too.
            LayerKind::Norm => {
                let tokens = self.rows.saturating_mul(self.tokens(&layer.name));
                elements.saturating_mul(self.heads).saturating_mul(tokens)
            }
            _ => elements,
        };
        self.products(layer).saturating_add(read.saturating_mul(READING))
    }

    /// Multiplications of matrices.
    fn products(&self, layer: &Layer) -> u64 {
        if layer.kind != LayerKind::Linear {
            return 0;
        }
        let tokens = self.rows.saturating_mul(self.tokens(&layer.name));
        weight(layer).saturating_mul(tokens).saturating_add(self.attention(&layer.name))
    }

    /// How many tokens of a latent a layer meets.
    fn tokens(&self, name: &str) -> u64 {
        let both = self.patches.saturating_add(WORDS);
        // Those of the vector that modulates: of time, guidance and pooled text.
        let vectors = ["time_in.", "guidance_in.", "vector_in.", "final_layer.adaLN"];
        if name.contains("mod.lin")
            || name.contains("modulation.lin")
            || vectors.iter().any(|start| name.starts_with(start))
        {
            1
        } else if name.contains("txt_") {
            WORDS
        } else if name.starts_with("single_blocks.") {
            both
        } else {
            self.patches
        }
    }

    /// The products of attention, which are made once the last projection of what is attended to is there: queries with
    /// keys, and what comes of it with values.
    fn attention(&self, name: &str) -> u64 {
        if !name.ends_with(".txt_attn.qkv") && !name.ends_with(".linear1") {
            return 0;
        }
        let tokens = self.patches.saturating_add(WORDS);
        let products = self.rows.saturating_mul(2).saturating_mul(self.width);
        products.saturating_mul(tokens).saturating_mul(tokens)
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
            let flux = Flux::new(&config, workload);
            let sum: u64 = component.layers.iter().map(|layer| flux.products(layer)).sum();
            assert_eq!(sum, expected, "{width}×{height}, {batch}");
            let costs = layer_costs(&model, component, workload).unwrap();
            assert_eq!(costs.len(), component.layers.len());
            assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
        }
    }
}
