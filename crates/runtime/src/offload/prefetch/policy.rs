//! What the prefetch cache holds, what comes next, and what is evicted.

use std::collections::HashMap;
use std::time::Instant;

use super::{Arrival, TransferStats};
use crate::offload::order::Order;
use crate::weights::WeightError;

/// The state of a cache, under its lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) order: Order,
    /// Bytes of each layer that may come; 0 for those that live on the compute device.
    pub(super) sizes: Vec<u64>,
    pub(super) limit: u64,
    /// What has to stay free of the device beside the cache.
    pub(super) reserved_bytes: u64,
    /// What comes next, as far as the cache has bytes for it.
    pub(super) coming: Vec<usize>,
    pub(super) slots: HashMap<usize, Slot>,
    /// What users wait for that is on its way: theirs already, so it is not evicted.
    pub(super) awaited: Vec<usize>,
    /// Bytes in the cache, waiting or in use.
    pub(super) used: u64,
    pub(super) peak: u64,
    /// When something last changed that lets a transfer start.
    pub(super) since: Instant,
    /// How many users are about to load a layer themselves.
    pub(super) tickets: usize,
    pub(super) stop: bool,
    pub(super) stats: TransferStats,
}

/// A layer that is in the cache or on its way, and in nobody's use.
#[derive(Debug)]
pub(super) enum Slot {
    Loading,
    Here(Arrival),
    Failed(WeightError),
}

impl State {
    /// An empty cache for layers of these sizes; `guess` is the order of their use as far as it is known.
    pub(super) fn new(sizes: Vec<u64>, guess: &[usize], limit: u64, reserved_bytes: u64) -> Self {
        let mut state = Self {
            order: Order::guess(guess),
            sizes,
            limit: 0,
            reserved_bytes,
            coming: Vec::new(),
            slots: HashMap::new(),
            awaited: Vec::new(),
            used: 0,
            peak: 0,
            since: Instant::now(),
            tickets: 0,
            stop: false,
            stats: TransferStats::default(),
        };
        state.set_limit(limit);
        state
    }

    pub(super) fn size(&self, index: usize) -> u64 {
        self.sizes.get(index).copied().unwrap_or(0)
    }

    /// Learns that the layer is used now, and what may come after it.
    pub(super) fn use_layer(&mut self, index: usize) {
        self.order.learn(index);
        let (sizes, limit, mut bytes) = (&self.sizes, self.limit, 0_u64);
        self.coming = self.order.ahead(|next| {
            let size = sizes.get(next).copied().unwrap_or(0);
            bytes = bytes.saturating_add(size);
            size > 0 && bytes <= limit
        });
        self.since = Instant::now();
    }

    /// The next layer that is to come and is neither there nor on its way.
    pub(super) fn next_missing(&self) -> Option<usize> {
        self.coming.iter().copied().find(|index| !self.slots.contains_key(index))
    }

    /// At most `limit` bytes, but never less than [`least`](Self::least).
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit.max(self.least());
    }

    /// Whether so many bytes more are within the limit.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.used.saturating_add(bytes) <= self.limit
    }

    /// What the two largest layers need: one in use, one on its way.
    pub(super) fn least(&self) -> u64 {
        let (mut largest, mut second) = (0_u64, 0);
        for &size in &self.sizes {
            if size > largest {
                (largest, second) = (size, largest);
            } else {
                second = second.max(size);
            }
        }
        largest.saturating_add(second)
    }

    pub(super) fn loading(&self) -> Vec<usize> {
        let loading = self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Loading));
        loading.map(|(&index, _)| index).collect()
    }

    /// What is there and nobody waits for.
    fn idle(&self) -> impl Iterator<Item = usize> {
        let there = self.slots.iter().filter(|(_, slot)| !matches!(slot, Slot::Loading));
        there.map(|(&index, _)| index).filter(|index| !self.awaited.contains(index))
    }

    /// Takes out what is idle and not coming.
    pub(super) fn evict_stale(&mut self) -> Vec<Slot> {
        let stale: Vec<_> = self.idle().filter(|index| !self.coming.contains(index)).collect();
        stale.iter().filter_map(|index| self.slots.remove(index)).collect()
    }

    /// Takes out what is needed last of what is idle.
    pub(super) fn evict(&mut self) -> Option<Slot> {
        let distance = |index: usize| {
            self.coming.iter().position(|&coming| coming == index).unwrap_or(usize::MAX)
        };
        let index = self.idle().max_by_key(|&index| distance(index))?;
        self.slots.remove(&index)
    }

    pub(super) fn no_longer_awaited(&mut self, index: usize) {
        if let Some(at) = self.awaited.iter().position(|&awaited| awaited == index) {
            self.awaited.swap_remove(at);
        }
    }
}
