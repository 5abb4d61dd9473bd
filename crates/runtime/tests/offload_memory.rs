//! Memory as it is really taken, by this process's allocator: residents, window and activations
//! against the plan and the capacity of simulated devices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Stack, forward, id, machine};
use distorch_allocation::Layout;
use distorch_checkpoint::Dtype;
use distorch_runtime::heap::{CountingAllocator, PeakMeter, computing, taken};
use distorch_runtime::machine::Remedy;
use distorch_runtime::offload::{OffloadedWeights, Options};
use distorch_runtime::{LayerSource, WeightError};

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator;

/// The heap is one: tests that count it take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the tests' own bookkeeping and the threads of the harness take, or give back meanwhile.
const NOISE: u64 = 512 << 10;

const MIB: u64 = 1 << 20;

/// Uses every layer, with so much beside it in the middle.
fn pass_taking(weights: &OffloadedWeights, stack: &Stack, bytes: u64) -> Result<(), WeightError> {
    for index in 0..stack.component.layers.len() {
        let params = weights.fetch(index)?;
        if index == stack.component.layers.len() / 2 {
            drop(std::hint::black_box(vec![1_u8; usize::try_from(bytes).unwrap()]));
        }
        drop(params);
    }
    Ok(())
}

#[test]
fn the_count_follows_what_is_taken() {
    let _turn = turn();
    let before = taken().unwrap();
    let meter = PeakMeter::begin().unwrap();
    let mut bytes = vec![7_u8; 3 << 20];
    bytes.reserve_exact(5 << 20);
    let now = taken().unwrap();
    assert!((before + 8 * MIB).abs_diff(now) < NOISE, "{before} {now}");
    drop(bytes);
    assert!(taken().unwrap() < before + NOISE);
    assert!((8 * MIB - NOISE..11 * MIB + NOISE).contains(&meter.most()), "{}", meter.most());
    let other = PeakMeter::begin().unwrap();
    assert!(
        other.peak_since_last() < NOISE && meter.most() >= 8 * MIB - NOISE,
        "each has its own start"
    );
}

/// The count is the process's: of runs side by side nobody knows which took what.
#[test]
fn what_runs_take_side_by_side_is_not_taken_for_one_of_them() {
    let _turn = turn();
    let machine = machine("cuda:0=64MiB");
    let stack = Stack::new(24, Dtype::F32);
    let weights = stack.load_narrow(&machine, &stack.plan(&machine, "cuda:0", ""));
    let run = computing();
    pass_taking(&weights, &stack, 4 * MIB).unwrap();
    let alone = weights.measured_activations().unwrap();
    assert!((4 * MIB..4 * MIB + NOISE).contains(&alone), "{alone}");
    pass_taking(&weights, &stack, MIB).unwrap();
    let other = computing();
    assert_eq!(weights.measured_activations(), None);
    drop(other);
    // What the other left, or released, is in what is counted now.
    assert_eq!(weights.measured_activations(), None);
    assert!(weights.stats().devices.iter().all(|held| !held.measured));
    weights.drain();
    drop(run);
    let _run = computing();
    pass_taking(&weights, &stack, 2 * MIB).unwrap();
    let again = weights.measured_activations().unwrap();
    assert!((2 * MIB..2 * MIB + NOISE).contains(&again), "{again}");
}

