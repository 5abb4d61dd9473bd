//! Flux.2 dev and Klein: a transformer with Qwen3 (Klein) and an autoencoder whose latents are packed.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, Flux2Config};
use distorch_checkpoint::family::{DiffusionModel, TextEncoder};
use distorch_runtime::{Scope, Tensor};

use super::{DiffusionFamily, ExtraChannels, MissingPooled, NetworkPatches, Reads, VectorInputs};
use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::cost;
use crate::estimate::{self, Compute, Need, Workload};
use crate::flux2::Flux2Transformer;
use crate::flux2::text::KleinText;
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;

/// The family.
pub(super) struct Flux2;

impl DiffusionFamily for Flux2 {
    fn latent_format(&self, model: &DiffusionModel) -> LatentFormat {
        LatentFormat {
            channels: config(model).map_or(128, |config| config.out_channels),
            downscale: 16,
            // The autoencoder normalises them.
            scale: 1.0,
            shift: 0.0,
            rgb_factors: &[],
            rgb_bias: [0.0; 3],
        }
    }

    fn noise_levels(&self, _: &DiffusionModel) -> NoiseLevels {
        NoiseLevels::ExponentialFlow { mu: 2.02 }
    }

    fn native_side(&self) -> u32 {
        1024
    }

    fn encoders(&self) -> Vec<&'static str> {
        vec!["qwen3"]
    }

    fn reads(&self, model: &DiffusionModel) -> Reads {
        let config = config(model);
        let guided = config.is_some_and(|config| config.guidance_embed);
        Reads {
            context_width: config.map_or(0, |config| config.context_dim),
            tokens: 512,
            pooled_width: None,
            repeats_context: false,
            guidance: guided.then_some(3.5),
            extra: ExtraChannels::None,
            reference_latents: true,
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
            model: "Flux.2 transformer",
            reason: "the configuration of Flux.2 is that of another network".to_owned(),
        })?;
        Ok(Box::new(Flux2Transformer::load(scope, config)?))
    }

    fn text(
        &self,
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(KleinText::load(scope, encoders)?))
    }

    fn activations(&self, model: &DiffusionModel, workload: Workload, compute: Compute) -> Need {
        let need = |config| estimate::flux2(config, workload, compute);
        config(model).map_or_else(Need::default, need)
    }

    fn layer_costs(
        &self,
        model: &DiffusionModel,
        layers: &[Layer],
        workload: Workload,
    ) -> Option<Vec<u64>> {
        Some(cost::flux::costs_of_2(config(model)?, layers, workload))
    }
}

fn config(model: &DiffusionModel) -> Option<&Flux2Config> {
    match &model.config {
        DiffusionConfig::Flux2(config) => Some(config),
        _ => None,
    }
}
