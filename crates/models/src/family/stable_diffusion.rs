//! SD 1.x, SD 2.x, SDXL and its refiner: UNets with CLIP text encoders.

use distorch_checkpoint::Layer;
use distorch_checkpoint::config::{DiffusionConfig, UnetConfig};
use distorch_checkpoint::family::{DiffusionModel, Family, TextEncoder, Variant};
use distorch_runtime::{Scope, Tensor};

use super::{DiffusionFamily, ExtraChannels, MissingPooled, NetworkPatches, Reads, VectorInputs};
use crate::ModelError;
use crate::clip_text::{ClipText, EncoderUse};
use crate::conditioning::{
    AESTHETIC_SCORE, ConditioningError, NEGATIVE_AESTHETIC_SCORE, refiner_vector, sdxl_vector,
};
use crate::cost;
use crate::estimate::{self, Compute, Need, Workload};
use crate::latent_format::LatentFormat;
use crate::network::{Network, NoiseLevels};
use crate::text::TextConditioner;
use crate::unet::Unet;

/// One of the families with a UNet.
pub(super) struct StableDiffusion {
    family: Family,
    /// In the order in which their hidden states are joined.
    encoders: &'static [EncoderUse],
    native_side: u32,
    scale: f64,
    rgb_factors: &'static [[f32; 3]],
    rgb_bias: [f32; 3],
    vector: ClassVector,
}

/// What is joined with the pooled text.
#[derive(Clone, Copy)]
enum ClassVector {
    /// There is no class vector.
    None,
    /// Six numbers of the picture's size.
    Size,
    /// Four numbers of the picture's size and an aesthetic score.
    Score,
}

/// Values for each number in a class vector.
const NUMBER_WIDTH: usize = 256;

/// The latent of grey, which an inpainting model is given where there is no picture.
const GREY: &[f32] = &[0.8223, -0.6876, 0.6364, 0.1380];

pub(super) const SD1: StableDiffusion = StableDiffusion {
    family: Family::Sd1,
    encoders: &[EncoderUse::L],
    native_side: 512,
    scale: 0.18215,
    rgb_factors: &[
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ],
    rgb_bias: [0.0; 3],
    vector: ClassVector::None,
};

pub(super) const SD2: StableDiffusion =
    StableDiffusion { family: Family::Sd2, encoders: &[EncoderUse::H], native_side: 768, ..SD1 };

pub(super) const SDXL: StableDiffusion = StableDiffusion {
    family: Family::SdxlBase,
    encoders: &[EncoderUse::L_PENULTIMATE, EncoderUse::G],
    native_side: 1024,
    scale: 0.13025,
    rgb_factors: &[
        [0.3651, 0.4232, 0.4341],
        [-0.2533, -0.0042, 0.1068],
        [0.1076, 0.1111, -0.0362],
        [-0.3165, -0.2492, -0.2188],
    ],
    rgb_bias: [0.1084, -0.0175, -0.0011],
    vector: ClassVector::Size,
};

pub(super) const REFINER: StableDiffusion = StableDiffusion {
    family: Family::SdxlRefiner,
    encoders: &[EncoderUse::G],
    vector: ClassVector::Score,
    ..SDXL
};

impl DiffusionFamily for StableDiffusion {
    fn latent_format(&self, model: &DiffusionModel) -> LatentFormat {
        LatentFormat {
            channels: config(model).map_or(4, |config| config.out_channels),
            downscale: 8,
            scale: self.scale,
            shift: 0.0,
            statistics: &[],
            rgb_factors: self.rgb_factors,
            rgb_bias: self.rgb_bias,
        }
    }

    fn noise_levels(&self, model: &DiffusionModel) -> NoiseLevels {
        let (prediction, zero_terminal_snr) = (model.prediction, model.zero_terminal_snr);
        NoiseLevels::ScaledLinear { prediction, zero_terminal_snr }
    }

    fn native_side(&self) -> u32 {
        self.native_side
    }

    fn encoders(&self) -> Vec<&'static str> {
        self.encoders.iter().map(|usage| usage.name).collect()
    }

    fn reads(&self, model: &DiffusionModel) -> Reads {
        let config = config(model);
        let numbers = match self.vector {
            ClassVector::None => None,
            ClassVector::Size => Some(6),
            ClassVector::Score => Some(5),
        };
        let pooled_width = numbers.and_then(|numbers: usize| {
            config?.adm_in_channels?.checked_sub(numbers * NUMBER_WIDTH)
        });
        Reads {
            context_width: config.map_or(0, |config| config.context_dim),
            tokens: 77,
            pooled_width,
            repeats_context: true,
            guidance: None,
            extra: match model.variant {
                Variant::Base => ExtraChannels::None,
                Variant::Inpaint => ExtraChannels::MaskAndPicture { grey: GREY },
                Variant::InstructPix2Pix => ExtraChannels::Picture { scaled: false },
                Variant::Depth | Variant::Control => ExtraChannels::Unsupported,
            },
            reference_latents: false,
        }
    }

    fn vector(&self, inputs: VectorInputs) -> Result<Option<Tensor<2>>, MissingPooled> {
        let VectorInputs { pooled, size, aesthetic_score, is_negative } = inputs;
        if let ClassVector::None = self.vector {
            return Ok(None);
        }
        let missing = MissingPooled { family: "SDXL", article: "an" };
        let pooled = pooled.ok_or(missing)?;
        Ok(Some(match self.vector {
            ClassVector::Score => {
                let usual = if is_negative { NEGATIVE_AESTHETIC_SCORE } else { AESTHETIC_SCORE };
                refiner_vector(pooled, size, aesthetic_score.unwrap_or(usual))
            }
            _ => sdxl_vector(pooled, size),
        }))
    }

    fn network(
        &self,
        scope: &Scope,
        model: &DiffusionModel,
        patches: &NetworkPatches,
    ) -> Result<Box<dyn Network>, ModelError> {
        let config = config(model).ok_or_else(|| ModelError::Config {
            model: "UNet",
            reason: format!("the configuration of {} is that of another network", self.family),
        })?;
        Ok(Box::new(Unet::load(scope, config)?.with_freeu(patches.freeu.clone())))
    }

    fn text(
        &self,
        scope: &Scope,
        encoders: &[TextEncoder],
    ) -> Result<Box<dyn TextConditioner>, ConditioningError> {
        Ok(Box::new(ClipText::load(self.family, self.encoders, encoders, scope)?))
    }

    fn activations(&self, model: &DiffusionModel, workload: Workload, _: Compute) -> Need {
        config(model).map_or_else(Need::default, |config| estimate::unet(config, workload))
    }

    fn layer_costs(
        &self,
        model: &DiffusionModel,
        layers: &[Layer],
        workload: Workload,
    ) -> Option<Vec<u64>> {
        Some(cost::unet::costs(config(model)?, layers, workload))
    }
}

fn config(model: &DiffusionModel) -> Option<&UnetConfig> {
    match &model.config {
        DiffusionConfig::Unet(config) => Some(config),
        _ => None,
    }
}
