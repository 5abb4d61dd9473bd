//! Decoder-only language models whose hidden states are read as those of a text encoder: Qwen3, the language model of
//! Qwen3-VL, Mistral Small 3 and Gemma 2.
//!
//! Names and their order are those of transformers' `…ForCausalLM`; some files leave out the `model.` in front, and those of
//! models that see pictures have a `language_model.` with it. Their encoder of pictures ([`vision`]) is part of them.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{
    LayerSpec, Module, ParamSpec, embedding, linear, linear_without_bias, rms_norm,
};
use super::matching::{Stored, plain_key};
use super::vision;
use crate::config::{DecoderConfig, DecoderKind};

/// The module that holds all layers but the output's.
const ROOT: &str = "model.";

/// What stands in the place of [`ROOT`] in files.
const ROOTS: [&str; 4] = ["model.language_model.", "language_model.model.", ROOT, ""];

/// Rows of Mistral's token table, by which it is told from other models without norms of heads.
const MISTRAL_ROWS: usize = 131_072;

/// The width of a head of Qwen2.5-VL.
const QWEN25_HEAD: usize = 128;

/// A tensor of the pictures' encoder of every Qwen3-VL.
const VISION: &str = "visual.deepstack_merger_list.0.norm.weight";

/// The vocabulary of Mistral's tokenizer, in the bytes of a `tekken.json`.
pub(super) const TEKKEN: &str = "tekken_model";

/// The kind of the language model under a prefix, where there is one that is known.
pub(super) fn detect(scope: Scope<'_>) -> Option<DecoderKind> {
    let root = root(scope);
    let has = |name: &str| scope.has(&format!("{root}{name}"));
    if !has("embed_tokens.weight") || !has("layers.0.mlp.gate_proj.weight") {
        return None;
    }
    let head_norms = has("layers.0.self_attn.q_norm.weight");
    let inner_norms = has("layers.0.pre_feedforward_layernorm.weight");
    match (head_norms, inner_norms) {
        // Gemma 3.
        (true, true) => None,
        (true, false) if sees(scope, VISION) => Some(DecoderKind::Qwen3Vl),
        (true, false) => Some(DecoderKind::Qwen3),
        (false, true) => Some(DecoderKind::Gemma2),
        (false, false) if has("layers.0.self_attn.q_proj.bias") => Some(DecoderKind::Qwen25Vl),
        (false, false) => {
            let rows = scope.dim(&format!("{root}embed_tokens.weight"), 0).ok();
            let mistral = rows == Some(MISTRAL_ROWS) || scope.has(TEKKEN);
            mistral.then_some(DecoderKind::Mistral3)
        }
    }
}

/// The name of a text encoder of this kind.
pub(super) const fn name(kind: DecoderKind) -> &'static str {
    match kind {
        DecoderKind::Qwen3 => "qwen3",
        DecoderKind::Qwen3Vl => "qwen3vl",
        DecoderKind::Qwen25Vl => "qwen25vl",
        DecoderKind::Mistral3 => "mistral3",
        DecoderKind::Gemma2 => "gemma2",
    }
}

/// Whether there is a tensor of the model's encoder of pictures.
fn sees(scope: Scope<'_>, name: &str) -> bool {
    scope.has(name) || scope.has(&format!("{ROOT}{name}"))
}

fn root(scope: Scope<'_>) -> &'static str {
    let layers = |root: &&str| scope.count(&format!("{root}layers")) > 0;
    ROOTS.into_iter().find(layers).unwrap_or_default()
}

/// The width of a head, where no tensor tells it: the published models'.
const fn head_dim(kind: DecoderKind) -> Option<usize> {
    match kind {
        DecoderKind::Qwen3 | DecoderKind::Qwen3Vl | DecoderKind::Qwen25Vl => None,
        DecoderKind::Mistral3 => Some(128),
        DecoderKind::Gemma2 => Some(256),
    }
}

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>, kind: DecoderKind) -> Result<DecoderConfig, FamilyError> {
    let root = root(scope);
    let dim = |name: &str, axis| scope.dim(&format!("{root}{name}"), axis);
    let head_dim = match head_dim(kind) {
        Some(head_dim) => head_dim,
        // All published ones have heads of 128; smaller models have one head of keys.
        None if kind == DecoderKind::Qwen25Vl => {
            let shared = dim("layers.0.self_attn.k_proj.weight", 0)?;
            if shared.is_multiple_of(QWEN25_HEAD) { QWEN25_HEAD } else { shared }
        }
        None => dim("layers.0.self_attn.q_norm.weight", 0)?,
    };
    let pictures = format!("{}{}", vision_root(scope), vision::ROOT);
    Ok(DecoderConfig {
        kind,
        vocab_size: dim("embed_tokens.weight", 0)?,
        width: dim("embed_tokens.weight", 1)?,
        layers: scope.count(&format!("{root}layers")),
        heads: (dim("layers.0.self_attn.q_proj.weight", 0)? / head_dim).max(1),
        kv_heads: (dim("layers.0.self_attn.k_proj.weight", 0)? / head_dim).max(1),
        head_dim,
        intermediate: dim("layers.0.mlp.gate_proj.weight", 0)?,
        vision: vision::infer(scope, &pictures, kind)?,
    })
}

