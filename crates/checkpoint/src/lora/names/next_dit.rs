//! The names of a Z-Image transformer's layers in diffusers' `ZImageTransformer2DModel`, which splits queries, keys and
//! values.

use super::{Slice, renamed, stacked, whole};
use crate::config::NextDitConfig;

const OUTSIDE_BLOCKS: &[(&str, &str)] =
    &[("x_embedder", "all_x_embedder.2-1"), ("final_layer", "all_final_layer.2-1")];
const BLOCK: &[(&str, &str)] = &[
    ("attention.out", "attention.to_out.0"),
    ("attention.q_norm", "attention.norm_q"),
    ("attention.k_norm", "attention.norm_k"),
];
const LISTS: [&str; 3] = ["layers.", "noise_refiner.", "context_refiner."];

/// Diffusers' names of a layer.
pub(super) fn names(config: &NextDitConfig, layer: &str) -> Vec<(String, Slice)> {
    let in_block = LISTS.iter().find_map(|list| {
        let (n, module) = layer.strip_prefix(list)?.split_once('.')?;
        Some((format!("{list}{n}."), module))
    });
    let Some((block, module)) = in_block else {
        return whole(renamed(layer, OUTSIDE_BLOCKS));
    };
    let parts = match module {
        "attention.qkv" => {
            stacked(["attention.to_q", "attention.to_k", "attention.to_v"], config.width)
        }
        _ => whole(renamed(module, BLOCK)),
    };
    parts.into_iter().map(|(name, slice)| (format!("{block}{name}"), slice)).collect()
}
