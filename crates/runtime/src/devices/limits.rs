//! What bounds this process's memory: the machine, its control groups, and the limits that a shell
//! or a service sets (`ulimit -v`, `ulimit -d`).

use std::fmt;
use std::path::Path;

use distorch_allocation::ByteSize;

use super::control_group::{self, Read};
use super::memory::{self, Memory};

/// What bounds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// The memory that is built in.
    Machine,
    /// A control group, as containers and services have one.
    ControlGroup,
    /// `RLIMIT_AS`, `ulimit -v`: all address space, that of mapped files too.
    AddressSpace,
    /// `RLIMIT_DATA`, `ulimit -d`: all memory that may be written to.
    DataSegment,
}

impl LimitKind {
    /// What to do where it is too low.
    pub fn remedy(self) -> &'static str {
        match self {
            LimitKind::Machine => "make a smaller picture or batch, or end other programs",
            LimitKind::ControlGroup => {
                "make a smaller picture or batch, or raise the memory limit of the container or service"
            }
            LimitKind::AddressSpace => {
                "make a smaller picture or batch, or raise the limit (`ulimit -v unlimited`)"
            }
            LimitKind::DataSegment => {
                "make a smaller picture or batch, or raise the limit (`ulimit -d unlimited`)"
            }
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitKind::Machine => "the machine's memory",
            LimitKind::ControlGroup => "the memory limit of the container or service",
            LimitKind::AddressSpace => "the limit of address space (`ulimit -v`)",
            LimitKind::DataSegment => "the limit of data (`ulimit -d`)",
        })
    }
}

/// One bound on this process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLimit {
    /// What sets it.
    pub kind: LimitKind,
    /// What it is, and what is left of it.
    pub memory: Memory,
}

/// Memory of the host that something will take beyond what this process has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostNeed {
    /// Bytes that are written to: tensors, buffers.
    pub private: u64,
    /// Bytes of files that will be mapped; those that are mapped already are not counted again. The
    /// system gives their pages back under pressure: they only take address space.
    pub mapped: u64,
}

impl HostLimit {
    /// How much of a need counts against it.
    pub fn need(&self, need: HostNeed) -> u64 {
        match self.kind {
            LimitKind::AddressSpace => need.private.saturating_add(need.mapped),
            _ => need.private,
        }
    }

    /// The bytes that can still be taken, swap included.
    pub fn room(&self) -> u64 {
        self.memory.free.saturating_add(self.memory.swap)
    }
}

/// More memory of the host is needed than it has left, swap included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cpu is out of memory: {} needed, {} free of the {} that {} leaves",
    ByteSize(*need), ByteSize(limit.room()), ByteSize(limit.memory.total), limit.kind
)]
pub struct HostShortage {
    /// What is too low.
    pub limit: HostLimit,
    /// Bytes that are needed of it.
    pub need: u64,
}

/// Every bound on the memory of this process, as it stands now.
pub fn host_limits() -> Vec<HostLimit> {
    let machine = memory::machine();
    let mut limits = vec![HostLimit { kind: LimitKind::Machine, memory: machine }];
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let groups = control_group::limits(&read).into_iter().map(|memory| HostLimit {
        kind: LimitKind::ControlGroup,
        memory: Memory { swap: memory.swap.min(machine.swap), ..memory },
    });
    limits.extend(groups);
    limits.extend(process_limits(&read));
    limits
}

/// Whether the host can give so much more.
///
/// # Errors
/// The bound that is missed by most.
pub fn host_room(need: HostNeed) -> Result<(), HostShortage> {
    missed(&host_limits(), need).map_or(Ok(()), Err)
}

fn missed(limits: &[HostLimit], need: HostNeed) -> Option<HostShortage> {
    let short = limits.iter().filter_map(|limit| {
        let need = limit.need(need);
        (need > limit.room()).then_some(HostShortage { limit: *limit, need })
    });
    short.max_by_key(|short| short.need - short.limit.room())
}

/// The limits that are set for this process. Only Linux holds programs to them.
fn process_limits(read: &Read<'_>) -> Vec<HostLimit> {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

        let set = |resource| getrlimit(resource).ok().map(|(soft, _)| soft);
        let status = read(Path::new("/proc/self/status")).unwrap_or_default();
        let kinds = [
            (LimitKind::AddressSpace, Resource::RLIMIT_AS, "VmSize:"),
            (LimitKind::DataSegment, Resource::RLIMIT_DATA, "VmData:"),
        ];
        let limit = |(kind, resource, name)| {
            let total = set(resource).filter(|&total| total != RLIM_INFINITY)?;
            let free = total.saturating_sub(kibibytes(&status, name)?.saturating_mul(1024));
            Some(HostLimit { kind, memory: Memory { total, free, swap: 0 } })
        };
        kinds.into_iter().filter_map(limit).collect()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = read;
        Vec::new()
    }
}

/// A figure of `/proc/self/status`: `VmSize:     1234 kB`.
#[cfg(target_os = "linux")]
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: LimitKind, total: u64, free: u64, swap: u64) -> HostLimit {
        HostLimit { kind, memory: Memory { total, free, swap } }
    }

    #[test]
    fn mapped_files_count_against_address_space_only() {
        let limits = [
            limit(LimitKind::Machine, 1000, 400, 200),
            limit(LimitKind::AddressSpace, 900, 700, 0),
        ];
        assert_eq!(missed(&limits, HostNeed { private: 600, mapped: 100 }), None);
        let short = missed(&limits, HostNeed { private: 500, mapped: 300 }).unwrap();
        assert_eq!((short.limit.kind, short.need), (LimitKind::AddressSpace, 800));
        let short = missed(&limits, HostNeed { private: 650, mapped: 0 }).unwrap();
        assert_eq!((short.limit.kind, short.need), (LimitKind::Machine, 650));
        assert_eq!(
            short.to_string(),
            "cpu is out of memory: 650 B needed, 600 B free of the 1000 B that the machine's memory \
             leaves"
        );
    }

    #[test]
    fn every_process_has_a_machine_and_no_more_free_than_there_is() {
        let limits = host_limits();
        assert_eq!(limits[0].kind, LimitKind::Machine);
        assert!(limits.iter().all(|limit| limit.memory.free <= limit.memory.total), "{limits:?}");
        assert_eq!(host_room(HostNeed::default()), Ok(()));
        let all = HostNeed { private: u64::MAX, mapped: 0 };
        assert!(host_room(all).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn figures_of_a_process() {
        let status = "Name:\tdistorch\nVmPeak:\t  90 kB\nVmSize:\t    5120 kB\nVmData:\t 12 kB\n";
        assert_eq!(kibibytes(status, "VmSize:"), Some(5120));
        assert_eq!(kibibytes(status, "VmData:"), Some(12));
        assert_eq!(kibibytes(status, "VmLib:"), None);
    }
}
