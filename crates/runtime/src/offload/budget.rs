//! What is held where, against what a plan allows and what a device has.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use distorch_allocation::DeviceId;
use distorch_checkpoint::Layer;

use super::applied::AppliedPlan;
use super::component::ComponentWeights;
use super::error::LoadError;
use super::residency::Residency;
use super::stats::{DeviceUse, StreamStats};
use crate::machine::{OutOfMemory, Shortage};
use crate::placement::{converted_bytes, host_bytes};
use crate::tensor::{self, refusals};

impl ComponentWeights {
    /// Whether each device has room for what is to live there, with the prefetch cache and the activations
    /// on the compute device. What this component holds already counts as free.
    pub(super) fn check_room(&self, applied: &AppliedPlan) -> Result<(), LoadError> {
        let mut need: HashMap<DeviceId, u64> = HashMap::new();
        for (layer, &device) in self.layers.iter().zip(&applied.devices) {
            *need.entry(device).or_default() += self.bytes_at(layer, device);
        }
        let plan = &applied.plan;
        // More than the least is taken from what is free then.
        let window = self.options.window.unwrap_or(0).max(plan.least_window_bytes);
        *need.entry(self.compute).or_default() += plan.activation_bytes.saturating_add(window);
        let mut devices: Vec<_> = need.into_iter().collect();
        devices.sort_by_key(|&(device, _)| device);
        for (device, need) in devices {
            let pool = self.machine.pool(device);
            let pool = pool.map_err(|error| LoadError::unknown(&self.component, error))?;
            let free = pool.free().saturating_add(self.held_on(device));
            if need > free {
                let simulated = pool.is_simulated();
                let shortage = Shortage::under(OutOfMemory { device, simulated, need, free }, plan);
                let component = self.component.clone();
                return Err(LoadError::Memory { component, shortage });
            }
        }
        Ok(())
    }

    /// Bytes of memory that the layer takes on a device.
    pub(super) fn bytes_at(&self, layer: &Layer, device: DeviceId) -> u64 {
        if device != self.compute {
            let in_file = device.is_cpu() && !self.options.pin;
            return if in_file { 0 } else { layer.bytes() };
        }
        let used = self.used_bytes(layer);
        if self.converts() { used } else { used.min(layer.bytes()) }
    }

    /// Bytes of the layer as the compute device computes with it.
    pub(super) fn used_bytes(&self, layer: &Layer) -> u64 {
        match tensor::is_host(&self.device) {
            true => host_bytes(layer, self.dtype),
            false => converted_bytes(layer, self.dtype),
        }
    }

    /// Bytes that the layers that live on the device hold.
    pub(super) fn held_on(&self, device: DeviceId) -> u64 {
        let residencies = self.residencies.read().unwrap_or_else(PoisonError::into_inner);
        let at_home = |home: &&Arc<Residency>| match &***home {
            Residency::Resident { .. } => device == self.compute,
            Residency::Stored { device: at, .. } => *at == device,
            Residency::Mapped => device.is_cpu(),
            Residency::Unavailable(_) => false,
        };
        residencies.iter().filter(at_home).map(|residency| residency.held()).sum()
    }

    /// Bytes that the layers hold in page-locked memory.
    fn pinned(&self) -> u64 {
        let residencies = self.residencies.read().unwrap_or_else(PoisonError::into_inner);
        residencies.iter().map(|residency| residency.pinned()).sum()
    }

    /// Whether any layer lives in the file.
    pub(super) fn any_in_file(&self) -> bool {
        let residencies = self.residencies.read().unwrap_or_else(PoisonError::into_inner);
        residencies.iter().any(|residency| matches!(&**residency, Residency::Mapped))
    }

    /// A layer is asked for: holds what computing took since the last one against the memory that
    /// there is.
    ///
    /// More than was planned shrinks the prefetch cache. The host refuses by itself, an accelerator told nobody until
    /// now; a simulated device refuses here.
    pub(super) fn look(&self) -> Result<(), OutOfMemory> {
        let activations = self.activations.look();
        if let Some(need) = refusals::take(&self.device) {
            let free = self.pool.free().saturating_sub(activations.unwrap_or(0));
            return Err(OutOfMemory { device: self.compute, simulated: false, need, free });
        }
        let Some(activations) = activations else { return Ok(()) };
        self.cache.expect_reserved_bytes(activations);
        let Some(capacity) = self.pool.capacity().filter(|_| self.pool.is_simulated()) else {
            return Ok(());
        };
        if self.pool.used().saturating_add(activations) <= capacity {
            return Ok(());
        }
        let waiting = self.cache.drop_waiting();
        let free = capacity.saturating_sub(self.pool.used());
        if activations <= free {
            return Ok(());
        }
        let need = activations.saturating_add(waiting);
        let (device, simulated) = (self.compute, true);
        Err(OutOfMemory { device, simulated, need, free })
    }

    pub(super) fn stats(&self) -> StreamStats {
        let (stats, window_peak) = self.cache.stats();
        let plan = self.applied().plan.clone();
        let (measured, limit) = (self.activations.most(), self.cache.limit());
        let devices = plan.devices.iter().map(|share| {
            let device = share.device;
            let computes = device == self.compute;
            let resident_bytes = self.held_on(device);
            let (window_bytes, activation_bytes) = match computes {
                true => (window_peak, measured.unwrap_or(plan.activation_bytes)),
                false => (0, 0),
            };
            let estimate = plan.activation_bytes;
            let planned_bytes = match computes {
                false => share.bytes,
                true if self.converts() => resident_bytes + limit + estimate,
                true if self.options.window.is_some() => plan.resident_bytes + limit + estimate,
                true => plan.peak_bytes,
            };
            DeviceUse {
                device,
                simulated: share.simulated,
                planned_bytes,
                resident_bytes,
                window_bytes,
                activation_bytes,
                measured: computes && measured.is_some(),
                peak_bytes: resident_bytes + window_bytes + activation_bytes,
            }
        });
        StreamStats {
            devices: devices.collect(),
            bytes_moved: stats.bytes,
            transfers: stats.transfers,
            unforeseen: stats.unforeseen,
            stall_seconds: stats.stalled.as_secs_f64(),
            pinned_bytes: self.pinned(),
            pin_failure: self.unlocked.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
