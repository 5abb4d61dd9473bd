//! SD3 and SD3.5: the MMDiT with CLIP-L, CLIP-G and T5-XXL.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, MmditConfig};
use distorch_checkpoint::family::{DiffusionModel, TextEncoder, Variant};
use distorch_runtime::{Scope, Tensor};

use super::{DiffusionFamily, ExtraChannels, MissingPooled, NetworkPatches, Reads, VectorInputs};
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

impl DiffusionFamily for Sd3 {
    fn latent_format(&self, model: &DiffusionModel) -> LatentFormat {
        LatentFormat {
            channels: config(model).map_or(16, |config| config.out_channels),
            downscale: 8,
            scale: 1.5305,
            shift: 0.0609,
            rgb_factors: RGB_FACTORS,
            rgb_bias: [0.2394, 0.2135, 0.1925],
        }
    }

    fn noise_levels(&self, _: &DiffusionModel) -> NoiseLevels {
        NoiseLevels::Flow { shift: 3.0, multiplier: 1000.0 }
    }

    fn native_side(&self) -> u32 {
        1024
    }

    fn encoders(&self) -> Vec<&'static str> {
        vec!["clip_l", "clip_g", "t5xxl"]
    }

    fn reads(&self, model: &DiffusionModel) -> Reads {
        let config = config(model);
        Reads {
            context_width: config.map_or(0, |config| config.context_dim),
            tokens: 77 + 77,
            pooled_width: config.map(|config| config.adm_in_channels),
            repeats_context: false,
            guidance: None,
            extra: match model.variant {
                Variant::Base => ExtraChannels::None,
                _ => ExtraChannels::Unsupported,
            },
            reference_latents: false,
        }
    }

    fn vector(&self, inputs: VectorInputs) -> Result<Option<Tensor<2>>, MissingPooled> {
        Ok(inputs.pooled)
    }

    fn network(
        &self,
        scope: &Scope,
        model: &DiffusionModel,
        _: &NetworkPatches,
    ) -> Result<Box<dyn Network>, ModelError> {
        let config = config(model).ok_or_else(|| ModelError::Config {
            model: "MMDiT",
            reason: "the configuration of SD3 is that of another network".to_owned(),
        })?;
        Ok(Box::new(Mmdit::load(scope, config)?))
    }

    fn text(
        &self,
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(Sd3Text::load(scope, encoders)?))
    }

    fn activations(&self, model: &DiffusionModel, workload: Workload, compute: Compute) -> Need {
        let need = |config| estimate::mmdit(config, workload, compute);
        config(model).map_or_else(Need::default, need)
    }

    fn layer_costs(
        &self,
        model: &DiffusionModel,
        layers: &[Layer],
        workload: Workload,
    ) -> Option<Vec<u64>> {
        Some(cost::mmdit::costs(config(model)?, layers, workload))
    }
}

fn config(model: &DiffusionModel) -> Option<&MmditConfig> {
    match &model.config {
        DiffusionConfig::Mmdit(config) => Some(config),
        _ => None,
    }
}
