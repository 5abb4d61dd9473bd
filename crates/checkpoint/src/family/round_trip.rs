//! Any configuration, written out as the layers that it asks for, is read back the same.

use proptest::prelude::*;

use super::{Configs, blank, recognise, vae};
use crate::config::{
    ChromaConfig, DecoderConfig, DecoderKind, DiffusionConfig, Flux2Config, FluxConfig, Heads,
    Krea2Config, MmditConfig, NextDitConfig, NextDitKind, QwenImage21Config, QwenImageConfig,
    TextEncoderConfig, UnetConfig, VaeArchitecture, VaeConfig,
};
use crate::config::{ClipActivation, ClipConfig, T5Config, VisionConfig, VisionKind};
use crate::dtype::Dtype;
use crate::family::{Family, Model};

fn recognised(configs: Configs) -> Model {
    let checkpoint = blank("round trip", &configs, Dtype::F32).unwrap();
    let model = recognise(&checkpoint).unwrap();
    assert_eq!((&model.unknown, model.ignored.len()), (&Vec::new(), 0));
    model
}

fn of_diffusion(config: &DiffusionConfig) -> DiffusionConfig {
    let diffusion = Some(config.clone());
    recognised(Configs { diffusion, ..Configs::default() }).diffusion.unwrap().config
}

fn of_text_encoder(name: &'static str, config: &TextEncoderConfig) -> TextEncoderConfig {
    let text_encoders = vec![(name, config.clone())];
    let model = recognised(Configs { text_encoders, ..Configs::default() });
    assert_eq!(model.text_encoders[0].name, name);
    model.text_encoders[0].config.clone()
}

fn unet() -> impl Strategy<Value = UnetConfig> {
    let level = (1usize..5, prop::collection::vec(0usize..3, 1..4), 0usize..3);
    let middle =
        prop_oneof![Just((2, Some(1))), Just((2, Some(3))), Just((1, None)), Just((0, None))];
    let sizes = (1usize..9, 1usize..9, any::<bool>(), prop::option::of(1usize..3000));
    (prop::collection::vec(level, 1..5), middle, sizes).prop_map(|(levels, middle, sizes)| {
        let (width, context, linear_projections, adm_in_channels) = sizes;
        let mut transformer_depth: Vec<_> =
            levels.iter().flat_map(|(_, depths, _)| depths.clone()).collect();
        // A UNet without any cross-attention is none of these families.
        transformer_depth[0] = transformer_depth[0].max(1);
        UnetConfig {
            in_channels: 4,
            out_channels: 4,
            model_channels: 32 * width,
            channel_mult: levels.iter().map(|(mult, ..)| *mult).collect(),
            num_res_blocks: levels.iter().map(|(_, depths, _)| depths.len()).collect(),
            transformer_depth,
            middle_res_blocks: middle.0,
            transformer_depth_middle: middle.1,
            transformer_depth_output: levels
                .iter()
                .rev()
                .flat_map(|(_, depths, up)| vec![*up; depths.len() + 1])
                .collect(),
            context_dim: 16 * context,
            heads: if linear_projections { Heads::Width(64) } else { Heads::Count(8) },
            linear_projections,
            adm_in_channels,
        }
    })
}

fn mmdit() -> impl Strategy<Value = MmditConfig> {
    (2usize..6, 1usize..5, any::<bool>(), prop::collection::btree_set(0usize..6, 0..4)).prop_map(
        |(depth, heads, qk_norm, dual)| MmditConfig {
            in_channels: 16,
            out_channels: 16,
            patch_size: 2,
            depth,
            width: 64 * heads,
            heads,
            pos_embed_max_size: 24,
            adm_in_channels: 48,
            context_dim: 80,
            qk_norm,
            dual_attention_layers: dual.into_iter().filter(|&at| at < depth).collect(),
        },
    )
}

fn flux() -> impl Strategy<Value = FluxConfig> {
    (1usize..4, 0usize..5, 1usize..4, 1usize..4, any::<bool>()).prop_map(
        |(depth, depth_single, heads, mlp, guidance_embed)| FluxConfig {
            in_channels: 64,
            out_channels: 64,
            width: 128 * heads,
            heads,
            context_dim: 96,
            vec_dim: 40,
            depth,
            depth_single,
            mlp_width: 100 * mlp,
            guidance_embed,
        },
    )
}

