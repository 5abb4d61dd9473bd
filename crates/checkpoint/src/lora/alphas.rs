//! The scale of an adapter: what its product is multiplied with before the strength.
//!
//! A tensor `….alpha` beside the adapter makes it alpha ÷ rank. Without one, the file's
//! `lora_adapter_metadata` (PEFT's configuration, as diffusers writes it) may tell the alpha; without
//! that it is 1.

use serde_json::{Map, Value};

use super::error::LoraError;
use crate::decode::to_f32;
use crate::file::Checkpoint;

/// The entry of a safetensors file's metadata in which diffusers keeps PEFT's configuration.
const METADATA: &str = "lora_adapter_metadata";

/// The components whose configurations are in one file, each before its entries.
const COMPONENTS: [&str; 6] =
    ["unet.", "transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.", ""];

/// Where an adapter's alpha is told.
pub(super) struct Alphas<'f> {
    file: &'f Checkpoint,
    config: Map<String, Value>,
}

impl<'f> Alphas<'f> {
    pub fn new(file: &'f Checkpoint) -> Result<Self, LoraError> {
        let config = match file.metadata().get(METADATA) {
            Some(text) => serde_json::from_str(text)
                .map_err(|error| LoraError::Metadata { reason: error.to_string() })?,
            None => Map::new(),
        };
        Ok(Self { file, config })
    }

    /// The scale of a module's adapter, whose alpha may be a tensor of the file.
    pub fn scale(&self, module: &str, alpha: Option<&str>, rank: usize) -> Result<f32, LoraError> {
        let rank = rank as f64;
        let scale = match alpha {
            Some(key) => f64::from(self.value(key)?) / rank,
            None => self.configured(module, rank).unwrap_or(1.0),
        };
        Ok(scale as f32)
    }

    /// The limit that a module's alpha puts on a rotation; 0, which is none, without an alpha.
    pub fn limit(&self, alpha: Option<&str>) -> Result<f32, LoraError> {
        alpha.map_or(Ok(0.0), |key| self.value(key))
    }

    /// The value of an alpha, which is a scalar or a tensor of one element.
    fn value(&self, key: &str) -> Result<f32, LoraError> {
        let odd = |found: String| LoraError::Alpha { key: key.to_owned(), found };
        let Some(info) = self.file.get(key) else { return Err(odd("missing".to_owned())) };
        if info.elements() != 1 {
            return Err(odd(format!("a tensor of shape {:?}", info.shape)));
        }
        let values = to_f32(&self.file.bytes(key)?, info.dtype);
        match values.first() {
            Some(value) if value.is_finite() => Ok(*value),
            value => Err(odd(format!("{value:?}"))),
        }
    }

    /// The scale that PEFT's configuration gives a module.
    fn configured(&self, module: &str, rank: f64) -> Option<f64> {
        let (component, module) = COMPONENTS
            .iter()
            .find_map(|component| Some((*component, module.strip_prefix(component)?)))?;
        let entry = |name: &str| self.config.get(&format!("{component}{name}"));
        let pattern = entry("alpha_pattern").and_then(Value::as_object);
        let alpha = pattern
            .and_then(|pattern| pattern.iter().find(|(name, _)| ends_with_path(module, name)))
            .map(|(_, alpha)| alpha)
            .or_else(|| entry("lora_alpha"))
            .or_else(|| entry("alpha"))?
            .as_f64()?;
        let root = entry("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Some(alpha / if root { rank.sqrt() } else { rank })
    }
}

/// Whether a dotted path is another one or ends in it.
fn ends_with_path(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('.'))
}
