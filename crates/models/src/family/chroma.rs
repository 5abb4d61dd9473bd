//! Chroma: a transformer with T5-XXL and Flux's autoencoder.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{ChromaConfig, DiffusionConfig};
use distorch_checkpoint::family::{DiffusionModel, TextEncoder};
use distorch_runtime::{Scope, Tensor};

use super::{DiffusionFamily, ExtraChannels, MissingPooled, NetworkPatches, Reads, VectorInputs};
use crate::ModelError;
use crate::chroma::ChromaTransformer;
use crate::chroma::text::ChromaText;
use crate::conditioning::ConditioningError;
use crate::cost;
use crate::estimate::{self, Compute, Need, Workload};
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;

/// The family.
pub(super) struct Chroma;

/// Latent pixels of a patch.
const PATCH: usize = 4;

impl DiffusionFamily for Chroma {
    fn latent_format(&self, model: &DiffusionModel) -> LatentFormat {
        let channels = config(model).map_or(16, |config| config.out_channels / PATCH);
        LatentFormat { channels, ..super::flux::LATENT_FORMAT }
    }

    fn noise_levels(&self, _: &DiffusionModel) -> NoiseLevels {
        NoiseLevels::ExponentialFlow { mu: 1.15 }
    }

    fn native_side(&self) -> u32 {
        1024
    }

    fn encoders(&self) -> Vec<&'static str> {
        vec!["t5xxl"]
    }

    fn reads(&self, model: &DiffusionModel) -> Reads {
        Reads {
            context_width: config(model).map_or(0, |config| config.context_dim),
            tokens: 32,
            pooled_width: None,
            repeats_context: false,
            guidance: None,
            extra: ExtraChannels::None,
            reference_latents: false,
        }
    }

    fn vector(&self, _: VectorInputs) -> Result<Option<Tensor<2>>, MissingPooled> {
        Ok(None)
    }

    fn network(
        &self,
        scope: &Scope,
        model: &DiffusionModel,
        _: &NetworkPatches,
    ) -> Result<Box<dyn Network>, ModelError> {
        let config = config(model).ok_or_else(|| ModelError::Config {
            model: "Chroma transformer",
            reason: "the configuration of Chroma is that of another network".to_owned(),
        })?;
        Ok(Box::new(ChromaTransformer::load(scope, config)?))
    }

    fn text(
        &self,
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(ChromaText::load(scope, encoders)?))
    }

    fn activations(&self, model: &DiffusionModel, workload: Workload, compute: Compute) -> Need {
        let need = |config| estimate::chroma(config, workload, compute);
        config(model).map_or_else(Need::default, need)
    }

    fn layer_costs(
        &self,
        model: &DiffusionModel,
        layers: &[Layer],
        workload: Workload,
    ) -> Option<Vec<u64>> {
        Some(cost::flux::costs_of_chroma(config(model)?, layers, workload))
    }
}

fn config(model: &DiffusionModel) -> Option<&ChromaConfig> {
    match &model.config {
        DiffusionConfig::Chroma(config) => Some(config),
        _ => None,
    }
}
