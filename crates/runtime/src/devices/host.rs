//! The host: its memory, within the limits of the control group that the process runs in.

use std::fs;
use std::path::{Path, PathBuf};

use sysinfo::{MemoryRefreshKind, System};

/// Total and free bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What there is in all.
    pub total: u64,
    /// What can be taken now without swapping.
    pub free: u64,
}

impl Memory {
    /// The lesser of both, figure by figure.
    fn within(self, limit: Memory) -> Memory {
        Memory { total: self.total.min(limit.total), free: self.free.min(limit.free) }
    }
}

/// The memory of the machine that this process may use: what the operating system says, within
/// the limits of the process's control group and those above it.
pub fn memory() -> Memory {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let machine = Memory { total: system.total_memory(), free: system.available_memory() };
    let read = |path: &Path| fs::read_to_string(path).ok();
    cgroup_limits(&read).into_iter().fold(machine, Memory::within)
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

type Read<'a> = dyn Fn(&Path) -> Option<String> + 'a;

/// The limits of the control groups that hold this process, from its own up to the root.
fn cgroup_limits(read: &Read<'_>) -> Vec<Memory> {
    let (Some(groups), Some(mounts)) =
        (read(Path::new("/proc/self/cgroup")), read(Path::new("/proc/self/mountinfo")))
    else {
        return Vec::new(); // not Linux
    };
    let mut limits = Vec::new();
    for hierarchy in [Hierarchy::V1, Hierarchy::V2] {
        let (Some(group), Some(mount)) =
            (hierarchy.group(&groups), mounts.lines().find_map(|line| hierarchy.mount(line)))
        else {
            continue;
        };
        // The mount shows the tree from `mount.root` down; inside a container that is the
        // container's own group.
        let inside = group.strip_prefix(&mount.root).unwrap_or(Path::new(""));
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        limits.extend(
            inside.ancestors().filter_map(|dir| hierarchy.limit(&mount.point.join(dir), read)),
        );
    }
    limits
}

/// The two forms of Linux control groups.
#[derive(Clone, Copy)]
enum Hierarchy {
    V1,
    V2,
}

struct Mount {
    root: PathBuf,
    point: PathBuf,
}

impl Hierarchy {
    /// The process's group, from the text of `/proc/self/cgroup` (`id:controllers:path`).
    fn group(self, groups: &str) -> Option<PathBuf> {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = match self {
                Hierarchy::V1 => controllers.split(',').any(|name| name == "memory"),
                Hierarchy::V2 => id == "0" && controllers.is_empty(),
            };
            ours.then(|| PathBuf::from(path))
        })
    }

    /// Where this hierarchy is mounted, from a line of `/proc/self/mountinfo`.
    fn mount(self, line: &str) -> Option<Mount> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ');
        let (root, point) = (place.nth(3)?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let ours = match self {
            Hierarchy::V1 => name == "cgroup" && options.split(',').any(|o| o == "memory"),
            Hierarchy::V2 => name == "cgroup2",
        };
        ours.then(|| Mount { root: root.into(), point: point.into() })
    }

    /// The limit that one group sets, and what it leaves free. Pages of files that nobody used of
    /// late are given back under pressure, so they count as free.
    fn limit(self, group: &Path, read: &Read<'_>) -> Option<Memory> {
        let (max, current, inactive) = match self {
            Hierarchy::V1 => {
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            }
            Hierarchy::V2 => ("memory.max", "memory.current", "inactive_file"),
        };
        let number = |file: &str| read(&group.join(file))?.trim().parse::<u64>().ok();
        let total = number(max)?; // the word `max` in v2: no limit
        let reclaimable = read(&group.join("memory.stat")).and_then(|stat| {
            stat.lines().find_map(|line| {
                let (name, value) = line.split_once(' ')?;
                if name == inactive { value.trim().parse::<u64>().ok() } else { None }
            })
        });
        let used = number(current).unwrap_or(0).saturating_sub(reclaimable.unwrap_or(0));
        Some(Memory { total, free: total.saturating_sub(used) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn limits(files: &[(&str, &str)]) -> Vec<Memory> {
        let files: HashMap<&str, &str> = files.iter().copied().collect();
        cgroup_limits(&|path: &Path| files.get(path.to_str()?).map(|text| (*text).to_owned()))
    }

    #[test]
    fn a_container_with_version_2_counts_every_level() {
        let found = limits(&[
            ("/proc/self/cgroup", "0::/box/job\n"),
            ("/proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"),
            ("/sys/fs/cgroup/box/job/memory.max", "max\n"),
            ("/sys/fs/cgroup/box/memory.max", "1000\n"),
            ("/sys/fs/cgroup/box/memory.current", "700\n"),
            ("/sys/fs/cgroup/box/memory.stat", "anon 300\ninactive_file 400\n"),
        ]);
        assert_eq!(found, [Memory { total: 1000, free: 700 }]);
    }

    #[test]
    fn version_1_below_the_root_of_the_mount() {
        let found = limits(&[
            ("/proc/self/cgroup", "5:cpu:/\n4:memory:/docker/abc\n"),
            (
                "/proc/self/mountinfo",
                "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n",
            ),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n"),
        ]);
        assert_eq!(found, [Memory { total: 4096, free: 0 }]);
    }

    #[test]
    fn no_control_groups_no_limits() {
        assert_eq!(limits(&[]), []);
        assert_eq!(limits(&[("/proc/self/cgroup", "0::/\n"), ("/proc/self/mountinfo", "x\n")]), []);
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = memory();
        assert!(memory.total > 0 && memory.free <= memory.total, "{memory:?}");
        assert!(!processor().is_empty());
    }
}
