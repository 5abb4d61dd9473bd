//! Krea 2, raw and turbo: a transformer with Qwen3-VL-4B and the autoencoder of Wan 2.1 and Qwen-Image.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, Krea2Config};
use distorch_checkpoint::family::{TextEncoder, Variant};
use distorch_runtime::{DType, Scope};

use super::transformer::TransformerFamily;
use super::{ExtraChannels, Reads};
use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::cost;
use crate::estimate::{self, Compute, Need, Workload};
use crate::krea2::Krea2Transformer;
use crate::krea2::text::Krea2Text;
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;

/// The family.
pub(super) struct Krea2;

impl TransformerFamily for Krea2 {
    type Config = Krea2Config;

    const NAME: &'static str = "Krea 2 transformer";
    const ENCODERS: &'static [&'static str] = &["qwen3vl"];
    const DTYPES: &'static [DType] = &[DType::BF16, DType::F16];

    fn config(config: &DiffusionConfig) -> Option<&Krea2Config> {
        match config {
            DiffusionConfig::Krea2(config) => Some(config),
            _ => None,
        }
    }

    fn latent_format(config: Option<&Krea2Config>) -> LatentFormat {
        let channels = config.map_or(16, |config| config.out_channels);
        LatentFormat { channels, ..LatentFormat::WAN_21 }
    }

    fn noise_levels(_: Option<&Krea2Config>) -> NoiseLevels {
        NoiseLevels::ExponentialFlow { mu: 1.15 }
    }

    fn reads(config: Option<&Krea2Config>, _: Variant) -> Reads {
        Reads {
            context_width: config.map_or(0, |config| config.text_layers * config.text_width),
            tokens: 64,
            pooled_width: None,
            repeats_context: false,
            guidance: None,
            extra: ExtraChannels::None,
            reference_latents: true,
        }
    }

    fn network(scope: &Scope, config: &Krea2Config) -> Result<Box<dyn Network>, ModelError> {
        Ok(Box::new(Krea2Transformer::load(scope, config)?))
    }

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(Krea2Text::load(scope, encoders)?))
    }

    fn activations(config: &Krea2Config, workload: Workload, compute: Compute) -> Need {
        estimate::krea2(config, workload, compute)
    }

    fn layer_costs(config: &Krea2Config, layers: &[Layer], workload: Workload) -> Vec<u64> {
        cost::krea2::costs(config, layers, workload)
    }
}
