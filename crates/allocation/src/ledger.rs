//! What is promised to which model on which device, so that memory is promised once.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::device::DeviceId;
use crate::topology::Topology;

/// The memory of a machine and the promises made on it.
///
/// The compute device of a plan that doesn't fit may be promised more than it has; donors never
/// are.
#[derive(Clone, Debug)]
pub struct Ledger {
    topology: Topology,
    promises: BTreeMap<(String, String, DeviceId), u64>,
}

/// Bytes of one device that are promised to one component of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Promise {
    /// The model.
    pub model: String,
    /// Its component.
    pub component: String,
    /// The device.
    pub device: DeviceId,
    /// How much of it.
    pub bytes: u64,
}

impl Ledger {
    /// A machine on which nothing is promised.
    pub fn new(topology: Topology) -> Ledger {
        Ledger { topology, promises: BTreeMap::new() }
    }

    /// The machine.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Promises these bytes of these devices to this component of `model`, in place of what was
    /// promised to it before.
    pub fn promise(
        &mut self,
        model: &str,
        component: &str,
        shares: impl IntoIterator<Item = (DeviceId, u64)>,
    ) {
        self.release_component(model, component);
        for (device, bytes) in shares {
            self.promises.insert((model.to_owned(), component.to_owned(), device), bytes);
        }
    }

    /// Gives back all that was promised to `model`, in bytes.
    pub fn release(&mut self, model: &str) -> u64 {
        self.release_where(|(owner, _, _)| owner == model)
    }

    /// Gives back what was promised to one component of `model`, in bytes.
    pub fn release_component(&mut self, model: &str, component: &str) -> u64 {
        self.release_where(|(owner, part, _)| owner == model && part == component)
    }

    /// All promises, by model, component and device.
    pub fn promises(&self) -> impl Iterator<Item = Promise> {
        self.promises.iter().map(|((model, component, device), &bytes)| Promise {
            model: model.clone(),
            component: component.clone(),
            device: *device,
            bytes,
        })
    }

    /// Bytes promised on `device`.
    pub fn promised(&self, device: DeviceId) -> u64 {
        let on_device = self.promises.iter().filter(|((_, _, id), _)| *id == device);
        on_device.fold(0, |sum, (_, &bytes)| sum.saturating_add(bytes))
    }

    /// Bytes of `device` that are free and not promised; 0 for a device that isn't there.
    pub fn available(&self, device: DeviceId) -> u64 {
        let free = self.topology.get(device).map_or(0, |info| info.free);
        free.saturating_sub(self.promised(device))
    }

    fn release_where(&mut self, gone: impl Fn(&(String, String, DeviceId)) -> bool) -> u64 {
        let mut released = 0_u64;
        self.promises.retain(|key, bytes| {
            let keep = !gone(key);
            if !keep {
                released = released.saturating_add(*bytes);
            }
            keep
        });
        released
    }
}
