//! Vulkan and Metal GPUs, through the same `wgpu` that Burn computes with, so that the numbers
//! mean the same devices.
//!
//! `vulkan:N` counts discrete GPUs first, then integrated, then virtual ones, software drivers
//! last: a laptop's fast card is `vulkan:0` whatever the loader's order.

#[cfg(feature = "vulkan")]
use ash::vk;
use distorch_allocation::{DeviceId, DeviceInfo, DeviceKind};
use wgpu::{Adapter, Backends, DeviceType, Features, Instance, InstanceDescriptor};

use super::memory::Memory;
use super::{Hardware, Probe};
#[cfg(feature = "vulkan")]
use crate::tensor::device::VulkanDevice;

/// The Vulkan devices.
#[cfg(feature = "vulkan")]
pub(super) fn probe_vulkan() -> Probe {
    let found = adapters(Backends::VULKAN);
    if found.is_empty() {
        return Err(
            "no Vulkan driver is installed (Debian: mesa-vulkan-drivers, libvulkan1)".into()
        );
    }
    let describe = |(index, adapter): (u32, &Adapter)| {
        let api = vulkan_version(adapter)
            .map_or_else(|| "Vulkan".to_owned(), |version| format!("Vulkan {version}"));
        let id = DeviceId::new(DeviceKind::Vulkan, index)?;
        Some(hardware(id, adapter, api, vulkan_memory(adapter)))
    };
    Ok((0..).zip(&found).filter_map(describe).collect())
}

/// The Vulkan device of this number, as Burn counts them: by kind, then in the driver's order.
#[cfg(feature = "vulkan")]
pub(super) fn vulkan_device(index: u32) -> Option<VulkanDevice> {
    let found = adapters(Backends::VULKAN);
    let kinds: Vec<DeviceType> = found.iter().map(|a| a.get_info().device_type).collect();
    let at = index as usize;
    let kind = *kinds.get(at)?;
    let of_kind = kinds.iter().take(at).filter(|other| **other == kind).count();
    Some(match kind {
        DeviceType::DiscreteGpu => VulkanDevice::Discrete(of_kind),
        DeviceType::IntegratedGpu => VulkanDevice::Integrated(of_kind),
        DeviceType::VirtualGpu => VulkanDevice::Virtual(of_kind),
        DeviceType::Cpu => VulkanDevice::Cpu,
        DeviceType::Other => VulkanDevice::Other,
    })
}

/// The Apple GPU, which shares the host's memory.
#[cfg(all(feature = "metal", target_os = "macos"))]
pub(super) fn probe_metal() -> Probe {
    let memory = super::host::memory();
    let found = adapters(Backends::METAL);
    let first = found.first().ok_or("the system shows no Metal device")?;
    let id = DeviceId::new(DeviceKind::Metal, 0);
    Ok(id.map(|id| hardware(id, first, "Metal".to_owned(), memory)).into_iter().collect())
}

/// The adapters of a backend, fastest kind first, in the driver's order within a kind.
fn adapters(backends: Backends) -> Vec<Adapter> {
    let descriptor =
        InstanceDescriptor { backends, ..InstanceDescriptor::new_without_display_handle() };
    let instance = Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Cpu => 3,
        DeviceType::Other => 4,
    });
    adapters
}

fn hardware(id: DeviceId, adapter: &Adapter, api: String, memory: Memory) -> Hardware {
    let mut dtypes = vec!["f32"];
    if adapter.features().contains(Features::SHADER_F16) {
        dtypes.push("f16");
    }
    if adapter.features().contains(Features::SHADER_F64) {
        dtypes.insert(0, "f64");
    }
    Hardware {
        info: DeviceInfo {
            id,
            name: adapter.get_info().name,
            total: memory.total,
            free: memory.free,
            simulated: false,
            bandwidth: None,
            // Neither shaders in WGSL nor CubeCL's for Vulkan calculate in it.
            bf16: false,
        },
        api,
        dtypes,
    }
}

/// The version that the device speaks.
#[cfg(feature = "vulkan")]
fn vulkan_version(adapter: &Adapter) -> Option<String> {
    // SAFETY: the handles live as long as `adapter` and are only read.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device belongs to this instance.
    let version = unsafe { instance.get_physical_device_properties(adapter.raw_physical_device()) }
        .api_version;
    let (major, minor) = (vk::api_version_major(version), vk::api_version_minor(version));
    Some(format!("{major}.{minor}.{}", vk::api_version_patch(version)))
}

/// The device-local heaps, and what the driver's budget (`VK_EXT_memory_budget`) leaves of them;
/// without that extension, all of them. Nothing is known of a device whose driver hides its heaps.
///
/// A device that shares the host's memory cannot have more of it than the host has free.
#[cfg(feature = "vulkan")]
fn vulkan_memory(adapter: &Adapter) -> Memory {
    let shares_host =
        !matches!(adapter.get_info().device_type, DeviceType::DiscreteGpu | DeviceType::Other);
    // SAFETY: the handles live as long as `adapter` and are only read.
    let Some(adapter) = (unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }) else {
        return Memory { total: 0, free: 0, swap: 0 };
    };
    let device = adapter.raw_physical_device();
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device belongs to this instance.
    let has_budget =
        unsafe { instance.enumerate_device_extension_properties(device) }.is_ok_and(|extensions| {
            extensions
                .iter()
                .any(|e| e.extension_name_as_c_str() == Ok(ash::ext::memory_budget::NAME))
        });
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceMemoryProperties2::default();
    if has_budget {
        properties = properties.push_next(&mut budget);
    }
    // SAFETY: as above; Vulkan 1.1, which wgpu asks for, has this call.
    unsafe { instance.get_physical_device_memory_properties2(device, &mut properties) };
    let heaps = properties.memory_properties;
    let mut memory = Memory { total: 0, free: 0, swap: 0 };
    for (index, heap) in heaps.memory_heaps_as_slice().iter().enumerate() {
        if !heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL) {
            continue;
        }
        memory.total += heap.size;
        memory.free += if has_budget {
            budget.heap_budget[index].saturating_sub(budget.heap_usage[index]).min(heap.size)
        } else {
            heap.size
        };
    }
    if shares_host {
        let host = super::host::memory();
        memory.total = memory.total.min(host.total);
        memory.free = memory.free.min(host.free);
    }
    memory
}