/// What stands before the names of the encoder of pictures.
fn vision_root(scope: Scope<'_>) -> &'static str {
    let blocks = format!("{ROOT}{}.blocks", vision::ROOT);
    if scope.count(&blocks) > 0 { ROOT } else { "" }
}

/// Where the parameter of a layer is under `prefix`.
pub(super) fn stored(
    inventory: &Inventory<'_>,
    prefix: &str,
    layer: &LayerSpec,
    param: &ParamSpec,
) -> Stored {
    let scope = Scope::new(inventory, prefix);
    let (root, name) = match layer.name.strip_prefix(ROOT) {
        Some(name) => (root(scope), name),
        None => (vision_root(scope), layer.name.as_str()),
    };
    Stored::whole(plain_key(prefix, &format!("{root}{name}"), param), param)
}

/// The modules of a model of this configuration. The output layer is left out: nothing reads it. So is the last norm of
/// Mistral, which files that end with the last layer that is read do without.
pub(super) fn layout(config: &DecoderConfig) -> Module {
    let model = Module::new()
        .with("embed_tokens", embedding(config.vocab_size, config.width).into_head())
        .with_each("layers", (0..config.layers).map(|_| block(config)))
        .with_if(config.kind != DecoderKind::Mistral3, "norm", || {
            rms_norm("weight", config.width).into()
        });
    let whole = Module::new().with("model", model);
    match &config.vision {
        None => whole,
        Some(pictures) => whole
            .with(vision::ROOT, vision::layout(pictures, config.width))
            .used_as(&[vision::ROOT, "model"]),
    }
}

fn block(config: &DecoderConfig) -> Module {
    let (width, head) = (config.width, config.head_dim);
    let (inner, shared) = (config.heads * head, config.kv_heads * head);
    let head_norms = matches!(config.kind, DecoderKind::Qwen3 | DecoderKind::Qwen3Vl);
    let inner_norms = config.kind == DecoderKind::Gemma2;
    let projection = match config.kind {
        DecoderKind::Qwen25Vl => linear,
        _ => linear_without_bias,
    };
    let attention = Module::new()
        .with("q_proj", projection(inner, width))
        .with("k_proj", projection(shared, width))
        .with("v_proj", projection(shared, width))
        .with("o_proj", linear_without_bias(width, inner))
        .with_if(head_norms, "q_norm", || rms_norm("weight", head).into())
        .with_if(head_norms, "k_norm", || rms_norm("weight", head).into())
        .used_as(&["q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "o_proj"]);
    let feed_forward = Module::new()
        .with("gate_proj", linear_without_bias(config.intermediate, width))
        .with("up_proj", linear_without_bias(config.intermediate, width))
        .with("down_proj", linear_without_bias(width, config.intermediate));
    let norm = || rms_norm("weight", width).into();
    Module::new()
        .with("self_attn", attention)
        .with("mlp", feed_forward)
        .with("input_layernorm", rms_norm("weight", width))
        .with("post_attention_layernorm", rms_norm("weight", width))
        .with_if(inner_norms, "pre_feedforward_layernorm", norm)
        .with_if(inner_norms, "post_feedforward_layernorm", norm)
        .used_as(match inner_norms {
            false => &["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"],
            true => &[
                "input_layernorm",
                "self_attn",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "mlp",
                "post_feedforward_layernorm",
            ],
        })
}
