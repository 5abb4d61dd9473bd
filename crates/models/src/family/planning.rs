//! What the planner asks about a model before anything is loaded, answered by the model's family.

use distorch_checkpoint::config::TextEncoderConfig;
use distorch_checkpoint::family::{DiffusionModel, Model};
use distorch_checkpoint::{Component, ComponentKind, Layer, Param};
use distorch_runtime::DType;

use crate::estimate::{self, Compute, Need, Workload};

/// What an accelerator's kernels work in, attention's scores above all.
const ACCELERATOR_BYTES: u64 = 256 << 20;

/// What the CPU's kernels work in at least: unrolled patches and attention's scores.
const HOST_BYTES: u64 = 4 << 20;

impl Workload {
    /// One picture of the size that the model was trained on.
    pub fn native(model: &Model) -> Workload {
        let family = model.family().map(super::of);
        let side = family.map_or(512, |family| family.native_side());
        Workload { width: side, height: side, batch: 1, cfg_batch: 2 }.as_usual(model)
    }

    /// The same workload as models of this kind have it as a rule: without a negative half where guidance was distilled.
    #[must_use]
    pub fn as_usual(self, model: &Model) -> Workload {
        match model.family().is_none_or(|family| super::of(family).is_guided()) {
            true => self,
            false => self.sequential_cfg(),
        }
    }
}

/// The cost of each layer of a component in one forward pass for such a workload, in the order of
/// [`Component::layers`]; `None` where layers meet about as many tokens each, so that their bytes say it.
pub fn layer_costs(model: &Model, component: &Component, workload: Workload) -> Option<Vec<u64>> {
    let diffusion = model.diffusion.as_ref();
    let diffusion = diffusion.filter(|_| component.kind == ComponentKind::DiffusionModel)?;
    super::of(diffusion.family).layer_costs(diffusion, &component.layers, workload)
}

/// What a component computes in on an accelerator where nobody says another dtype; `bf16` says whether it has that.
///
/// Networks take what ComfyUI takes, CLIP and T5 f16, and language models bf16, because their values leave f16's range. So
/// do those of SDXL's autoencoder: autoencoders take bf16 or f32, and upscalers f32, in ComfyUI too.
pub fn accelerator_dtype(model: &Model, kind: ComponentKind, bf16: bool) -> DType {
    let has = |dtype: &&DType| bf16 || **dtype != DType::BF16;
    let first = |dtypes: &[DType]| dtypes.iter().find(has).copied().unwrap_or(DType::F32);
    match kind {
        ComponentKind::DiffusionModel => {
            let family = model.diffusion.as_ref().map(|diffusion| super::of(diffusion.family));
            family.map_or(DType::F16, |family| first(family.dtypes()))
        }
        ComponentKind::TextEncoders => {
            let mut encoders = model.text_encoders.iter();
            match encoders.any(|encoder| matches!(encoder.config, TextEncoderConfig::Decoder(_))) {
                true => first(&[DType::BF16]),
                false => DType::F16,
            }
        }
        ComponentKind::Vae => first(&[DType::BF16]),
        ComponentKind::Upscaler => DType::F32,
    }
}

/// Bytes of activations at the peak of a forward pass of this component; for text encoders, of a prompt with these pictures.
pub fn activation_bytes(
    model: &Model,
    component: &Component,
    workload: Workload,
    compute: Compute,
) -> u64 {
    let need = match component.kind {
        ComponentKind::DiffusionModel => {
            let of = |m: &DiffusionModel| super::of(m.family).activations(m, workload, compute);
            model.diffusion.as_ref().map(of)
        }
        ComponentKind::TextEncoders => {
            let encoders = model.text_encoders.iter();
            let most = encoders.map(|encoder| estimate::text(&encoder.config, workload)).max();
            most.map(|elements| Need { elements, workspace: 0 })
        }
        // Latents are decoded one by one.
        ComponentKind::Vae => match &model.tiny_vae {
            Some(config) => Some(estimate::tiny_vae(config, workload)),
            None => model.vae.as_ref().map(|config| estimate::vae(config, workload)),
        },
        ComponentKind::Upscaler => {
            model.upscaler.as_ref().map(|config| estimate::upscaler(config, workload))
        }
    };
    let need = need.unwrap_or_default();
    let workspace = match (compute.host, component.kind) {
        (true, _) => HOST_BYTES.saturating_add(need.workspace),
        (false, ComponentKind::TextEncoders) => 0,
        (false, _) => ACCELERATOR_BYTES,
    };
    let elements = need.elements.saturating_mul(compute.element);
    elements.saturating_add(workspace).saturating_add(converted_bytes(component, compute.element))
}

/// The largest layer in the compute dtype, where it is stored in another: it is converted when it is
/// used.
fn converted_bytes(component: &Component, element: u64) -> u64 {
    let other = |layer: &&Layer| layer.params.iter().any(|p| p.dtype.size() as u64 != element);
    let converted = |layer: &Layer| {
        let elements = layer.params.iter().map(Param::elements).sum::<u64>();
        elements.saturating_mul(element)
    };
    component.layers.iter().filter(other).map(converted).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use distorch_checkpoint::Dtype;
    use distorch_checkpoint::family::{Configs, blank, recognise};
    use distorch_test_support::small_models;

    use super::*;

    /// ComfyUI's orders of dtypes for networks.
    #[test]
    fn a_family_has_its_dtypes_on_accelerators() {
        use ComponentKind::{DiffusionModel, TextEncoders, Upscaler, Vae};
        let (f16, bf16, f32) = (DType::F16, DType::BF16, DType::F32);
        let families: [(Configs, [DType; 2], [DType; 2]); 9] = [
            (small_models::sd1(), [f16; 2], [f16; 2]),
            (small_models::sdxl(), [f16; 2], [f16; 2]),
            (small_models::sd3(), [f16; 2], [f16; 2]),
            (small_models::flux(), [bf16, f16], [f16; 2]),
            (small_models::chroma(), [bf16, f16], [f16; 2]),
            (small_models::klein(), [bf16, f16], [bf16, f32]),
            (small_models::z_image(), [bf16, f32], [bf16, f32]),
            (small_models::lumina2(), [bf16, f32], [bf16, f32]),
            (small_models::qwen_image(), [bf16, f32], [bf16, f32]),
        ];
        for (configs, network, text) in families {
            let model = recognise(&blank("blank", &configs, Dtype::F16).unwrap()).unwrap();
            let name = format!("{:?}", model.family());
            for (has_bf16, network, text) in
                [(true, network[0], text[0]), (false, network[1], text[1])]
            {
                let dtype = |kind| accelerator_dtype(&model, kind, has_bf16);
                assert_eq!(dtype(DiffusionModel), network, "{name}, bf16: {has_bf16}");
                assert_eq!(dtype(TextEncoders), text, "{name}, bf16: {has_bf16}");
                assert_eq!(dtype(Vae), if has_bf16 { bf16 } else { f32 }, "{name}");
                assert_eq!(dtype(Upscaler), f32, "{name}");
            }
        }
    }
}
