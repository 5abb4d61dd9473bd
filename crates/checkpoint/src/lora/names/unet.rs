//! The names of a UNet's layers in diffusers' `UNet2DConditionModel`.

use std::collections::HashMap;

use super::{Slice, renamed};
use crate::config::UnetConfig;

const OUTSIDE_BLOCKS: &[(&str, &str)] = &[
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// The parts of a residual block and of the way down to the next level. What is in a transformer has one name.
const INSIDE_BLOCKS: &[(&str, &str)] = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
    ("op", "conv"),
];

/// Diffusers' name of each block's parts, by the original one.
pub(super) fn blocks(config: &UnetConfig) -> HashMap<String, String> {
    let mut names = HashMap::new();
    let mut at = 1;
    for (level, res_blocks) in config.num_res_blocks.iter().enumerate() {
        if level > 0 {
            let above = level - 1;
            names.insert(
                format!("input_blocks.{at}.0"),
                format!("down_blocks.{above}.downsamplers.0"),
            );
            at += 1;
        }
        for n in 0..*res_blocks {
            let block = format!("input_blocks.{at}");
            names.insert(format!("{block}.0"), format!("down_blocks.{level}.resnets.{n}"));
            names.insert(format!("{block}.1"), format!("down_blocks.{level}.attentions.{n}"));
            at += 1;
        }
    }
    let middle = [(0, "resnets.0"), (1, "attentions.0"), (2, "resnets.1")];
    names.extend(
        middle.map(|(at, name)| (format!("middle_block.{at}"), format!("mid_block.{name}"))),
    );
    let mut depths = config.transformer_depth_output.iter();
    let mut at = 0;
    for (level, res_blocks) in config.num_res_blocks.iter().rev().enumerate() {
        for n in 0..=*res_blocks {
            let block = format!("output_blocks.{at}");
            let upsampler = format!("up_blocks.{level}.upsamplers.0");
            names.insert(format!("{block}.0"), format!("up_blocks.{level}.resnets.{n}"));
            if depths.next().is_some_and(|depth| *depth > 0) {
                names.insert(format!("{block}.1"), format!("up_blocks.{level}.attentions.{n}"));
                names.insert(format!("{block}.2"), upsampler);
            } else {
                names.insert(format!("{block}.1"), upsampler);
            }
            at += 1;
        }
    }
    names
}

/// Diffusers' names of a layer: today's, and for an attention's output that of its first LoRAs.
pub(super) fn names(blocks: &HashMap<String, String>, layer: &str) -> Vec<(String, Slice)> {
    let Some(name) = renamed(layer, OUTSIDE_BLOCKS).or_else(|| inside(blocks, layer)) else {
        return Vec::new();
    };
    let older = name.strip_suffix(".to_out.0").map(|attention| format!("{attention}.to_out"));
    [name].into_iter().chain(older).map(|name| (name, Slice::Whole)).collect()
}

fn inside(blocks: &HashMap<String, String>, layer: &str) -> Option<String> {
    let depth = if layer.starts_with("middle_block.") { 1 } else { 2 };
    let (dot, _) = layer.match_indices('.').nth(depth)?;
    let (block, rest) = (layer.get(..dot)?, layer.get(dot + 1..)?);
    let block = blocks.get(block)?;
    let rest = renamed(rest, INSIDE_BLOCKS).unwrap_or_else(|| rest.to_owned());
    Some(format!("{block}.{rest}"))
}
