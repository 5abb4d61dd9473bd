//! What a UNet's layers cost.

use distorch_checkpoint::config::UnetConfig;
use distorch_checkpoint::{Layer, LayerKind, Param};

use super::{READING, weight};
use crate::estimate::Workload;

/// Tokens of a chunk of text.
const CONTEXT: u64 = 77;

/// The cost of each of these layers in one forward pass.
pub(crate) fn costs(config: &UnetConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
    let unet = Unet::new(config, workload);
    layers.iter().map(|layer| unet.cost(layer)).collect()
}

/// A UNet's blocks with the resolutions that they compute at.
struct Unet {
    workload: Workload,
    /// Latents at once.
    rows: u64,
    /// The level of each of `input_blocks`; 0 is the highest resolution.
    down: Vec<u32>,
    /// The level of each of `output_blocks`.
    up: Vec<u32>,
}

impl Unet {
    fn new(config: &UnetConfig, workload: Workload) -> Unet {
        // Before the residual blocks of each level there is the first convolution, or one that halves
        // the resolution.
        let levels = || (0_u32..).zip(&config.num_res_blocks);
        let blocks = |(level, &count): (u32, &usize)| std::iter::repeat_n(level, count + 1);
        let rows = workload.rows();
        let down: Vec<u32> = levels().flat_map(blocks).collect();
        let up = down.iter().rev().copied().collect();
        Unet { workload, rows, down, up }
    }

    /// Pixels of a latent at a level.
    fn pixels(&self, level: u32) -> u64 {
        let cell = 8_u64 << level.min(32);
        let side = |pixels: u32| u64::from(pixels).div_ceil(cell);
        side(self.workload.width).saturating_mul(side(self.workload.height))
    }

    /// The level that a layer computes at; `None` for those of the time and the class.
    fn level(&self, name: &str) -> Option<u32> {
        let mut parts = name.split('.');
        let (part, at) = (parts.next()?, parts.next());
        let at = || at?.parse::<usize>().ok();
        match part {
            "input_blocks" => self.down.get(at()?).copied(),
            "middle_block" => self.down.last().copied(),
            // The convolution behind a doubled resolution is at the next level.
            "output_blocks" if name.ends_with(".conv") => {
                self.up.get(at()?).map(|level| level.saturating_sub(1))
            }
            "output_blocks" => self.up.get(at()?).copied(),
            "out" => Some(0),
            _ => None,
        }
    }

    fn cost(&self, layer: &Layer) -> u64 {
        let read = match layer.kind {
            // Each pixel's channels, too.
            LayerKind::Norm => weight(layer).saturating_mul(self.positions(layer)),
            _ => layer.params.iter().map(Param::elements).sum(),
        };
        self.products(layer).saturating_add(read.saturating_mul(READING))
    }

    /// Multiplications of matrices and convolutions.
    fn products(&self, layer: &Layer) -> u64 {
        match layer.kind {
            LayerKind::Linear | LayerKind::Conv => {
                let products = weight(layer).saturating_mul(self.positions(layer));
                products.saturating_add(self.attention(layer))
            }
            _ => 0,
        }
    }

    /// How often each weight of a layer is multiplied with something.
    fn positions(&self, layer: &Layer) -> u64 {
        let name = layer.name.as_str();
        let of_text = ["attn2.to_k", "attn2.to_v"].iter().any(|end| name.ends_with(end));
        let meets = match self.level(name) {
            Some(_) if name.contains(".emb_layers.") => 1,
            Some(_) if of_text => CONTEXT,
            Some(level) => self.pixels(level),
            None => 1,
        };
        self.rows.saturating_mul(meets)
    }

