//! Layers at the homes of a plan: the same bits wherever they live, the memory that the plan says,
//! transfers that take the time of their link.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Stack, forward, id, machine, pass};
use distorch_allocation::{Allocation, Layout};
use distorch_checkpoint::{Checkpoint, Dtype};
use distorch_runtime::machine::Remedy;
use distorch_runtime::offload::{LoadError, OffloadedWeights, Options};
use distorch_runtime::tensor::cpu;
use distorch_runtime::{DType, Resident, kernels};

fn resident(stack: &Stack) -> Vec<u32> {
    let checkpoint = Checkpoint::open(&stack.path).unwrap();
    let all = Resident::load(&checkpoint, &stack.component, cpu(), DType::F32, |_| {}).unwrap();
    forward(&all, stack).unwrap()
}

const ALLOCATIONS: [&str; 8] = [
    "",
    "cuda:0,90%;cpu,10%",
    "cuda:0,50%;cpu,50%",
    "cpu,100%",
    "cuda:0,40%;cuda:1,40%;cpu,20%",
    "cuda:0,60kb;cuda:1,40kb;cpu,*",
    "cuda:1,*",
    "cuda:0,0.1;cuda:1,0.05;cpu,0.1",
];

#[test]
fn the_same_bits_for_every_allocation() {
    let machine = machine("cuda:0=600KiB,cuda:1=400KiB");
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E5M2] {
        let stack = Stack::new(12, dtype);
        let expected = resident(&stack);
        for allocation in ALLOCATIONS {
            for layout in [Layout::Distorch2, Layout::Interleave] {
                for pin in [false, true] {
                    let plan = stack.plan_as(&machine, "cuda:0", allocation, layout, 0);
                    let options = Options { pin, ..Options::default() };
                    let weights = stack.try_load(&machine, &plan, options).unwrap();
                    for _ in 0..3 {
                        let out = forward(&weights, &stack).unwrap();
                        assert_eq!(out, expected, "{dtype} {allocation} {layout:?} pin {pin}");
                    }
                    let stats = weights.stats();
                    for device in &stats.devices {
                        assert!(
                            device.peak_bytes <= device.planned_bytes,
                            "{dtype} {allocation} {layout:?}: {device:?}"
                        );
                    }
                    let away = plan.bytes - plan.resident_bytes;
                    assert!(stats.bytes_moved >= 3 * away, "{stats:?} of {away}");
                }
            }
        }
        let left = ["cuda:0", "cuda:1", "cpu"].map(|d| machine.pool(id(d)).unwrap().used());
        assert_eq!(left, [0, 0, 0], "all is given back");
    }
}

#[test]
fn the_host_computes_with_simulated_donors() {
    let machine = machine("cuda:1=1MiB@1GB/s");
    let stack = Stack::new(8, Dtype::F16);
    let plan = stack.plan(&machine, "cpu", "cuda:1,75%;cpu,25%");
    let weights = stack.load(&machine, &plan);
    assert_eq!(forward(&weights, &stack).unwrap(), resident(&stack));
    let (cpu, donor) = (machine.pool(id("cpu")).unwrap(), machine.pool(id("cuda:1")).unwrap());
    assert_eq!(donor.used(), plan.bytes_on(id("cuda:1")));
    let window = weights.stats().devices.iter().map(|d| d.window_bytes).max().unwrap();
    // Biases are f32; matrices stay in f16 where the kernels take them so.
    let (features, layers) = (64, plan.bytes_on(id("cpu")) / stack.layer_bytes());
    let element = if kernels::takes_16_bits() { 2 } else { 4 };
    let residents = layers * features * (features * element + 4);
    assert!(window > 0 && cpu.used() >= residents);
    weights.drain();
    assert_eq!(cpu.used(), residents, "and the window is empty at rest");
}

/// One transfer a layer and pass, foreseen but for the start.
#[test]
fn layers_come_before_they_are_asked_for() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(10, Dtype::F32);
    let weights = stack.load_narrow(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"));
    for _ in 0..5 {
        forward(&weights, &stack).unwrap();
    }
    let all = weights.stats();
    assert_eq!(all.unforeseen, 1, "the order is known from the file, over ends of passes: {all:?}");
    weights.drain();
    let moved = weights.stats().bytes_moved;
    let (pass, extra) = (stack.component.bytes(), 2 * stack.layer_bytes());
    assert!((5 * pass..=5 * pass + extra).contains(&moved), "{moved} of {}", 5 * pass);
    let window = all.devices.iter().map(|d| d.window_bytes).max().unwrap();
    assert!(window <= 2 * stack.layer_bytes(), "{window}");
}

