//! Models of every part that a family has, each as small as it can be.

use std::path::Path;

use distorch_checkpoint::Dtype;
use distorch_checkpoint::config::{
    ChromaConfig, ClipActivation, ClipConfig, DecoderConfig, DecoderKind, DiffusionConfig,
    Flux2Config, FluxConfig, Heads, Krea2Config, MmditConfig, NextDitConfig, NextDitKind,
    QwenImage21Config, QwenImageConfig, T5Config, TextEncoderConfig, UnetConfig, VaeArchitecture,
    VaeConfig, VisionConfig, VisionKind,
};
use distorch_checkpoint::family::{Configs, blank};

use crate::model_file::ModelFile;
use crate::{gemma, seeded, tekken};

/// SD 1.x at a width of 32, with stages of twice and four times it.
pub fn sd1() -> Configs {
    let unet = UnetConfig {
        in_channels: 4,
        out_channels: 4,
        model_channels: 32,
        channel_mult: vec![1, 2, 4],
        num_res_blocks: vec![1; 3],
        transformer_depth: vec![0, 1, 0],
        middle_res_blocks: 2,
        transformer_depth_middle: Some(1),
        transformer_depth_output: vec![0, 0, 1, 1, 0, 0],
        context_dim: 32,
        heads: Heads::Count(8),
        linear_projections: false,
        adm_in_channels: None,
    };
    Configs {
        diffusion: Some(DiffusionConfig::Unet(unet)),
        text_encoders: vec![("clip_l", clip(32, ClipActivation::QuickGelu, None))],
        vae: Some(vae()),
    }
}

/// The text encoders of SDXL with a UNet of one stage.
pub fn sdxl() -> Configs {
    let unet = UnetConfig {
        in_channels: 4,
        out_channels: 4,
        model_channels: 64,
        channel_mult: vec![1],
        num_res_blocks: vec![1],
        transformer_depth: vec![1],
        middle_res_blocks: 2,
        transformer_depth_middle: Some(1),
        transformer_depth_output: vec![1, 1],
        context_dim: 40,
        heads: Heads::Width(64),
        linear_projections: true,
        adm_in_channels: Some(20 + 6 * 256),
    };
    Configs {
        diffusion: Some(DiffusionConfig::Unet(unet)),
        text_encoders: vec![
            ("clip_l", clip(16, ClipActivation::QuickGelu, None)),
            ("clip_g", clip(24, ClipActivation::Gelu, Some(20))),
        ],
        vae: Some(vae()),
    }
}

/// SD3.5 with its three text encoders.
pub fn sd3() -> Configs {
    let mmdit = MmditConfig {
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        depth: 3,
        width: 64,
        heads: 2,
        pos_embed_max_size: 16,
        adm_in_channels: 16 + 20,
        context_dim: 48,
        qk_norm: true,
        dual_attention_layers: vec![0],
    };
    Configs {
        diffusion: Some(DiffusionConfig::Mmdit(mmdit)),
        text_encoders: vec![
            ("clip_l", clip(16, ClipActivation::QuickGelu, None)),
            ("clip_g", clip(24, ClipActivation::Gelu, Some(20))),
            ("t5xxl", TextEncoderConfig::T5(t5())),
        ],
        vae: Some(VaeConfig { latent_channels: 16, quant_conv: false, ..vae() }),
    }
}

/// Z-Image with a Qwen3 of its whole vocabulary, and a VAE of 16 channels; the sizes are those of
/// `tools/reference/make_z_image_pipeline.py`.
pub fn z_image() -> Configs {
    let transformer = NextDitConfig {
        kind: NextDitKind::ZImage,
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        width: 96,
        heads: 3,
        kv_heads: 3,
        context_dim: 24,
        mlp_width: 256,
        time_width: 1024,
        modulation_width: 96,
        refiner_depth: 1,
        depth: 2,
    };
    Configs {
        diffusion: Some(DiffusionConfig::NextDit(transformer)),
        text_encoders: vec![("qwen3", qwen3(3))],
        vae: Some(VaeConfig { latent_channels: 16, quant_conv: false, ..vae() }),
    }
}

/// Lumina 2 with a Gemma whose vocabulary is [`gemma`], and a VAE of 16 channels; the sizes are those of
/// `tools/reference/make_lumina2_pipeline.py`.
pub fn lumina2() -> Configs {
    let transformer = NextDitConfig {
        kind: NextDitKind::Lumina2,
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        width: 96,
        heads: 4,
        kv_heads: 2,
        context_dim: 24,
        mlp_width: 384,
        time_width: 96,
        modulation_width: 96,
        refiner_depth: 1,
        depth: 2,
    };
    let encoder = DecoderConfig {
        kind: DecoderKind::Gemma2,
        vocab_size: 2048,
        width: 24,
        layers: 3,
        heads: 2,
        kv_heads: 1,
        head_dim: 256,
        intermediate: 56,
        vision: None,
    };
    Configs {
        diffusion: Some(DiffusionConfig::NextDit(transformer)),
        text_encoders: vec![("gemma2", TextEncoderConfig::Decoder(encoder))],
        vae: Some(VaeConfig { latent_channels: 16, quant_conv: false, ..vae() }),
    }
}