#[test]
fn activations_are_what_is_taken_beside_weights() {
    let _turn = turn();
    let machine = machine("cuda:0=64MiB,cuda:1=64MiB");
    let stack = Stack::new(24, Dtype::F32); // 16.25 KiB a layer
    for allocation in ["", "cpu,100%", "cuda:1,*", "cuda:0,30%;cuda:1,40%;cpu,30%"] {
        for pin in [false, true] {
            let plan = stack.plan_as(&machine, "cuda:0", allocation, Layout::Distorch2, 6 * MIB);
            let options = Options { pin, ..Options::default() };
            let weights = stack.try_load(&machine, &plan, options).unwrap();
            for bytes in [MIB, 5 * MIB, 2 * MIB] {
                weights.reset_stats();
                pass_taking(&weights, &stack, bytes).unwrap();
                weights.drain();
                let stats = weights.stats();
                let of = |device| stats.devices.iter().find(|held| held.device == id(device));
                let held = of("cuda:0").unwrap();
                assert!(held.measured, "{allocation}");
                let most = held.activation_bytes;
                assert!(bytes.abs_diff(most) < NOISE, "{allocation}: {most} of {bytes}");
                for held in &stats.devices {
                    assert!(held.peak_bytes <= held.planned_bytes, "{allocation}: {held:?}");
                }
                assert!(of("cuda:1").is_none_or(|held| held.activation_bytes == 0));
            }
        }
    }
}

