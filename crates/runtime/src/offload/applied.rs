//! The plan that is applied to a component, and the patch that is.

use std::collections::HashMap;
use std::sync::Arc;

use distorch_allocation::{DeviceId, Plan};
use distorch_checkpoint::Layer;

use super::error::LoadError;
use crate::machine::Machine;
use crate::patch::Patch;

/// The plan and the patch, layer by layer.
pub(super) struct AppliedPlan {
    pub(super) plan: Plan,
    /// The device of each layer.
    pub(super) devices: Vec<DeviceId>,
    pub(super) patch: Option<Arc<dyn Patch>>,
    /// The patch's key for each layer, as it was applied.
    pub(super) keys: Vec<Option<u64>>,
}

/// The device of each layer.
pub(super) fn devices_of(
    layers: &[Layer],
    plan: &Plan,
    machine: &Machine,
) -> Result<Vec<DeviceId>, LoadError> {
    let planned: HashMap<&str, DeviceId> =
        plan.blocks.iter().map(|block| (block.name.as_str(), block.device)).collect();
    let device = |layer: &Layer| {
        let device = planned.get(layer.name.as_str()).copied();
        let (component, layer) = (plan.component.clone(), layer.name.clone());
        let device = device.ok_or(LoadError::NotPlanned { component, layer })?;
        let known = machine.pool(device).map(|_| device);
        known.map_err(|error| LoadError::unknown(&plan.component, error))
    };
    layers.iter().map(device).collect()
}
