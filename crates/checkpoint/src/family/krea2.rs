//! Krea 2's transformer (<https://github.com/krea-ai/krea-2>).
//!
//! Module names and their order are those of the original, which ComfyUI's files keep.

use super::error::FamilyError;
use super::inventory::Scope;
use super::layout::{Module, linear, linear_without_bias, own_param, rms_norm};
use crate::config::Krea2Config;

/// A tensor that every Krea 2 transformer has, under its prefix.
pub(super) const ANCHOR: &str = "txtfusion.projector.weight";

/// The list of blocks by which it is known where that tensor is missing.
pub(super) const BLOCKS: &str = "txtfusion.refiner_blocks";

/// Latent pixels of a patch, along a side.
const PATCH: usize = 2;

/// Reads the configuration off the tensors under a prefix.
pub(super) fn infer(scope: Scope<'_>) -> Result<Krea2Config, FamilyError> {
    let head_width = scope.dim("blocks.0.attn.qknorm.qnorm.scale", 0)?;
    let heads = |layer: &str, width: usize| Ok((scope.dim(layer, 0)? / width).max(1));
    let of_text = |name: &str| format!("txtfusion.refiner_blocks.0.{name}");
    let text_head_width = scope.dim(&of_text("attn.qknorm.qnorm.scale"), 0)?;
    Ok(Krea2Config {
        in_channels: scope.dim("first.weight", 1)? / (PATCH * PATCH),
        out_channels: scope.dim("last.linear.weight", 0)? / (PATCH * PATCH),
        patch_size: PATCH,
        width: scope.dim("first.weight", 0)?,
        heads: heads("blocks.0.attn.wq.weight", head_width)?,
        kv_heads: heads("blocks.0.attn.wk.weight", head_width)?,
        mlp_width: scope.dim("blocks.0.mlp.gate.weight", 0)?,
        depth: scope.count("blocks"),
        time_frequencies: scope.dim("tmlp.0.weight", 1)?,
        text_width: scope.dim("txtmlp.1.weight", 1)?,
        text_layers: scope.dim(ANCHOR, 1)?,
        text_heads: heads(&of_text("attn.wq.weight"), text_head_width)?,
        text_kv_heads: heads(&of_text("attn.wk.weight"), text_head_width)?,
        text_mlp_width: scope.dim(&of_text("mlp.gate.weight"), 0)?,
        layerwise_depth: scope.count("txtfusion.layerwise_blocks"),
        refiner_depth: scope.count("txtfusion.refiner_blocks"),
    })
}

/// The modules of a transformer of this configuration.
pub(super) fn layout(config: &Krea2Config) -> Module {
    let (width, text) = (config.width, config.text_width);
    let patch = config.patch_size * config.patch_size;
    let time = Module::new()
        .with("0", linear(width, config.time_frequencies))
        .with("2", linear(width, width));
    let sizes = Sizes { width, heads: config.heads, kv_heads: config.kv_heads };
    let block = |_| {
        Module::new()
            .with("mod.lin", own_param(&[6 * width]))
            .with("prenorm", rms_norm("scale", width))
            .with("postnorm", rms_norm("scale", width))
            .with("attn", sizes.attention())
            .with("mlp", feed_forward(width, config.mlp_width))
            .used_as(&["mod", "mod.lin", "prenorm", "attn", "postnorm", "mlp"])
    };
    let of_text = Sizes { width: text, heads: config.text_heads, kv_heads: config.text_kv_heads };
    let text_block = |_| {
        Module::new()
            .with("prenorm", rms_norm("scale", text))
            .with("postnorm", rms_norm("scale", text))
            .with("attn", of_text.attention())
            .with("mlp", feed_forward(text, config.text_mlp_width))
            .used_as(&["prenorm", "attn", "postnorm", "mlp"])
    };
    let fusion = Module::new()
        .with_each("layerwise_blocks", (0..config.layerwise_depth).map(text_block))
        .with("projector", linear_without_bias(1, config.text_layers))
        .with_each("refiner_blocks", (0..config.refiner_depth).map(text_block));
    let caption = Module::new()
        .with("0", rms_norm("scale", text))
        .with("1", linear(width, text))
        .with("3", linear(width, width));
    let last = Module::new()
        .with("norm", rms_norm("scale", width))
        .with("linear", linear(patch * config.out_channels, width))
        .with("modulation.lin", own_param(&[2, width]))
        .used_as(&["modulation.lin", "norm", "linear"]);
    Module::new()
        .with("first", linear(width, patch * config.in_channels))
        .with_each("blocks", (0..config.depth).map(block))
        .with("tmlp", time)
        .with("txtfusion", fusion)
        .with("txtmlp", caption)
        .with("last", last)
        .with("tproj.1", linear(6 * width, width))
        .used_as(&["tmlp", "tproj.1", "txtfusion", "txtmlp", "first", "blocks", "last"])
}

/// The sizes of attention.
struct Sizes {
    width: usize,
    heads: usize,
    kv_heads: usize,
}

impl Sizes {
    fn attention(&self) -> Module {
        let width = self.width;
        let head = width / self.heads.max(1);
        let shared = self.kv_heads * head;
        let norms = Module::new()
            .with("qnorm", rms_norm("scale", head))
            .with("knorm", rms_norm("scale", head));
        Module::new()
            .with("wq", linear_without_bias(width, width))
            .with("wk", linear_without_bias(shared, width))
            .with("wv", linear_without_bias(shared, width))
            .with("gate", linear_without_bias(width, width))
            .with("qknorm", norms)
            .with("wo", linear_without_bias(width, width))
            .used_as(&["wq", "wk", "wv", "qknorm", "gate", "wo"])
    }
}

fn feed_forward(width: usize, inner: usize) -> Module {
    Module::new()
        .with("gate", linear_without_bias(inner, width))
        .with("up", linear_without_bias(inner, width))
        .with("down", linear_without_bias(width, inner))
}
