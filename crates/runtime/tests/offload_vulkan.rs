//! A device with a queue and memory of its own, `vulkan:0`: it is found and computes, and layers that pass through a
//! window there give the same bits as with all of them there. Where the environment promises no Vulkan driver,
//! nothing is tried.

#![cfg(feature = "vulkan")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Stack, forward};
use distorch_allocation::{DeviceKind, Topology};
use distorch_checkpoint::Dtype;
use distorch_runtime::tensor::{Device, Tensor, cpu};
use distorch_runtime::{Machine, devices};

fn is_promised() -> bool {
    std::env::var_os("DISTORCH_EXPECT_VULKAN").is_some()
}

#[test]
fn the_promised_driver_is_found() {
    if !is_promised() {
        return;
    }
    let survey = devices::survey();
    let found = survey.devices.iter().find(|d| d.info.id.kind() == DeviceKind::Vulkan);
    let vulkan = found.unwrap_or_else(|| panic!("no Vulkan device: {:?}", survey.notes));
    assert_eq!(vulkan.info.id.to_string(), "vulkan:0");
    assert!(vulkan.info.total > 0, "{vulkan:?}");
    assert!(vulkan.api.starts_with("Vulkan 1."), "{vulkan:?}");
}

/// A product computed on `vulkan:0` is the one computed on the CPU.
#[test]
fn the_promised_driver_computes() {
    if !is_promised() {
        return;
    }
    let product = |device: &Device| {
        let a = Tensor::<2>::from_data([[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]], device);
        a.clone().matmul(a.transpose()).to_device(&cpu()).into_data()
    };
    product(&Device::Vulkan(Default::default())).assert_eq(&product(&cpu()), true);
}

#[test]
fn the_same_bits_on_vulkan_wherever_layers_live() {
    if !is_promised() {
        return;
    }
    let found = devices::survey().devices.into_iter().map(|device| device.info).collect();
    let machine = Machine::new(Topology::new(found).unwrap());
    for dtype in [Dtype::F32, Dtype::F16, Dtype::F8E4M3] {
        let stack = Stack::new(12, dtype);
        let resident = stack.load(&machine, &stack.plan(&machine, "vulkan:0", ""));
        let expected = forward(&resident, &stack).unwrap();
        for allocation in ["cpu,100%", "vulkan:0,50%;cpu,50%"] {
            let streamed =
                stack.load_narrow(&machine, &stack.plan(&machine, "vulkan:0", allocation));
            for pass in 0..12 {
                let out = forward(&streamed, &stack).unwrap();
                assert!(out == expected, "{dtype}, {allocation}, pass {pass}");
            }
            streamed.drain();
        }
    }
}
