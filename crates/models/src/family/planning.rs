//! What the planner asks about a model before anything is loaded, answered by the model's family.

use distorch_checkpoint::family::{DiffusionModel, Model};
use distorch_checkpoint::{Component, ComponentKind, Layer, Param};

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

/// Bytes of activations at the peak of a forward pass of this component.
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
            let most =
                model.text_encoders.iter().map(|encoder| estimate::text(&encoder.config)).max();
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
