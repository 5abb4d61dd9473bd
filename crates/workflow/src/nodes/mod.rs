//! The nodes that this program ships with: one table, which fills a registry.

mod bounding_boxes;
mod camera_angle;
mod checkpoint;
mod clip_loaders;
mod conditioning;
mod conditioning_area;
mod device_selector;
mod diffusion_loaders;
mod edit_models;
mod elsewhere;
mod expression;
mod file_state;
mod flux;
mod flux_kontext;
mod forms;
mod gguf;
mod guidance;
mod image_combine;
mod image_edges;
mod image_edit;
mod image_measure;
mod image_outpaint;
mod image_repeat;
mod image_resize;
mod inpaint;
mod latent_batch;
mod latent_composite;
mod latent_empty;
mod latent_file;
mod latent_mix;
mod latent_resize;
mod latent_transform;
mod layout_prompt;
mod load_image;
mod loading;
mod logic;
mod lora;
mod lumina2;
mod mask;
mod mask_edit;
mod math;
mod model_patches;
mod primitive;
mod qwen_image21;
mod qwen_image_edit;
mod reference_images;
mod resize_any;
mod sampling;
mod sampling_custom;
mod save_image;
mod show;
mod sigmas;
mod skip_layers;
mod text;
mod text_encode;
mod text_format;
mod text_patterns;
mod upscale_model;
mod vae;
mod vae_inpaint;
mod vae_loader;
mod vae_tiled;

pub use save_image::eight_bit;

use crate::registry::Registry;
use crate::signature::Node;

/// A registry of all shipped nodes, which knows who has those that are absent.
pub fn all() -> Registry {
    let gguf = gguf::ALL.iter().flatten();
    Registry::of(NODES.iter().copied().chain(gguf)).with_absent(elsewhere::absent())
}

/// The shipped nodes, as menus list them.
const NODES: &[&Node] = &[
    &checkpoint::ADVANCED_DISTORCH2,
    &checkpoint::SIMPLE_DISTORCH2,
    &checkpoint::ADVANCED_MULTI_GPU,
    &checkpoint::SIMPLE_MULTI_GPU,
    &checkpoint::SIMPLE,
    &checkpoint::WITH_CONFIG,
    &diffusion_loaders::UNET_LOADER,
    &diffusion_loaders::UNET_LOADER_MULTI_GPU,
    &diffusion_loaders::UNET_LOADER_DISTORCH2,
    &diffusion_loaders::UNET_LOADER_LP,
    &clip_loaders::CLIP_LOADER,
    &clip_loaders::CLIP_LOADER_MULTI_GPU,
    &clip_loaders::CLIP_LOADER_DISTORCH2,
    &clip_loaders::DUAL_CLIP_LOADER,
    &clip_loaders::DUAL_CLIP_LOADER_MULTI_GPU,
    &clip_loaders::DUAL_CLIP_LOADER_DISTORCH2,
    &clip_loaders::TRIPLE_CLIP_LOADER,
    &clip_loaders::TRIPLE_CLIP_LOADER_MULTI_GPU,
    &clip_loaders::TRIPLE_CLIP_LOADER_DISTORCH2,
    &clip_loaders::QUADRUPLE_CLIP_LOADER,
    &clip_loaders::QUADRUPLE_CLIP_LOADER_MULTI_GPU,
    &clip_loaders::QUADRUPLE_CLIP_LOADER_DISTORCH2,
    &vae_loader::VAE_LOADER,
    &vae_loader::VAE_LOADER_MULTI_GPU,
    &vae_loader::VAE_LOADER_DISTORCH2,
    &diffusion_loaders::DIFFUSERS_LOADER,
    &diffusion_loaders::DIFFUSERS_LOADER_MULTI_GPU,
    &diffusion_loaders::DIFFUSERS_LOADER_DISTORCH2,
    &device_selector::DEVICE_SELECTOR,
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
    &lumina2::CLIP_TEXT_ENCODE_LUMINA2,
    &flux::FLUX_GUIDANCE,
    &flux::FLUX_DISABLE_GUIDANCE,
    &model_patches::MODEL_SAMPLING_DISCRETE,
    &flux::MODEL_SAMPLING_FLUX,
    &model_patches::MODEL_SAMPLING_SD3,
    &model_patches::RESCALE_CFG,
    &lumina2::RENORM_CFG,
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
    &text_encode::T5_TOKENIZER_OPTIONS,
    &guidance::MODEL_SAMPLING_AURA_FLOW,
    &guidance::CFG_ZERO_STAR,
    &guidance::CFG_NORM,
    &guidance::DIFFERENTIAL_DIFFUSION,
    &skip_layers::SKIP_LAYER_GUIDANCE_DIT_SIMPLE,
    &latent_empty::EMPTY_FLUX2_LATENT_IMAGE,
    &latent_mix::BLEND,
    &latent_mix::BATCH,
    &latent_mix::COMPOSITE_MASKED,
    &sigmas::BETA_SAMPLING_SCHEDULER,
    &sigmas::FLUX2_SCHEDULER,
    &sigmas::MANUAL_SIGMAS,
    &image_measure::SCALE_TO_TOTAL_PIXELS,
    &image_measure::SCALE_TO_MAX_DIMENSION,
    &image_measure::RESOLUTION_SELECTOR,
    &image_measure::GET_IMAGE_SIZE,
    &image_combine::STITCH,
    &image_combine::FROM_BATCH,
    &image_combine::BATCH,
    &image_combine::COMPOSITE_MASKED,
    &image_combine::SPLIT_ALPHA,
    &image_combine::JOIN_ALPHA,
    &image_combine::BLEND,
    &mask_edit::COMPOSITE,
    &mask_edit::GROW,
    &mask_edit::FEATHER,
    &mask_edit::THRESHOLD,
    &show::MASK_PREVIEW,
    &show::COMPARE,
    &show::SAVE_IMAGE_ADVANCED,
    &show::TEXT_GENERATE,
    &text::CONCATENATE,
    &text::SUBSTRING,
    &text::LENGTH,
    &text::CASE,
    &text::TRIM,
    &text::REPLACE,
    &text::CONTAINS,
    &text::COMPARE,
    &text::PREVIEW_ANY,
    &text_patterns::MATCH,
    &text_patterns::EXTRACT,
    &text_patterns::REPLACE,
    &logic::SWITCH,
    &logic::NOT,
    &logic::AND,
    &logic::OR,
    &math::EXPRESSION,
    &math::CONVERT,
    &primitive::CUSTOM_COMBO,
    &resize_any::RESIZE,
    &image_repeat::REPEAT,
    &image_repeat::RESIZE_AND_PAD,
    &text_format::FORMAT,
    &text_format::JSON_EXTRACT,
    &reference_images::REFERENCE_MULTI_LATENT,
    &image_edges::CANNY,
    &qwen_image_edit::TEXT_ENCODE_QWEN_IMAGE_EDIT,
    &qwen_image_edit::TEXT_ENCODE_QWEN_IMAGE_EDIT_PLUS,
    &qwen_image21::TEXT_ENCODE,
    &qwen_image21::CACHE,
    &bounding_boxes::CREATE_BOUNDING_BOXES,
    &layout_prompt::FLUX3,
    &layout_prompt::MOSS,
    &camera_angle::CAMERA_ANGLE,
    &latent_empty::EMPTY_CHROMA_RADIANCE_LATENT_IMAGE,
    &guidance::MODEL_ATTENTION_BACKEND,
    &upscale_model::LOADER,
    &upscale_model::UPSCALE,
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
