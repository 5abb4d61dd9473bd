//! Z-Image, turbo and base: a transformer with Qwen3-4B and Flux's autoencoder.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, ZImageConfig};
use distorch_checkpoint::family::{DiffusionModel, TextEncoder};
use distorch_runtime::{Scope, Tensor};

use super::{DiffusionFamily, ExtraChannels, MissingPooled, NetworkPatches, Reads, VectorInputs};
use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::cost;
use crate::estimate::{self, Compute, Need, Workload};
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;
use crate::z_image::ZImageTransformer;
use crate::z_image::text::ZImageText;

/// The family.
pub(super) struct ZImage;

impl DiffusionFamily for ZImage {
    fn latent_format(&self, model: &DiffusionModel) -> LatentFormat {
        let channels = config(model).map_or(16, |config| config.out_channels);
        LatentFormat { channels, ..super::flux::LATENT_FORMAT }
    }

    fn noise_levels(&self, _: &DiffusionModel) -> NoiseLevels {
        NoiseLevels::Flow { shift: 3.0, multiplier: 1.0 }
    }

    fn native_side(&self) -> u32 {
        1024
    }

    fn encoders(&self) -> Vec<&'static str> {
        vec!["qwen3"]
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
            model: "Z-Image transformer",
            reason: "the configuration of Z-Image is that of another network".to_owned(),
        })?;
        Ok(Box::new(ZImageTransformer::load(scope, config)?))
    }

    fn text(
        &self,
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(ZImageText::load(scope, encoders)?))
    }

    fn activations(&self, model: &DiffusionModel, workload: Workload, compute: Compute) -> Need {
        let need = |config| estimate::z_image(config, workload, compute);
        config(model).map_or_else(Need::default, need)
    }

    fn layer_costs(
        &self,
        model: &DiffusionModel,
        layers: &[Layer],
        workload: Workload,
    ) -> Option<Vec<u64>> {
        Some(cost::z_image::costs(config(model)?, layers, workload))
    }
}

fn config(model: &DiffusionModel) -> Option<&ZImageConfig> {
    match &model.config {
        DiffusionConfig::ZImage(config) => Some(config),
        _ => None,
    }
}
