//! The names of a Flux transformer's layers in diffusers' `FluxTransformer2DModel`, which splits what
//! the original fuses and swaps the halves of the last modulation; and in XLabs' LoRAs, which are named after diffusers'
//! first attention processors in blocks that are named as the original's.

use super::{Slice, renamed, stacked, whole};

const OUTSIDE_BLOCKS: &[(&str, &str)] = &[
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    ("final_layer.linear", "proj_out"),
];
const DOUBLE: &[(&str, &str)] = &[
    ("img_mod.lin", "norm1.linear"),
    ("txt_mod.lin", "norm1_context.linear"),
    ("img_attn.proj", "attn.to_out.0"),
    ("txt_attn.proj", "attn.to_add_out"),
    ("img_attn.norm.query_norm", "attn.norm_q"),
    ("img_attn.norm.key_norm", "attn.norm_k"),
    ("txt_attn.norm.query_norm", "attn.norm_added_q"),
    ("txt_attn.norm.key_norm", "attn.norm_added_k"),
    ("img_mlp.0", "ff.net.0.proj"),
    ("img_mlp.2", "ff.net.2"),
    ("txt_mlp.0", "ff_context.net.0.proj"),
    ("txt_mlp.2", "ff_context.net.2"),
];
const SINGLE: &[(&str, &str)] = &[
    ("modulation.lin", "norm.linear"),
    ("linear2", "proj_out"),
    ("norm.query_norm", "attn.norm_q"),
    ("norm.key_norm", "attn.norm_k"),
];

/// XLabs' names of the layers of a double block, whose picture is 1 and whose text is 2; `.processor` is left out.
const X_LABS: &[(&str, &str)] = &[
    ("img_attn.qkv", "qkv_lora1"),
    ("img_attn.proj", "proj_lora1"),
    ("txt_attn.qkv", "qkv_lora2"),
    ("txt_attn.proj", "proj_lora2"),
];

/// Width of the hidden states, and of the feed-forward layers.
type Widths = [usize; 2];

/// The other names of a layer in a transformer of these widths: diffusers' and XLabs'.
pub(super) fn names(widths: Widths, layer: &str) -> Vec<(String, Slice)> {
    let mut names = diffusers(widths, layer);
    names.extend(x_labs(widths, layer));
    names
}

fn x_labs([width, _]: Widths, layer: &str) -> Option<(String, Slice)> {
    let in_block = |list: &str| layer.strip_prefix(list)?.split_once('.');
    if let Some((n, module)) = in_block("double_blocks.") {
        let name = renamed(module, X_LABS)?;
        return Some((format!("double_blocks.{n}.{name}"), Slice::Whole));
    }
    let (n, module) = in_block("single_blocks.")?;
    let (name, slice) = match module {
        "linear1" => ("qkv", Slice::Rows(0, 3 * width)),
        "linear2" => ("proj", Slice::Whole),
        _ => return None,
    };
    Some((format!("single_blocks.{n}.{name}"), slice))
}

/// Diffusers' names of a layer.
fn diffusers(widths: Widths, layer: &str) -> Vec<(String, Slice)> {
    if layer == "final_layer.adaLN_modulation.1" {
        return vec![("norm_out.linear".to_owned(), Slice::SwappedHalves)];
    }
    let in_block = |list: &str| layer.strip_prefix(list)?.split_once('.');
    let (block, parts) = if let Some((n, module)) = in_block("double_blocks.") {
        (format!("transformer_blocks.{n}."), double(widths, module))
    } else if let Some((n, module)) = in_block("single_blocks.") {
        (format!("single_transformer_blocks.{n}."), single(widths, module))
    } else {
        (String::new(), whole(renamed(layer, OUTSIDE_BLOCKS)))
    };
    parts.into_iter().map(|(name, slice)| (format!("{block}{name}"), slice)).collect()
}

fn double([width, _]: Widths, module: &str) -> Vec<(String, Slice)> {
    match module {
        "img_attn.qkv" => stacked(["attn.to_q", "attn.to_k", "attn.to_v"], width),
        "txt_attn.qkv" => stacked(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], width),
        _ => whole(renamed(module, DOUBLE)),
    }
}

fn single([width, mlp_width]: Widths, module: &str) -> Vec<(String, Slice)> {
    if module != "linear1" {
        return whole(renamed(module, SINGLE));
    }
    let mut parts = stacked(["attn.to_q", "attn.to_k", "attn.to_v"], width);
    parts.push(("proj_mlp".to_owned(), Slice::Rows(3 * width, mlp_width)));
    parts
}
