//! AMD GPUs, from the kernel driver's own listing (`/sys/class/kfd`), whose order is HIP's.

use std::fs;
use std::path::{Path, PathBuf};

use distorch_allocation::{DeviceId, DeviceInfo, DeviceKind};

use super::{Hardware, Probe};

/// The AMD GPUs that the kernel driver shows.
#[cfg(feature = "rocm")]
pub(super) fn probe() -> Probe {
    probe_below(Path::new("/sys"))
}

fn probe_below(sys: &Path) -> Probe {
    let nodes = sys.join("class/kfd/kfd/topology/nodes");
    let Ok(entries) = fs::read_dir(&nodes) else {
        return Err("the AMD GPU compute driver (amdgpu, /dev/kfd) is not loaded".to_owned());
    };
    let mut numbers: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    let gpus = numbers.into_iter().filter_map(|number| Node::read(&nodes.join(number.to_string())));
    let described = (0..).zip(gpus).filter_map(|(index, node)| {
        Some(node.describe(DeviceId::new(DeviceKind::Rocm, index)?, sys))
    });
    Ok(described.collect())
}

/// What a node of the topology says of a GPU.
struct Node {
    gfx_target: u64,
    render_minor: u64,
    vram: u64,
}

impl Node {
    /// The node, or `None` for one without shader units, which is a CPU.
    fn read(folder: &Path) -> Option<Node> {
        let properties = fs::read_to_string(folder.join("properties")).ok()?;
        if property(&properties, "simd_count")? == 0 {
            return None;
        }
        let banks = fs::read_dir(folder.join("mem_banks")).ok();
        let vram = banks.into_iter().flatten().flatten().filter_map(|bank| {
            property(&fs::read_to_string(bank.path().join("properties")).ok()?, "size_in_bytes")
        });
        Some(Node {
            gfx_target: property(&properties, "gfx_target_version")?,
            render_minor: property(&properties, "drm_render_minor")?,
            vram: vram.sum(),
        })
    }

    /// `gfx1100` from 110000: major and minor versions decimal, the stepping hexadecimal.
    fn gfx_name(&self) -> String {
        let version = self.gfx_target;
        format!("gfx{}{:x}{:x}", version / 10_000, version / 100 % 100, version % 100)
    }

    fn describe(&self, id: DeviceId, sys: &Path) -> Hardware {
        let card: PathBuf = sys.join(format!("class/drm/renderD{}/device", self.render_minor));
        let read = |file: &str| fs::read_to_string(card.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        let total = number("mem_info_vram_total").unwrap_or(self.vram);
        let used = number("mem_info_vram_used").unwrap_or(0);
        let name = read("product_name").map(|name| name.trim().to_owned());
        Hardware {
            info: DeviceInfo {
                id,
                name: name
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| format!("AMD GPU ({})", self.gfx_name())),
                total,
                free: total.saturating_sub(used),
                simulated: false,
                bandwidth: None,
                bf16: true,
            },
            api: format!("ROCm, {}", self.gfx_name()),
            dtypes: vec!["f64", "f32", "f16", "bf16"],
        }
    }
}

/// The number behind a name in a `name value` list.
fn property(list: &str, name: &str) -> Option<u64> {
    list.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        if key == name { value.trim().parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_listing() {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let nodes = "class/kfd/kfd/topology/nodes";
        write(&format!("{nodes}/0/properties"), "cpu_cores_count 16\nsimd_count 0\n");
        let gpu = "simd_count 192\ngfx_target_version 110000\ndrm_render_minor 128\n";
        write(&format!("{nodes}/10/properties"), gpu);
        write(&format!("{nodes}/10/mem_banks/0/properties"), "size_in_bytes 1000\n");
        let older = "simd_count 64\ngfx_target_version 90010\ndrm_render_minor 129\n";
        write(&format!("{nodes}/2/properties"), older);
        write(&format!("{nodes}/2/mem_banks/0/properties"), "size_in_bytes 500\n");
        write("class/drm/renderD128/device/mem_info_vram_total", "2000\n");
        write("class/drm/renderD128/device/mem_info_vram_used", "300\n");
        write("class/drm/renderD128/device/product_name", "Radeon RX 7900 XTX\n");

        let found = probe_below(sys.path()).unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|d| (d.info.id.to_string(), d.info.name.as_str(), d.api.as_str(), d.info.free))
            .collect();
        assert_eq!(
            told,
            [
                ("rocm:0".to_owned(), "AMD GPU (gfx90a)", "ROCm, gfx90a", 500),
                ("rocm:1".to_owned(), "Radeon RX 7900 XTX", "ROCm, gfx1100", 1700),
            ]
        );
        assert!(probe_below(&sys.path().join("none")).unwrap_err().contains("amdgpu"));
    }
}