#[test]
fn another_order_stays_right_and_is_learned() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(9, Dtype::F16);
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cuda:0,20%;cpu,80%"));
    let checkpoint = Checkpoint::open(&stack.path).unwrap();
    let all = Resident::load(&checkpoint, &stack.component, cpu(), DType::F32, |_| {}).unwrap();
    let orders: [&[usize]; 5] = [
        &[0, 1, 2, 3, 4, 5, 6, 7, 8],
        &[8, 7, 6, 5, 4, 3, 2, 1, 0],
        &[0, 4, 0, 4, 0, 4],
        &[3, 3, 3, 1, 8, 2, 8],
        &[5],
    ];
    for order in orders {
        let expected = pass(&all, order).unwrap();
        for _ in 0..3 {
            assert_eq!(pass(&weights, order).unwrap(), expected, "{order:?}");
        }
    }
    let backwards = orders[1];
    pass(&weights, backwards).unwrap();
    pass(&weights, backwards).unwrap(); // learns what follows the end of a pass
    weights.reset_stats();
    pass(&weights, backwards).unwrap();
    assert_eq!(weights.stats().unforeseen, 0, "{:?}", weights.stats());
}

#[test]
fn a_layer_in_use_is_not_dropped() {
    use distorch_runtime::LayerSource;
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(8, Dtype::F32);
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"));
    let bits = |index| {
        let params = weights.fetch(index).unwrap();
        (params.weight::<2>().unwrap().into_data().to_vec::<f32>().unwrap(), params)
    };
    let held: Vec<_> = (0..8).map(bits).collect();
    for (index, (before, params)) in held.iter().enumerate() {
        let now = params.weight::<2>().unwrap().into_data().to_vec::<f32>().unwrap();
        assert_eq!(&now, before);
        assert_eq!(&bits(index).0, before);
    }
    let used = machine.pool(id("cuda:0")).unwrap().used();
    assert!(used >= 8 * stack.layer_bytes(), "all in use at once count: {used}");
    drop(held);
    weights.drain();
    assert_eq!(machine.pool(id("cuda:0")).unwrap().used(), 0);
}

#[test]
fn threads_share_a_component() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(6, Dtype::F16);
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"));
    let expected = resident(&stack);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(forward(&weights, &stack).unwrap(), expected);
                }
            });
        }
    });
}