fn next_dit() -> impl Strategy<Value = NextDitConfig> {
    let kind = prop_oneof![Just(NextDitKind::Lumina2), Just(NextDitKind::ZImage)];
    (kind, 0usize..4, 1usize..4, (1usize..4, 1usize..4), 1usize..300).prop_map(
        |(kind, depth, refiner_depth, (kv_heads, shared), mlp_width)| NextDitConfig {
            kind,
            in_channels: 16,
            out_channels: 16,
            patch_size: 2,
            width: 32 * kv_heads * shared,
            heads: kv_heads * shared,
            kv_heads,
            context_dim: 96,
            mlp_width,
            time_width: 40,
            modulation_width: 24,
            refiner_depth,
            depth: depth + 1,
        },
    )
}

fn chroma() -> impl Strategy<Value = ChromaConfig> {
    (1usize..4, 1usize..4, 1usize..4, 1usize..4, 1usize..7).prop_map(
        |(depth, depth_single, heads, mlp, approximator_depth)| ChromaConfig {
            in_channels: 64,
            out_channels: 64,
            width: 128 * heads,
            heads,
            context_dim: 96,
            depth,
            depth_single,
            mlp_width: 100 * mlp,
            approximator_channels: 64,
            approximator_width: 48,
            approximator_depth,
        },
    )
}

fn krea2() -> impl Strategy<Value = Krea2Config> {
    (1usize..4, 0usize..3, 1usize..3, (1usize..4, 1usize..3), 1usize..200).prop_map(
        |(depth, layerwise_depth, refiner_depth, (kv_heads, shared), mlp_width)| Krea2Config {
            in_channels: 16,
            out_channels: 16,
            patch_size: 2,
            width: 32 * kv_heads * shared,
            heads: kv_heads * shared,
            kv_heads,
            mlp_width,
            depth,
            time_frequencies: 40,
            text_width: 24 * shared,
            text_layers: 5,
            text_heads: shared,
            text_kv_heads: 1,
            text_mlp_width: mlp_width + 1,
            layerwise_depth,
            refiner_depth,
        },
    )
}

fn flux2() -> impl Strategy<Value = Flux2Config> {
    (1usize..4, 0usize..5, 1usize..4, 1usize..300, any::<bool>()).prop_map(
        |(depth, depth_single, heads, mlp_width, guidance_embed)| Flux2Config {
            in_channels: 128,
            out_channels: 128,
            width: 32 * heads,
            heads,
            context_dim: 96,
            depth,
            depth_single,
            mlp_width,
            guidance_embed,
        },
    )
}

fn autoencoder() -> impl Strategy<Value = VaeConfig> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (prop::collection::vec(1usize..5, 1..5), 1usize..4, 1usize..17, flags).prop_map(
        |(channel_mult, num_res_blocks, latent_channels, (quant_conv, packed, narrow))| {
            let latent_channels = if packed { 4 * latent_channels } else { latent_channels };
            let family = packed.then_some(Family::Flux2);
            let (scaling_factor, shift_factor) = vae::latent_scaling(family, latent_channels);
            VaeConfig {
                architecture: VaeArchitecture::Kl,
                packed,
                in_channels: 3,
                latent_channels,
                channels: 32,
                channel_mult,
                decoder_channels: narrow.then_some(16),
                num_res_blocks,
                quant_conv,
                scaling_factor,
                shift_factor,
            }
        },
    )
}

fn qwen_image() -> impl Strategy<Value = QwenImageConfig> {
    (1usize..5, 1usize..4, 1usize..300).prop_map(|(depth, heads, mlp_width)| QwenImageConfig {
        in_channels: 16,
        out_channels: 16,
        width: 32 * heads,
        heads,
        context_dim: 96,
        mlp_width,
        depth,
        references_at_zero: false,
    })
}

/// Wan's; half of a level's channels go on to the next.
fn causal_autoencoder() -> impl Strategy<Value = VaeConfig> {
    (prop::collection::vec(1usize..5, 1..5), 1usize..4, 1usize..17).prop_map(
        |(channel_mult, num_res_blocks, latent_channels)| VaeConfig {
            architecture: VaeArchitecture::Causal,
            in_channels: 3,
            latent_channels,
            channels: 8,
            channel_mult,
            decoder_channels: None,
            num_res_blocks,
            quant_conv: true,
            scaling_factor: 1.0,
            shift_factor: 0.0,
            packed: false,
        },
    )
}

