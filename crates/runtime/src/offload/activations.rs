//! What computing takes of the device beside weights, measured while a component runs.
//!
//! A session lasts from the first layer that is asked for until the run ends. Where the device is
//! this process's memory, the count of the [heap](crate::heap) says exactly what was taken at
//! most; where it is an accelerator, what the computing thread has there is asked for as layers
//! are; where neither is known the plan's estimate stands in. The heap's count is that of the process:
//! once two runs have computed side by side in a session, nobody knows what either took of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::caches;
use crate::heap::PeakMeter;
use crate::machine::Pool;
use crate::tensor::device::Releases;
use crate::tensor::host::ready_threads;
use crate::tensor::{self, Device, uploads};

/// So many looks of a session ask an accelerator, which must finish what it was told to answer:
/// more than any model has layers, so a whole pass is seen.
const LOOKS: usize = 4096;

/// The activations of one component.
#[derive(Debug)]
pub(super) struct Activations {
    pool: Arc<Pool>,
    device: Device,
    state: Mutex<State>,
    releases: Releases,
    layers: usize,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    /// The most that was seen, once something was.
    most: Option<u64>,
}

#[derive(Debug)]
enum Session {
    Heap(Arc<PeakMeter>),
    /// What the accelerator held as it began, how much of it the pool accounts for, and how often it
    /// was looked at.
    Accelerator {
        base: u64,
        accounted: u64,
        looks: usize,
    },
    /// Nobody knows.
    Blind,
}

impl Activations {
    pub(super) fn new(pool: Arc<Pool>, device: Device, layers: usize) -> Self {
        Self { pool, device, state: Mutex::default(), releases: Releases::default(), layers }
    }

    /// A layer is asked for: what was taken at most since the last time, if that is known.
    pub(super) fn look(&self) -> Option<u64> {
        self.releases.asked(&self.device, self.layers);
        let mut state = self.lock();
        let recent = match state.session.get_or_insert_with(|| self.begin()) {
            Session::Heap(meter) => {
                let recent = meter.peak_since_last();
                if !meter.is_of_one_run() {
                    *state = State { session: Some(Session::Blind), most: None };
                    return None;
                }
                recent
            }
            Session::Accelerator { base, accounted, looks } if *looks < LOOKS => {
                *looks += 1;
                let more = tensor::bytes_in_use(&self.device)?.saturating_sub(*base);
                more.saturating_sub(self.accounted().saturating_sub(*accounted))
            }
            Session::Accelerator { .. } | Session::Blind => return None,
        };
        state.most = state.most.max(Some(recent));
        Some(recent)
    }

    fn begin(&self) -> Session {
        if self.pool.is_on_heap() {
            ready_threads();
        }
        let meter = PeakMeter::begin().filter(|_| self.pool.is_on_heap());
        match meter {
            Some(meter) => Session::Heap(meter),
            None => match tensor::bytes_in_use(&self.device) {
                Some(base) => Session::Accelerator { base, accounted: self.accounted(), looks: 0 },
                None => Session::Blind,
            },
        }
    }

    /// What of the computing thread's stream are weights that pass through: none where the loader has a stream
    /// of its own.
    fn accounted(&self) -> u64 {
        if uploads::has_one_queue(&self.device) { self.pool.used() } else { 0 }
    }

    /// The run ends.
    pub(super) fn end(&self) {
        if self.lock().session.is_some() {
            self.look();
            distorch_cube::clean_up(&self.device);
            if !tensor::is_host(&self.device) {
                caches::seal_meanwhile();
            }
        }
        self.lock().session = None;
    }

    /// The most that was seen since it was last reset.
    pub(super) fn most(&self) -> Option<u64> {
        if self.lock().session.is_some() {
            self.look();
        }
        self.lock().most
    }

    /// Forgets what was seen.
    pub(super) fn reset(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
