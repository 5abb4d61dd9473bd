//! The names of an MMDiT's layers in diffusers' `SD3Transformer2DModel`, which splits what the original
//! fuses and swaps the halves of modulations that have no gate.

use super::{Slice, renamed, stacked, whole};
use crate::config::MmditConfig;

const OUTSIDE_BLOCKS: &[(&str, &str)] = &[
    ("x_embedder.proj", "pos_embed.proj"),
    ("pos_embed", "pos_embed.pos_embed"),
    ("context_embedder", "context_embedder"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("final_layer.linear", "proj_out"),
];
const BLOCK: &[(&str, &str)] = &[
    ("x_block.adaLN_modulation.1", "norm1.linear"),
    ("context_block.adaLN_modulation.1", "norm1_context.linear"),
    ("x_block.attn.proj", "attn.to_out.0"),
    ("x_block.attn2.proj", "attn2.to_out.0"),
    ("context_block.attn.proj", "attn.to_add_out"),
    ("x_block.attn.ln_q", "attn.norm_q"),
    ("x_block.attn.ln_k", "attn.norm_k"),
    ("x_block.attn2.ln_q", "attn2.norm_q"),
    ("x_block.attn2.ln_k", "attn2.norm_k"),
    ("context_block.attn.ln_q", "attn.norm_added_q"),
    ("context_block.attn.ln_k", "attn.norm_added_k"),
    ("x_block.mlp.fc1", "ff.net.0.proj"),
    ("x_block.mlp.fc2", "ff.net.2"),
    ("context_block.mlp.fc1", "ff_context.net.0.proj"),
    ("context_block.mlp.fc2", "ff_context.net.2"),
];

/// Diffusers' names of a layer.
pub(super) fn names(config: &MmditConfig, layer: &str) -> Vec<(String, Slice)> {
    if layer == "final_layer.adaLN_modulation.1" {
        return vec![("norm_out.linear".to_owned(), Slice::SwappedHalves)];
    }
    let in_block = layer.strip_prefix("joint_blocks.").and_then(|rest| rest.split_once('.'));
    let Some((n, module)) = in_block else {
        return whole(renamed(layer, OUTSIDE_BLOCKS));
    };
    let width = config.width;
    let parts = match module {
        "x_block.attn.qkv" => stacked(["attn.to_q", "attn.to_k", "attn.to_v"], width),
        "x_block.attn2.qkv" => stacked(["attn2.to_q", "attn2.to_k", "attn2.to_v"], width),
        "context_block.attn.qkv" => {
            stacked(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], width)
        }
        // The last block's text ends at the attention: nothing is gated.
        "context_block.adaLN_modulation.1" if last(config, n) => {
            vec![("norm1_context.linear".to_owned(), Slice::SwappedHalves)]
        }
        _ => whole(renamed(module, BLOCK)),
    };
    let full = |(name, slice)| (format!("transformer_blocks.{n}.{name}"), slice);
    parts.into_iter().map(full).collect()
}

fn last(config: &MmditConfig, n: &str) -> bool {
    n.parse::<usize>().is_ok_and(|n| n + 1 == config.depth)
}
