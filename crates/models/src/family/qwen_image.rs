//! Qwen-Image and Qwen-Image-Edit: a transformer with Qwen2.5-VL-7B and Wan 2.1's autoencoder.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, QwenImageConfig};
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
use crate::qwen_image::QwenImageTransformer;
use crate::qwen_image::text::QwenImageText;
use crate::text::TextConditioner;

/// The family.
pub(super) struct QwenImage;

impl TransformerFamily for QwenImage {
    type Config = QwenImageConfig;

    const NAME: &'static str = "Qwen-Image transformer";
    const ENCODERS: &'static [&'static str] = &["qwen25vl"];
    const DTYPES: &'static [DType] = &[DType::BF16];

    fn config(config: &DiffusionConfig) -> Option<&QwenImageConfig> {
        match config {
            DiffusionConfig::QwenImage(config) => Some(config),
            _ => None,
        }
    }

    fn latent_format(_: Option<&QwenImageConfig>) -> LatentFormat {
        LatentFormat::WAN_21
    }

    fn noise_levels(_: Option<&QwenImageConfig>) -> NoiseLevels {
        NoiseLevels::ExponentialFlow { mu: 1.15 }
    }

    fn reads(config: Option<&QwenImageConfig>, _: Variant) -> Reads {
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

    fn network(scope: &Scope, config: &QwenImageConfig) -> Result<Box<dyn Network>, ModelError> {
        Ok(Box::new(QwenImageTransformer::load(scope, config)?))
    }

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(QwenImageText::load(scope, encoders)?))
    }

    fn activations(config: &QwenImageConfig, workload: Workload, compute: Compute) -> Need {
        estimate::qwen_image(config, workload, compute)
    }

    fn layer_costs(config: &QwenImageConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
        cost::qwen_image::costs(config, layers, workload)
    }
}
