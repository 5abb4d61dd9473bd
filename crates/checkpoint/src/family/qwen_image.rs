//! Qwen-Image's transformer (<https://arxiv.org/abs/2508.02324>), and those that edit pictures.
//!
//! Module names and their order are those of the original, which diffusers and ComfyUI keep.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{Module, linear, rms_norm};
use crate::config::QwenImageConfig;

/// A tensor that every Qwen-Image transformer has, under its prefix.
pub(super) const ANCHOR: &str = "txt_norm.weight";

/// A list of its own in the first block: others have `transformer_blocks`, too.
pub(super) const BLOCKS: &str = "transformer_blocks.0.img_mod";

/// A tensor without meaning in files of models that see references without noise (2511).
pub(super) const REFERENCES_AT_ZERO: &str = "__index_timestep_zero__";

/// Width of the sinusoidal embedding of the time.
const TIME_FREQUENCIES: usize = 256;

/// Latent pixels of a patch.
const PATCH_AREA: usize = 4;

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<QwenImageConfig, FamilyError> {
    let additional = "time_text_embed.addition_t_embedding.weight";
    if scope.has(additional) {
        return Err(FamilyError::Unsupported {
            what: "Qwen-Image-Layered".to_owned(),
            reason: "it makes several layers of a picture at once".to_owned(),
        });
    }
    let width = scope.dim("img_in.weight", 0)?;
    let head_width = scope.dim("transformer_blocks.0.attn.norm_q.weight", 0)?;
    Ok(QwenImageConfig {
        in_channels: scope.dim("img_in.weight", 1)? / PATCH_AREA,
        out_channels: scope.dim("proj_out.weight", 0)? / PATCH_AREA,
        width,
        heads: (width / head_width).max(1),
        context_dim: scope.dim("txt_in.weight", 1)?,
        mlp_width: scope.dim("transformer_blocks.0.img_mlp.net.0.proj.weight", 0)?,
        depth: scope.count("transformer_blocks"),
        references_at_zero: scope.has(REFERENCES_AT_ZERO),
    })
}

/// The modules of a transformer of this configuration.
pub(super) fn layout(config: &QwenImageConfig) -> Module {
    let width = config.width;
    let time = Module::new()
        .with("timestep_embedder.linear_1", linear(width, TIME_FREQUENCIES))
        .with("timestep_embedder.linear_2", linear(width, width));
    Module::new()
        .with("time_text_embed", time)
        .with("txt_norm", rms_norm("weight", config.context_dim))
        .with("img_in", linear(width, PATCH_AREA * config.in_channels))
        .with("txt_in", linear(width, config.context_dim))
        .with_each("transformer_blocks", (0..config.depth).map(|_| block(config)))
        .with("norm_out.linear", linear(2 * width, width))
        .with("proj_out", linear(PATCH_AREA * config.out_channels, width))
        .used_as(&[
            "img_in",
            "time_text_embed",
            "txt_norm",
            "txt_in",
            "transformer_blocks",
            "norm_out.linear",
            "proj_out",
        ])
}

fn block(config: &QwenImageConfig) -> Module {
    let (width, head) = (config.width, config.width / config.heads.max(1));
    let norm = || rms_norm("weight", head);
    let attention = Module::new()
        .with("norm_q", norm())
        .with("norm_k", norm())
        .with("to_q", linear(width, width))
        .with("to_k", linear(width, width))
        .with("to_v", linear(width, width))
        .with("add_k_proj", linear(width, width))
        .with("add_v_proj", linear(width, width))
        .with("add_q_proj", linear(width, width))
        .with("to_out.0", linear(width, width))
        .with("to_add_out", linear(width, width))
        .with("norm_added_q", norm())
        .with("norm_added_k", norm());
    let feed_forward = || {
        Module::new()
            .with("net.0.proj", linear(config.mlp_width, width))
            .with("net.2", linear(width, config.mlp_width))
    };
    Module::new()
        .with("img_mod.1", linear(6 * width, width))
        .with("attn", attention)
        .with("img_mlp", feed_forward())
        .with("txt_mod.1", linear(6 * width, width))
        .with("txt_mlp", feed_forward())
        .used_as(&[
            "img_mod.1",
            "txt_mod.1",
            "attn.to_q",
            "attn.to_k",
            "attn.to_v",
            "attn.norm_q",
            "attn.norm_k",
            "attn.add_q_proj",
            "attn.add_k_proj",
            "attn.add_v_proj",
            "attn.norm_added_q",
            "attn.norm_added_k",
            "attn.to_out.0",
            "img_mlp",
            "attn.to_add_out",
            "txt_mlp",
        ])
}
