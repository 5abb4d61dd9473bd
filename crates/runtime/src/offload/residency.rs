//! Where a layer lives.

use distorch_allocation::DeviceId;

use crate::machine::Held;
use crate::stored::StoredLayer;
use crate::weights::LayerParams;

/// Where a layer lives.
#[derive(Debug)]
pub(super) enum Residency {
    /// On the compute device, in the compute dtype.
    Resident { params: LayerParams, held: Held },
    /// In the memory of a device, in stored dtypes; on the compute device, converted at each use.
    Stored { layer: StoredLayer, device: DeviceId, held: Held },
    /// In the file's pages.
    Mapped,
    /// Nowhere: why it could not be loaded.
    Unavailable(String),
}

impl Residency {
    /// Bytes of memory that it takes; a file's pages take none.
    pub(super) fn held(&self) -> u64 {
        match self {
            Residency::Resident { held, .. } | Residency::Stored { held, .. } => held.bytes(),
            Residency::Mapped | Residency::Unavailable(_) => 0,
        }
    }

    /// Bytes of it that are in page-locked memory.
    pub(super) fn pinned(&self) -> u64 {
        match self {
            Residency::Stored { layer, .. } => layer.pinned_bytes(),
            _ => 0,
        }
    }
}
