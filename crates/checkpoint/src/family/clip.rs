//! CLIP text encoders: OpenAI's CLIP-L, OpenCLIP's H and G, in the layouts of Hugging Face's
//! transformers and of OpenCLIP.
//!
//! Canonical names and their order are those of transformers' `CLIPTextModelWithProjection`;
//! [`Layout::stored`] says where OpenCLIP keeps each parameter.

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{LayerSpec, Module, ParamSpec, embedding, linear, linear_without_bias, norm};
use super::matching::{Stored, plain_key};
use crate::config::{ClipActivation, ClipConfig};

/// Width of an attention head in every published CLIP text encoder.
const HEAD_WIDTH: usize = 64;

/// How a file names the tensors of a CLIP text encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As transformers does.
    HuggingFace,
    /// As transformers did at the time of SD 1.x' first releases: without `text_model.`.
    OldHuggingFace,
    /// As OpenCLIP does: query, key and value fused, the projection transposed.
    OpenClip,
}

impl Layout {
    /// The layout of a text encoder under a prefix, if there is one.
    pub fn detect(scope: Scope<'_>) -> Option<Layout> {
        if scope.has("text_model.embeddings.token_embedding.weight") {
            Some(Layout::HuggingFace)
        } else if scope.has("embeddings.token_embedding.weight") {
            Some(Layout::OldHuggingFace)
        } else if scope.has("token_embedding.weight") && scope.has("positional_embedding") {
            Some(Layout::OpenClip)
        } else {
            None
        }
    }

    /// The layout of what is left of a text encoder whose token table is missing.
    pub fn detect_incomplete(scope: Scope<'_>) -> Option<Layout> {
        if scope.count("text_model.encoder.layers") > 0 {
            Some(Layout::HuggingFace)
        } else if scope.count("encoder.layers") > 0 {
            Some(Layout::OldHuggingFace)
        } else if scope.count("transformer.resblocks") > 0 {
            Some(Layout::OpenClip)
        } else {
            None
        }
    }

    /// Reads the configuration off the tensors under a prefix.
    pub fn infer(
        self,
        scope: Scope<'_>,
        activation: ClipActivation,
    ) -> Result<ClipConfig, FamilyError> {
        let (root, position, block, feed_forward) = match self {
            Layout::HuggingFace => {
                ("text_model.", "embeddings.position_embedding.weight", "encoder.layers", "mlp.fc1")
            }
            Layout::OldHuggingFace => {
                ("", "embeddings.position_embedding.weight", "encoder.layers", "mlp.fc1")
            }
            Layout::OpenClip => ("", "positional_embedding", "transformer.resblocks", "mlp.c_fc"),
        };
        let feed_forward = |n: usize| format!("{root}{block}.{n}.{feed_forward}.weight");
        let width = self.width(scope)?;
        Ok(ClipConfig {
            vocab_size: scope.dim(self.token_table(), 0)?,
            max_positions: scope.dim(&format!("{root}{position}"), 0)?,
            width,
            layers: scope.count(&format!("{root}{block}")),
            heads: (width / HEAD_WIDTH).max(1),
            intermediate: scope.dim(&feed_forward(0), 0)?,
            activation,
            projection: self.infer_projection(scope)?,
        })
    }

    /// The width of the hidden states of a text encoder under a prefix.
    pub fn width(self, scope: Scope<'_>) -> Result<usize, FamilyError> {
        scope.dim(self.token_table(), 1)
    }

    fn token_table(self) -> &'static str {
        match self {
            Layout::HuggingFace => "text_model.embeddings.token_embedding.weight",
            Layout::OldHuggingFace => "embeddings.token_embedding.weight",
            Layout::OpenClip => "token_embedding.weight",
        }
    }

    fn infer_projection(self, scope: Scope<'_>) -> Result<Option<usize>, FamilyError> {
        if scope.has("text_projection.weight") {
            return scope.dim("text_projection.weight", 0).map(Some);
        }
        if self == Layout::OpenClip && scope.has("text_projection") {
            return scope.dim("text_projection", 1).map(Some);
        }
        Ok(None)
    }

    /// Where the parameter of a layer (named without the encoder) is under `prefix`.
    pub fn stored(
        self,
        inventory: &Inventory<'_>,
        prefix: &str,
        layer: &LayerSpec,
        param: &ParamSpec,
    ) -> Stored {
        match self {
            Layout::HuggingFace => Stored::whole(plain_key(prefix, &layer.name, param), param),
            Layout::OldHuggingFace => {
                let name = layer.name.strip_prefix("text_model.").unwrap_or(&layer.name);
                Stored::whole(plain_key(prefix, name, param), param)
            }
            Layout::OpenClip => stored_by_open_clip(inventory, prefix, &layer.name, param),
        }
    }
}

