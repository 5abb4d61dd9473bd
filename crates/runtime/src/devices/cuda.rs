//! NVIDIA GPUs: which there are, from the CUDA driver in CUDA's own order; what is free, from
//! NVML, since the driver tells only within a context, which itself takes memory.

use std::path::{Path, PathBuf};

use cudarc::driver::result::{self, device};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};
use cudarc::nvrtc::sys as nvrtc;
use distorch_allocation::{DeviceId, DeviceInfo, DeviceKind};
use nvml_wrapper::Nvml;

use super::{Hardware, Probe};

/// The toolkit's usual folders, where CubeCL looks if `CUDA_PATH` names none.
const TOOLKITS: [&str; 2] = ["/usr/local/cuda", "/opt/cuda"];

/// The GPUs that CUDA shows this process (`CUDA_VISIBLE_DEVICES` counts).
pub(super) fn probe() -> Probe {
    // SAFETY: looks for the driver's library on the loader's path and loads it.
    if !unsafe { sys::is_culib_present() } {
        return Err("the NVIDIA driver's library (libcuda) is not installed".to_owned());
    }
    let failed = |what: &'static str| move |error| format!("{what} failed: {error:?}");
    result::init().map_err(failed("starting the CUDA driver"))?;
    let count = device::get_count().map_err(failed("counting the devices"))?;
    let nvml = Nvml::init().ok();
    let mut found = Vec::new();
    for (ordinal, index) in (0..count).zip(0..) {
        let Some(id) = DeviceId::new(DeviceKind::Cuda, index) else { continue };
        found.push(describe(id, ordinal, nvml.as_ref()).map_err(failed("asking a device"))?);
    }
    Ok(found)
}

/// Whether kernels can be compiled, which takes a library and headers beside the driver. Without one of them, CubeCL
/// ends the thread that it computes on.
pub(super) fn can_compile() -> Result<(), String> {
    // SAFETY: looks for the library on the loader's path and loads it.
    if !unsafe { nvrtc::is_culib_present() } {
        return Err("kernels cannot be compiled: NVRTC (libnvrtc) is not on the loader's path; install the CUDA \
                    toolkit, or have LD_LIBRARY_PATH name the folder that has it (with PyTorch from pip: \
                    `site-packages/nvidia/…/lib`)"
            .to_owned());
    }
    let folder = toolkit();
    let include = folder.as_deref().map(|folder| folder.join("include"));
    match include {
        Some(include) if include.join("cuda_runtime.h").is_file() => Ok(()),
        Some(include) => Err(format!(
            "kernels cannot be compiled: CUDA's headers are not in `{}`; install the CUDA toolkit, or have CUDA_PATH \
             name the folder that has `include/cuda_runtime.h`",
            include.display()
        )),
        None => Err(format!(
            "kernels cannot be compiled: there are no CUDA headers in {}; install the CUDA toolkit, or have CUDA_PATH \
             name the folder that has `include/cuda_runtime.h`",
            TOOLKITS.join(" or ")
        )),
    }
}

/// The folder in which CubeCL looks for headers.
fn toolkit() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CUDA_PATH") {
        return Some(named.into());
    }
    if cfg!(windows) {
        return Some("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA/".into());
    }
    let usual = TOOLKITS.iter().map(PathBuf::from).find(|folder| folder.exists());
    usual.or_else(|| Path::new("/usr/bin/nvcc").exists().then(|| "/usr".into()))
}

/// What makes devices that were found slow or fail.
pub(super) fn remarks() -> Vec<String> {
    let mut remarks = Vec::new();
    let include = toolkit().unwrap_or_default().join("include");
    if !include.join("crt/mma.h").is_file() {
        remarks.push(format!(
            "products cannot use tensor cores, and take many times as long: `{}` is not there (with pip: \
             nvidia-cuda-crt)",
            include.join("crt/mma.h").display()
        ));
    }
    let (mut major, mut minor, mut driver) = (0, 0, 0);
    // SAFETY: both libraries were loaded; the answers go to local variables.
    let asked = unsafe {
        nvrtc::nvrtcVersion(&raw mut major, &raw mut minor).result().is_ok()
            && sys::cuDriverGetVersion(&raw mut driver).result().is_ok()
    };
    let compiler = 1000 * major + 10 * minor;
    if asked && compiler > driver {
        let (old_major, old_minor) = (driver / 1000, driver % 1000 / 10);
        remarks.push(format!(
            "NVRTC is of CUDA {major}.{minor} and the driver of {old_major}.{old_minor}, which may not take what a newer \
             compiler gives it: update the driver, or have LD_LIBRARY_PATH and CUDA_PATH name an older toolkit"
        ));
    }
    remarks
}

