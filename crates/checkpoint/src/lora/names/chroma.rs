//! The names of a Chroma transformer's layers in diffusers' `ChromaTransformer2DModel`: Flux's, and those of the network
//! that makes modulations.

use super::{Slice, flux, renamed};
use crate::config::ChromaConfig;

const APPROXIMATOR: &[(&str, &str)] = &[("in_layer", "linear_1"), ("out_layer", "linear_2")];

/// Diffusers' names of a layer.
pub(super) fn names(config: &ChromaConfig, layer: &str) -> Vec<(String, Slice)> {
    let list = "distilled_guidance_layer.layers.";
    if let Some((n, module)) = layer.strip_prefix(list).and_then(|rest| rest.split_once('.')) {
        let name = renamed(module, APPROXIMATOR);
        return name.map(|name| (format!("{list}{n}.{name}"), Slice::Whole)).into_iter().collect();
    }
    flux::names([config.width, config.mlp_width], layer)
}
