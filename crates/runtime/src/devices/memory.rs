//! Bytes of memory, and what the operating system says of the machine's.

use sysinfo::{MemoryRefreshKind, System};

/// Total and free bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What there is in all.
    pub total: u64,
    /// What can be taken now without swapping.
    pub free: u64,
    /// What can be taken beyond that, by swapping.
    pub swap: u64,
}

impl Memory {
    /// The lesser of both, figure by figure.
    pub(super) fn within(self, limit: Memory) -> Memory {
        Memory {
            total: self.total.min(limit.total),
            free: self.free.min(limit.free),
            swap: self.swap.min(limit.swap),
        }
    }
}

/// What the operating system says of the machine.
pub(super) fn machine() -> Memory {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram().with_swap());
    Memory {
        total: system.total_memory(),
        free: system.available_memory().min(system.total_memory()),
        swap: system.free_swap(),
    }
}
