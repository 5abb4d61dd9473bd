//! The loader thread: brings the layers that come next into the prefetch cache.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::policy::{Slot, State};
use super::reservation::Reservation;
use super::{Arrival, PrefetchCache};
use crate::machine::Held;
use crate::offload::residency::Residency;
use crate::stored::StoredLayer;
use crate::weights::WeightError;

/// Loads a layer from where it lives to the compute device.
pub(in crate::offload) trait LayerLoader: Send + Sync {
    /// The layer, asked for at `asked`.
    fn load(&self, index: usize, asked: Instant) -> Result<LoadedLayer, WeightError>;

    /// Its name, for errors.
    fn name(&self, index: usize) -> String;

    /// Whether the run was interrupted.
    fn is_interrupted(&self) -> bool;
}

/// A layer that was loaded.
#[derive(Debug)]
pub(in crate::offload) struct LoadedLayer {
    pub(in crate::offload) layer: StoredLayer,
    /// When its last byte is there.
    pub(in crate::offload) at: Instant,
    /// Where it came from, kept as long as the layer: a copy may still be under way on a device
    /// when the call that ordered it is over.
    pub(in crate::offload) source: Option<Arc<Residency>>,
    /// Bytes of it that are no copy: both devices are this process's memory, or it is in its file's
    /// pages.
    pub(in crate::offload) shared: u64,
}

/// What the loader thread is to do.
pub(super) enum Job {
    Load(usize, Reservation, Instant),
    /// Drop these, which nobody waits for.
    Drop(Vec<Slot>),
    Wait,
    Stop,
}

impl PrefetchCache {
    /// Runs until [`stop`](Self::stop): loads what comes next.
    pub(in crate::offload) fn run_loader(self: &Arc<Self>, loader: &dyn LayerLoader) {
        loop {
            match self.next_job() {
                Job::Load(index, reservation, asked) => {
                    let slot = match self.load(loader, index, asked, reservation) {
                        Ok(arrival) => Slot::Here(arrival),
                        Err(error) => Slot::Failed(error),
                    };
                    self.lock().slots.insert(index, slot);
                    self.changed.notify_all();
                }
                Job::Drop(slots) => drop(slots),
                Job::Wait => {}
                Job::Stop => return,
            }
        }
    }

    /// Ends the loader thread.
    pub(in crate::offload) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// What there is to do, waiting for it.
    fn next_job(self: &Arc<Self>) -> Job {
        let mut state = self.lock();
        loop {
            match self.job(&mut state) {
                Job::Wait => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                job => return job,
            }
        }
    }

    pub(super) fn job(self: &Arc<Self>, state: &mut State) -> Job {
        if state.stop {
            return Job::Stop;
        }
        if state.tickets > 0 {
            return Job::Wait;
        }
        let Some(index) = state.next_missing() else { return Job::Wait };
        let bytes = state.size(index);
        if state.has_room(bytes)
            && let Ok(held) = self.pool.hold(bytes, state.reserved_bytes)
        {
            state.slots.insert(index, Slot::Loading);
            return Job::Load(index, self.reserve(state, held), state.since);
        }
        let stale = state.evict_stale();
        if stale.is_empty() { Job::Wait } else { Job::Drop(stale) }
    }

    pub(super) fn reserve(self: &Arc<Self>, state: &mut State, held: Held) -> Reservation {
        state.used = state.used.saturating_add(held.bytes());
        state.peak = state.peak.max(state.used);
        Reservation::new(Arc::clone(self), held)
    }

    /// Loads a layer into its reservation; a loader that panics has failed.
    pub(super) fn load(
        &self,
        loader: &dyn LayerLoader,
        index: usize,
        asked: Instant,
        mut reservation: Reservation,
    ) -> Result<Arrival, WeightError> {
        let loaded = catch_unwind(AssertUnwindSafe(|| loader.load(index, asked)));
        let LoadedLayer { layer, at, source, shared } = loaded.unwrap_or_else(|_| {
            let reason = "its transfer failed; the log has the panic".to_owned();
            Err(WeightError::Load { layer: loader.name(index), reason })
        })?;
        let mut state = self.lock();
        state.stats.bytes += state.size(index);
        state.stats.transfers += 1;
        drop(state);
        reservation.fill(source, shared);
        Ok(Arrival { layer, at, reservation })
    }
}
