//! The model that a LoRA seems to be made for, read off its keys, shapes and metadata.

use super::key::{self, Part, Role};
use crate::file::Checkpoint;

/// What the names of modules tell: every text of a row occurs in some module's name (with underscores for
/// dots), and none of those it must not have. The first row that fits counts.
const SIGNS: &[(&[&str], &[&str], &str)] = &[
    (&["blocks_0_cross_attn_", "blocks_0_self_attn_"], &[], "Wan"),
    (&["double_stream_blocks_"], &[], "HiDream"),
    (&["double_blocks_0_img_mod_linear"], &[], "Hunyuan Video"),
    (&["single_transformer_blocks_"], &[], "Flux"),
    (&["single_blocks_"], &[], "Flux"),
    (&["double_blocks_"], &[], "Flux"),
    (&["joint_blocks_"], &[], "SD3"),
    (&["transformer_blocks_0_img_mlp_"], &[], "Qwen-Image"),
    (&["transformer_blocks_0_attn_add_q_proj"], &["single_transformer"], "SD3"),
    (&["patchify_proj"], &[], "LTX Video"),
    (&["adaln_single"], &[], "PixArt"),
    (&["layers_0_attention_"], &[], "Lumina 2 or Z-Image"),
    (&["motion_modules_"], &[], "AnimateDiff"),
];

/// The width of the text states that a UNet's cross-attention reads, which is the family's own.
const CONTEXT_WIDTHS: [(usize, &str); 4] =
    [(768, "SD 1.x"), (1024, "SD 2.x"), (2048, "SDXL base"), (1280, "SDXL refiner")];

/// Metadata that trainers write, and what their values contain, in lower case.
const METADATA: [&str; 2] = ["modelspec.architecture", "ss_base_model_version"];
const BASES: &[(&str, &str)] = &[
    ("flux", "Flux"),
    ("xl", "SDXL"),
    ("sd3", "SD3"),
    ("stable-diffusion-3", "SD3"),
    ("stable-diffusion-v2", "SD 2.x"),
    ("sd_v2", "SD 2.x"),
    ("stable-diffusion-v1", "SD 1.x"),
    ("sd_v1", "SD 1.x"),
];

/// The family that a LoRA seems to be made for; `None` where nothing tells.
pub(super) fn made_for(file: &Checkpoint) -> Option<&'static str> {
    let modules: Vec<String> =
        file.tensors().filter_map(|(key, _)| Some(key::split(key)?.0.replace('.', "_"))).collect();
    let has = |text: &&str| modules.iter().any(|module| module.contains(*text));
    let by_name = SIGNS.iter().find(|(all, none, _)| all.iter().all(has) && !none.iter().any(has));
    by_name
        .map(|(.., name)| *name)
        .or_else(|| by_context_width(file))
        .or_else(|| by_metadata(file))
        .or_else(|| has(&"lora_te2_").then_some("SDXL"))
}

/// Read off what goes into the keys and values of cross-attention.
fn by_context_width(file: &Checkpoint) -> Option<&'static str> {
    file.tensors().find_map(|(key, info)| {
        let (module, role) = key::split(key)?;
        let module = module.replace('.', "_");
        let reads_text = ["attn2_to_k", "attn2_to_v"].iter().any(|end| module.ends_with(end));
        let width = match role {
            Role::Down | Role::Hada(_, Part::B) | Role::Diff if reads_text => info.shape.get(1)?,
            _ => return None,
        };
        CONTEXT_WIDTHS.iter().find(|(known, _)| known == width).map(|(_, name)| *name)
    })
}

fn by_metadata(file: &Checkpoint) -> Option<&'static str> {
    METADATA.iter().find_map(|name| {
        let value = file.metadata().get(*name)?.to_lowercase();
        BASES.iter().find(|(part, _)| value.contains(part)).map(|(_, family)| *family)
    })
}
