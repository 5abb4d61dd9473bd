//! Random weights in the sizes of published models.

use std::hash::{DefaultHasher, Hash, Hasher};

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{
    ClipActivation, ClipConfig, DiffusionConfig, Heads, TextEncoderConfig, UnetConfig, VaeConfig,
};
use distorch_checkpoint::family::Configs;
use distorch_runtime::tensor::TensorData;

use crate::args::RandomModel;

/// The configurations that were published with the weights.
pub fn configs(model: RandomModel) -> Configs {
    let (unet, encoders, scaling_factor) = match model {
        RandomModel::Sd15 => {
            (UnetConfig::sd(768, Heads::Count(8)), vec![("clip_l", clip_l())], 0.18215)
        }
        RandomModel::Sd21 => {
            (UnetConfig::sd(1024, Heads::Width(64)), vec![("clip_h", clip_h())], 0.18215)
        }
        RandomModel::Sdxl => {
            (UnetConfig::sdxl(), vec![("clip_l", clip_l()), ("clip_g", clip_g())], 0.13025)
        }
    };
    Configs {
        diffusion: Some(DiffusionConfig::Unet(unet)),
        text_encoders: encoders
            .into_iter()
            .map(|(name, config)| (name, TextEncoderConfig::Clip(config)))
            .collect(),
        vae: Some(VaeConfig {
            in_channels: 3,
            latent_channels: 4,
            channels: 128,
            channel_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            quant_conv: true,
            scaling_factor,
            shift_factor: 0.0,
        }),
    }
}

fn clip_l() -> ClipConfig {
    ClipConfig {
        vocab_size: 49408,
        max_positions: 77,
        width: 768,
        layers: 12,
        heads: 12,
        intermediate: 3072,
        activation: ClipActivation::QuickGelu,
        projection: None,
    }
}

fn clip_h() -> ClipConfig {
    ClipConfig {
        width: 1024,
        layers: 24,
        heads: 16,
        intermediate: 4096,
        activation: ClipActivation::Gelu,
        projection: Some(1024),
        ..clip_l()
    }
}

fn clip_g() -> ClipConfig {
    ClipConfig {
        width: 1280,
        layers: 32,
        heads: 20,
        intermediate: 5120,
        projection: Some(1280),
        ..clip_h()
    }
}

/// A layer's parameters: uniform, and as large as keeps activations at a sound size through many layers.
pub fn layer(layer: &Layer) -> Vec<(String, TensorData)> {
    let param = |param: &distorch_checkpoint::Param| {
        let (offset, scale) = match param.shape.as_slice() {
            [] | [_] if param.name == "bias" => (0.0, 0.1),
            [] | [_] => (1.0, 0.1),
            [_, inputs @ ..] => (0.0, (3.0 / inputs.iter().product::<usize>() as f32).sqrt()),
        };
        let mut hasher = DefaultHasher::new();
        (&layer.name, &param.name).hash(&mut hasher);
        let mut values = uniform(hasher.finish(), param.shape.iter().product());
        values.iter_mut().for_each(|value| *value = offset + scale * *value);
        (param.name.clone(), TensorData::new(values, param.shape.clone()))
    };
    layer.params.iter().map(param).collect()
}

/// Values from -1 to 1, by SplitMix64 (Steele et al., <https://doi.org/10.1145/2714064.2660195>).
pub fn uniform(seed: u64, count: usize) -> Vec<f32> {
    let value = |index: u64| {
        let z = seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count as u64).map(value).collect()
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::family::{Family, blank, recognise};
    use distorch_checkpoint::{ComponentKind, Dtype};

    use super::*;

    /// The published numbers of parameters, and the families that the sizes are.
    #[test]
    fn the_sizes_are_the_published_ones() {
        for (model, family, unet, clip) in [
            (RandomModel::Sd15, Family::Sd1, 859_520_964, 123_060_480),
            (RandomModel::Sd21, Family::Sd2, 865_910_724, 354_032_640),
            (RandomModel::Sdxl, Family::SdxlBase, 2_567_463_684, 817_720_320),
        ] {
            let checkpoint = blank("random", &configs(model), Dtype::F32).unwrap();
            let model = recognise(&checkpoint).unwrap();
            assert_eq!(model.family(), Some(family));
            assert!(model.missing().is_empty() && model.unknown.is_empty());
            let parameters = |kind| model.component(kind).unwrap().parameters();
            assert_eq!(parameters(ComponentKind::DiffusionModel), unet);
            assert_eq!(parameters(ComponentKind::TextEncoders), clip);
            assert_eq!(parameters(ComponentKind::Vae), 83_653_863);
        }
    }

    #[test]
    fn values_are_spread_evenly() {
        let values = uniform(7, 100_000);
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0 / 3.0).abs() < 0.01, "{mean} {variance}");
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
    }
}
