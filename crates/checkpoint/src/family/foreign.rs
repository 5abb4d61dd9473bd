//! Files that are something else, and models that are recognised without being supported.
//!
//! What is known by sight is named, so that the error says more than "unknown".

use std::collections::HashMap;

use super::error::FamilyError;
use super::inventory::Inventory;

/// Beginnings of keys that the error for unknown files names.
const PREFIXES_NAMED: usize = 5;

/// How a kind of file is told by its keys.
enum Sign {
    /// A key of just this name, with or without `model.diffusion_model.` in front.
    Key(&'static str),
    /// Keys of just these names, as [`Sign::Key`].
    Keys(&'static [&'static str]),
    /// A key that holds this text.
    Within(&'static str),
}
use Sign::{Key, Keys, Within};

impl Sign {
    fn is_in(&self, inventory: &Inventory<'_>) -> bool {
        let has = |key: &str| {
            inventory.has(key) || inventory.has(&format!("model.diffusion_model.{key}"))
        };
        match self {
            Key(key) => has(key),
            Keys(keys) => keys.iter().all(|key| has(key)),
            Within(text) => inventory.keys().any(|key| key.contains(text)),
        }
    }
}

/// Models that share their layout with a supported family and differ in what matters:
/// (sign, what it is, what it needs).
const RELATIVES: &[(Sign, &str, &str)] = &[
    (
        Key("edm_mean"),
        "Playground v2.5 (SDXL with EDM preconditioning)",
        "its latent statistics and schedule are not SDXL's",
    ),
    (Key("edm_vpred.sigma_max"), "an EDM v-prediction model (CosXL)", "its schedule is not SDXL's"),
    (
        Key("input_blocks.1.0.time_stack.in_layers.0.weight"),
        "Stable Video Diffusion",
        "video models are not supported",
    ),
    (
        Key("label_emb.weight"),
        "a UNet with a table of classes or noise levels (as in the x4 upscaler)",
        "it is conditioned on a class",
    ),
    (
        Key("double_blocks.0.img_attn.qkv.qweight"),
        "a 4-bit quantised Flux (SVDQuant)",
        "take its F16, BF16 or FP8 version",
    ),
    (Key("encoder_hid_proj.weight"), "Kolors", "its text encoder is ChatGLM"),
    (
        Key("clip_text_pooled_proj.0.weight"),
        "NewBie (Lumina 2 with a pooled text)",
        "its text encoders are Gemma 3 and Jina CLIP",
    ),
    (Within("noise_augmentor."), "SD 2.x unCLIP", "it is conditioned on CLIP's picture embedding"),
    (
        Within(".quant_state.bitsandbytes__"),
        "a model quantised by bitsandbytes (NF4 or FP4)",
        "take its F16, BF16 or FP8 version",
    ),
    (Within(".weight_scale_2"), "a model quantised to NVFP4", "take its F16, BF16 or FP8 version"),
];

/// Diffusion models of other architectures: (sign, name).
const OTHERS: &[(Sign, &str)] = &[
    (Key("double_layers.0.attn.w1q.weight"), "AuraFlow"),
    (Key("txt_in.individual_token_refiner.blocks.0.norm1.weight"), "Hunyuan Video"),
    (Key("joint_transformer_blocks.0.ff_context.net.0.proj.weight"), "an MMDiT of another layout"),
    (Key("head.modulation"), "Wan"),
    (Key("patchify_proj.weight"), "LTX Video"),
    (Key("adaln_single.emb.timestep_embedder.linear_1.weight"), "PixArt"),
    (Key("clip_txt_mapper.weight"), "Stable Cascade (stage C)"),
    (Key("clip_mapper.weight"), "Stable Cascade (stage B)"),
    (Key("double_stream_blocks.0.block.adaLN_modulation.1.bias"), "HiDream"),
    (Key("mlp_t5.0.weight"), "Hunyuan-DiT"),
    (Keys(&["blocks.0.cross_attn.q_linear.weight", "attention_y_norm.weight"]), "Sana"),
    (Key("blocks.0.cross_attn.kv_linear.weight"), "PixArt"),
    (Key("blocks.0.attn.qkv_x.weight"), "Mochi"),
    (Key("net.blocks.0.self_attn.q_proj.weight"), "Cosmos"),
    (Within("model.model.transformer.layers.0."), "Stable Audio"),
    (Key("genre_embedder.weight"), "ACE-Step"),
    (Key("t5_yproj.weight"), "Mochi"),
    (Key("time_caption_embed.timestep_embedder.linear_1.weight"), "OmniGen2"),
    (Key("visual_embeddings.in_layer.bias"), "Kandinsky 5"),
    (Key("latent_in.weight"), "Hunyuan3D"),
];

/// Autoencoders of other architectures: (sign, name).
const OTHER_VAES: &[(Sign, &str)] = &[
    (Within("decoder.upsamples.0.upsamples.0.residual."), "the VAE of Wan 2.2"),
    (Within("decoder.up_blocks.0.upsampler.resample."), "the VAE of Wan 2.2"),
    (Within("decoder.conv_in.conv.weight"), "a VAE for videos"),
    (Within("decoder.up_blocks.0.res_blocks.0."), "a VAE for videos"),
    (Within("decoder.stages."), "a DC-AE (Sana's VAE)"),
    (Within("decoder.up_blocks.0.0."), "a DC-AE (Sana's VAE)"),
];

const TAKE_ORIGINAL: &str =
    "take the single-file version in the original layout (ComfyUI's checkpoints)";

/// Files that are no checkpoints: (sign, what it is, way out).
const FILES: &[(Sign, &str, &str)] = &[
    (Within(".lora_down.weight"), "a LoRA", "give it to a LoRA loader beside a checkpoint"),
    (Within(".lora_A."), "a LoRA", "give it to a LoRA loader beside a checkpoint"),
    (Within(".lora.down.weight"), "a LoRA", "give it to a LoRA loader beside a checkpoint"),
    (
        Within(".hada_w1_a"),
        "a LoHa (a kind of LoRA)",
        "give it to a LoRA loader beside a checkpoint",
    ),
    (Within(".lokr_w1"), "a LoKr (a kind of LoRA)", "give it to a LoRA loader beside a checkpoint"),
    (Within("control_model."), "a ControlNet", "give it to a ControlNet loader"),
    (Key("zero_convs.0.0.weight"), "a ControlNet", "give it to a ControlNet loader"),
    (
        Within("controlnet_cond_embedding."),
        "a ControlNet in the diffusers layout",
        "give it to a ControlNet loader",
    ),
    (Within("controlnet_blocks."), "a ControlNet", "give it to a ControlNet loader"),
    (Within("motion_modules."), "an AnimateDiff motion module", "motion modules are not supported"),
    (Within("ip_adapter."), "an IP-Adapter", "IP-Adapters are not supported"),
    (Within("adapter.body.0."), "a T2I-Adapter", "T2I-Adapters are not supported"),
    (Within("down_blocks.0.resnets.0."), "a model in the diffusers layout", TAKE_ORIGINAL),
    (
        Within("single_transformer_blocks.0."),
        "a Flux transformer in the diffusers layout",
        TAKE_ORIGINAL,
    ),
    (
        Within("transformer_blocks.0.attn.add_q_proj."),
        "a transformer in the diffusers layout",
        TAKE_ORIGINAL,
    ),
    (Within("mid_block.resnets.0."), "a model in the diffusers layout", TAKE_ORIGINAL),
    (
        Key("all_x_embedder.2-1.weight"),
        "a Z-Image transformer in the diffusers layout",
        TAKE_ORIGINAL,
    ),
    (
        Key("time_caption_embed.caption_embedder.0.weight"),
        "a Lumina 2 transformer in the diffusers layout",
        TAKE_ORIGINAL,
    ),
    (
        Keys(&["clip_l", "clip_g"]),
        "a textual-inversion embedding (of SDXL or SD3)",
        "put it into models/embeddings",
    ),
    (Key("string_to_param.*"), "a textual-inversion embedding", "put it into models/embeddings"),
    (Key("emb_params"), "a textual-inversion embedding", "put it into models/embeddings"),
    (
        Within("model.1.sub.0.RDB1."),
        "an upscaler (ESRGAN) without its first layer",
        "its download broke off, or it is a part of one",
    ),
    (
        Within("body.0.rdb1."),
        "an upscaler (ESRGAN) without its first layer",
        "its download broke off, or it is a part of one",
    ),
    (
        Within("relative_position_bias_table"),
        "an upscaler (Swin)",
        "upscalers of this kind are not run; take ESRGAN's, a compact one or SPAN",
    ),
    (
        Within("vision_model.encoder.layers.0."),
        "a CLIP picture encoder",
        "picture encoders are not supported",
    ),
    (
        Key("decoder.layers.1.weight"),
        "a tiny autoencoder (TAESD) in the diffusers layout",
        "take its halves in files of their own, taesd_encoder and taesd_decoder, or a whole VAE",
    ),
    (
        Within("taesd_decoder."),
        "a tiny autoencoder (TAESD)",
        "take its halves in files of their own, or a whole VAE",
    ),
    (
        Key("pixel_space_vae"),
        "the mark of a model without an autoencoder (pixel space)",
        "give it to VAELoader, or choose `pixel_space` there",
    ),
    (
        Within("model.layers.0.self_attn.q_proj.weight"),
        "a language model",
        "language models are not supported",
    ),
];

/// The widths of the vectors of a textual inversion: CLIP-L, CLIP-H, CLIP-G.
const EMBEDDING_WIDTHS: [usize; 3] = [768, 1024, 1280];

/// The most vectors that a textual inversion is believed to have.
const MOST_VECTORS: usize = 256;

/// Refuses models that would pass for a supported family and are not.
pub(super) fn refuse_relatives(inventory: &Inventory<'_>) -> Result<(), FamilyError> {
    match RELATIVES.iter().find(|(sign, ..)| sign.is_in(inventory)) {
        None => Ok(()),
        Some((_, what, reason)) => {
            Err(FamilyError::Unsupported { what: (*what).to_owned(), reason: (*reason).to_owned() })
        }
    }
}

/// The error for a file that holds nothing of use.
pub(super) fn name(inventory: &Inventory<'_>) -> FamilyError {
    by_sight(inventory).unwrap_or_else(|| FamilyError::Unknown {
        tensors: inventory.keys().count(),
        prefixes: most_frequent_prefixes(inventory.keys()),
    })
}

/// The error for a file that is something else, where it is known by sight.
pub(super) fn by_sight(inventory: &Inventory<'_>) -> Option<FamilyError> {
    if let Some((_, what, way_out)) = FILES.iter().find(|(sign, ..)| sign.is_in(inventory)) {
        let (what, way_out) = ((*what).to_owned(), (*way_out).to_owned());
        return Some(FamilyError::Foreign { what, way_out });
    }
    let mut others = OTHERS.iter().chain(OTHER_VAES);
    if let Some((_, what)) = others.find(|(sign, _)| sign.is_in(inventory)) {
        return Some(FamilyError::Unsupported {
            what: (*what).to_owned(),
            reason: "its architecture is not implemented".to_owned(),
        });
    }
    is_lone_embedding(inventory).then(|| FamilyError::Foreign {
        what: "a textual-inversion embedding".to_owned(),
        way_out: "put it into models/embeddings".to_owned(),
    })
}

/// A file with nothing but some vectors of a text encoder's width, as diffusers saves textual inversions.
fn is_lone_embedding(inventory: &Inventory<'_>) -> bool {
    let mut keys = inventory.keys();
    let (Some(key), None) = (keys.next(), keys.next()) else { return false };
    match inventory.get(key).map(|tensor| tensor.shape) {
        Some([width]) => EMBEDDING_WIDTHS.contains(width),
        Some([count, width]) => *count <= MOST_VECTORS && EMBEDDING_WIDTHS.contains(width),
        _ => false,
    }
}

/// Refuses autoencoders of other architectures that look like diffusers' at first sight.
pub(super) fn refuse_other_vaes(inventory: &Inventory<'_>) -> Result<(), FamilyError> {
    match OTHER_VAES.iter().find(|(sign, _)| sign.is_in(inventory)) {
        None => Ok(()),
        Some((_, what)) => Err(FamilyError::Unsupported {
            what: (*what).to_owned(),
            reason: "its architecture is not implemented".to_owned(),
        }),
    }
}

/// The most frequent first two segments of keys.
fn most_frequent_prefixes<'k>(keys: impl Iterator<Item = &'k str>) -> Vec<(String, usize)> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for key in keys {
        let end = key.match_indices('.').nth(1).map_or(key.len(), |(at, _)| at);
        *counts.entry(key.get(..end).unwrap_or(key)).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().map(|(p, n)| (p.to_owned(), n)).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.truncate(PREFIXES_NAMED);
    counts
}
