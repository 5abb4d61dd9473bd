//! Every node of this program: one table, which validation, clients and `distorch nodes` read.

pub mod describe;

mod checkpoint;
mod conditioning;
mod conditioning_area;
mod elsewhere;
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

pub use elsewhere::known_elsewhere;
pub use save_image::eight_bit;

use std::path::Path;

use distorch_checkpoint::folders::ModelKind;

use crate::environment::Environment;
use crate::files::input_file;
use crate::inputs::Inputs;
use crate::signature::Node;

/// All nodes, as menus list them.
pub const NODES: &[&Node] = &[
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
    &model_patches::MODEL_SAMPLING_DISCRETE,
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

/// The node of a class.
pub fn find(class: &str) -> Option<&'static Node> {
    NODES.iter().find(|node| node.class == class).copied()
}

/// A class's name as this program has it: without the blanks around that ComfyUI once wrote.
pub fn canonical(class: &str) -> &str {
    let trimmed = class.trim();
    if find(class).is_none() && find(trimmed).is_some() { trimmed } else { class }
}

/// The class whose name is nearest to one that is not there.
pub fn near(class: &str) -> Option<&'static str> {
    let likeness = |node: &&&Node| strsim::jaro_winkler(class, node.class);
    let nearest = NODES.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&nearest) > 0.85).then_some(nearest.class)
}

/// A model file's place, size and date, for the key of a loader's result.
fn file_state(environment: &Environment, kind: ModelKind, name: &str) -> String {
    let Ok(path) = environment.session.folders.resolve(kind, name) else { return String::new() };
    path_state(&path)
}

/// The place, size and date of a file that an input names, for the key of a loader's result.
fn input_state(environment: &Environment, inputs: &Inputs, input: &str) -> String {
    let name = inputs.text(input).unwrap_or_default();
    input_file::find(environment, name).map_or_else(|_| String::new(), |path| path_state(&path))
}

/// Whether there is the file that an input names, unless it is linked.
fn input_is_there(environment: &Environment, inputs: &Inputs, input: &str) -> Result<(), String> {
    let Ok(name) = inputs.text(input) else { return Ok(()) };
    input_file::find(environment, name).map(drop).map_err(|error| format!("{input}: {error}"))
}

/// A file's place, size and date.
fn path_state(path: &Path) -> String {
    let data = std::fs::metadata(path).ok();
    let state = data.map(|data| (data.len(), data.modified().ok()));
    format!("{} {state:?}", path.display())
}

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
