//! Checkpoints without data: the tensors that a model of a given configuration has.

use indexmap::IndexMap;

use super::layout::Module;
use super::{clip, decoder, diffusion, t5, vae};
use crate::config::{DiffusionConfig, TextEncoderConfig, VaeConfig};
use crate::dtype::Dtype;
use crate::file::{Checkpoint, OpenError};

/// What a checkpoint is to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configs {
    /// The diffusion model.
    pub diffusion: Option<DiffusionConfig>,
    /// The text encoders, each with its name: `clip_l`, `clip_h`, `clip_g`, `t5xxl` or `qwen3`.
    pub text_encoders: Vec<(&'static str, TextEncoderConfig)>,
    /// The autoencoder.
    pub vae: Option<VaeConfig>,
}

/// A checkpoint with the keys, dtype and shapes of these models and no data, for estimates and
/// benchmarks: [`recognise`](super::recognise) reads the configurations off it again.
///
/// # Errors
/// When a configuration asks for a tensor too large to address, or two text encoders have one name.
pub fn blank(name: &str, configs: &Configs, dtype: Dtype) -> Result<Checkpoint, OpenError> {
    let mut parts = Vec::new();
    let mut add = |prefix: &str, module: Module| {
        for layer in module.layers() {
            for param in layer.params {
                let dot = if param.name.is_empty() { "" } else { "." };
                let key = format!("{prefix}{}{dot}{}", layer.name, param.name);
                parts.push((key, dtype, param.shape));
            }
        }
    };
    if let Some(config) = &configs.diffusion {
        add("model.diffusion_model.", diffusion::layout(config));
    }
    let markers = configs.diffusion.as_ref().map_or(&[][..], diffusion::markers);
    for (name, config) in &configs.text_encoders {
        let module = match config {
            TextEncoderConfig::Clip(config) => clip::layout(config),
            TextEncoderConfig::T5(config) => t5::layout(config),
            TextEncoderConfig::Decoder(config) => decoder::layout(config),
        };
        add(&format!("text_encoders.{name}.transformer."), module);
    }
    if let Some(config) = &configs.vae {
        add("first_stage_model.", vae::layout(config));
    }
    parts
        .extend(markers.iter().map(|key| (format!("model.diffusion_model.{key}"), dtype, vec![1])));
    Checkpoint::from_parts(name, IndexMap::new(), parts)
}