/// Qwen-Image 2.1's, whose decoder may be wider.
fn residual_autoencoder() -> impl Strategy<Value = VaeConfig> {
    (causal_autoencoder(), prop::option::of(9usize..20)).prop_map(|(config, decoder_channels)| {
        VaeConfig {
            architecture: VaeArchitecture::CausalResidual,
            in_channels: 4,
            decoder_channels,
            ..config
        }
    })
}

fn qwen_image21() -> impl Strategy<Value = QwenImage21Config> {
    (1usize..5, 1usize..4, 1usize..300, any::<bool>()).prop_map(
        |(depth, heads, mlp_width, fused_gate)| QwenImage21Config {
            in_channels: 64,
            out_channels: 64,
            width: 32 * heads,
            heads,
            context_dim: 96,
            mlp_width,
            depth,
            fused_gate,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn of_unets(config in unet()) {
        let config = DiffusionConfig::Unet(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_mmdits(config in mmdit()) {
        let config = DiffusionConfig::Mmdit(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_flux(config in flux()) {
        let config = DiffusionConfig::Flux(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_chroma(config in chroma()) {
        let config = DiffusionConfig::Chroma(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_flux2(config in flux2()) {
        let config = DiffusionConfig::Flux2(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_krea2(config in krea2()) {
        let config = DiffusionConfig::Krea2(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_next_dits(config in next_dit()) {
        let config = DiffusionConfig::NextDit(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_qwen_image(config in qwen_image()) {
        let config = DiffusionConfig::QwenImage(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_qwen_image21(config in qwen_image21()) {
        let config = DiffusionConfig::QwenImage21(config);
        prop_assert_eq!(of_diffusion(&config), config);
    }

    #[test]
    fn of_autoencoders(config in autoencoder()) {
        let configs = Configs { vae: Some(config.clone()), ..Configs::default() };
        prop_assert_eq!(recognised(configs).vae.unwrap(), config);
    }

    #[test]
    fn of_causal_autoencoders(config in causal_autoencoder()) {
        let configs = Configs { vae: Some(config.clone()), ..Configs::default() };
        prop_assert_eq!(recognised(configs).vae.unwrap(), config);
    }

    #[test]
    fn of_residual_autoencoders(config in residual_autoencoder()) {
        let configs = Configs { vae: Some(config.clone()), ..Configs::default() };
        prop_assert_eq!(recognised(configs).vae.unwrap(), config);
    }

    #[test]
    fn of_text_encoders(
        (layers, heads, feed_forward) in (1usize..5, 1usize..5, 1usize..300),
        projection in prop::option::of(1usize..99),
    ) {
        let clip = ClipConfig {
            vocab_size: 99,
            max_positions: 7,
            width: 64 * heads,
            layers,
            heads,
            intermediate: feed_forward,
            activation: ClipActivation::QuickGelu,
            projection,
        };
        let clip = TextEncoderConfig::Clip(clip);
        prop_assert_eq!(of_text_encoder("clip_l", &clip), clip);

        let t5 = T5Config {
            vocab_size: 99,
            width: 40,
            layers,
            heads,
            head_dim: 8,
            intermediate: feed_forward,
            relative_buckets: 5,
        };
        let t5 = TextEncoderConfig::T5(t5);
        prop_assert_eq!(of_text_encoder("t5xxl", &t5), t5);

        for (name, kind, vocab_size, head_dim) in [
            ("qwen3", DecoderKind::Qwen3, 99, 8),
            ("qwen3vl", DecoderKind::Qwen3Vl, 99, 8),
            ("qwen25vl", DecoderKind::Qwen25Vl, 99, 128),
            ("mistral3", DecoderKind::Mistral3, 131_072, 128),
            ("gemma2", DecoderKind::Gemma2, 99, 256),
        ] {
            let decoder = DecoderConfig {
                kind,
                vocab_size,
                width: 40,
                layers,
                heads: 2 * heads,
                kv_heads: heads,
                head_dim,
                intermediate: feed_forward,
                vision: None,
            };
            let sees = VisionConfig {
                kind: VisionKind::Qwen25Vl,
                positions: 0,
                deepstack: 0,
                width: 64,
                layers,
                heads: 16,
                intermediate: feed_forward,
                patch_size: 14,
            };
            let sees = (kind == DecoderKind::Qwen25Vl).then_some(sees);
            for vision in [None, sees] {
                let decoder = TextEncoderConfig::Decoder(DecoderConfig { vision, ..decoder.clone() });
                prop_assert_eq!(of_text_encoder(name, &decoder), decoder);
            }
        }
    }
}
