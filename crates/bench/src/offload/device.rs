//! The device that computes, and the link over which the rest of the model comes to it.

use distorch_allocation::{DeviceId, DeviceInfo, DeviceKind, Topology};
use distorch_models::estimate::Compute;
use distorch_runtime::{DType, Device, tensor};

use crate::error::BenchError;
use crate::link;

/// Bytes of a copy that measures a link.
const SAMPLE: usize = 64 << 20;
/// How many of them; the fastest counts.
const SAMPLES: usize = 5;

/// A device that computes, with its link to the host.
pub enum ComputeDevice {
    /// Computes as the host does, over a link of whatever speed.
    Simulated,
    /// Is what it is, and its link too.
    Real {
        /// Its name.
        id: DeviceId,
        /// The device, to compute on.
        device: Device,
        /// The machine that has it.
        machine: Topology,
        /// What it computes in.
        dtype: DType,
        /// Whether what comes to it lies in page-locked memory.
        pin: bool,
    },
}

impl ComputeDevice {
    /// What the report calls it.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Simulated => "simulated device".to_owned(),
            Self::Real { id, .. } => id.to_string(),
        }
    }

    /// Whether it has memory and a link of its own.
    pub(super) fn is_real(&self) -> bool {
        matches!(self, Self::Real { .. })
    }

    /// What it computes in.
    pub(super) fn dtype(&self) -> DType {
        match self {
            Self::Simulated => DType::F32,
            Self::Real { dtype, .. } => *dtype,
        }
    }

    /// How estimates see it.
    pub(super) fn compute(&self) -> Compute {
        Compute { element: self.dtype().size() as u64, host: matches!(self, Self::Simulated) }
    }

    /// Where its tensors are.
    pub(super) fn tensors(&self) -> Device {
        match self {
            Self::Simulated => tensor::cpu(),
            Self::Real { device, .. } => device.clone(),
        }
    }

    /// The speed of its link in bytes per second, where that can't be chosen: that of plain copies.
    pub(super) fn measured_bandwidth(&self) -> Option<u64> {
        let Self::Real { device, pin, .. } = self else { return None };
        let seconds = (0..SAMPLES).map(|_| link::upload(SAMPLE, device, *pin).1);
        Some((SAMPLE as f64 / seconds.fold(f64::INFINITY, f64::min)) as u64)
    }

    /// Its name and a machine that has it: a simulated one with a link of this bandwidth and so much
    /// memory.
    pub(super) fn machine(
        &self,
        bandwidth: u64,
        room: u64,
    ) -> Result<(DeviceId, Topology), BenchError> {
        if let Self::Real { id, machine, .. } = self {
            return Ok((*id, machine.clone()));
        }
        let id = DeviceId::new(DeviceKind::Cuda, 0).unwrap_or(DeviceId::CPU);
        let simulated = DeviceInfo {
            simulated: true,
            bandwidth: Some(bandwidth),
            ..DeviceInfo::new(id, "simulated device", room)
        };
        let host = DeviceInfo::new(DeviceId::CPU, "host", 1 << 50);
        Ok((id, Topology::new(vec![simulated, host]).map_err(BenchError::failed)?))
    }
}
