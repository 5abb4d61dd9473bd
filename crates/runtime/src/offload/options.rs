//! How a component is loaded besides its plan, what may end a wait, how far loading is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::pinned::Driver;

/// How a component is loaded, besides its plan.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keep what lives on `cpu` in RAM instead of in the file: in page-locked memory, where the device that computes
    /// fetches from such memory by itself.
    pub pin: bool,
    /// Where page-locked memory comes from, if not from the driver of the device that computes.
    pub driver: Option<Arc<dyn Driver>>,
    /// Bytes of the prefetch cache, if not the plan's; never less than the two largest layers that pass.
    pub window: Option<u64>,
    /// Keep a layer that a patch changes in the compute dtype, instead of the checkpoint's.
    pub high_precision_loras: bool,
    /// Ends waits for weights.
    pub interrupt: Interrupt,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pin: false,
            driver: None,
            window: None,
            high_precision_loras: true,
            interrupt: Interrupt::default(),
        }
    }
}

/// A flag that ends waits for weights with an error; copies share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends waits, those to come too.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets weights be waited for again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How far loading is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The layer that is loaded now.
    pub layer: &'a str,
    /// Stored bytes of all layers that are loaded.
    pub bytes: u64,
    /// Stored bytes of the component.
    pub total: u64,
}