/// Flux.2 Klein with a Qwen3 of its whole vocabulary, and a VAE whose latents are packed; the sizes are those of
/// `tools/reference/make_flux2_pipeline.py`.
pub fn klein() -> Configs {
    let transformer = Flux2Config {
        in_channels: 128,
        out_channels: 128,
        width: 96,
        heads: 3,
        context_dim: 3 * 24,
        depth: 1,
        depth_single: 2,
        mlp_width: 288,
        guidance_embed: false,
    };
    Configs {
        diffusion: Some(DiffusionConfig::Flux2(transformer)),
        text_encoders: vec![("qwen3", qwen3(4))],
        vae: Some(VaeConfig { latent_channels: 128, packed: true, ..vae() }),
    }
}

/// Flux.2 dev with a Mistral whose vocabulary is [`tekken`], and a VAE whose latents are packed; the sizes are those of
/// `tools/reference/make_flux2_pipeline.py`.
pub fn flux2_dev() -> Configs {
    let mut configs = klein();
    if let Some(DiffusionConfig::Flux2(config)) = &mut configs.diffusion {
        config.guidance_embed = true;
    }
    let mistral = DecoderConfig {
        kind: DecoderKind::Mistral3,
        vocab_size: 4096,
        width: 24,
        layers: 3,
        heads: 2,
        kv_heads: 1,
        head_dim: 128,
        intermediate: 56,
        vision: None,
    };
    configs.text_encoders = vec![("mistral3", TextEncoderConfig::Decoder(mistral))];
    configs
}

/// Krea 2 with the language model of a Qwen3-VL, and a VAE whose convolutions run over frames; the sizes are those of
/// `tools/reference/make_krea2_pipeline.py`.
pub fn krea2() -> Configs {
    let transformer = Krea2Config {
        in_channels: 16,
        out_channels: 16,
        patch_size: 2,
        width: 96,
        heads: 3,
        kv_heads: 1,
        mlp_width: 160,
        depth: 2,
        time_frequencies: 64,
        text_width: 24,
        text_layers: 2,
        text_heads: 2,
        text_kv_heads: 1,
        text_mlp_width: 40,
        layerwise_depth: 1,
        refiner_depth: 1,
    };
    let language_model = DecoderConfig {
        kind: DecoderKind::Qwen3Vl,
        vocab_size: 151_936,
        width: 24,
        layers: 6,
        heads: 4,
        kv_heads: 2,
        head_dim: 12,
        intermediate: 56,
        vision: None,
    };
    Configs {
        diffusion: Some(DiffusionConfig::Krea2(transformer)),
        text_encoders: vec![("qwen3vl", TextEncoderConfig::Decoder(language_model))],
        vae: Some(VaeConfig {
            architecture: VaeArchitecture::Causal,
            latent_channels: 16,
            scaling_factor: 1.0,
            ..vae()
        }),
    }
}

/// Qwen-Image with a Qwen2.5-VL of its whole vocabulary, and a VAE whose convolutions run over frames; the sizes are those of
/// `tools/reference/make_qwen_image_pipeline.py`.
pub fn qwen_image() -> Configs {
    let transformer = QwenImageConfig {
        in_channels: 16,
        out_channels: 16,
        width: 64,
        heads: 2,
        context_dim: 32,
        mlp_width: 256,
        depth: 2,
        references_at_zero: false,
    };
    let encoder = DecoderConfig {
        kind: DecoderKind::Qwen25Vl,
        vocab_size: 151_936,
        width: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        intermediate: 56,
        vision: None,
    };
    Configs {
        diffusion: Some(DiffusionConfig::QwenImage(transformer)),
        text_encoders: vec![("qwen25vl", TextEncoderConfig::Decoder(encoder))],
        vae: Some(VaeConfig {
            architecture: VaeArchitecture::Causal,
            latent_channels: 16,
            channels: 16,
            scaling_factor: 1.0,
            ..vae()
        }),
    }
}

/// Qwen-Image with an encoder of pictures beside its language model; the sizes are those of
/// `tools/reference/make_qwen_image_edit_pipeline.py`.
pub fn qwen_image_edit() -> Configs {
    let mut configs = qwen_image();
    for (_, encoder) in &mut configs.text_encoders {
        if let TextEncoderConfig::Decoder(config) = encoder {
            config.vision = Some(VisionConfig {
                kind: VisionKind::Qwen25Vl,
                width: 64,
                layers: 8,
                heads: 16,
                intermediate: 40,
                patch_size: 14,
                positions: 0,
                deepstack: 0,
            });
        }
    }
    configs
}

