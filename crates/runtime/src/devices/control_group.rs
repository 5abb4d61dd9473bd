//! What Linux control groups, as containers and services use them, leave this process of memory.

use std::path::{Path, PathBuf};

use super::memory::Memory;

/// Reads a file of the system; `None` where there is none.
pub(super) type Read<'a> = dyn Fn(&Path) -> Option<String> + 'a;

/// The limits of the control groups that hold this process, from its own up to the root.
pub(super) fn limits(read: &Read<'_>) -> Vec<Memory> {
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

    /// The limit that one group sets, and what it leaves free. Pages of files are given back under
    /// pressure, so they count as free.
    fn limit(self, group: &Path, read: &Read<'_>) -> Option<Memory> {
        let number = |file: &str| read(&group.join(file))?.trim().parse::<u64>().ok();
        let stat = read(&group.join("memory.stat")).unwrap_or_default();
        let counted = |wanted: &str| {
            stat.lines().find_map(|line| {
                let (name, value) = line.split_once(' ')?;
                if name == wanted { value.trim().parse::<u64>().ok() } else { None }
            })
        };
        let less = |whole: Option<u64>, part: Option<u64>| {
            whole.map(|whole| whole.saturating_sub(part.unwrap_or(0)))
        };
        let (total, used, files, swap) = match self {
            Hierarchy::V1 => {
                let own = number("memory.limit_in_bytes")?;
                // A group below a smaller one, of which a container does not see the files.
                let nested = counted("hierarchical_memory_limit").unwrap_or(own);
                let with_swap = less(
                    number("memory.memsw.limit_in_bytes"),
                    number("memory.memsw.usage_in_bytes"),
                );
                let total = own.min(nested);
                let used = number("memory.usage_in_bytes").unwrap_or(0);
                let free = total.saturating_sub(used);
                (
                    total,
                    used,
                    ["total_inactive_file", "total_active_file"],
                    with_swap.map(|both| both.saturating_sub(free)),
                )
            }
            Hierarchy::V2 => (
                number("memory.max")?, // the word `max`: no limit
                number("memory.current").unwrap_or(0),
                ["inactive_file", "active_file"],
                less(number("memory.swap.max"), number("memory.swap.current")),
            ),
        };
        let reclaimable: u64 = files.into_iter().filter_map(counted).sum();
        let used = used.saturating_sub(reclaimable);
        let swap = swap.unwrap_or(u64::MAX); // what the machine has
        Some(Memory { total, free: total.saturating_sub(used), swap })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn limits(files: &[(&str, &str)]) -> Vec<Memory> {
        let files: HashMap<&str, &str> = files.iter().copied().collect();
        super::limits(&|path: &Path| files.get(path.to_str()?).map(|text| (*text).to_owned()))
    }

    #[test]
    fn a_container_with_version_2_counts_every_level() {
        let found = limits(&[
            ("/proc/self/cgroup", "0::/box/job\n"),
            ("/proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"),
            ("/sys/fs/cgroup/box/job/memory.max", "max\n"),
            ("/sys/fs/cgroup/box/memory.max", "1000\n"),
            ("/sys/fs/cgroup/box/memory.current", "700\n"),
            ("/sys/fs/cgroup/box/memory.stat", "anon 300\ninactive_file 300\nactive_file 100\n"),
            ("/sys/fs/cgroup/box/memory.swap.max", "50\n"),
            ("/sys/fs/cgroup/box/memory.swap.current", "20\n"),
            ("/sys/fs/cgroup/memory.max", "5000\n"),
        ]);
        let whole = Memory { total: 5000, free: 5000, swap: u64::MAX };
        assert_eq!(found, [Memory { total: 1000, free: 700, swap: 30 }, whole]);
    }

    #[test]
    fn version_1_below_the_root_of_the_mount() {
        let mount =
            "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n";
        let found = limits(&[
            ("/proc/self/cgroup", "5:cpu:/\n4:memory:/docker/abc\n"),
            ("/proc/self/mountinfo", mount),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n"),
        ]);
        assert_eq!(found, [Memory { total: 4096, free: 0, swap: u64::MAX }]);
        let nested = limits(&[
            ("/proc/self/cgroup", "4:memory:/docker/abc\n"),
            ("/proc/self/mountinfo", mount),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1500\n"),
            ("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "4000\n"),
            ("/sys/fs/cgroup/memory/memory.memsw.usage_in_bytes", "1600\n"),
            (
                "/sys/fs/cgroup/memory/memory.stat",
                "hierarchical_memory_limit 3000\ntotal_inactive_file 200\ntotal_active_file 300\n",
            ),
        ]);
        assert_eq!(nested, [Memory { total: 3000, free: 2000, swap: 900 }]);
    }

    #[test]
    fn no_control_groups_no_limits() {
        assert_eq!(limits(&[]), []);
        assert_eq!(limits(&[("/proc/self/cgroup", "0::/\n"), ("/proc/self/mountinfo", "x\n")]), []);
    }
}
