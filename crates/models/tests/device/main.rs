//! One test program for a device: kernels, copies, homes of weights and networks on it.
//!
//!     DISTORCH_TEST_DEVICE=vulkan:0 cargo test --features distorch-runtime/vulkan -p distorch-models --test device
//!
//! The environment names the device; without it the CPU is tested in all dtypes. The program carries what it
//! needs, so that it can be sent to a machine with another device. Each comparison prints a line
//! `measured {…}` with its error and tolerance in JSON.
//!
//! # Tolerances
//!
//! Errors are in parts of the largest value of the reference, which is computed on the CPU in f32 from
//! inputs that the dtype has exactly. What a device may do is round each result a few times, and add up in
//! another order:
//!
//! | dtype | a rounding | kernels | why |
//! | --- | --- | --- | --- |
//! | f32 | 6e-8 | 1e-4 | sums of up to 3,000 products; TF32, with 11 bits, is beyond it |
//! | f16 | 4.9e-4 | 2e-3 | four roundings: sums have to be in f32 |
//! | bf16 | 3.9e-3 | 1.6e-2 | four roundings |
//!
//! Networks are as deep as errors grow: their tolerances stand at the tests.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod copies;
mod homes;
mod kernels;
mod networks;
#[path = "../../../runtime/tests/common/mod.rs"]
mod stack;

use std::sync::Arc;

use distorch_allocation::{DeviceId, Topology};
use distorch_runtime::{DType, Device, Machine, devices, tensor};

/// The device that is tested.
struct Tested {
    /// What the environment calls it.
    name: String,
    device: Device,
    /// What computes in tests of homes, and a machine that has it: a simulated device in the place of
    /// the CPU, to which nothing streams.
    compute: DeviceId,
    machine: Arc<Machine>,
}

impl Tested {
    fn new() -> Self {
        let name = std::env::var("DISTORCH_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
        let id: DeviceId = name.parse().unwrap();
        if id.is_cpu() {
            let machine = stack::machine("cuda:0=1GiB");
            let compute = "cuda:0".parse().unwrap();
            return Self { name, device: tensor::cpu(), compute, machine };
        }
        let survey = devices::survey();
        let found = survey.devices.iter().find(|device| device.info.id == id);
        let found = found.unwrap_or_else(|| panic!("no {name} here: {:?}", survey.notes));
        let device = devices::open(&found.info).unwrap();
        let infos = survey.devices.iter().map(|device| device.info.clone()).collect();
        let machine = Machine::new(Topology::new(infos).unwrap());
        Self { name, device, compute: id, machine }
    }

    /// Whether the device computes in a dtype; says so where it does not.
    fn has(&self, dtype: DType) -> bool {
        let has = tensor::supports(&self.device, dtype);
        if !has {
            println!("skipped: {} does not compute in {}", self.name, dtype.name());
        }
        has
    }
}

/// Errors beside tolerances, told as they come and judged at the end.
#[derive(Default)]
struct Errors(Vec<String>);

impl Errors {
    /// Adds one.
    fn add(&mut self, what: &str, dtype: DType, error: f32, tolerance: f32) {
        let (dtype, within) = (dtype.name(), error <= tolerance);
        // JSON has no infinity.
        let told = if error.is_finite() { error } else { f32::MAX };
        let line = serde_json::json!({
            "what": what, "dtype": dtype, "error": told, "tolerance": tolerance, "within": within
        });
        println!("measured {line}");
        if !within {
            self.0.push(format!("{what} in {dtype}: {error:e} is over {tolerance:e}"));
        }
    }

    #[track_caller]
    fn judge(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}
