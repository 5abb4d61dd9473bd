//! Other names of a CLIP text encoder's layers than transformers' own.

use super::{Slice, renamed};

const OPEN_CLIP: &[(&str, &str)] = &[
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.embeddings.position_embedding", "positional_embedding"),
    ("text_model.final_layer_norm", "ln_final"),
];
const OPEN_CLIP_BLOCK: &[(&str, &str)] = &[
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
];
/// The layers that OpenCLIP fuses, in the order of the fused rows.
const FUSED: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
/// How diffusers' first LoRAs named the projections of an attention.
const PROCESSOR: [(&str, &str); 4] =
    [("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")];

/// The other names of a layer, named without its encoder: transformers' without `text_model.`, those
/// of diffusers' first LoRAs, OpenCLIP's.
pub(super) fn names(layer: &str) -> Vec<(String, Slice)> {
    let Some(short) = layer.strip_prefix("text_model.") else { return Vec::new() };
    let processor = layer.rsplit_once('.').and_then(|(attention, projection)| {
        let (_, name) = PROCESSOR.iter().find(|(own, _)| *own == projection)?;
        Some(format!("{attention}.{name}"))
    });
    [Some(short.to_owned()), processor]
        .into_iter()
        .flatten()
        .map(|name| (name, Slice::Whole))
        .chain(open_clip(layer))
        .collect()
}

fn open_clip(layer: &str) -> Option<(String, Slice)> {
    if let Some(name) = renamed(layer, OPEN_CLIP) {
        return Some((name, Slice::Whole));
    }
    let (block, module) = layer.strip_prefix("text_model.encoder.layers.")?.split_once('.')?;
    let block = format!("transformer.resblocks.{block}");
    if let Some(third) = FUSED.iter().position(|name| *name == module) {
        return Some((format!("{block}.attn.in_proj"), Slice::PartOfModule(third, 3)));
    }
    Some((format!("{block}.{}", renamed(module, OPEN_CLIP_BLOCK)?), Slice::Whole))
}