/// A layer that is used from its file is not copied to a device of this process's memory; the device is as full.
#[cfg(target_os = "linux")]
#[test]
fn layers_in_the_file_take_no_memory() {
    let _turn = turn();
    let machine = machine("cuda:0=64MiB");
    let stack = Stack::new(200, Dtype::F32); // 3.2 MiB
    let options = Options { window: Some(32 * MIB), ..Options::default() };
    let weights =
        stack.try_load(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"), options).unwrap();
    drop(weights.fetch(0).unwrap());
    weights.drain();
    let before = taken().unwrap();
    let held: Vec<_> = (0..200).map(|index| weights.fetch(index).unwrap()).collect();
    let more = taken().unwrap().saturating_sub(before);
    assert!(more < stack.component.bytes() / 4, "{more} of {}", stack.component.bytes());
    assert!(machine.pool(id("cuda:0")).unwrap().used() >= stack.component.bytes());
    let sum = |params: &distorch_runtime::LayerParams| {
        params.weight::<2>().unwrap().into_data().iter::<f32>().sum::<f32>()
    };
    assert!(held.iter().all(|params| sum(params) != 0.0));
    drop(held);
    weights.drain();
    assert_eq!(machine.pool(id("cuda:0")).unwrap().used(), 0);
}

/// The estimate, nothing, would let it pass; the device does not.
#[test]
fn a_simulated_device_refuses_activations_that_it_has_no_room_for() {
    let _turn = turn();
    let machine = machine("cuda:0=6MiB");
    let stack = Stack::new(160, Dtype::F32); // 2.5 MiB
    let plan = stack.plan(&machine, "cuda:0", "cuda:0,100%");
    assert!(plan.fits);
    let weights = stack.load(&machine, &plan);
    pass_taking(&weights, &stack, 3 * MIB).unwrap();
    weights.drain();
    let error = pass_taking(&weights, &stack, 5 * MIB).unwrap_err();
    let WeightError::Memory { shortage, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("cuda:0 (simulated) is out of memory"), "{error}");
    assert!(shortage.error.need >= 5 * MIB - NOISE && shortage.error.free < 4 * MIB, "{error}");
    weights.drain();
    let measured = weights.measured_activations().unwrap();
    assert!(measured.abs_diff(5 * MIB) < NOISE, "{measured}");

    // The allocation that the error names fits.
    let Remedy::Allocation { allocation, .. } = &shortage.remedy else { panic!("{error}") };
    let room = measured + NOISE;
    let fits = stack.plan_as(&machine, "cuda:0", &allocation.to_string(), Layout::Distorch2, room);
    assert!(fits.fits, "{allocation}");
    weights.replan(&fits).unwrap();
    weights.reset_stats();
    for _ in 0..3 {
        pass_taking(&weights, &stack, 5 * MIB).unwrap();
    }
    weights.drain();
    let held = weights.stats().devices[0].clone();
    assert!(held.peak_bytes <= held.planned_bytes && held.peak_bytes <= 6 * MIB, "{held:?}");
}

#[test]
fn what_is_taken_after_the_last_layer_counts_too() {
    let _turn = turn();
    let machine = machine("cuda:0=4MiB");
    let stack = Stack::new(8, Dtype::F32);
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", ""));
    forward(&weights, &stack).unwrap();
    assert!(weights.check_end().is_none());
    drop(std::hint::black_box(vec![1_u8; 5 << 20]));
    let shortage = weights.check_end().unwrap();
    assert_eq!(shortage.remedy, Remedy::LessWork, "{shortage}");
    assert!(weights.check_end().is_none(), "it is over");
}

/// More activations than planned, but room for them once fewer layers wait.
#[test]
fn the_window_gives_way_to_activations() {
    let _turn = turn();
    let machine = machine("cuda:0=4MiB");
    let stack = Stack::new(200, Dtype::F32); // 3.2 MiB
    let plan = stack.plan(&machine, "cuda:0", "cpu,100%");
    let options = Options { window: Some(2 * MIB), ..Options::default() };
    let weights = stack.try_load(&machine, &plan, options).unwrap();
    let expected = forward(&weights, &stack).unwrap();
    for _ in 0..3 {
        pass_taking(&weights, &stack, 3 * MIB).unwrap();
    }
    weights.drain();
    weights.reset_stats();
    pass_taking(&weights, &stack, 3 * MIB).unwrap();
    let held = weights.stats().devices[0].clone();
    assert!(held.window_bytes <= MIB, "it leaves room from the start: {held:?}");
    assert_eq!(forward(&weights, &stack).unwrap(), expected);
}

/// With everything elsewhere the device holds the window and nothing else, and a file four times as
/// large takes no more memory.
#[test]
fn memory_does_not_grow_with_the_model() {
    let _turn = turn();
    let mut peaks = Vec::new();
    for count in [64, 256] {
        let machine = machine("cuda:0=64MiB");
        let stack = Stack::new(count, Dtype::F16); // 8.1 KiB a layer
        let meter = PeakMeter::begin().unwrap();
        let before = taken().unwrap();
        let weights = stack.load_narrow(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"));
        let pool = machine.pool(id("cuda:0")).unwrap();
        assert_eq!(pool.peak(), 0, "nothing comes to the device that lives elsewhere");
        let loaded = taken().unwrap() - before;
        for _ in 0..3 {
            forward(&weights, &stack).unwrap();
        }
        assert!(pool.peak() <= 2 * stack.layer_bytes(), "{}", pool.peak());
        weights.drain();
        assert_eq!(pool.used(), 0);
        assert!(meter.most() < NOISE, "{} beside the window", meter.most());
        peaks.push(loaded);
    }
    // What grows are names and places of layers: a kilobyte or two each, of eight.
    assert!(peaks[1] - peaks[0] < NOISE, "{peaks:?}");
}

/// On its way home a layer is on no device but its own, and no more than its bytes are in memory
/// beside what is at home.
#[test]
fn loading_takes_no_more_than_residents_and_window() {
    let _turn = turn();
    let machine = machine("cuda:0=64MiB,cuda:1=64MiB,cuda:2=64MiB");
    let stack = Stack::new(100, Dtype::F32);
    let plan = stack.plan(&machine, "cuda:0", "cuda:0,50%;cuda:1,30%;cpu,20%");
    let meter = PeakMeter::begin().unwrap();
    let weights = stack.load_narrow(&machine, &plan);
    let peak = |device| machine.pool(id(device)).unwrap().peak();
    assert_eq!(peak("cuda:0"), plan.resident_bytes, "no window before it runs");
    assert_eq!(peak("cuda:1"), plan.bytes_on(id("cuda:1")));
    assert_eq!((peak("cuda:2"), peak("cpu")), (0, 0), "they are not in the plan, or hold the file");
    assert!(meter.most() < 2 * stack.layer_bytes() + NOISE, "{}", meter.most());
    for _ in 0..2 {
        forward(&weights, &stack).unwrap();
    }
    let most = plan.resident_bytes + 2 * stack.layer_bytes();
    assert!(peak("cuda:0") <= most, "{} of {most}", peak("cuda:0"));
    assert_eq!((peak("cuda:2"), peak("cpu")), (0, 0));
}
