//! The names of a Krea 2 transformer's layers in diffusers' `Krea2Transformer2DModel`.

use super::{Slice, renamed, whole};

const OUTSIDE_BLOCKS: &[(&str, &str)] = &[
    ("first", "img_in"),
    ("tmlp.0", "time_embed.linear_1"),
    ("tmlp.2", "time_embed.linear_2"),
    ("tproj.1", "time_mod_proj"),
    ("txtmlp.0", "txt_in.norm"),
    ("txtmlp.1", "txt_in.linear_1"),
    ("txtmlp.3", "txt_in.linear_2"),
    ("txtfusion.projector", "text_fusion.projector"),
    ("last.linear", "final_layer.linear"),
    ("last.norm", "final_layer.norm"),
];
const LISTS: [(&str, &str); 3] = [
    ("blocks.", "transformer_blocks."),
    ("txtfusion.layerwise_blocks.", "text_fusion.layerwise_blocks."),
    ("txtfusion.refiner_blocks.", "text_fusion.refiner_blocks."),
];
const BLOCK: &[(&str, &str)] = &[
    ("attn.wq", "attn.to_q"),
    ("attn.wk", "attn.to_k"),
    ("attn.wv", "attn.to_v"),
    ("attn.wo", "attn.to_out.0"),
    ("attn.gate", "attn.to_gate"),
    ("attn.qknorm.qnorm", "attn.norm_q"),
    ("attn.qknorm.knorm", "attn.norm_k"),
    ("mlp", "ff"),
    ("prenorm", "norm1"),
    ("postnorm", "norm2"),
];

/// Diffusers' names of a layer.
pub(super) fn names(layer: &str) -> Vec<(String, Slice)> {
    let in_block = LISTS.iter().find_map(|(list, theirs)| {
        let (n, module) = layer.strip_prefix(list)?.split_once('.')?;
        Some((format!("{theirs}{n}."), module))
    });
    match in_block {
        Some((block, module)) => {
            whole(renamed(module, BLOCK).map(|module| format!("{block}{module}")))
        }
        None => whole(renamed(layer, OUTSIDE_BLOCKS)),
    }
}
