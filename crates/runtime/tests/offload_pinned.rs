//! Layers at home on `cpu` in page-locked memory, with a driver that is a double: what is taken, for how long, and what
//! happens where there is none. The device that computes is the host, which reads such memory like any other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use common::{Stack, forward, machine};
use distorch_checkpoint::Dtype;
use distorch_runtime::offload::Options;
use distorch_runtime::pinned::Driver;

/// Counts what it gave, gives no more than it is told to, and spoils what it gets back.
#[derive(Debug, Default)]
struct Double {
    held: Mutex<HashMap<usize, Layout>>,
    most: Option<usize>,
}

impl Double {
    fn held(&self) -> usize {
        self.held.lock().unwrap().values().map(Layout::size).sum()
    }
}

impl Driver for Double {
    fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>, String> {
        if self.most.is_some_and(|most| self.held() + bytes > most) {
            return Err("out of page-locked memory".to_owned());
        }
        let layout = Layout::from_size_align(bytes, 4096).unwrap();
        // SAFETY: nobody asks for nothing.
        let at = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        self.held.lock().unwrap().insert(at.as_ptr() as usize, layout);
        Ok(at)
    }

    unsafe fn host_free(&self, at: NonNull<u8>) {
        let layout = self.held.lock().unwrap().remove(&(at.as_ptr() as usize));
        let layout = layout.expect("given back once, to whom it came from");
        // SAFETY: it was made above with this layout, and is ours again.
        unsafe {
            at.as_ptr().write_bytes(0xDB, layout.size());
            dealloc(at.as_ptr(), layout);
        }
    }
}

fn options(double: &Arc<Double>) -> Options {
    let driver = Arc::clone(double) as Arc<dyn Driver>;
    Options { pin: true, driver: Some(driver), ..Options::default() }
}

#[test]
fn homes_are_locked_once_and_given_back_when_they_change() {
    let machine = machine("cuda:0=64MiB");
    for dtype in [Dtype::F32, Dtype::F16] {
        let stack = Stack::new(12, dtype);
        let resident = stack.load(&machine, &stack.plan(&machine, "cuda:0", ""));
        let expected = forward(&resident, &stack).unwrap();
        drop(resident);
        let double = Arc::new(Double::default());
        let plan = stack.plan(&machine, "cuda:0", "cpu,100%");
        let weights = stack.try_load(&machine, &plan, options(&double)).unwrap();
        let held = double.held();
        // Each layer is rounded up to a whole number of lines of 64 bytes.
        let bytes = stack.component.bytes() as usize;
        assert!((bytes..bytes + 12 * 128).contains(&held), "{held} of {bytes}");
        assert_eq!(weights.stats().pinned_bytes, stack.component.bytes());
        for _ in 0..3 {
            assert_eq!(forward(&weights, &stack).unwrap(), expected, "{dtype}");
            assert_eq!(double.held(), held, "nothing is taken for an upload");
            weights.drain();
        }
        weights.replan(&stack.plan(&machine, "cuda:0", "cuda:0,50%;cpu,50%")).unwrap();
        assert!(double.held() <= held.div_ceil(2) + held / 12, "half of them moved");
        assert_eq!(forward(&weights, &stack).unwrap(), expected, "{dtype}, half");
        weights.drain();
        weights.replan(&plan).unwrap();
        assert_eq!(double.held(), held, "they are back");
        // A user outlives the model.
        let params = {
            use distorch_runtime::LayerSource;
            weights.fetch(3).unwrap()
        };
        drop(weights);
        assert!(double.held() < held);
        drop(params);
        assert_eq!(double.held(), 0, "all was given back");
    }
}

#[test]
fn without_page_locked_memory_layers_stay_in_ram_and_the_reason_is_told() {
    let machine = machine("cuda:0=64MiB");
    let stack = Stack::new(12, Dtype::F16);
    let resident = stack.load(&machine, &stack.plan(&machine, "cuda:0", ""));
    let expected = forward(&resident, &stack).unwrap();
    for most in [0, 3 * 9000] {
        let double = Arc::new(Double { most: Some(most), ..Double::default() });
        let plan = stack.plan(&machine, "cuda:0", "cpu,100%");
        let weights = stack.try_load(&machine, &plan, options(&double)).unwrap();
        let stats = weights.stats();
        assert_eq!(stats.pin_failure.as_deref().map(|r| r.contains("page-locked")), Some(true));
        assert!(stats.pinned_bytes <= most as u64 && double.held() <= most);
        assert_eq!(stats.pinned_bytes > 0, most > 0, "as far as it goes");
        assert_eq!(forward(&weights, &stack).unwrap(), expected);
        drop(weights);
        assert_eq!(double.held(), 0);
    }
}

#[test]
fn what_does_not_live_on_the_host_is_not_locked() {
    let machine = machine("cuda:0=64MiB,cuda:1=64MiB");
    let stack = Stack::new(12, Dtype::F16);
    let double = Arc::new(Double::default());
    for allocation in ["", "cuda:1,100%"] {
        let plan = stack.plan(&machine, "cuda:0", allocation);
        let weights = stack.try_load(&machine, &plan, options(&double)).unwrap();
        forward(&weights, &stack).unwrap();
        assert_eq!((double.held(), weights.stats().pinned_bytes), (0, 0), "{allocation}");
    }
}
