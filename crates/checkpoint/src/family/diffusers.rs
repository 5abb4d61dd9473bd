//! Diffusion models as diffusers names and splits them, put together as the original code has them.
//!
//! Which module of diffusers a layer is, is known where LoRAs are read: the same names say where its rows are.

use std::sync::Arc;

use indexmap::IndexMap;

use super::error::FamilyError;
use super::inventory::{Inventory, Scope};
use super::layout::{LayerSpec, ParamSpec};
use super::{flux, mmdit, unet};
use crate::config::{DiffusionConfig, FluxConfig, Heads, MmditConfig, UnetConfig};
use crate::file::{Checkpoint, NewTensor, OpenError, Piece};
use crate::lora::names::{Slice, diffusion_names};

/// The same checkpoint where it is not a diffusion model in the layout of diffusers; else one with the original
/// names and tensors, whose data is that of the file.
///
/// # Errors
/// When a tensor that its configuration is read off is missing or of an odd shape.
pub fn original(checkpoint: &Arc<Checkpoint>) -> Result<Arc<Checkpoint>, FamilyError> {
    let inventory = Inventory::new(checkpoint);
    let scope = Scope::new(&inventory, "");
    let (config, layers) = match Kind::detect(scope) {
        None => return Ok(Arc::clone(checkpoint)),
        Some(Kind::Unet) => {
            let config = unet_config(scope)?;
            let layers = unet::layout(&config).layers();
            (DiffusionConfig::Unet(config), layers)
        }
        Some(Kind::Mmdit) => {
            let config = mmdit_config(scope)?;
            let layers = mmdit::layout(&config).layers();
            (DiffusionConfig::Mmdit(config), layers)
        }
        Some(Kind::Flux) => {
            let config = flux_config(scope)?;
            let layers = flux::layout(&config).layers();
            (DiffusionConfig::Flux(config), layers)
        }
    };
    let names = diffusion_names(&config);
    let mut used = Vec::new();
    let mut tensors = Vec::new();
    for layer in &layers {
        let parts = modules(scope, names(&layer.name));
        for param in params(scope, layer, &parts) {
            if let Some(tensor) = tensor(checkpoint, layer, &param, &parts) {
                used.extend(tensor.pieces.iter().map(|piece| piece.key.clone()));
                tensors.push(tensor);
            }
        }
    }
    // What is left stays under its name, to be told of.
    used.sort();
    let rest =
        checkpoint.tensors().filter(|(key, _)| used.binary_search_by(|k| (**k).cmp(key)).is_err());
    tensors.extend(rest.map(|(key, info)| NewTensor {
        key: key.to_owned(),
        shape: info.shape.clone(),
        pieces: vec![Piece::whole(0, key)],
        dtype: None,
    }));
    let (path, metadata) = (checkpoint.path(), checkpoint.metadata().clone());
    let assembled = Checkpoint::assemble(path, vec![Arc::clone(checkpoint)], metadata, tensors);
    assembled.map(Arc::new).map_err(refused)
}

fn refused(error: OpenError) -> FamilyError {
    FamilyError::Unsupported {
        what: "a diffusion model in the layout of diffusers".to_owned(),
        reason: error.problem.to_string(),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Unet,
    Mmdit,
    Flux,
}

impl Kind {
    fn detect(scope: Scope<'_>) -> Option<Self> {
        let is_mmdit = scope.has("time_text_embed.text_embedder.linear_1.weight")
            && scope.has("transformer_blocks.0.norm1.linear.weight");
        // ControlNets copy the beginnings of these, without their ends.
        if is_mmdit && scope.has("proj_out.weight") {
            let patches = scope.has("pos_embed.proj.weight");
            return Some(if patches { Kind::Mmdit } else { Kind::Flux });
        }
        let is_unet = scope.has("time_embedding.linear_1.weight")
            && scope.count("down_blocks") > 0
            && scope.has("conv_out.weight");
        is_unet.then_some(Kind::Unet)
    }
}

/// The modules of diffusers that make a layer: those whose rows are stacked, or the first of its names that is there.
fn modules(scope: Scope<'_>, names: Vec<(String, Slice)>) -> Vec<(String, Slice)> {
    let there = |module: &str| {
        scope.has(module)
            || scope.has(&format!("{module}.weight"))
            || scope.has(&format!("{module}.bias"))
    };
    let (stacked, whole): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|(_, slice)| matches!(slice, Slice::Rows(..)));
    let mut whole = whole.into_iter().filter(|(module, _)| there(module));
    match whole.next() {
        Some(one) => vec![one],
        None => stacked.into_iter().filter(|(module, _)| there(module)).collect(),
    }
}

