//! Random weights in the sizes of published models.

use std::hash::{DefaultHasher, Hash, Hasher};

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{
    ClipActivation, ClipConfig, DiffusionConfig, FluxConfig, Heads, MmditConfig, NextDitConfig,
    NextDitKind, QwenImageConfig, TextEncoderConfig, UnetConfig, VaeArchitecture, VaeConfig,
};
use distorch_checkpoint::family::Configs;
use distorch_runtime::tensor::TensorData;

/// A published model whose sizes are built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishedModel {
    /// Stable Diffusion 1.5.
    Sd15,
    /// Stable Diffusion 2.1.
    Sd21,
    /// Stable Diffusion XL, the base model.
    Sdxl,
    /// The transformer and the VAE of Stable Diffusion 3.5 medium.
    Sd35Medium,
    /// Flux dev cut to 6 blocks of full width, and its VAE.
    FluxSmall,
    /// Z-Image cut to 4 blocks of full width, and its VAE.
    ZImageSmall,
    /// Qwen-Image cut to 3 blocks of full width, and its VAE.
    QwenImageSmall,
}

/// The configurations that were published with the weights.
pub fn configs(model: PublishedModel) -> Configs {
    let unet = |config, encoders, scaling_factor| Configs {
        diffusion: Some(DiffusionConfig::Unet(config)),
        text_encoders: encoders,
        vae: Some(VaeConfig { scaling_factor, ..vae() }),
    };
    let clip = |name, config| (name, TextEncoderConfig::Clip(config));
    // T5-XXL would be larger than all else.
    let transformer = |config, [scaling_factor, shift_factor]: [f64; 2]| Configs {
        diffusion: Some(config),
        text_encoders: Vec::new(),
        vae: Some(VaeConfig {
            latent_channels: 16,
            quant_conv: false,
            scaling_factor,
            shift_factor,
            ..vae()
        }),
    };
    match model {
        PublishedModel::Sd15 => {
            unet(UnetConfig::sd(768, Heads::Count(8)), vec![clip("clip_l", clip_l())], 0.18215)
        }
        PublishedModel::Sd21 => {
            unet(UnetConfig::sd(1024, Heads::Width(64)), vec![clip("clip_h", clip_h())], 0.18215)
        }
        PublishedModel::Sdxl => {
            let encoders = vec![clip("clip_l", clip_l()), clip("clip_g", clip_g())];
            unet(UnetConfig::sdxl(), encoders, 0.13025)
        }
        PublishedModel::Sd35Medium => {
            transformer(DiffusionConfig::Mmdit(sd35_medium()), [1.5305, 0.0609])
        }
        PublishedModel::FluxSmall => {
            transformer(DiffusionConfig::Flux(flux_small()), [0.3611, 0.1159])
        }
        PublishedModel::ZImageSmall => {
            transformer(DiffusionConfig::NextDit(z_image_small()), [0.3611, 0.1159])
        }
        PublishedModel::QwenImageSmall => Configs {
            diffusion: Some(DiffusionConfig::QwenImage(qwen_image_small())),
            text_encoders: Vec::new(),
            vae: Some(VaeConfig {
                architecture: VaeArchitecture::Causal,
                latent_channels: 16,
                channels: 96,
                ..vae()
            }),
        },
    }
}

fn vae() -> VaeConfig {
    VaeConfig {
        architecture: VaeArchitecture::Kl,
        in_channels: 3,
        latent_channels: 4,
        channels: 128,
        decoder_channels: None,
        channel_mult: vec![1, 2, 4, 4],
        num_res_blocks: 2,
        quant_conv: true,
        scaling_factor: 1.0,
        shift_factor: 0.0,
        packed: false,
    }
}

fn sd35_medium() -> MmditConfig {
    MmditConfig {
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        depth: 24,
        width: 1536,
        heads: 24,
        pos_embed_max_size: 384,
        adm_in_channels: 2048,
        context_dim: 4096,
        qk_norm: true,
        dual_attention_layers: (0..13).collect(),
    }
}

/// Flux dev's width with 2 of its 19 and 4 of its 38 blocks.
fn flux_small() -> FluxConfig {
    FluxConfig {
        in_channels: 64,
        out_channels: 64,
        width: 3072,
        heads: 24,
        context_dim: 4096,
        vec_dim: 768,
        depth: 2,
        depth_single: 4,
        mlp_width: 4 * 3072,
        guidance_embed: true,
    }
}

/// Z-Image's width with 4 of its 30 blocks, and 1 of 2 for the picture and for the text.
fn z_image_small() -> NextDitConfig {
    NextDitConfig {
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
        refiner_depth: 1,
        depth: 4,
    }
}

/// Qwen-Image's width with 3 of its 60 blocks.
fn qwen_image_small() -> QwenImageConfig {
    QwenImageConfig {
        in_channels: 16,
        out_channels: 16,
        width: 3072,
        heads: 24,
        context_dim: 3584,
        mlp_width: 4 * 3072,
        depth: 3,
        references_at_zero: false,
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
    use distorch_checkpoint::{Component, ComponentKind, Dtype};

    use super::*;

    /// The published numbers of parameters, and the families that the sizes are.
    #[test]
    fn the_sizes_are_the_published_ones() {
        for (model, family, network, clip, vae) in [
            (PublishedModel::Sd15, Family::Sd1, 859_520_964, 123_060_480, 83_653_863),
            (PublishedModel::Sd21, Family::Sd2, 865_910_724, 354_032_640, 83_653_863),
            (PublishedModel::Sdxl, Family::SdxlBase, 2_567_463_684, 817_720_320, 83_653_863),
            // diffusers' class with these sizes, and its table of positions, which it keeps apart.
            (PublishedModel::Sd35Medium, Family::Sd3, 2_243_171_520 + 226_492_416, 0, 83_819_683),
            (PublishedModel::FluxSmall, Family::Flux, 1_310_154_816, 0, 83_819_683),
            (PublishedModel::ZImageSmall, Family::ZImage, 1_093_366_848, 0, 83_819_683),
            // diffusers' classes with these sizes, without the convolutions between frames.
            (
                PublishedModel::QwenImageSmall,
                Family::QwenImage,
                1_060_017_216,
                0,
                126_892_531 - 2_324_544,
            ),
        ] {
            let checkpoint = blank("random", &configs(model), Dtype::F32).unwrap();
            let model = recognise(&checkpoint).unwrap();
            assert_eq!(model.family(), Some(family));
            assert!(model.unknown.is_empty());
            let parameters = |kind| model.component(kind).map_or(0, Component::parameters);
            assert_eq!(parameters(ComponentKind::DiffusionModel), network);
            assert_eq!(parameters(ComponentKind::TextEncoders), clip);
            assert_eq!(parameters(ComponentKind::Vae), vae);
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