/// The blocks of 256 threads that a device runs at once.
pub(super) fn thread_blocks(index: u32) -> Option<u32> {
    const BLOCK: i32 = 256;
    // SAFETY: looks for the driver's library on the loader's path and loads it.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    result::init().ok()?;
    let handle = device::get(i32::try_from(index).ok()?).ok()?;
    // SAFETY: `handle` comes from the driver just now, and devices are never freed.
    let (processors, threads) = unsafe {
        (
            device::get_attribute(handle, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
            device::get_attribute(
                handle,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
            ),
        )
    };
    let blocks = processors.ok()?.checked_mul(threads.ok()? / BLOCK)?;
    u32::try_from(blocks).ok().filter(|blocks| *blocks > 0)
}

/// The driver's version, in words for nobody but a comparison.
pub(super) fn driver_version() -> String {
    let mut version = 0;
    // SAFETY: looks for the driver's library on the loader's path; the answer goes to a local variable.
    let asked = unsafe {
        sys::is_culib_present() && sys::cuDriverGetVersion(&raw mut version).result().is_ok()
    };
    if asked { format!("CUDA {version}\n") } else { String::new() }
}

/// Whether one device can reach the other's memory, and Burn has the library that it copies with.
pub(super) fn peers(from: usize, to: usize) -> Result<(), String> {
    let ordinal = |index: usize| i32::try_from(index).map_err(|error| error.to_string());
    let device = |index| device::get(ordinal(index)?).map_err(|error| format!("{error:?}"));
    let (from, to) = (device(from)?, device(to)?);
    for (a, b) in [(from, to), (to, from)] {
        let mut can = 0;
        // SAFETY: both handles come from the driver just now; the answer goes to a local variable.
        let asked = unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, a, b) };
        asked.result().map_err(|error| format!("asking for peer access failed: {error:?}"))?;
        if can == 0 {
            return Err("the driver gives them no peer access".to_owned());
        }
    }
    // SAFETY: looks for the library on the loader's path and loads it.
    match unsafe { cudarc::nccl::sys::is_culib_present() } {
        true => Ok(()),
        false => Err("NCCL (libnccl) is not installed".to_owned()),
    }
}

fn describe(
    id: DeviceId,
    ordinal: i32,
    nvml: Option<&Nvml>,
) -> Result<Hardware, result::DriverError> {
    let handle = device::get(ordinal)?;
    // SAFETY: `handle` comes from the driver just now, and devices are never freed.
    let (total, major, minor) = unsafe {
        (
            device::total_mem(handle)? as u64,
            device::get_attribute(handle, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            device::get_attribute(handle, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        )
    };
    let free = nvml.and_then(|nvml| free_memory(nvml, handle)).unwrap_or(total).min(total);
    Ok(Hardware {
        info: DeviceInfo {
            id,
            name: device::get_name(handle)?,
            total,
            free,
            simulated: false,
            bandwidth: None,
            bf16: dtypes(major).contains(&"bf16"),
        },
        api: format!("CUDA, compute capability {major}.{minor}"),
        dtypes: dtypes(major),
    })
}

/// Free bytes by the card's UUID, since NVML counts cards in another order than CUDA.
fn free_memory(nvml: &Nvml, handle: sys::CUdevice) -> Option<u64> {
    let uuid = device::get_uuid(handle).ok()?;
    let hex: String = uuid.bytes.iter().map(|&byte| format!("{:02x}", byte as u8)).collect();
    let name = format!(
        "GPU-{}-{}-{}-{}-{}",
        hex.get(0..8)?,
        hex.get(8..12)?,
        hex.get(12..16)?,
        hex.get(16..20)?,
        hex.get(20..32)?
    );
    Some(nvml.device_by_uuid(name).ok()?.memory_info().ok()?.free)
}

/// Volta brought fast f16; Ampere bf16.
fn dtypes(major: i32) -> Vec<&'static str> {
    let mut dtypes = vec!["f64", "f32"];
    if major >= 6 {
        dtypes.push("f16");
    }
    if major >= 8 {
        dtypes.push("bf16");
    }
    dtypes
}