fn stored_by_open_clip(
    inventory: &Inventory<'_>,
    prefix: &str,
    layer: &str,
    param: &ParamSpec,
) -> Stored {
    let plain = |name: &str| Stored::whole(plain_key(prefix, name, param), param);
    match layer {
        "text_model.embeddings.token_embedding" => plain("token_embedding"),
        "text_model.embeddings.position_embedding" => {
            Stored::whole(format!("{prefix}positional_embedding"), param)
        }
        "text_model.final_layer_norm" => plain("ln_final"),
        "text_projection" if inventory.has(&format!("{prefix}text_projection.weight")) => {
            plain("text_projection")
        }
        "text_projection" => Stored {
            key: format!("{prefix}text_projection"),
            shape: param.shape.iter().rev().copied().collect(),
            rows: None,
            transposed: true,
        },
        _ => stored_in_open_clip_block(prefix, layer, param),
    }
}

fn stored_in_open_clip_block(prefix: &str, layer: &str, param: &ParamSpec) -> Stored {
    let within = layer.strip_prefix("text_model.encoder.layers.").unwrap_or(layer);
    let (block, module) = within.split_once('.').unwrap_or((within, ""));
    let block = format!("{prefix}transformer.resblocks.{block}");
    let plain = |name: &str| Stored::whole(format!("{block}.{name}.{}", param.name), param);
    let part = match module {
        "self_attn.q_proj" => 0,
        "self_attn.k_proj" => 1,
        "self_attn.v_proj" => 2,
        "self_attn.out_proj" => return plain("attn.out_proj"),
        "layer_norm1" => return plain("ln_1"),
        "layer_norm2" => return plain("ln_2"),
        "mlp.fc1" => return plain("mlp.c_fc"),
        "mlp.fc2" => return plain("mlp.c_proj"),
        other => return plain(other),
    };
    let width = param.shape.first().copied().unwrap_or_default();
    let mut shape = param.shape.clone();
    if let Some(rows) = shape.first_mut() {
        *rows = 3 * width;
    }
    Stored {
        key: format!("{block}.attn.in_proj_{}", param.name),
        shape,
        rows: Some((part * width, (part + 1) * width)),
        transposed: false,
    }
}

/// The modules of a text encoder of this configuration.
pub(super) fn layout(config: &ClipConfig) -> Module {
    let width = config.width;
    let embeddings = Module::new()
        .with("token_embedding", embedding(config.vocab_size, width).into_head())
        .with("position_embedding", embedding(config.max_positions, width).into_head());
    let text_model = Module::new()
        .with("embeddings", embeddings)
        .with_each("encoder.layers", (0..config.layers).map(|_| block(config)))
        .with("final_layer_norm", norm(width));
    Module::new().with("text_model", text_model).with_if(
        config.projection.is_some(),
        "text_projection",
        || linear_without_bias(config.projection.unwrap_or_default(), width).into(),
    )
}

fn block(config: &ClipConfig) -> Module {
    let width = config.width;
    let attention = ["k_proj", "v_proj", "q_proj", "out_proj"]
        .into_iter()
        .fold(Module::new(), |attention, name| attention.with(name, linear(width, width)))
        .used_as(&["q_proj", "k_proj", "v_proj", "out_proj"]);
    Module::new()
        .with("self_attn", attention)
        .with("layer_norm1", norm(width))
        .with("mlp.fc1", linear(config.intermediate, width))
        .with("mlp.fc2", linear(width, config.intermediate))
        .with("layer_norm2", norm(width))
        .used_as(&["layer_norm1", "self_attn", "layer_norm2", "mlp.fc1", "mlp.fc2"])
}
