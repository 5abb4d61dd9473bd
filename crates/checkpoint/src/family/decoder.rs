//! Decoder-only language models whose hidden states are read as those of a text encoder: Qwen3.
//!
//! Names and their order are those of transformers' `Qwen3ForCausalLM`; some files leave out the `model.` in front.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{LayerSpec, Module, ParamSpec, embedding, linear_without_bias, rms_norm};
use super::matching::{Stored, plain_key};
use crate::config::DecoderConfig;

/// The module that holds all layers but the output's.
const ROOT: &str = "model.";

/// Whether there is a Qwen3 under a prefix: a decoder whose queries and keys are normalised, and nothing else of it.
///
/// Gemma 3 has such norms too, and more norms around its feed-forward layers.
pub(super) fn detect(scope: Scope<'_>) -> bool {
    let root = root(scope);
    let has = |name: &str| scope.has(&format!("{root}{name}"));
    has("embed_tokens.weight")
        && has("layers.0.self_attn.q_norm.weight")
        && has("layers.0.mlp.gate_proj.weight")
        && !has("layers.0.pre_feedforward_layernorm.weight")
}

fn root(scope: Scope<'_>) -> &'static str {
    if scope.count("model.layers") > 0 { ROOT } else { "" }
}

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<DecoderConfig, FamilyError> {
    let root = root(scope);
    let dim = |name: &str, axis| scope.dim(&format!("{root}{name}"), axis);
    let head_dim = dim("layers.0.self_attn.q_norm.weight", 0)?;
    Ok(DecoderConfig {
        vocab_size: dim("embed_tokens.weight", 0)?,
        width: dim("embed_tokens.weight", 1)?,
        layers: scope.count(&format!("{root}layers")),
        heads: (dim("layers.0.self_attn.q_proj.weight", 0)? / head_dim).max(1),
        kv_heads: (dim("layers.0.self_attn.k_proj.weight", 0)? / head_dim).max(1),
        head_dim,
        intermediate: dim("layers.0.mlp.gate_proj.weight", 0)?,
    })
}

/// Where the parameter of a layer is under `prefix`.
pub(super) fn stored(
    inventory: &Inventory<'_>,
    prefix: &str,
    layer: &LayerSpec,
    param: &ParamSpec,
) -> Stored {
    let root = root(Scope::new(inventory, prefix));
    let name = layer.name.strip_prefix(ROOT).unwrap_or(&layer.name);
    Stored::whole(plain_key(prefix, &format!("{root}{name}"), param), param)
}

/// The modules of a model of this configuration. The output layer is left out: nothing reads it.
pub(super) fn layout(config: &DecoderConfig) -> Module {
    let model = Module::new()
        .with("embed_tokens", embedding(config.vocab_size, config.width).into_head())
        .with_each("layers", (0..config.layers).map(|_| block(config)))
        .with("norm", rms_norm("weight", config.width));
    Module::new().with("model", model)
}

fn block(config: &DecoderConfig) -> Module {
    let (width, head) = (config.width, config.head_dim);
    let (inner, shared) = (config.heads * head, config.kv_heads * head);
    let attention = Module::new()
        .with("q_proj", linear_without_bias(inner, width))
        .with("k_proj", linear_without_bias(shared, width))
        .with("v_proj", linear_without_bias(shared, width))
        .with("o_proj", linear_without_bias(width, inner))
        .with("q_norm", rms_norm("weight", head))
        .with("k_norm", rms_norm("weight", head))
        .used_as(&["q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "o_proj"]);
    let feed_forward = Module::new()
        .with("gate_proj", linear_without_bias(config.intermediate, width))
        .with("up_proj", linear_without_bias(config.intermediate, width))
        .with("down_proj", linear_without_bias(width, config.intermediate));
    Module::new()
        .with("self_attn", attention)
        .with("mlp", feed_forward)
        .with("input_layernorm", rms_norm("weight", width))
        .with("post_attention_layernorm", rms_norm("weight", width))
        .used_as(&["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"])
}