/// Qwen-Image 2.1 with a Qwen3-VL of its whole vocabulary that sees pictures, and a VAE of four channels of pictures; the sizes are those of
/// `tools/reference/make_qwen_image21_pipeline.py`.
pub fn qwen_image21() -> Configs {
    let transformer = QwenImage21Config {
        in_channels: 64,
        out_channels: 64,
        width: 64,
        heads: 2,
        context_dim: 32,
        mlp_width: 192,
        depth: 2,
        fused_gate: true,
    };
    let encoder = DecoderConfig {
        kind: DecoderKind::Qwen3Vl,
        vocab_size: 151_936,
        width: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        intermediate: 56,
        vision: Some(VisionConfig {
            kind: VisionKind::Qwen3Vl,
            width: 64,
            layers: 4,
            heads: 16,
            intermediate: 80,
            patch_size: 16,
            positions: 16,
            deepstack: 3,
        }),
    };
    Configs {
        diffusion: Some(DiffusionConfig::QwenImage21(transformer)),
        text_encoders: vec![("qwen3vl", TextEncoderConfig::Decoder(encoder))],
        vae: Some(VaeConfig {
            architecture: VaeArchitecture::CausalResidual,
            in_channels: 4,
            latent_channels: 64,
            channels: 8,
            decoder_channels: Some(12),
            channel_mult: vec![1, 1, 2, 2, 2],
            scaling_factor: 1.0,
            ..vae()
        }),
    }
}

/// Chroma with a T5 of its whole vocabulary, and a VAE of 16 channels.
pub fn chroma() -> Configs {
    let transformer = ChromaConfig {
        in_channels: 64,
        out_channels: 64,
        width: 64,
        heads: 2,
        context_dim: 48,
        depth: 1,
        depth_single: 2,
        mlp_width: 256,
        approximator_channels: 64,
        approximator_width: 32,
        approximator_depth: 2,
    };
    Configs {
        diffusion: Some(DiffusionConfig::Chroma(transformer)),
        text_encoders: sd3()
            .text_encoders
            .into_iter()
            .filter(|(name, _)| *name == "t5xxl")
            .collect(),
        vae: Some(VaeConfig { latent_channels: 16, quant_conv: false, ..vae() }),
    }
}

fn qwen3(layers: usize) -> TextEncoderConfig {
    TextEncoderConfig::Decoder(DecoderConfig {
        kind: DecoderKind::Qwen3,
        vocab_size: 151_936,
        width: 24,
        layers,
        heads: 4,
        kv_heads: 2,
        head_dim: 10,
        intermediate: 56,
        vision: None,
    })
}

fn clip(width: usize, activation: ClipActivation, projection: Option<usize>) -> TextEncoderConfig {
    TextEncoderConfig::Clip(ClipConfig {
        vocab_size: 49408,
        max_positions: 77,
        width,
        layers: 3,
        heads: 1,
        intermediate: 2 * width,
        activation,
        projection,
    })
}

/// The VAE of SD 1.x with one width for all its stages.
pub fn vae() -> VaeConfig {
    VaeConfig {
        architecture: VaeArchitecture::Kl,
        in_channels: 3,
        latent_channels: 4,
        channels: 32,
        channel_mult: vec![1; 4],
        decoder_channels: None,
        num_res_blocks: 1,
        quant_conv: true,
        scaling_factor: 0.18215,
        shift_factor: 0.0,
        packed: false,
    }
}

/// Writes a model in F32 whose weights are [`seeded`] by their keys, with the vocabulary of a Mistral or a Gemma where
/// ComfyUI's files have it.
pub fn write(path: &Path, configs: &Configs) {
    let checkpoint = blank("blank", configs, Dtype::F32).unwrap();
    let tensors = checkpoint.tensors();
    let weights = tensors.map(|(key, info)| {
        (key.to_owned(), info.shape.clone(), seeded::weight(key, &info.shape, 0))
    });
    let mut file = ModelFile::of_values(weights);
    for (name, _) in &configs.text_encoders {
        let (key, bytes) = match *name {
            "mistral3" => ("text_encoders.mistral3.transformer.tekken_model", tekken()),
            "gemma2" => ("text_encoders.spiece_model", gemma()),
            _ => continue,
        };
        file.add_bytes(key, Dtype::U8, &[bytes.len()], &bytes);
    }
    file.write(path);
}

/// Flux dev with both its text encoders.
pub fn flux() -> Configs {
    let flux = FluxConfig {
        in_channels: 64,
        out_channels: 64,
        width: 64,
        heads: 2,
        context_dim: 48,
        vec_dim: 16,
        depth: 2,
        depth_single: 2,
        mlp_width: 256,
        guidance_embed: true,
    };
    let vae = VaeConfig {
        latent_channels: 16,
        quant_conv: false,
        scaling_factor: 0.3611,
        shift_factor: 0.1159,
        ..vae()
    };
    Configs {
        diffusion: Some(DiffusionConfig::Flux(flux)),
        text_encoders: vec![
            ("clip_l", clip(16, ClipActivation::QuickGelu, None)),
            ("t5xxl", TextEncoderConfig::T5(t5())),
        ],
        vae: Some(vae),
    }
}

/// A T5 of 48 values a token.
fn t5() -> T5Config {
    T5Config {
        vocab_size: 32128,
        width: 48,
        layers: 2,
        heads: 2,
        head_dim: 16,
        intermediate: 64,
        relative_buckets: 32,
    }
}
