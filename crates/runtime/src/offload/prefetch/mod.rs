//! The prefetch cache: memory of the compute device through which layers pass that live elsewhere.
//!
//! A loader thread ([`loader`]) fills it with the layers that come next, as far as its bytes allow
//! ([`policy`]); a layer leaves it when its last user drops it ([`reservation`]). Whoever computes takes
//! its layer out, waits for one that is on its way, and loads one itself that nobody foresaw. Layers in
//! use are never dropped; those that only wait are evicted for one that is wanted now.

mod loader;
mod policy;
mod reservation;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::machine::{OutOfMemory, Pool};
use crate::stored::StoredLayer;
use crate::weights::WeightError;

pub(super) use loader::{LayerLoader, LoadedLayer};
use policy::{Slot, State};
use reservation::{Reservation, Ticket};

/// How often a wait looks for an interruption.
const LOOK: Duration = Duration::from_millis(10);

/// The prefetch cache of one component.
#[derive(Debug)]
pub(super) struct PrefetchCache {
    pool: Arc<Pool>,
    state: Mutex<State>,
    changed: Condvar,
}

/// A layer in the cache.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) layer: StoredLayer,
    /// When its last byte is there.
    pub(super) at: Instant,
    pub(super) reservation: Reservation,
}

/// A layer that is used now.
#[derive(Debug)]
enum Wanted<'a> {
    Here(Arrival),
    /// Neither in the cache nor on its way.
    Missing(Ticket<'a>),
}

/// What passed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TransferStats {
    pub(super) bytes: u64,
    pub(super) transfers: u64,
    pub(super) unforeseen: u64,
    pub(super) stalled: Duration,
}

/// Why a layer could not be taken.
#[derive(Debug)]
pub(super) enum TakeError {
    Memory(OutOfMemory),
    Weight(WeightError),
}

impl From<WeightError> for TakeError {
    fn from(error: WeightError) -> Self {
        Self::Weight(error)
    }
}

fn interrupted(loader: &dyn LayerLoader, index: usize) -> TakeError {
    TakeError::Weight(WeightError::Interrupted { layer: loader.name(index) })
}

impl PrefetchCache {
    /// A cache of `limit` bytes on the device of `pool`, which leaves `reserved_bytes` of it free; `guess`
    /// is the order of use as far as it is known.
    pub(super) fn new(
        pool: Arc<Pool>,
        reserved_bytes: u64,
        sizes: Vec<u64>,
        guess: &[usize],
        limit: u64,
    ) -> Arc<Self> {
        let state = Mutex::new(State::new(sizes, guess, limit, reserved_bytes));
        Arc::new(Self { pool, state, changed: Condvar::default() })
    }

    /// The layer, which is used now, once it is there.
    ///
    /// # Errors
    /// When it cannot be loaded, or the run is interrupted.
    pub(super) fn take(
        self: &Arc<Self>,
        loader: &dyn LayerLoader,
        index: usize,
    ) -> Result<Arrival, TakeError> {
        let begun = Instant::now();
        let arrival = match self.wanted(loader, index)? {
            Wanted::Here(arrival) => arrival,
            Wanted::Missing(ticket) => self.fetch(loader, index, ticket)?,
        };
        while let Some(left) = arrival.at.checked_duration_since(Instant::now()) {
            if left.is_zero() {
                break;
            }
            if loader.is_interrupted() {
                return Err(interrupted(loader, index));
            }
            std::thread::sleep(left.min(LOOK));
        }
        self.lock().stats.stalled += begun.elapsed();
        Ok(arrival)
    }