/// A link of 2 MB/s carries 128 KiB in 65 ms: no pass is faster, and few are much slower.
#[test]
fn transfers_take_the_time_of_their_link() {
    let machine = machine("cuda:0=1GiB@2MB/s");
    let stack = Stack::new(16, Dtype::F16);
    let weights = stack.load_narrow(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"));
    forward(&weights, &stack).unwrap();
    let start = Instant::now();
    forward(&weights, &stack).unwrap();
    forward(&weights, &stack).unwrap();
    let took = start.elapsed().as_secs_f64();
    // The window's two layers were on their way before the clock started.
    let least = (2 * stack.component.bytes() - 2 * stack.layer_bytes()) as f64 / 2e6;
    assert!(took >= least, "{took} s, but the link needs {least} s");
    // What a busy machine computes slowly it does not wait for.
    assert!(weights.stats().stall_seconds > least * 0.2, "{:?}", weights.stats());
}

#[test]
fn without_donors_there_is_no_thread_and_no_transfer() {
    let machine = machine("cuda:0=1GiB@1MB/s");
    let stack = Stack::new(4, Dtype::F32);
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", ""));
    assert_eq!(forward(&weights, &stack).unwrap(), resident(&stack));
    let stats = weights.stats();
    assert_eq!((stats.transfers, stats.bytes_moved, stats.stall_seconds), (0, 0, 0.0));
}

#[test]
fn a_full_device_is_an_error_that_says_what_fits() {
    let machine = machine("cuda:0=100KiB,cuda:1=20KiB");
    let stack = Stack::new(8, Dtype::F32); // 16.25 KiB a layer
    let plan = stack.plan_as(&machine, "cuda:0", "cuda:0,100%", Layout::Distorch2, 10 << 10);
    let error = stack.try_load(&machine, &plan, Options::default()).unwrap_err();
    let LoadError::Memory { shortage, .. } = &error else { panic!("{error}") };
    let Remedy::Allocation { component, allocation } = &shortage.remedy else { panic!("{error}") };
    let expected = Allocation::parse("cuda:0,0mb;cpu,*").unwrap();
    assert_eq!((component.as_str(), Some(allocation)), ("unet", expected.as_ref()));
    let error = error.to_string();
    for part in ["`unet`", "cuda:0 (simulated) is out of memory", "140.00 KiB needed", "100.00 KiB"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(machine.pool(id("cuda:0")).unwrap().used(), 0);

    // What another model holds by now is not free, whatever the plan said.
    let plan = stack.plan(&machine, "cuda:0", "cuda:1,1%;cpu,99%");
    let donor = stack.plan(&machine, "cuda:0", "cuda:0,10%;cuda:1,15%;cpu,75%");
    let _other = stack.load(&machine, &donor);
    drop(plan);
    let error = stack.try_load(&machine, &donor, Options::default()).unwrap_err();
    assert!(error.to_string().contains("cuda:1 (simulated) is out of memory"), "{error}");
    let LoadError::Memory { shortage, .. } = &error else { panic!("{error}") };
    assert_eq!(shortage.remedy, Remedy::Donor { device: id("cuda:1") });
}

#[test]
fn a_window_of_another_size() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(12, Dtype::F16);
    let plan = stack.plan(&machine, "cuda:0", "cpu,100%");
    let window = Some(5 * stack.layer_bytes());
    let weights =
        stack.try_load(&machine, &plan, Options { window, ..Options::default() }).unwrap();
    for _ in 0..3 {
        assert_eq!(forward(&weights, &stack).unwrap(), resident(&stack));
    }
    let wait = Instant::now();
    let held = || machine.pool(id("cuda:0")).unwrap().used();
    while held() < 5 * stack.layer_bytes() && wait.elapsed() < Duration::from_secs(30) {
        std::thread::yield_now();
    }
    assert_eq!(held(), 5 * stack.layer_bytes());
}

#[test]
fn a_new_plan_moves_the_difference() {
    let machine = machine("cuda:0=1GiB,cuda:1=1GiB");
    let stack = Stack::new(10, Dtype::F8E4M3);
    let expected = resident(&stack);
    let plans = ["cuda:0,50%;cpu,50%", "cuda:0,70%;cpu,30%", "cuda:1,*", "", "cpu,100%"]
        .map(|allocation| stack.plan(&machine, "cuda:0", allocation));
    let weights = stack.load(&machine, &plans[0]);
    let mut before = &plans[0];
    for plan in plans[1..].iter().chain(&plans[..2]) {
        forward(&weights, &stack).unwrap();
        let differ = before.blocks.iter().zip(&plan.blocks).filter(|(a, b)| a.device != b.device);
        let (moved, bytes) = weights.replan(plan).unwrap();
        assert_eq!(moved, differ.count());
        assert_eq!(bytes, moved as u64 * stack.layer_bytes());
        for device in ["cuda:0", "cuda:1"] {
            assert_eq!(machine.pool(id(device)).unwrap().used(), plan.bytes_on(id(device)));
        }
        assert_eq!(forward(&weights, &stack).unwrap(), expected);
        weights.drain();
        before = plan;
    }
    let elsewhere = stack.plan(&machine, "cuda:1", "");
    let error = weights.replan(&elsewhere).unwrap_err().to_string();
    assert!(error.contains("cuda:0") && error.contains("load it anew"), "{error}");
    assert_eq!(forward(&weights, &stack).unwrap(), expected);
}

#[test]
fn loading_can_be_stopped() {
    let machine = machine("cuda:0=1GiB");
    let stack = Stack::new(6, Dtype::F32);
    let plan = stack.plan(&machine, "cuda:0", "");
    let mut seen = Vec::new();
    let stopped = OffloadedWeights::load(
        stack.open(),
        &stack.component,
        &plan,
        Arc::clone(&machine),
        DType::F32,
        Options::default(),
        |progress| {
            seen.push((progress.layer.to_owned(), progress.bytes, progress.total));
            if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    assert!(stopped.unwrap_err().to_string().contains("stopped"));
    let bytes = stack.layer_bytes();
    assert_eq!(seen[2], ("l2".to_owned(), 3 * bytes, 6 * bytes));
    assert_eq!(machine.pool(id("cuda:0")).unwrap().used(), 0);
}
