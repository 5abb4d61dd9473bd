//! The host: its processor, and the memory that this process may use of it.

use sysinfo::System;

use super::limits::host_limits;
use super::memory::Memory;

/// The memory of the machine that this process may use: what the operating system says, within
/// the limits of the process's control groups and of the process itself.
pub fn memory() -> Memory {
    let none = Memory { total: u64::MAX, free: u64::MAX, swap: u64::MAX };
    host_limits().into_iter().map(|limit| limit.memory).fold(none, Memory::within)
}

/// The processor's name, or its architecture where the system does not tell.
pub fn processor() -> String {
    let mut system = System::new();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    brand.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The vector instructions that the CPU backend's kernels choose from.
pub fn vector_instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return "AVX2";
        }
        return "SSE2";
    }
    #[cfg(target_arch = "aarch64")]
    return "NEON";
    #[allow(unreachable_code)]
    "scalar"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        let memory = memory();
        assert!(memory.total > 0 && memory.free <= memory.total, "{memory:?}");
        assert!(!processor().is_empty());
    }
}
