//! How a layer gets from the file to where it lives.

use std::sync::{Arc, PoisonError};

use distorch_allocation::DeviceId;

use super::component::ComponentWeights;
use super::residency::Residency;
use crate::devices;
use crate::stored::StoredLayer;
use crate::tensor;
use crate::weights::{LayerParams, WeightError};

impl ComponentWeights {
    /// The layer on a device, as the file has it.
    pub(super) fn unpatched(
        &self,
        index: usize,
        device: DeviceId,
    ) -> Result<Residency, WeightError> {
        if device.is_cpu() && device != self.compute && !self.options.pin {
            return Ok(Residency::Mapped);
        }
        let layer = StoredLayer::read(&self.checkpoint, self.layer(index)?)?;
        self.keep(index, device, layer)
    }

    /// These values of a layer on a device.
    pub(super) fn keep(
        &self,
        index: usize,
        device: DeviceId,
        layer: StoredLayer,
    ) -> Result<Residency, WeightError> {
        let full = |error| self.out_of_memory(index, error);
        if device == self.compute {
            let layer = layer.on(&self.device, self.options.pin)?.unpinned();
            tensor::let_go(&self.device);
            // The host's kernels take some as they are stored; elsewhere each is converted.
            let converted = layer.elements() * self.dtype.size() as u64;
            let try_out = tensor::is_host(&self.device) || converted <= layer.bytes();
            let params = try_out.then(|| layer.decode(&self.device, self.dtype));
            let fits = |params: &LayerParams| self.converts() || params.bytes() <= layer.bytes();
            if let Some(params) = params.filter(fits) {
                let held = self.pool.hold(params.bytes(), 0).map_err(full)?;
                return Ok(Residency::Resident { params: params.arranged(), held });
            }
            let held = self.pool.hold(layer.bytes(), 0).map_err(full)?;
            return Ok(Residency::Stored { layer, device, held });
        }
        let reason = |reason: String| self.unavailable(index, reason);
        let pool = self.machine.pool(device).map_err(|error| reason(error.to_string()))?;
        let mut held = pool.hold(layer.bytes(), 0).map_err(full)?;
        let donor = self.machine.open(device).map_err(|error| reason(error.to_string()))?;
        let mut layer = layer.on(&donor, self.options.pin)?;
        tensor::let_go(&donor);
        if device.is_cpu() && self.options.pin && !pool.is_simulated() {
            layer = self.page_locked(layer);
            // The driver's, not of this process's heap.
            held.share(layer.pinned_bytes());
        }
        Ok(Residency::Stored { layer, device, held })
    }

    /// The layer in page-locked memory, where the device that computes fetches from such memory by itself. Where the
    /// driver has none left the layer stays where it is, and the reason is noted.
    fn page_locked(&self, layer: StoredLayer) -> StoredLayer {
        let driver = match &self.options.driver {
            Some(driver) => Ok(Some(Arc::clone(driver))),
            None => devices::page_locked(&self.device),
        };
        let locked = match driver {
            Ok(None) => return layer,
            Ok(Some(driver)) => layer.pinned(&driver, &self.device),
            Err(reason) => Err(reason),
        };
        locked.unwrap_or_else(|reason| {
            let mut unlocked = self.unlocked.lock().unwrap_or_else(PoisonError::into_inner);
            unlocked.get_or_insert(reason);
            drop(unlocked);
            layer
        })
    }
}
