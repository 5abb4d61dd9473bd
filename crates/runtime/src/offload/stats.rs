//! What streaming did: memory held against memory planned, bytes over the links, time waited.

use distorch_allocation::DeviceId;
use serde::Serialize;

/// What one device was to hold and held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceUse {
    /// The device.
    pub device: DeviceId,
    /// Whether it is simulated.
    pub simulated: bool,
    /// What it was to hold at most. For the host as the compute device, which keeps its residents in
    /// the compute dtype, these are counted so.
    pub planned_bytes: u64,
    /// The layers at home there.
    pub resident_bytes: u64,
    /// The most that was in the prefetch cache at once; 0 but for the compute device.
    pub window_bytes: u64,
    /// The most that computing took beside weights; 0 but for the compute device.
    pub activation_bytes: u64,
    /// Whether that was measured. Else it is the plan's estimate.
    pub measured: bool,
    /// All three together.
    pub peak_bytes: u64,
}

/// What streaming did since the component was loaded or the numbers were last taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamStats {
    /// The devices of the plan, in its order.
    pub devices: Vec<DeviceUse>,
    /// Bytes that came to the compute device, as stored.
    pub bytes_moved: u64,
    /// Layers that came.
    pub transfers: u64,
    /// Uses of layers that live elsewhere and that nobody had foreseen.
    pub unforeseen: u64,
    /// Seconds in which computing waited for weights.
    pub stall_seconds: f64,
    /// Bytes of the layers at home on `cpu` that are in page-locked memory.
    pub pinned_bytes: u64,
    /// Why layers that were to be there are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_failure: Option<String>,
}
