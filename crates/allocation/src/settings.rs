//! What the user wants for one component.

use serde::Serialize;

use crate::device::DeviceId;
use crate::language::Allocation;
use crate::layout_choice::LayoutChoice;
use crate::topology::Topology;
use crate::virtual_vram::{Donors, VirtualVram};

/// What the user wants for one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSettings {
    /// The device that computes.
    pub compute_device: DeviceId,
    /// How much leaves it, unless `expert` says more.
    pub virtual_vram: VirtualVram,
    /// Who takes what leaves.
    pub donors: Donors,
    /// Who holds how much. Replaces virtual VRAM.
    pub expert: Option<Allocation>,
    /// How blocks are chosen.
    pub layout: LayoutChoice,
    /// The most bytes that the window may have, though never fewer than the two largest blocks that
    /// live elsewhere; without it, what a plan gives.
    pub most_window: Option<u64>,
}

impl ComponentSettings {
    /// All of the component on one device; the donor is `cpu` once there is virtual VRAM.
    pub fn new(compute_device: DeviceId) -> ComponentSettings {
        ComponentSettings {
            compute_device,
            virtual_vram: VirtualVram::ZERO,
            donors: Donors::default(),
            expert: None,
            layout: LayoutChoice::default(),
            most_window: None,
        }
    }

    /// The devices that any plan by these settings may use: the one that computes, and those that may hold something.
    pub fn devices(&self, topology: &Topology) -> Vec<DeviceId> {
        let mut devices = vec![self.compute_device];
        match &self.expert {
            Some(allocation) => {
                devices.extend(allocation.entries().iter().map(|entry| entry.device));
                // What fits nowhere else goes there.
                devices.push(DeviceId::CPU);
            }
            None if self.virtual_vram == VirtualVram::ZERO => {}
            None => devices.extend(self.donors.resolve(self.compute_device, topology)),
        }
        devices.sort_unstable();
        devices.dedup();
        devices
    }
}

impl Serialize for ComponentSettings {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("ComponentSettings", 5)?;
        fields.serialize_field("compute_device", &self.compute_device)?;
        fields.serialize_field("virtual_vram_gb", &self.virtual_vram)?;
        fields.serialize_field("donors", &self.donors.to_string())?;
        fields.serialize_field("expert", &self.expert)?;
        fields.serialize_field("layout", &self.layout)?;
        fields.end()
    }
}