    /// The layer if it is in the cache or on its way there; what comes next is the loader thread's from now on.
    fn wanted(&self, loader: &dyn LayerLoader, index: usize) -> Result<Wanted<'_>, TakeError> {
        let mut state = self.lock();
        if !state.coming.contains(&index) {
            state.stats.unforeseen += 1;
        }
        state.use_layer(index);
        self.changed.notify_all();
        if let Some(Slot::Loading) = state.slots.get(&index) {
            state.awaited.push(index);
            state = self.arrived(state, loader, index);
            state.no_longer_awaited(index);
            self.changed.notify_all();
        }
        match state.slots.remove(&index) {
            None => {
                // Counted while locked: else the loader thread would fill the room with what comes
                // later, only to see it evicted.
                state.tickets += 1;
                Ok(Wanted::Missing(Ticket::counted(self)))
            }
            Some(Slot::Here(arrival)) => Ok(Wanted::Here(arrival)),
            Some(Slot::Failed(error)) => Err(error.into()),
            Some(Slot::Loading) => {
                state.slots.insert(index, Slot::Loading);
                Err(interrupted(loader, index))
            }
        }
    }

    /// Waits until the layer is no longer on its way, or the run is interrupted.
    fn arrived<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        loader: &dyn LayerLoader,
        index: usize,
    ) -> MutexGuard<'a, State> {
        while let Some(Slot::Loading) = state.slots.get(&index)
            && !loader.is_interrupted()
        {
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Loads a layer that is not in the cache and not on its way: nobody foresaw it, or the loader thread
    /// has not come to it yet.
    fn fetch(
        self: &Arc<Self>,
        loader: &dyn LayerLoader,
        index: usize,
        ticket: Ticket<'_>,
    ) -> Result<Arrival, TakeError> {
        if loader.is_interrupted() {
            return Err(interrupted(loader, index));
        }
        let reservation = self.make_room(index)?;
        drop(ticket);
        Ok(self.load(loader, index, Instant::now(), reservation)?)
    }

    /// Room for a layer that is wanted now: layers that only wait are evicted. Beyond the cache's
    /// bytes if need be, for several users at once, but never beyond the device's.
    fn make_room(self: &Arc<Self>, index: usize) -> Result<Reservation, TakeError> {
        loop {
            let mut state = self.lock();
            let bytes = state.size(index);
            if !state.has_room(bytes)
                && let Some(slot) = state.evict()
            {
                drop(state);
                drop(slot);
                continue;
            }
            match self.pool.hold(bytes, state.reserved_bytes) {
                Ok(held) => return Ok(self.reserve(&mut state, held)),
                Err(error) => match state.evict() {
                    Some(slot) => {
                        drop(state);
                        drop(slot);
                    }
                    // What is on its way can be evicted once it is there, or once it was used.
                    None if !state.loading().is_empty() || !state.awaited.is_empty() => {
                        drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
                    }
                    None => return Err(TakeError::Memory(error)),
                },
            }
        }
    }

    /// Empties the cache but for layers in use, and keeps it so until a layer is used again.
    pub(super) fn drain(&self) {
        let mut gone = Vec::new();
        let mut state = self.lock();
        state.coming.clear();
        state.order.pause();
        while !state.slots.is_empty() {
            let loading: Vec<usize> = state.loading();
            gone.extend(state.slots.extract_if(|index, _| !loading.contains(index)));
            if !loading.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        drop(state);
        drop(gone);
    }

    /// The layer has another size or home now; what of it waits in the cache is dropped.
    pub(super) fn resize(&self, index: usize, bytes: u64) {
        let mut state = self.lock();
        if let Some(size) = state.sizes.get_mut(index) {
            *size = bytes;
        }
        let limit = state.limit;
        state.set_limit(limit);
        let loading = state.loading().contains(&index);
        let gone = if loading { None } else { state.slots.remove(&index) };
        drop(state);
        drop(gone);
    }

    /// Allows `limit` bytes, or what the two largest layers need. The peak from then on is the one
    /// under this limit.
    pub(super) fn set_limit(&self, limit: u64) {
        let mut state = self.lock();
        state.set_limit(limit);
        state.peak = state.used;
    }

    /// Leaves so many bytes of the device free from now on.
    pub(super) fn set_reserved_bytes(&self, bytes: u64) {
        self.lock().reserved_bytes = bytes;
    }

    /// Leaves so many bytes of the device free at least.
    pub(super) fn expect_reserved_bytes(&self, bytes: u64) {
        let mut state = self.lock();
        state.reserved_bytes = state.reserved_bytes.max(bytes);
    }

    /// Drops the layers that wait, until a layer is used again, and returns the bytes of those that it
    /// cannot do without: the two largest.
    pub(super) fn drop_waiting(&self) -> u64 {
        let mut state = self.lock();
        state.coming.clear();
        let gone = state.evict_stale();
        let least = state.least();
        drop(state);
        drop(gone);
        least
    }

    /// Bytes that the cache may hold.
    pub(super) fn limit(&self) -> u64 {
        self.lock().limit
    }

    /// What passed, and the most bytes at once, since the last time this was reset.
    pub(super) fn stats(&self) -> (TransferStats, u64) {
        let state = self.lock();
        (state.stats, state.peak)
    }

    /// Counts from 0 again.
    pub(super) fn reset_stats(&self) {
        let mut state = self.lock();
        state.stats = TransferStats::default();
        state.peak = state.used;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
