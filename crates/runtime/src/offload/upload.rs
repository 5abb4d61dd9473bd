//! How a layer gets from where it lives to the compute device.

use std::sync::PoisonError;
use std::time::Instant;

use distorch_allocation::DeviceId;

use super::component::ComponentWeights;
use super::prefetch::{LayerLoader, LoadedLayer};
use super::residency::Residency;
use crate::stored::StoredLayer;
use crate::tensor::uploads;
use crate::tensor::{self, Stream};
use crate::weights::WeightError;

impl ComponentWeights {
    /// A layer on the compute device: beside what it computes where it can, else in the order of that.
    fn upload(&self, stored: &StoredLayer) -> Result<StoredLayer, WeightError> {
        if let Some(loaded) = stored.beside(&self.device)? {
            return Ok(loaded);
        }
        let upload = || stored.on(&self.device, self.options.pin);
        // Not locked while it lasts.
        let user = *self.user.lock().unwrap_or_else(PoisonError::into_inner);
        match user {
            Some(stream) => stream.run(upload),
            None => upload(),
        }
    }

    /// This thread computes with the layers now: what is loaded goes in its stream from now on, or waits for
    /// it where it is loaded in another.
    pub(super) fn used_here(&self) {
        uploads::used_here(&self.device);
        if !tensor::is_host(&self.device) {
            let mut user = self.user.lock().unwrap_or_else(PoisonError::into_inner);
            *user = Some(Stream::current());
        }
    }
}

impl LayerLoader for ComponentWeights {
    fn load(&self, index: usize, asked: Instant) -> Result<LoadedLayer, WeightError> {
        let residency = self.residency(index)?;
        let on_heap = |id| self.machine.pool(id).is_ok_and(|pool| pool.is_on_heap());
        let (stored, shared, from) = match &*residency {
            Residency::Stored { layer, device, .. } => {
                let shared = if on_heap(*device) { layer.bytes() } else { 0 };
                (layer.clone(), shared, *device)
            }
            Residency::Mapped => {
                let (stored, mapped) = StoredLayer::view(
                    &self.checkpoint,
                    self.layer(index)?,
                    tensor::is_host(&self.device),
                )?;
                (stored, mapped, DeviceId::CPU)
            }
            Residency::Resident { .. } => {
                let reason = "it moved to the compute device meanwhile".to_owned();
                return Err(self.unavailable(index, reason));
            }
            Residency::Unavailable(reason) => return Err(self.unavailable(index, reason.clone())),
        };
        let layer = self.upload(&stored)?;
        let at = self.machine.transfer(from, self.compute, layer.bytes(), asked);
        Ok(LoadedLayer { layer, at, source: Some(residency), shared })
    }

    fn name(&self, index: usize) -> String {
        self.layer_name(index)
    }

    fn is_interrupted(&self) -> bool {
        self.options.interrupt.is_raised()
    }
}
