//! SD3 and SD3.5: the MMDiT with CLIP-L, CLIP-G and T5-XXL.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, MmditConfig};
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
use crate::sd3::Mmdit;
use crate::sd3::text::Sd3Text;
use crate::text::TextConditioner;

/// The family.
pub(super) struct Sd3;

/// The colours of the latent's channels, as ComfyUI's previews have them.
const RGB_FACTORS: &[[f32; 3]] = &[
    [-0.0922, -0.0175, 0.0749],
    [0.0311, 0.0633, 0.0954],
    [0.1994, 0.0927, 0.0458],
    [0.0856, 0.0339, 0.0902],
    [0.0587, 0.0272, -0.0496],
    [-0.0006, 0.1104, 0.0309],
    [0.0978, 0.0306, 0.0427],
    [-0.0042, 0.1038, 0.1358],
    [-0.0194, 0.0020, 0.0669],
    [-0.0488, 0.0130, -0.0268],
    [0.0922, 0.0988, 0.0951],
    [-0.0278, 0.0524, -0.0542],
    [0.0332, 0.0456, 0.0895],
    [-0.0069, -0.0030, -0.0810],
    [-0.0596, -0.0465, -0.0293],
    [-0.1448, -0.1463, -0.1189],
];

impl TransformerFamily for Sd3 {
    type Config = MmditConfig;

    const NAME: &'static str = "MMDiT";
    const ENCODERS: &'static [&'static str] = &["clip_l", "clip_g", "t5xxl"];
    const DTYPES: &'static [DType] = &[DType::F16, DType::BF16];
    const READS_POOLED: bool = true;

    fn config(config: &DiffusionConfig) -> Option<&MmditConfig> {
        match config {
            DiffusionConfig::Mmdit(config) => Some(config),
            _ => None,
        }
    }

    fn latent_format(config: Option<&MmditConfig>) -> LatentFormat {
        LatentFormat {
            channels: config.map_or(16, |config| config.out_channels),
            downscale: 8,
            scale: 1.5305,
            shift: 0.0609,
            statistics: &[],
            rgb_factors: RGB_FACTORS,
            rgb_bias: [0.2394, 0.2135, 0.1925],
        }
    }

    fn noise_levels(_: Option<&MmditConfig>) -> NoiseLevels {
        NoiseLevels::Flow { shift: 3.0, multiplier: 1000.0 }
    }

    fn reads(config: Option<&MmditConfig>, variant: Variant) -> Reads {
        Reads {
            context_width: config.map_or(0, |config| config.context_dim),
            tokens: 77 + 77,
            pooled_width: config.map(|config| config.adm_in_channels),
            repeats_context: false,
            guidance: None,
            extra: match variant {
                Variant::Base => ExtraChannels::None,
                _ => ExtraChannels::Unsupported,
            },
            reference_latents: false,
        }
    }

    fn network(scope: &Scope, config: &MmditConfig) -> Result<Box<dyn Network>, ModelError> {
        Ok(Box::new(Mmdit::load(scope, config)?))
    }

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(Sd3Text::load(scope, encoders)?))
    }

    fn activations(config: &MmditConfig, workload: Workload, compute: Compute) -> Need {
        estimate::mmdit(config, workload, compute)
    }

    fn layer_costs(config: &MmditConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
        cost::mmdit::costs(config, layers, workload)
    }
}
