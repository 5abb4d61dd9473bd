//! Qwen-Image 2.1: a transformer with Qwen3-VL-8B and an autoencoder of 64 channels, for pictures with opacity.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, QwenImage21Config};
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
use crate::qwen_image21::QwenImage21Transformer;
use crate::qwen_image21::text::QwenImage21Text;
use crate::text::TextConditioner;

/// The family.
pub(super) struct QwenImage21;

impl TransformerFamily for QwenImage21 {
    type Config = QwenImage21Config;

    const NAME: &'static str = "Qwen-Image 2.1 transformer";
    const ENCODERS: &'static [&'static str] = &["qwen3vl"];
    const DTYPES: &'static [DType] = &[DType::BF16];

    fn config(config: &DiffusionConfig) -> Option<&QwenImage21Config> {
        match config {
            DiffusionConfig::QwenImage21(config) => Some(config),
            _ => None,
        }
    }

    fn latent_format(config: Option<&QwenImage21Config>) -> LatentFormat {
        let channels = config.map_or(64, |config| config.out_channels);
        LatentFormat { channels, ..LatentFormat::QWEN_IMAGE_21 }
    }

    fn noise_levels(_: Option<&QwenImage21Config>) -> NoiseLevels {
        // The published pipeline's at 1024×1024 pixels, which ComfyUI takes at every size.
        NoiseLevels::ExponentialFlow { mu: 0.69 }
    }

    fn reads(config: Option<&QwenImage21Config>, _: Variant) -> Reads {
        Reads {
            context_width: config.map_or(0, |config| config.context_dim),
            tokens: 32,
            pooled_width: None,
            repeats_context: false,
            guidance: None,
            extra: ExtraChannels::None,
            reference_latents: true,
        }
    }

    fn network(scope: &Scope, config: &QwenImage21Config) -> Result<Box<dyn Network>, ModelError> {
        Ok(Box::new(QwenImage21Transformer::load(scope, config)?))
    }

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(QwenImage21Text::load(scope, encoders)?))
    }

    fn activations(config: &QwenImage21Config, workload: Workload, compute: Compute) -> Need {
        estimate::qwen_image21(config, workload, compute)
    }

    fn layer_costs(config: &QwenImage21Config, layers: &[Layer], workload: Workload) -> Vec<u64> {
        cost::qwen_image21::costs(config, layers, workload)
    }
}
