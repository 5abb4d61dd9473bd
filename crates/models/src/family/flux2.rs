//! Flux.2 dev and Klein: a transformer with Mistral Small 3 (dev) or Qwen3 (Klein) and an autoencoder whose latents are
//! packed.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, Flux2Config};
use distorch_checkpoint::family::{TextEncoder, Variant};
use distorch_runtime::{DType, Scope};

use super::transformer::TransformerFamily;
use super::{ExtraChannels, Reads};
use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::cost;
use crate::estimate::{self, Compute, Need, Workload};
use crate::flux2::Flux2Transformer;
use crate::flux2::text::{DevText, KleinText};
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;

/// The family.
pub(super) struct Flux2;

impl TransformerFamily for Flux2 {
    type Config = Flux2Config;

    const NAME: &'static str = "Flux.2 transformer";
    const ENCODERS: &'static [&'static str] = &["qwen3"];
    const DTYPES: &'static [DType] = &[DType::BF16, DType::F16];

    fn config(config: &DiffusionConfig) -> Option<&Flux2Config> {
        match config {
            DiffusionConfig::Flux2(config) => Some(config),
            _ => None,
        }
    }

    fn latent_format(config: Option<&Flux2Config>) -> LatentFormat {
        LatentFormat {
            channels: config.map_or(128, |config| config.out_channels),
            downscale: 16,
            // The autoencoder normalises them.
            scale: 1.0,
            shift: 0.0,
            statistics: &[],
            rgb_factors: &[],
            rgb_bias: [0.0; 3],
        }
    }

    fn noise_levels(_: Option<&Flux2Config>) -> NoiseLevels {
        NoiseLevels::ExponentialFlow { mu: 2.02 }
    }

    fn reads(config: Option<&Flux2Config>, _: Variant) -> Reads {
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

    fn network(scope: &Scope, config: &Flux2Config) -> Result<Box<dyn Network>, ModelError> {
        Ok(Box::new(Flux2Transformer::load(scope, config)?))
    }

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        match encoders.iter().any(|encoder| encoder.name == "mistral3") {
            true => Ok(Box::new(DevText::load(scope, encoders)?)),
            false => Ok(Box::new(KleinText::load(scope, encoders)?)),
        }
    }

    fn activations(config: &Flux2Config, workload: Workload, compute: Compute) -> Need {
        estimate::flux2(config, workload, compute)
    }

    fn layer_costs(config: &Flux2Config, layers: &[Layer], workload: Workload) -> Vec<u64> {
        cost::flux::costs_of_2(config, layers, workload)
    }
}
