//! A layer's memory in the prefetch cache, and a user's right to reserve some.

use std::sync::Arc;
use std::time::Instant;

use super::PrefetchCache;
use crate::machine::Held;
use crate::offload::residency::Residency;
use crate::weights::Lease;

/// Memory of the cache for one layer, released when dropped.
#[derive(Debug)]
pub(in crate::offload) struct Reservation {
    cache: Arc<PrefetchCache>,
    /// Taken only when dropped.
    held: Option<Held>,
    /// What the layer was copied from.
    source: Option<Arc<Residency>>,
}

impl Reservation {
    pub(super) fn new(cache: Arc<PrefetchCache>, held: Held) -> Self {
        Self { cache, held: Some(held), source: None }
    }

    /// The layer is there: `source` is what it was copied from, and `shared` bytes of it are no copy.
    pub(super) fn fill(&mut self, source: Option<Arc<Residency>>, shared: u64) {
        self.source = source;
        if let Some(held) = self.held.as_mut() {
            held.share(shared);
        }
    }
}

impl Lease for Reservation {}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        // Released first: whoever is woken finds room on the device too.
        let bytes = self.held.take().map_or(0, |held| held.bytes());
        state.used = state.used.saturating_sub(bytes);
        state.since = Instant::now();
        drop(state);
        self.cache.changed.notify_all();
    }
}

/// A user's turn to load a layer: until it has its reservation, the loader thread reserves nothing.
#[derive(Debug)]
pub(super) struct Ticket<'a>(&'a PrefetchCache);

impl<'a> Ticket<'a> {
    /// To be counted in the state's `tickets` under the lock that finds the layer missing.
    pub(super) fn counted(cache: &'a PrefetchCache) -> Self {
        Self(cache)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.tickets = state.tickets.saturating_sub(1);
        drop(state);
        self.0.changed.notify_all();
    }
}
