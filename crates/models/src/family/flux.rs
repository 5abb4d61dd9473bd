//! Flux.1 dev, schnell, Fill, Canny, Depth and Kontext: a transformer with CLIP-L and T5-XXL.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, FluxConfig};
use distorch_checkpoint::family::{TextEncoder, Variant};
use distorch_runtime::{DType, Scope};

use super::transformer::TransformerFamily;
use super::{ExtraChannels, Reads};
use crate::ModelError;
use crate::conditioning::ConditioningError;
use crate::cost;
use crate::estimate::{self, Compute, Need, Workload};
use crate::flux::FluxTransformer;
use crate::flux::text::FluxText;
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;

/// The family.
pub(super) struct Flux;

/// Latent pixels of a patch.
const PATCH: usize = 4;

/// The colours of the latent's channels, as ComfyUI's previews have them.
const RGB_FACTORS: &[[f32; 3]] = &[
    [-0.0346, 0.0244, 0.0681],
    [0.0034, 0.0210, 0.0687],
    [0.0275, -0.0668, -0.0433],
    [-0.0174, 0.0160, 0.0617],
    [0.0859, 0.0721, 0.0329],
    [0.0004, 0.0383, 0.0115],
    [0.0405, 0.0861, 0.0915],
    [-0.0236, -0.0185, -0.0259],
    [-0.0245, 0.0250, 0.1180],
    [0.1008, 0.0755, -0.0421],
    [-0.0515, 0.0201, 0.0011],
    [0.0428, -0.0012, -0.0036],
    [0.0817, 0.0765, 0.0749],
    [-0.1264, -0.0522, -0.1103],
    [-0.0280, -0.0881, -0.0499],
    [-0.1262, -0.0982, -0.0778],
];

/// Latents of Flux's autoencoder.
pub(super) const LATENT_FORMAT: LatentFormat = LatentFormat {
    channels: 16,
    downscale: 8,
    scale: 0.3611,
    shift: 0.1159,
    statistics: &[],
    rgb_factors: RGB_FACTORS,
    rgb_bias: [-0.0329, -0.0718, -0.0851],
};

impl TransformerFamily for Flux {
    type Config = FluxConfig;

    const NAME: &'static str = "Flux transformer";
    const ENCODERS: &'static [&'static str] = &["clip_l", "t5xxl"];
    const DTYPES: &'static [DType] = &[DType::BF16, DType::F16];
    const IS_GUIDED: bool = false;
    const READS_POOLED: bool = true;

    fn config(config: &DiffusionConfig) -> Option<&FluxConfig> {
        match config {
            DiffusionConfig::Flux(config) => Some(config),
            _ => None,
        }
    }

    fn latent_format(config: Option<&FluxConfig>) -> LatentFormat {
        let channels = config.map_or(16, |config| config.out_channels / PATCH);
        LatentFormat { channels, ..LATENT_FORMAT }
    }

    /// Schnell was distilled without a shift.
    fn noise_levels(config: Option<&FluxConfig>) -> NoiseLevels {
        match config.is_none_or(|config| config.guidance_embed) {
            true => NoiseLevels::ExponentialFlow { mu: 1.15 },
            false => NoiseLevels::Flow { shift: 1.0, multiplier: 1.0 },
        }
    }

    fn reads(config: Option<&FluxConfig>, variant: Variant) -> Reads {
        let guided = config.is_some_and(|config| config.guidance_embed);
        Reads {
            context_width: config.map_or(0, |config| config.context_dim),
            tokens: 256,
            pooled_width: config.map(|config| config.vec_dim),
            repeats_context: false,
            guidance: guided.then_some(3.5),
            extra: match variant {
                Variant::Base => ExtraChannels::None,
                Variant::Control => ExtraChannels::Picture { scaled: true },
                Variant::Inpaint => ExtraChannels::PictureAndMaskPatches,
                _ => ExtraChannels::Unsupported,
            },
            reference_latents: true,
        }
    }

    fn network(scope: &Scope, config: &FluxConfig) -> Result<Box<dyn Network>, ModelError> {
        Ok(Box::new(FluxTransformer::load(scope, config)?))
    }

    fn text(
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(FluxText::load(scope, encoders)?))
    }

    fn activations(config: &FluxConfig, workload: Workload, compute: Compute) -> Need {
        estimate::flux(config, workload, compute)
    }

    fn layer_costs(config: &FluxConfig, layers: &[Layer], workload: Workload) -> Vec<u64> {
        cost::flux::costs(config, layers, workload)
    }
}
