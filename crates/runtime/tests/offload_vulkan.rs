//! Layers that pass through a window of a device with a queue and memory of its own, `vulkan:0`: the same bits
//! as with all of them there. Where the environment promises no Vulkan driver, nothing is tried.

#![cfg(feature = "vulkan")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Stack, forward};
use distorch_allocation::Topology;
use distorch_checkpoint::Dtype;
use distorch_runtime::{Machine, devices};

#[test]
fn the_same_bits_on_vulkan_wherever_layers_live() {
    if std::env::var_os("DISTORCH_EXPECT_VULKAN").is_none() {
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
