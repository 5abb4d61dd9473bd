//! What the models with a NextDiT have in common: Lumina 2 and Z-Image, both with Flux's autoencoder.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, NextDitConfig, NextDitKind};
use distorch_checkpoint::family::{TextEncoder, Variant};
use distorch_runtime::{DType, Scope};

use super::transformer::TransformerFamily;
use super::{ExtraChannels, Reads};
use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::cost;
use crate::estimate::{self, Compute, Need, Workload};
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::next_dit::{self, NextDit};
use crate::text::TextConditioner;

/// What tells one of the models from the others.
pub(super) trait Model: Sync {
    /// As its configuration has it.
    const KIND: NextDitKind;

    /// As [`TransformerFamily::ENCODERS`].
    const ENCODERS: &'static [&'static str];

    /// The shift of its flow.
    const SHIFT: f64;

    /// As [`TransformerFamily::text`].
    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError>;
}

/// The family of a model.
pub(super) struct NextDitFamily<M>(pub M);

impl<M: Model> TransformerFamily for NextDitFamily<M> {
    type Config = NextDitConfig;

    const NAME: &'static str = next_dit::name(M::KIND);
    const ENCODERS: &'static [&'static str] = M::ENCODERS;
    const DTYPES: &'static [DType] = &[DType::BF16];

    fn config(config: &DiffusionConfig) -> Option<&NextDitConfig> {
        match config {
            DiffusionConfig::NextDit(config) if config.kind == M::KIND => Some(config),
            _ => None,
        }
    }

    fn latent_format(config: Option<&NextDitConfig>) -> LatentFormat {
        let channels = config.map_or(16, |config| config.out_channels);
        LatentFormat { channels, ..super::flux::LATENT_FORMAT }
    }

    fn noise_levels(_: Option<&NextDitConfig>) -> NoiseLevels {
        NoiseLevels::Flow { shift: M::SHIFT, multiplier: 1.0 }
    }

    fn reads(config: Option<&NextDitConfig>, _: Variant) -> Reads {
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

    fn network(scope: &Scope, config: &NextDitConfig) -> Result<Box<dyn Network>, ModelError> {
        Ok(Box::new(NextDit::load(scope, config)?))
    }

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        M::text(scope, encoders)
    }

    fn activations(config: &NextDitConfig, workload: Workload, compute: Compute) -> Need {
        estimate::next_dit(config, workload, compute)
    }

    fn layer_costs(config: &NextDitConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
        cost::next_dit::costs(config, layers, workload)
    }
}
