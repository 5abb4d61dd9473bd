//! The T5 v1.1 text encoder (T5-XXL of SD3 and Flux).
//!
//! Names and their order are those of transformers' `T5EncoderModel`.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{LayerSpec, Module, ParamSpec, embedding, linear_without_bias, rms_norm};
use super::matching::{Stored, plain_key};
use crate::config::T5Config;

/// The list of blocks, by which a T5 encoder is known.
pub(super) const BLOCKS: &str = "encoder.block";

/// Where the token table is: `shared`, or its tied duplicate where a file kept only that.
const TABLES: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<T5Config, FamilyError> {
    let buckets = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    let table = TABLES.into_iter().find(|name| scope.has(name)).unwrap_or(TABLES[0]);
    let feed_forward = "encoder.block.0.layer.1.DenseReluDense";
    if scope.has(&format!("{feed_forward}.wi.weight")) {
        return Err(FamilyError::Unsupported {
            what: format!("a T5 v1.0 encoder under `{}`", scope.prefix),
            reason: "SD3 and Flux use T5 v1.1, whose feed-forward layers are gated".to_owned(),
        });
    }
    let heads = scope.dim(buckets, 1)?;
    Ok(T5Config {
        vocab_size: scope.dim(table, 0)?,
        width: scope.dim(table, 1)?,
        layers: scope.count(BLOCKS),
        heads,
        head_dim: scope.dim("encoder.block.0.layer.0.SelfAttention.q.weight", 0)? / heads,
        intermediate: scope.dim(&format!("{feed_forward}.wi_0.weight"), 0)?,
        relative_buckets: scope.dim(buckets, 0)?,
    })
}

/// Where the parameter of a layer is under `prefix`.
pub(super) fn stored(
    inventory: &Inventory<'_>,
    prefix: &str,
    layer: &LayerSpec,
    param: &ParamSpec,
) -> Stored {
    let key = plain_key(prefix, &layer.name, param);
    if layer.name == "shared" && !inventory.has(&key) {
        return Stored::whole(format!("{prefix}{}", TABLES[1]), param);
    }
    Stored::whole(key, param)
}

/// The modules of an encoder of this configuration.
pub(super) fn layout(config: &T5Config) -> Module {
    Module::new()
        .with("shared", embedding(config.vocab_size, config.width).into_head())
        .with_each("encoder.block", (0..config.layers).map(|at| block(config, at == 0)))
        .with("encoder.final_layer_norm", rms_norm("weight", config.width))
}

/// The first block holds the table of relative positions for all of them.
fn block(config: &T5Config, first: bool) -> Module {
    let inner = config.heads * config.head_dim;
    let attention = Module::new()
        .with("q", linear_without_bias(inner, config.width))
        .with("k", linear_without_bias(inner, config.width))
        .with("v", linear_without_bias(inner, config.width))
        .with("o", linear_without_bias(config.width, inner))
        .with_if(first, "relative_attention_bias", || {
            embedding(config.relative_buckets, config.heads).into()
        })
        .used_as(&["q", "k", "v", "relative_attention_bias", "o"]);
    let feed_forward = Module::new()
        .with("wi_0", linear_without_bias(config.intermediate, config.width))
        .with("wi_1", linear_without_bias(config.intermediate, config.width))
        .with("wo", linear_without_bias(config.width, config.intermediate));
    let norm = || rms_norm("weight", config.width);
    Module::new()
        .with(
            "layer.0",
            Module::new()
                .with("SelfAttention", attention)
                .with("layer_norm", norm())
                .used_as(&["layer_norm", "SelfAttention"]),
        )
        .with(
            "layer.1",
            Module::new()
                .with("DenseReluDense", feed_forward)
                .with("layer_norm", norm())
                .used_as(&["layer_norm", "DenseReluDense"]),
        )
}
