//! The nodes that this program ships with: one table, which fills a registry.

mod checkpoint;
mod conditioning;
mod conditioning_area;
mod edit_models;
mod elsewhere;
mod file_state;
mod flux;
mod flux_kontext;
mod image_edit;
mod image_outpaint;
mod image_resize;
mod inpaint;
mod latent_batch;
mod latent_composite;
mod latent_empty;
mod latent_file;
mod latent_resize;
mod latent_transform;
mod load_image;
mod lora;
mod mask;
mod model_patches;
mod primitive;
mod sampling;
mod sampling_custom;
mod save_image;
mod sigmas;
mod skip_layers;
mod text_encode;
mod vae;
mod vae_inpaint;
mod vae_loader;
mod vae_tiled;

pub use save_image::eight_bit;

use crate::registry::Registry;
use crate::signature::Node;

/// A registry of all shipped nodes, which knows who has those that are absent.
pub fn all() -> Registry {
    Registry::of(NODES.iter().copied()).with_absent(elsewhere::absent())
}

/// The shipped nodes, as menus list them.
const NODES: &[&Node] = &[
    &checkpoint::ADVANCED_DISTORCH2,
    &checkpoint::SIMPLE_DISTORCH2,
    &checkpoint::ADVANCED_MULTI_GPU,
    &checkpoint::SIMPLE_MULTI_GPU,
    &checkpoint::SIMPLE,
    &vae_loader::VAE_LOADER,
    &vae_loader::VAE_LOADER_MULTI_GPU,
    &lora::LORA_LOADER,
    &lora::LORA_LOADER_MODEL_ONLY,
    &text_encode::CLIP_SET_LAST_LAYER,
    &text_encode::CLIP_TEXT_ENCODE,
    &text_encode::CLIP_TEXT_ENCODE_SDXL,
    &text_encode::CLIP_TEXT_ENCODE_SDXL_REFINER,
    &text_encode::CLIP_TEXT_ENCODE_SD3,
    &conditioning::COMBINE,
    &conditioning::CONCAT,
    &conditioning::AVERAGE,
    &conditioning::SET_TIMESTEP_RANGE,
    &conditioning::ZERO_OUT,
    &conditioning_area::SET_AREA,
    &conditioning_area::SET_AREA_PERCENTAGE,
    &conditioning_area::SET_AREA_STRENGTH,
    &conditioning_area::SET_MASK,
    &inpaint::INPAINT_MODEL_CONDITIONING,
    &edit_models::INSTRUCT_PIX_TO_PIX_CONDITIONING,
    &edit_models::REFERENCE_LATENT,
    &edit_models::FLUX_KONTEXT_MULTI_REFERENCE_LATENT_METHOD,
    &flux::CLIP_TEXT_ENCODE_FLUX,
    &flux::FLUX_GUIDANCE,
    &flux::FLUX_DISABLE_GUIDANCE,
    &model_patches::MODEL_SAMPLING_DISCRETE,
    &flux::MODEL_SAMPLING_FLUX,
    &model_patches::MODEL_SAMPLING_SD3,
    &model_patches::RESCALE_CFG,
    &skip_layers::SKIP_LAYER_GUIDANCE_SD3,
    &skip_layers::SKIP_LAYER_GUIDANCE_DIT,
    &model_patches::FREE_U,
    &model_patches::FREE_U_V2,
    &latent_empty::EMPTY_LATENT_IMAGE,
    &latent_empty::EMPTY_SD3_LATENT_IMAGE,
    &latent_resize::LATENT_UPSCALE,
    &latent_resize::LATENT_UPSCALE_BY,
    &latent_composite::LATENT_COMPOSITE,
    &latent_batch::REPEAT_LATENT_BATCH,
    &latent_batch::LATENT_FROM_BATCH,
    &latent_transform::LATENT_FLIP,
    &latent_transform::LATENT_ROTATE,
    &latent_transform::LATENT_CROP,
    &latent_file::SAVE_LATENT,
    &latent_file::LOAD_LATENT,
    &sampling::K_SAMPLER,
    &sampling::K_SAMPLER_ADVANCED,
    &sampling_custom::SAMPLER_CUSTOM,
    &sampling_custom::SAMPLER_CUSTOM_ADVANCED,
    &sampling_custom::K_SAMPLER_SELECT,
    &sampling_custom::RANDOM_NOISE,
    &sampling_custom::DISABLE_NOISE,
    &sampling_custom::BASIC_GUIDER,
    &sampling_custom::CFG_GUIDER,
    &sigmas::BASIC_SCHEDULER,
    &sigmas::KARRAS_SCHEDULER,
    &sigmas::EXPONENTIAL_SCHEDULER,
    &sigmas::POLYEXPONENTIAL_SCHEDULER,
    &sigmas::VP_SCHEDULER,
    &sigmas::SD_TURBO_SCHEDULER,
    &sigmas::SPLIT_SIGMAS,
    &sigmas::SPLIT_SIGMAS_DENOISE,
    &sigmas::FLIP_SIGMAS,
    &sigmas::SET_FIRST_SIGMA,
    &vae::DECODE,
    &vae::ENCODE,
    &vae_tiled::DECODE_TILED,
    &vae_tiled::ENCODE_TILED,
    &vae_inpaint::ENCODE_FOR_INPAINT,
    &vae_inpaint::SET_LATENT_NOISE_MASK,
    &load_image::LOAD_IMAGE,
    &load_image::LOAD_IMAGE_MASK,
    &save_image::SAVE_IMAGE,
    &save_image::PREVIEW_IMAGE,
    &image_resize::IMAGE_SCALE,
    &image_resize::IMAGE_SCALE_BY,
    &flux_kontext::FLUX_KONTEXT_IMAGE_SCALE,
    &image_edit::IMAGE_INVERT,
    &image_edit::IMAGE_BATCH,
    &image_edit::IMAGE_CROP,
    &image_edit::EMPTY_IMAGE,
    &image_outpaint::IMAGE_PAD_FOR_OUTPAINT,
    &mask::SOLID_MASK,
    &mask::INVERT_MASK,
    &mask::MASK_TO_IMAGE,
    &mask::IMAGE_TO_MASK,
    &primitive::INT,
    &primitive::FLOAT,
    &primitive::STRING,
    &primitive::STRING_MULTILINE,
    &primitive::BOOLEAN,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::signature::{Kind, Options};

    #[test]
    fn names_are_unique_and_defaults_allowed() {
        let mut classes = HashSet::new();
        for node in NODES {
            assert!(classes.insert(node.class), "{} twice", node.class);
            assert!(!node.title.is_empty() && !node.category.is_empty(), "{}", node.class);
            assert!(!node.about.is_empty(), "{} says nothing of itself", node.class);
            let mut inputs = HashSet::new();
            for input in node.inputs {
                let place = format!("{}.{}", node.class, input.name);
                assert!(inputs.insert(input.name), "{place} twice");
                match input.kind {
                    Kind::Int { default, min, max, .. } => {
                        assert!((min..=max).contains(&default), "{place}");
                    }
                    Kind::Float { default, min, max, .. } => {
                        assert!((min..=max).contains(&default), "{place}");
                    }
                    Kind::Choice { options: Options::Fixed(list), default } => {
                        assert!(default.is_none_or(|name| list.contains(&name)), "{place}");
                    }
                    _ => {}
                }
            }
        }
    }
}
