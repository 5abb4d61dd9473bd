//! The MMDiT of SD3 and SD3.5, <https://arxiv.org/abs/2403.03206>.
//!
//! Module names and their order are those of Stability's sd3.5 reference.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{Module, conv, linear, own_param, rms_norm};
use crate::config::MmditConfig;

/// A tensor that every MMDiT has, under its prefix.
pub(super) const ANCHOR: &str = "joint_blocks.0.x_block.attn.qkv.weight";

/// Width of the sinusoidal embedding of the time.
const TIME_FREQUENCIES: usize = 256;
/// Width of an attention head where no norm of queries tells it.
const HEAD_WIDTH: usize = 64;

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<MmditConfig, FamilyError> {
    let patches = "x_embedder.proj.weight";
    let width = scope.dim(patches, 0)?;
    let patch_size = scope.dim(patches, 2)?;
    let depth = scope.count("joint_blocks");
    let query_norm = "joint_blocks.0.x_block.attn.ln_q.weight";
    let qk_norm = scope.has(query_norm) || scope.has("joint_blocks.0.x_block.attn.ln_k.weight");
    let head_width = if qk_norm { scope.dim(query_norm, 0)? } else { HEAD_WIDTH };
    let positions = scope.dim("pos_embed", 1)?;
    Ok(MmditConfig {
        in_channels: scope.dim(patches, 1)?,
        out_channels: scope.dim("final_layer.linear.weight", 0)?
            / patch_size.saturating_mul(patch_size),
        patch_size,
        depth,
        width,
        heads: (width / head_width).max(1),
        pos_embed_max_size: positions.isqrt(),
        adm_in_channels: scope.dim("y_embedder.mlp.0.weight", 1)?,
        context_dim: scope.dim("context_embedder.weight", 1)?,
        qk_norm,
        dual_attention_layers: (0..depth)
            .filter(|n| {
                let second = |name| scope.has(&format!("joint_blocks.{n}.x_block.attn2.{name}"));
                second("qkv.weight") || second("proj.weight")
            })
            .collect(),
    })
}

/// The modules of an MMDiT of this configuration.
pub(super) fn layout(config: &MmditConfig) -> Module {
    let width = config.width;
    let patch = config.patch_size * config.patch_size;
    let positions = config.pos_embed_max_size * config.pos_embed_max_size;
    let patches = conv(width, config.in_channels, config.patch_size);
    let final_layer = Module::new()
        .with("linear", linear(patch * config.out_channels, width))
        .with("adaLN_modulation.1", linear(2 * width, width))
        .used_as(&["adaLN_modulation.1", "linear"]);
    Module::new()
        .with("pos_embed", own_param(&[1, positions, width]))
        .with("x_embedder.proj", patches)
        .with("t_embedder", mlp(TIME_FREQUENCIES, width))
        .with("y_embedder", mlp(config.adm_in_channels, width))
        .with("context_embedder", linear(width, config.context_dim))
        .with_each("joint_blocks", (0..config.depth).map(|at| joint_block(config, at)))
        .with("final_layer", final_layer)
        .used_as(&[
            "x_embedder.proj",
            "pos_embed",
            "t_embedder",
            "y_embedder",
            "context_embedder",
            "joint_blocks",
            "final_layer",
        ])
}

fn mlp(input: usize, width: usize) -> Module {
    Module::new().with("mlp.0", linear(width, input)).with("mlp.2", linear(width, width))
}

/// Text and picture side by side. The last block's text ends with the attention.
fn joint_block(config: &MmditConfig, at: usize) -> Module {
    let last = at + 1 == config.depth;
    let dual = config.dual_attention_layers.contains(&at);
    Module::new()
        .with("context_block", side(config, last, false))
        .with("x_block", side(config, false, dual))
        .used_as(&[
            "x_block.adaLN_modulation.1",
            // The picture's own attention comes first: its result is all that is kept of it.
            "x_block.attn2",
            "x_block.attn.qkv",
            "x_block.attn.ln_q",
            "x_block.attn.ln_k",
            "context_block.adaLN_modulation.1",
            "context_block.attn.qkv",
            "context_block.attn.ln_q",
            "context_block.attn.ln_k",
            "context_block.attn.proj",
            "context_block.mlp",
            "x_block.attn.proj",
            "x_block.mlp",
        ])
}

/// One modality of a joint block.
///
/// `attention_only` leaves out what comes behind the attention; `dual` adds a second one.
fn side(config: &MmditConfig, attention_only: bool, dual: bool) -> Module {
    let width = config.width;
    // Shift, scale and gate for each of attention, feed-forward and second attention.
    let modulations = match (attention_only, dual) {
        (true, _) => 2,
        (false, false) => 6,
        (false, true) => 9,
    };
    let feed_forward =
        Module::new().with("fc1", linear(4 * width, width)).with("fc2", linear(width, 4 * width));
    Module::new()
        .with("attn", attention(config, !attention_only))
        .with_if(dual, "attn2", || attention(config, true).into())
        .with_if(!attention_only, "mlp", || feed_forward.into())
        .with("adaLN_modulation.1", linear(modulations * width, width))
}

fn attention(config: &MmditConfig, projects: bool) -> Module {
    let width = config.width;
    let norm = || rms_norm("weight", width / config.heads.max(1)).into();
    Module::new()
        .with("qkv", linear(3 * width, width))
        .with_if(projects, "proj", || linear(width, width).into())
        .with_if(config.qk_norm, "ln_q", norm)
        .with_if(config.qk_norm, "ln_k", norm)
        .used_as(&["qkv", "ln_q", "ln_k", "proj"])
}