    /// The products of attention between pixels, or with the text, which are made once the last
    /// projection of what is attended to is there.
    fn attention(&self, layer: &Layer) -> u64 {
        let pixels = self.level(&layer.name).map_or(0, |level| self.pixels(level));
        let attended = match () {
            () if layer.name.ends_with(".attn1.to_v") => pixels,
            () if layer.name.ends_with(".attn2.to_v") => CONTEXT,
            () => return 0,
        };
        let channels = layer.param("weight").and_then(|weight| weight.shape.first());
        let channels = channels.map_or(0, |&channels| channels as u64);
        // Queries with keys, and what comes of it with values.
        let products = self.rows.saturating_mul(2);
        [channels, pixels, attended].iter().fold(products, |all, &part| all.saturating_mul(part))
    }
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::config::{DiffusionConfig, Heads};
    use distorch_checkpoint::family::{Configs, Model, blank, recognise};
    use distorch_checkpoint::{Component, ComponentKind, Dtype};

    use super::*;
    use crate::family::layer_costs;

    fn model(config: UnetConfig) -> Model {
        let diffusion = Some(DiffusionConfig::Unet(config));
        let configs = Configs { diffusion, ..Configs::default() };
        recognise(&blank("blank", &configs, Dtype::F16).unwrap()).unwrap()
    }

    /// The sums are PyTorch's, of `tools/reference/unet_products.py`.
    #[test]
    fn products_are_those_that_pytorch_counts() {
        for (config, side, cfg_batch, expected) in [
            (UnetConfig::sd(768, Heads::Count(8)), 256, 1, 90_053_222_400),
            (UnetConfig::sd(768, Heads::Count(8)), 512, 1, 401_636_720_640),
            (UnetConfig::sd(768, Heads::Count(8)), 512, 2, 803_273_441_280),
            (UnetConfig::sdxl(), 1024, 2, 6_761_236_398_080),
        ] {
            let model = model(config.clone());
            let component = model.component(ComponentKind::DiffusionModel).unwrap();
            let workload = Workload { width: side, height: side, batch: 1, cfg_batch };
            let unet = Unet::new(&config, workload);
            let sum: u64 = component.layers.iter().map(|layer| unet.products(layer)).sum();
            assert_eq!(sum, expected, "{side}, {cfg_batch}");
            let costs = layer_costs(&model, component, workload).unwrap();
            assert_eq!(costs.len(), component.layers.len());
            assert!(costs.iter().all(|&cost| cost > 0) && costs.iter().sum::<u64>() > sum);
        }
    }

    /// A convolution in the middle computes less than one of as many bytes at a higher resolution.
    #[test]
    fn a_layer_costs_what_its_pixels_do() {
        let model = model(UnetConfig::sd(768, Heads::Count(8)));
        let component = model.component(ComponentKind::DiffusionModel).unwrap();
        let workload = Workload { width: 520, height: 504, batch: 3, cfg_batch: 2 };
        let costs = layer_costs(&model, component, workload).unwrap();
        let cost = |name: &str| {
            let at = component.layers.iter().position(|layer| layer.name == name).unwrap();
            costs[at]
        };
        let conv = 9 * 1280 * 1280;
        let read = (conv + 1280) * READING;
        // 65×63 latent pixels: 9×8 of them three levels down, 17×16 two.
        assert_eq!(cost("middle_block.0.in_layers.2"), 6 * 72 * conv + read);
        assert_eq!(cost("output_blocks.2.1.conv"), 6 * 17 * 16 * conv + read);
        assert_eq!(cost("input_blocks.9.0.op"), 6 * 72 * conv + read);
        assert_eq!(cost("out.0"), 6 * 65 * 63 * 320 * READING);
        assert_eq!(cost("time_embed.2"), 6 * 1280 * 1280 + (1280 * 1280 + 1280) * READING);
        let keys = "middle_block.1.transformer_blocks.0.attn2.to_k";
        assert_eq!(cost(keys), 1280 * 768 * (6 * 77 + READING));
        assert!(
            layer_costs(&model, &Component { kind: ComponentKind::Vae, layers: vec![] }, workload)
                .is_none()
        );
    }
}
