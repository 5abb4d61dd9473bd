//! Layers that live elsewhere than on the device, pinned and not: the same bits as with all of them on it.

use distorch_allocation::Layout;
use distorch_checkpoint::Dtype;
use distorch_runtime::offload::Options;

use super::stack::{Stack, forward};
use super::{Errors, Tested, common};
use distorch_runtime::DType;

/// Passes through a window in which only the largest two layers have room; what gets mixed up does so
/// only sometimes.
const PASSES: usize = 12;

fn same_bits(dtype: Dtype) {
    let tested = Tested::new();
    let compute = tested.compute.to_string();
    let stack = Stack::new(12, dtype);
    let resident = stack.load(&tested.machine, &stack.plan(&tested.machine, &compute, ""));
    let expected = forward(&resident, &stack).unwrap();
    drop(resident);
    for allocation in ["cpu,100%".to_owned(), format!("{compute},50%;cpu,50%")] {
        for layout in [Layout::Distorch2, Layout::Interleave] {
            let plan = stack.plan_as(&tested.machine, &compute, &allocation, layout, 0);
            for pin in [false, true] {
                let options = Options { pin, window: Some(0), ..Options::default() };
                let streamed = stack.try_load(&tested.machine, &plan, options).unwrap();
                for pass in 0..PASSES {
                    let out = forward(&streamed, &stack).unwrap();
                    assert!(out == expected, "{dtype}, {allocation}, {layout}, {pin}, pass {pass}");
                }
                streamed.drain();
            }
        }
    }
    // The CPU's result, by what 12 layers in f32 make of another order of sums: NumPy's in 30 random orders is 0.7e-4
    // to 4.9e-4 away from its own in f64, as each layer doubles what the one before was off by.
    let host = super::stack::machine("");
    let there = stack.load(&host, &stack.plan(&host, "cpu", ""));
    let [actual, reference] = [expected, forward(&there, &stack).unwrap()]
        .map(|bits| bits.into_iter().map(f32::from_bits).collect::<Vec<_>>());
    let mut errors = Errors::default();
    let what = format!("12 layers stored in {dtype}");
    errors.add(&what, DType::F32, common::max_error(&actual, &reference), 2e-3);
    errors.judge();
}

#[test]
fn f32_layers() {
    same_bits(Dtype::F32);
}

#[test]
fn f16_layers() {
    same_bits(Dtype::F16);
}

#[test]
fn bf16_layers() {
    same_bits(Dtype::BF16);
}

#[test]
fn fp8_layers() {
    same_bits(Dtype::F8E4M3);
}
