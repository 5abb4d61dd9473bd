//! The names of a NextDiT's layers in diffusers' `Lumina2Transformer2DModel` and `ZImageTransformer2DModel`, which split
//! queries, keys and values.

use super::{Slice, renamed, whole};
use crate::config::{NextDitConfig, NextDitKind};

/// The list of blocks that read the text alone.
const TEXT_BLOCKS: &str = "context_refiner.";

/// What diffusers calls the layers of one of these models; as the original does where nothing is said.
struct Table {
    outside_blocks: &'static [(&'static str, &'static str)],
    /// The module of a block's attention.
    attention: &'static str,
    block: &'static [(&'static str, &'static str)],
    /// What is otherwise in the blocks that read the text alone.
    text_block: &'static [(&'static str, &'static str)],
}

const Z_IMAGE: Table = Table {
    outside_blocks: &[("x_embedder", "all_x_embedder.2-1"), ("final_layer", "all_final_layer.2-1")],
    attention: "attention",
    block: &[
        ("attention.out", "attention.to_out.0"),
        ("attention.q_norm", "attention.norm_q"),
        ("attention.k_norm", "attention.norm_k"),
    ],
    text_block: &[],
};
const LUMINA2: Table = Table {
    outside_blocks: &[
        ("cap_embedder", "time_caption_embed.caption_embedder"),
        ("t_embedder.mlp.0", "time_caption_embed.timestep_embedder.linear_1"),
        ("t_embedder.mlp.2", "time_caption_embed.timestep_embedder.linear_2"),
        ("final_layer.adaLN_modulation.1", "norm_out.linear_1"),
        ("final_layer.linear", "norm_out.linear_2"),
    ],
    attention: "attn",
    block: &[
        ("attention.out", "attn.to_out.0"),
        ("attention.q_norm", "attn.norm_q"),
        ("attention.k_norm", "attn.norm_k"),
        ("feed_forward.w1", "feed_forward.linear_1"),
        ("feed_forward.w2", "feed_forward.linear_2"),
        ("feed_forward.w3", "feed_forward.linear_3"),
        ("adaLN_modulation.1", "norm1.linear"),
        ("attention_norm1", "norm1.norm"),
        ("attention_norm2", "norm2"),
    ],
    text_block: &[("attention_norm1", "norm1")],
};

/// Diffusers' names of a layer.
pub(super) fn names(config: &NextDitConfig, layer: &str) -> Vec<(String, Slice)> {
    let table = match config.kind {
        NextDitKind::Lumina2 => &LUMINA2,
        NextDitKind::ZImage => &Z_IMAGE,
    };
    let in_block = ["layers.", "noise_refiner.", TEXT_BLOCKS].into_iter().find_map(|list| {
        let (n, module) = layer.strip_prefix(list)?.split_once('.')?;
        Some((format!("{list}{n}."), module))
    });
    let own = if layer.starts_with(TEXT_BLOCKS) { table.text_block } else { &[] };
    let Some((block, module)) = in_block else {
        return whole(renamed(layer, table.outside_blocks));
    };
    let parts = match module {
        "attention.qkv" => projections(config, table.attention),
        _ => whole(renamed(module, own).or_else(|| renamed(module, table.block))),
    };
    parts.into_iter().map(|(name, slice)| (format!("{block}{name}"), slice)).collect()
}

/// The rows of queries, and of the keys and values that several heads of queries may share.
fn projections(config: &NextDitConfig, attention: &str) -> Vec<(String, Slice)> {
    let (width, shared) = (config.width, config.kv_heads * (config.width / config.heads.max(1)));
    let rows = [("to_q", 0, width), ("to_k", width, shared), ("to_v", width + shared, shared)];
    let part = |(name, first, count)| (format!("{attention}.{name}"), Slice::Rows(first, count));
    rows.into_iter().map(part).collect()
}
