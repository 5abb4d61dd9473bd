//! Other names of a Qwen-Image 2.1 transformer's layers: diffusers splits what ComfyUI's files join, the gate of a
//! feed-forward layer and behind it what it gates.

use super::Slice;
use crate::config::QwenImage21Config;

/// The halves of the joined matrix, by diffusers' names.
const HALVES: [&str; 2] = ["gate_layer", "proj"];

/// The other library's names of a layer.
pub(super) fn names(config: &QwenImage21Config, layer: &str) -> Vec<(String, Slice)> {
    let Some((block, module)) = layer.split_once(".img_mlp.") else { return Vec::new() };
    let rows = config.mlp_width;
    let named = |name: &str| format!("{block}.img_mlp.{name}");
    if module == "gate_up" {
        let half = |(at, name): (usize, &&str)| (named(name), Slice::Rows(at * rows, rows));
        return HALVES.iter().enumerate().map(half).collect();
    }
    match HALVES.iter().position(|half| *half == module) {
        Some(at) => vec![(named("gate_up"), Slice::PartOfModule(at, HALVES.len()))],
        None => Vec::new(),
    }
}
