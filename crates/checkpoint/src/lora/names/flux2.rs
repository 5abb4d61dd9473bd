//! The names of a Flux.2 transformer's layers in diffusers' `Flux2Transformer2DModel`, which splits queries, keys and
//! values of double blocks and swaps the halves of the last modulation.

use super::{Slice, renamed, stacked, whole};
use crate::config::Flux2Config;

const OUTSIDE_BLOCKS: &[(&str, &str)] = &[
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
    ("guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_guidance_embed.guidance_embedder.linear_2"),
    ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
    ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
    ("single_stream_modulation.lin", "single_stream_modulation.linear"),
    ("final_layer.linear", "proj_out"),
];
const DOUBLE: &[(&str, &str)] = &[
    ("img_attn.proj", "attn.to_out.0"),
    ("txt_attn.proj", "attn.to_add_out"),
    ("img_attn.norm.query_norm", "attn.norm_q"),
    ("img_attn.norm.key_norm", "attn.norm_k"),
    ("txt_attn.norm.query_norm", "attn.norm_added_q"),
    ("txt_attn.norm.key_norm", "attn.norm_added_k"),
    ("img_mlp.0", "ff.linear_in"),
    ("img_mlp.2", "ff.linear_out"),
    ("txt_mlp.0", "ff_context.linear_in"),
    ("txt_mlp.2", "ff_context.linear_out"),
];
const SINGLE: &[(&str, &str)] = &[
    ("linear1", "attn.to_qkv_mlp_proj"),
    ("linear2", "attn.to_out"),
    ("norm.query_norm", "attn.norm_q"),
    ("norm.key_norm", "attn.norm_k"),
];

/// Diffusers' names of a layer.
pub(super) fn names(config: &Flux2Config, layer: &str) -> Vec<(String, Slice)> {
    if layer == "final_layer.adaLN_modulation.1" {
        return vec![("norm_out.linear".to_owned(), Slice::SwappedHalves)];
    }
    let in_block = |list: &str| layer.strip_prefix(list)?.split_once('.');
    let (block, parts) = if let Some((n, module)) = in_block("double_blocks.") {
        (format!("transformer_blocks.{n}."), double(config, module))
    } else if let Some((n, module)) = in_block("single_blocks.") {
        (format!("single_transformer_blocks.{n}."), whole(renamed(module, SINGLE)))
    } else {
        (String::new(), whole(renamed(layer, OUTSIDE_BLOCKS)))
    };
    parts.into_iter().map(|(name, slice)| (format!("{block}{name}"), slice)).collect()
}

fn double(config: &Flux2Config, module: &str) -> Vec<(String, Slice)> {
    match module {
        "img_attn.qkv" => stacked(["attn.to_q", "attn.to_k", "attn.to_v"], config.width),
        "txt_attn.qkv" => {
            stacked(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], config.width)
        }
        _ => whole(renamed(module, DOUBLE)),
    }
}
