//! Chroma: a transformer with T5-XXL and Flux's autoencoder.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{ChromaConfig, DiffusionConfig};
use distorch_checkpoint::family::{TextEncoder, Variant};
use distorch_runtime::{DType, Scope};

use super::transformer::TransformerFamily;
use super::{ExtraChannels, Reads};
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

impl TransformerFamily for Chroma {
    type Config = ChromaConfig;

    const NAME: &'static str = "Chroma transformer";
    const ENCODERS: &'static [&'static str] = &["t5xxl"];
    const DTYPES: &'static [DType] = &[DType::BF16, DType::F16];

    fn config(config: &DiffusionConfig) -> Option<&ChromaConfig> {
        match config {
            DiffusionConfig::Chroma(config) => Some(config),
            _ => None,
        }
    }

    fn latent_format(config: Option<&ChromaConfig>) -> LatentFormat {
        let channels = config.map_or(16, |config| config.out_channels / PATCH);
        LatentFormat { channels, ..super::flux::LATENT_FORMAT }
    }

    fn noise_levels(_: Option<&ChromaConfig>) -> NoiseLevels {
        NoiseLevels::ExponentialFlow { mu: 1.15 }
    }

    fn reads(config: Option<&ChromaConfig>, _: Variant) -> Reads {
        Reads {
            context_width: config.map_or(0, |config| config.context_dim),
            tokens: 32,
            pooled_width: None,
            repeats_context: false,
            guidance: None,
            extra: ExtraChannels::None,
            reference_latents: false,
        }
    }

    fn network(scope: &Scope, config: &ChromaConfig) -> Result<Box<dyn Network>, ModelError> {
        Ok(Box::new(ChromaTransformer::load(scope, config)?))
    }

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(ChromaText::load(scope, encoders)?))
    }

    fn activations(config: &ChromaConfig, workload: Workload, compute: Compute) -> Need {
        estimate::chroma(config, workload, compute)
    }

    fn layer_costs(config: &ChromaConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
        cost::flux::costs_of_chroma(config, layers, workload)
    }
}
