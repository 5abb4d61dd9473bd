//! Planning the components of a model file for what a run asks of them.

use distorch_allocation::{
    BlockError, ComponentBlocks, ComponentSettings, DeviceId, Ledger, LoaderSettings, Plan,
    PlanError, Topology, plan_model,
};
use distorch_checkpoint::family::Model;
use distorch_checkpoint::{Component, ComponentKind};
use distorch_models::estimate::{Compute, Workload};
use distorch_models::family;
use distorch_runtime::{DType, placement};
use thiserror::Error;

use super::tasks::Tasks;

/// Why a file's components cannot be planned.
#[derive(Debug, Error)]
pub enum PlanningError {
    /// The settings cannot be.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The layers cannot be told apart.
    #[error(transparent)]
    Blocks(#[from] BlockError),
}

/// How the components of model files are planned on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Planning<'a> {
    /// Its devices.
    pub topology: &'a Topology,
    /// What every model computes in; without it, each device has its own dtype.
    pub dtype: Option<DType>,
}

/// What is to be planned: components of a model file.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The file's name in the ledger.
    pub name: &'a str,
    /// What is in it.
    pub model: &'a Model,
    /// The components that are wanted.
    pub kinds: &'a [ComponentKind],
    /// Where each component goes.
    pub settings: &'a LoaderSettings,
    /// What they are to do.
    pub tasks: &'a Tasks,
}

impl Planning<'_> {
    /// What a component computes in: f32 on the CPU, and elsewhere what its [family](family::accelerator_dtype) takes.
    /// f16 is too small for autoencoders and upscalers, whoever asks for it.
    pub fn compute_dtype(&self, model: &Model, kind: ComponentKind, device: DeviceId) -> DType {
        let small = matches!(kind, ComponentKind::Vae | ComponentKind::Upscaler);
        match self.dtype.filter(|dtype| *dtype != DType::F16 || !small) {
            Some(dtype) => dtype,
            None if self.is_host(device) => DType::F32,
            None => {
                let bf16 = self.topology.get(device).is_ok_and(|info| info.bf16);
                family::accelerator_dtype(model, kind, bf16)
            }
        }
    }

    /// Whether a device computes with the host's kernels.
    pub fn is_host(&self, device: DeviceId) -> bool {
        device.is_cpu() || self.is_simulated(device)
    }

    fn is_simulated(&self, device: DeviceId) -> bool {
        self.topology.get(device).is_ok_and(|info| info.simulated)
    }

    /// Bytes of activations that a component takes on a device to make a picture.
    pub fn activations(
        &self,
        model: &Model,
        component: &Component,
        device: DeviceId,
        picture: Workload,
    ) -> u64 {
        let host = self.is_host(device);
        let element = match self.compute_dtype(model, component.kind, device) {
            // The host's kernels have activations in f32.
            DType::F16 | DType::BF16 if host => DType::F32,
            dtype => dtype,
        };
        let compute = Compute { element: element.size() as u64, host };
        family::activation_bytes(model, component, picture, compute)
    }

    /// Plans components and promises their memory on the ledger. `known` says what activations are
    /// known to be more than estimated. Where both halves of the guidance do not fit at once, the
    /// plan is for one after the other, if that fits.
    ///
    /// # Errors
    /// When the settings cannot be planned on this machine.
    pub fn plans(
        &self,
        subject: &Subject<'_>,
        ledger: &mut Ledger,
        known: impl Fn(ComponentKind) -> Option<u64>,
    ) -> Result<Vec<Plan>, PlanningError> {
        let before = ledger.clone();
        let plans = self.plan_for(subject, ledger, |picture| picture, &known)?;
        let crowded = |plan: &Plan| {
            plan.component == ComponentKind::DiffusionModel.short_name() && !plan.fits
        };
        if !plans.iter().any(crowded) {
            return Ok(plans);
        }
        let mut other = before;
        let halves = self.plan_for(subject, &mut other, Workload::sequential_cfg, &known)?;
        if halves.iter().any(crowded) {
            return Ok(plans);
        }
        *ledger = other;
        Ok(halves)
    }

    fn plan_for(
        &self,
        subject: &Subject<'_>,
        ledger: &mut Ledger,
        change: impl Fn(Workload) -> Workload,
        known: impl Fn(ComponentKind) -> Option<u64>,
    ) -> Result<Vec<Plan>, PlanningError> {
        let Subject { name, model, kinds, settings, tasks } = *subject;
        let components = model.components.iter().filter(|part| kinds.contains(&part.kind));
        let components = components.map(|component| {
            let settings = settings_for(component.kind, settings);
            let device = settings.compute_device;
            let picture = change(tasks.workload(component.kind, model).as_usual(model));
            let estimate = self.activations(model, component, device, picture);
            let bytes = known(component.kind).unwrap_or(estimate);
            let dtype = self.compute_dtype(model, component.kind, device);
            // A simulated device keeps layers as stored; the host in what it computes in.
            let host_dtype = (device.is_cpu() && !self.is_simulated(device)).then_some(dtype);
            let blocks = placement::blocks(component, bytes, host_dtype)?;
            let blocks = match family::layer_costs(model, component, picture) {
                Some(costs) => blocks.with_costs(costs),
                None => blocks,
            };
            Ok((blocks, settings))
        });
        let components: Vec<(ComponentBlocks, ComponentSettings)> =
            components.collect::<Result<_, BlockError>>()?;
        Ok(plan_model(name, &components, ledger)?)
    }
}

/// The settings of a component.
pub(super) fn settings_for(kind: ComponentKind, settings: &LoaderSettings) -> ComponentSettings {
    match kind {
        ComponentKind::DiffusionModel => settings.unet.clone(),
        ComponentKind::TextEncoders => settings.clip.clone(),
        // A file of its own: its loader's settings are those of one component.
        ComponentKind::Vae | ComponentKind::Upscaler => settings.vae.clone(),
    }
}
