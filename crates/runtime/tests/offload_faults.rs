//! What can go wrong while weights stream: each ends in an error, and the rest goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::{Stack, forward, id, machine, truncate};
use distorch_checkpoint::Dtype;
use distorch_runtime::WeightError;
use distorch_runtime::offload::{Interrupt, Options};

#[test]
fn a_file_cut_short_while_it_is_loaded() {
    let machine = machine("cuda:0=1GiB,cuda:1=1GiB");
    let stack = Stack::new(8, Dtype::F16);
    let streamed = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"));
    let elsewhere = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cuda:1,*"));
    let expected = forward(&streamed, &stack).unwrap();
    streamed.drain();
    truncate(&stack.path);
    for _ in 0..3 {
        let error = forward(&streamed, &stack).unwrap_err().to_string();
        assert!(
            error.contains("stack.safetensors") && error.contains("changed on disk"),
            "{error}"
        );
    }
    assert_eq!(forward(&elsewhere, &stack).unwrap(), expected, "it needs no file");
    // What can't be read anew can't be moved to the compute device, and says so.
    let resident = stack.plan(&machine, "cuda:0", "");
    let error = streamed.replan(&resident).unwrap_err().to_string();
    assert!(error.contains("changed on disk"), "{error}");
    assert!(forward(&streamed, &stack).is_err());
    elsewhere.replan(&resident).unwrap();
    assert_eq!(forward(&elsewhere, &stack).unwrap(), expected);
}

/// f32 layers are computed with in the file's own pages: those that are gone by then end nothing, and what
/// was computed with them is told.
#[test]
fn a_file_cut_short_under_a_layer_in_use() {
    use distorch_runtime::LayerSource;
    let machine = machine("cuda:0=1GiB");
    for dtype in [Dtype::F32, Dtype::F16] {
        let stack = Stack::new(8, dtype);
        let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cuda:0,20%;cpu,80%"));
        let expected = forward(&weights, &stack).unwrap();
        weights.check_file().unwrap();
        // The last use of a pass, and of layers that were on their way already.
        let held: Vec<_> = (0..8).map(|index| weights.fetch(index).unwrap()).collect();
        truncate(&stack.path);
        for params in &held {
            let values = params.weight::<2>().unwrap().into_data();
            assert_eq!(
                values.num_elements() as u64,
                stack.component.layers[0].params[0].elements()
            );
        }
        let error = weights.check_file().unwrap_err().to_string();
        assert!(error.contains("stack.safetensors"), "{error}");
        assert!(error.contains("changed on disk"), "{error}");
        drop(held);
        assert!(forward(&weights, &stack).unwrap_err().to_string().contains("changed on disk"));
        weights.drain();
        assert!(forward(&weights, &stack).is_err(), "for good");

        let again = Stack::new(8, dtype);
        let weights = again.load(&machine, &again.plan(&machine, "cuda:0", "cpu,100%"));
        assert_eq!(forward(&weights, &again).unwrap(), expected, "other files are as they were");
        weights.check_file().unwrap();
    }
}

/// A component that needs its file no more does not mind what becomes of it.
#[test]
fn a_file_that_is_not_needed_may_change() {
    let machine = machine("cuda:0=1GiB,cuda:1=1GiB");
    let stack = Stack::new(4, Dtype::F32);
    for allocation in ["", "cuda:1,*"] {
        let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", allocation));
        let expected = forward(&weights, &stack).unwrap();
        let bytes = std::fs::read(&stack.path).unwrap();
        truncate(&stack.path);
        assert_eq!(forward(&weights, &stack).unwrap(), expected);
        weights.check_file().unwrap();
        std::fs::write(&stack.path, bytes).unwrap();
    }
}

#[test]
fn a_file_replaced_by_another_of_its_name() {
    let machine = machine("cuda:0=1GiB");
    let (stack, other) = (Stack::new(5, Dtype::F16), Stack::new(5, Dtype::F32));
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"));
    let expected = forward(&weights, &stack).unwrap();
    if std::fs::rename(&other.path, &stack.path).is_ok() {
        assert_eq!(forward(&weights, &stack).unwrap(), expected, "the file that was opened stays");
    }
}

/// 40 kB/s: a layer of 8 KiB takes 200 ms and a pass over two seconds, of which an interruption waits for no
/// more than a few milliseconds; a busy machine may take a little longer to notice.
#[test]
fn an_interruption_ends_a_wait_and_nothing_else() {
    let machine = machine("cuda:0=1GiB@40kB/s");
    let stack = Stack::new(12, Dtype::F16);
    let interrupt = Interrupt::default();
    let options = Options { interrupt: interrupt.clone(), ..Options::default() };
    let plan = stack.plan(&machine, "cuda:0", "cpu,100%");
    let weights = stack.try_load(&machine, &plan, options).unwrap();
    let raised = std::thread::scope(|scope| {
        let run = scope.spawn(|| (forward(&weights, &stack), Instant::now()));
        std::thread::sleep(Duration::from_millis(100));
        let raised = Instant::now();
        interrupt.raise();
        let (result, ended) = run.join().unwrap();
        assert!(matches!(result, Err(WeightError::Interrupted { .. })), "{result:?}");
        ended.duration_since(raised)
    });
    assert!(raised < Duration::from_millis(1500), "{raised:?}, where a pass takes two seconds");
    assert!(matches!(forward(&weights, &stack), Err(WeightError::Interrupted { .. })));
    interrupt.clear();
    let fast = stack.load(&machine, &stack.plan(&machine, "cuda:0", ""));
    assert_eq!(forward(&weights, &stack).unwrap(), forward(&fast, &stack).unwrap());
}

#[test]
fn a_device_that_fills_up_while_weights_stream() {
    let machine = machine("cuda:0=64KiB");
    let stack = Stack::new(8, Dtype::F32);
    let plan = stack.plan(&machine, "cuda:0", "cpu,100%");
    let weights = stack.load(&machine, &plan);
    let expected = forward(&weights, &stack).unwrap();
    weights.drain();
    let pool = machine.pool(id("cuda:0")).unwrap();
    let other = pool.hold(50 << 10, 0).unwrap();
    let error = forward(&weights, &stack).unwrap_err();
    assert!(matches!(error, WeightError::Memory { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("`l0`") && error.contains("cuda:0 (simulated) is out of memory"),
        "{error}"
    );
    drop(other);
    assert_eq!(forward(&weights, &stack).unwrap(), expected);
    // One layer at a time goes without looking ahead.
    weights.drain();
    let _other = pool.hold(40 << 10, 0).unwrap();
    assert_eq!(forward(&weights, &stack).unwrap(), expected);
}

#[test]
fn a_component_that_is_dropped_in_the_middle_of_a_transfer() {
    let machine = machine("cuda:0=1GiB@100kB/s");
    let stack = Stack::new(8, Dtype::F16);
    let weights = stack.load(&machine, &stack.plan(&machine, "cuda:0", "cpu,100%"));
    let params = {
        use distorch_runtime::LayerSource;
        weights.fetch(0).unwrap()
    };
    drop(weights);
    assert_eq!(machine.pool(id("cuda:0")).unwrap().used(), stack.layer_bytes(), "one is in use");
    drop(params);
    assert_eq!(machine.pool(id("cuda:0")).unwrap().used(), 0);
}