/// The parameters that a layer may have, the scales of 8-bit weights with them.
fn params(scope: Scope<'_>, layer: &LayerSpec, parts: &[(String, Slice)]) -> Vec<ParamSpec> {
    let mut params = layer.params.clone();
    if let [(module, _)] = parts {
        let names = ["scale_weight", "weight_scale", "scale_input", "input_scale"];
        let there = names.into_iter().filter(|name| scope.has(&format!("{module}.{name}")));
        params.extend(there.map(|name| ParamSpec { name: name.to_owned(), shape: Vec::new() }));
    }
    params
}

/// The tensor of a parameter; `None` where the file lacks a part of it.
fn tensor(
    checkpoint: &Checkpoint,
    layer: &LayerSpec,
    param: &ParamSpec,
    parts: &[(String, Slice)],
) -> Option<NewTensor> {
    let dot = if param.name.is_empty() { "" } else { "." };
    // Diffusers calls the factor of every norm its weight.
    let name = if param.name == "scale" { "weight" } else { &param.name };
    let mut pieces = Vec::new();
    let mut shape: Option<Vec<usize>> = None;
    for (module, slice) in parts {
        let key = format!("{module}{dot}{name}");
        let info = checkpoint.get(&key)?;
        let height = info.shape.first().copied().unwrap_or(1);
        let whole = Piece::whole(0, &key);
        match slice {
            Slice::SwappedHalves if height > 1 => {
                let half = height / 2;
                pieces.push(Piece { rows: Some(half..height), ..whole.clone() });
                pieces.push(Piece { rows: Some(0..half), ..whole });
            }
            _ => pieces.push(whole),
        }
        match shape.as_mut().map(|shape| shape.first_mut()) {
            None => shape = Some(info.shape.clone()),
            Some(None) => {}
            Some(Some(rows)) => *rows = rows.saturating_add(height),
        }
    }
    let key = format!("{}{dot}{}", layer.name, param.name);
    Some(NewTensor { key, shape: shape?, pieces, dtype: None })
}

fn flux_config(scope: Scope<'_>) -> Result<FluxConfig, FamilyError> {
    let width = scope.dim("x_embedder.weight", 0)?;
    let head_width = scope.dim("transformer_blocks.0.attn.norm_q.weight", 0)?;
    Ok(FluxConfig {
        in_channels: scope.dim("x_embedder.weight", 1)?,
        out_channels: scope.dim("proj_out.weight", 0)?,
        width,
        heads: (width / head_width).max(1),
        context_dim: scope.dim("context_embedder.weight", 1)?,
        vec_dim: scope.dim("time_text_embed.text_embedder.linear_1.weight", 1)?,
        depth: scope.count("transformer_blocks"),
        depth_single: scope.count("single_transformer_blocks"),
        mlp_width: scope.dim("transformer_blocks.0.ff.net.0.proj.weight", 0)?,
        guidance_embed: scope.has("time_text_embed.guidance_embedder.linear_1.weight"),
    })
}

fn mmdit_config(scope: Scope<'_>) -> Result<MmditConfig, FamilyError> {
    let patches = "pos_embed.proj.weight";
    let (width, patch_size) = (scope.dim(patches, 0)?, scope.dim(patches, 2)?);
    let depth = scope.count("transformer_blocks");
    let second = |n: &usize| scope.has(&format!("transformer_blocks.{n}.attn2.to_q.weight"));
    Ok(MmditConfig {
        in_channels: scope.dim(patches, 1)?,
        out_channels: scope.dim("proj_out.weight", 0)?
            / patch_size.saturating_mul(patch_size).max(1),
        patch_size,
        depth,
        width,
        // Only names are made of this.
        heads: 1,
        pos_embed_max_size: scope.dim("pos_embed.pos_embed", 1)?.isqrt(),
        adm_in_channels: scope.dim("time_text_embed.text_embedder.linear_1.weight", 1)?,
        context_dim: scope.dim("context_embedder.weight", 1)?,
        qk_norm: scope.has("transformer_blocks.0.attn.norm_q.weight"),
        dual_attention_layers: (0..depth).filter(second).collect(),
    })
}

fn unet_config(scope: Scope<'_>) -> Result<UnetConfig, FamilyError> {
    let model_channels = scope.dim("conv_in.weight", 0)?;
    let depth = |block: &str| scope.count(&format!("{block}.transformer_blocks"));
    let (mut num_res_blocks, mut channel_mult) = (Vec::new(), Vec::new());
    let mut transformer_depth = Vec::new();
    let mut context = None;
    for level in 0..scope.count("down_blocks") {
        let resnets = scope.count(&format!("down_blocks.{level}.resnets"));
        let width = scope.dim(&format!("down_blocks.{level}.resnets.0.conv1.weight"), 0)?;
        num_res_blocks.push(resnets);
        channel_mult.push(width / model_channels);
        for at in 0..resnets {
            let block = format!("down_blocks.{level}.attentions.{at}");
            let depth = depth(&block);
            transformer_depth.push(depth);
            context = context.or_else(|| (depth > 0).then_some(block));
        }
    }
    let levels = num_res_blocks.iter().rev().enumerate();
    let transformer_depth_output = levels
        .flat_map(|(level, n)| (0..=*n).map(move |at| format!("up_blocks.{level}.attentions.{at}")))
        .map(|block| depth(&block))
        .collect();
    let block = context.unwrap_or_else(|| "mid_block.attentions.0".to_owned());
    let middle = depth("mid_block.attentions.0");
    let linear_projections = scope.rank(&format!("{block}.proj_in.weight")) == Some(2);
    let has_vector = scope.has("add_embedding.linear_1.weight");
    Ok(UnetConfig {
        in_channels: scope.dim("conv_in.weight", 1)?,
        out_channels: scope.dim("conv_out.weight", 0)?,
        model_channels,
        channel_mult,
        num_res_blocks,
        transformer_depth,
        middle_res_blocks: scope.count("mid_block.resnets"),
        transformer_depth_middle: (middle > 0).then_some(middle),
        transformer_depth_output,
        context_dim: scope.dim(&format!("{block}.transformer_blocks.0.attn2.to_k.weight"), 1)?,
        // Only names are made of this.
        heads: Heads::Count(1),
        linear_projections,
        adm_in_channels: match has_vector {
            true => Some(scope.dim("add_embedding.linear_1.weight", 1)?),
            false => None,
        },
    })
}

/// Shards of one model as one checkpoint: what is in several files counts as in the first that has it.
///
/// # Errors
/// When the pieces are not what their files say.
pub fn shards(shards: Vec<Arc<Checkpoint>>) -> Result<Arc<Checkpoint>, OpenError> {
    let [one] = shards.as_slice() else {
        let path = shards.first().map(|shard| shard.path().to_owned()).unwrap_or_default();
        let mut tensors: IndexMap<String, NewTensor> = IndexMap::new();
        for (member, shard) in shards.iter().enumerate() {
            for (key, info) in shard.tensors() {
                tensors.entry(key.to_owned()).or_insert_with(|| NewTensor {
                    key: key.to_owned(),
                    shape: info.shape.clone(),
                    pieces: vec![Piece::whole(member, key)],
                    dtype: None,
                });
            }
        }
        let tensors = tensors.into_values();
        return Checkpoint::assemble(path, shards, IndexMap::new(), tensors).map(Arc::new);
    };
    Ok(Arc::clone(one))
}
