//! The window: memory of the compute device through which layers pass that live elsewhere.
//!
//! A loader thread fills it with the layers that come next, as far as its bytes allow; a layer
//! leaves it when its last user drops it. Whoever computes takes its layer out, waits for one that
//! is on its way, and brings one itself that nobody foresaw. Layers in use are never dropped; those
//! that only wait give way to one that is wanted now.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::order::Order;
use super::residency::Residency;
use crate::machine::{Held, OutOfMemory, Pool};
use crate::stored::StoredLayer;
use crate::weights::{Lease, WeightError};

/// How often a wait looks for an interruption.
const LOOK: Duration = Duration::from_millis(10);

/// Brings a layer from its home to the compute device.
pub(super) trait LayerLoader: Send + Sync {
    /// The layer, asked for at `asked`.
    fn load(&self, index: usize, asked: Instant) -> Result<LoadedLayer, WeightError>;

    /// Its name, for errors.
    fn name(&self, index: usize) -> String;

    /// Whether the run was interrupted.
    fn is_interrupted(&self) -> bool;
}

/// A layer that was brought.
#[derive(Debug)]
pub(super) struct LoadedLayer {
    pub(super) layer: StoredLayer,
    /// When its last byte is there.
    pub(super) at: Instant,
    /// Where it came from, kept as long as the layer: a copy may still be under way on a device
    /// when the call that ordered it is over.
    pub(super) source: Option<Arc<Residency>>,
    /// So many of its bytes are no copy: both devices are this process's memory, or it is in its
    /// file's pages.
    pub(super) shared: u64,
}

/// The window of one component.
#[derive(Debug)]
pub(super) struct PrefetchCache {
    pool: Arc<Pool>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// Bytes of each layer that may come; 0 for those that live on the compute device.
    sizes: Vec<u64>,
    limit: u64,
    /// What has to stay free of the device beside the window.
    reserved_bytes: u64,
    /// What comes next, as far as the window reaches.
    coming: Vec<usize>,
    slots: HashMap<usize, Slot>,
    /// What users wait for that is on its way: theirs already, so it does not give way.
    awaited: Vec<usize>,
    /// Bytes in the window, waiting or in use.
    used: u64,
    peak: u64,
    /// When something last changed that lets a transfer start.
    since: Instant,
    /// How many users are about to bring a layer themselves.
    turns: usize,
    stop: bool,
    stats: TransferStats,
}

#[derive(Debug)]
enum Slot {
    Loading,
    Here(Arrival),
    Failed(WeightError),
}

/// A layer in the window.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) layer: StoredLayer,
    /// When its last byte is there.
    pub(super) at: Instant,
    pub(super) place: Reservation,
}

/// A layer's place in the window, given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    window: Arc<PrefetchCache>,
    /// Taken only when dropped.
    held: Option<Held>,
    /// What it was copied from.
    source: Option<Arc<Residency>>,
}

impl Lease for Reservation {}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.window.lock();
        // Given back first: whoever is woken finds room on the device too.
        let bytes = self.held.take().map_or(0, |held| held.bytes());
        state.used = state.used.saturating_sub(bytes);
        state.since = Instant::now();
        drop(state);
        self.window.changed.notify_all();
    }
}

/// A user's turn to bring a layer: until it has its place, the loader takes no room.
#[derive(Debug)]
struct Ticket<'a>(&'a PrefetchCache);

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.lock().turns -= 1;
        self.0.changed.notify_all();
    }
}

/// A layer that is used now.
#[derive(Debug)]
enum Wanted<'a> {
    Here(Arrival),
    /// Neither in the window nor on its way.
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

/// What the loader is to do.
enum Job {
    Load(usize, Reservation, Instant),
    /// Drop these, which nobody waits for.
    Drop(Vec<Slot>),
    Wait,
    Stop,
}

impl PrefetchCache {
    /// A window of `limit` bytes on the device of `pool`; `guess` is the order of use as far as it is
    /// known.
    pub(super) fn new(
        pool: Arc<Pool>,
        reserved_bytes: u64,
        sizes: Vec<u64>,
        guess: &[usize],
        limit: u64,
    ) -> Arc<Self> {
        let state = State {
            order: Order::guess(guess),
            limit: 0,
            reserved_bytes,
            coming: Vec::new(),
            slots: HashMap::new(),
            awaited: Vec::new(),
            used: 0,
            peak: 0,
            since: Instant::now(),
            turns: 0,
            stop: false,
            stats: TransferStats::default(),
            sizes,
        };
        let window = Self { pool, state: Mutex::new(state), changed: Condvar::default() };
        window.lock().set_limit(limit);
        Arc::new(window)
    }

    /// Runs until [`stop`](Self::stop): brings what comes next.
    pub(super) fn run_loader(self: &Arc<Self>, carrier: &dyn LayerLoader) {
        loop {
            match self.next_job() {
                Job::Load(index, place, asked) => {
                    let slot = match self.carry(carrier, index, asked, place) {
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

    fn job(self: &Arc<Self>, state: &mut State) -> Job {
        if state.stop {
            return Job::Stop;
        }
        if state.turns > 0 {
            return Job::Wait;
        }
        let missing = state.coming.iter().find(|index| !state.slots.contains_key(index));
        let Some(&index) = missing else { return Job::Wait };
        let bytes = state.size(index);
        if state.used.saturating_add(bytes) <= state.limit
            && let Ok(held) = self.pool.hold(bytes, state.reserved_bytes)
        {
            state.slots.insert(index, Slot::Loading);
            return Job::Load(index, self.place(state, held), state.since);
        }
        let stale = state.stale();
        if stale.is_empty() { Job::Wait } else { Job::Drop(stale) }
    }

    fn place(self: &Arc<Self>, state: &mut State, held: Held) -> Reservation {
        state.used = state.used.saturating_add(held.bytes());
        state.peak = state.peak.max(state.used);
        Reservation { window: Arc::clone(self), held: Some(held), source: None }
    }

    /// Carries a layer to its place; a carrier that panics has failed.
    fn carry(
        &self,
        carrier: &dyn LayerLoader,
        index: usize,
        asked: Instant,
        mut place: Reservation,
    ) -> Result<Arrival, WeightError> {
        let carried = catch_unwind(AssertUnwindSafe(|| carrier.load(index, asked)));
        let LoadedLayer { layer, at, source, shared } = carried.unwrap_or_else(|_| {
            let reason = "its transfer failed; the log has the panic".to_owned();
            Err(WeightError::Load { layer: carrier.name(index), reason })
        })?;
        let mut state = self.lock();
        state.stats.bytes += state.size(index);
        state.stats.transfers += 1;
        drop(state);
        place.source = source;
        if let Some(held) = place.held.as_mut() {
            held.share(shared);
        }
        Ok(Arrival { layer, at, place })
    }

    /// The layer, which is used now, once it is there.
    ///
    /// # Errors
    /// When it cannot be brought, or the run is interrupted.
    pub(super) fn take(
        self: &Arc<Self>,
        carrier: &dyn LayerLoader,
        index: usize,
    ) -> Result<Arrival, TakeError> {
        let begun = Instant::now();
        let arrival = match self.wanted(carrier, index)? {
            Wanted::Here(arrival) => arrival,
            Wanted::Missing(turn) => self.fetch(carrier, index, turn)?,
        };
        while let Some(left) = arrival.at.checked_duration_since(Instant::now()) {
            if left.is_zero() {
                break;
            }
            if carrier.is_interrupted() {
                return Err(interrupted(carrier, index));
            }
            std::thread::sleep(left.min(LOOK));
        }
        self.lock().stats.stalled += begun.elapsed();
        Ok(arrival)
    }

    /// The layer if it is in the window or on its way there; tells the loader what comes next.
    fn wanted(&self, carrier: &dyn LayerLoader, index: usize) -> Result<Wanted<'_>, TakeError> {
        let mut state = self.lock();
        if !state.coming.contains(&index) {
            state.stats.unforeseen += 1;
        }
        state.use_layer(index);
        self.changed.notify_all();
        if let Some(Slot::Loading) = state.slots.get(&index) {
            state.awaited.push(index);
            state = self.arrived(state, carrier, index);
            state.no_longer_awaited(index);
            self.changed.notify_all();
        }
        match state.slots.remove(&index) {
            None => {
                // Said while locked: else the loader would fill the room with what comes
                // later, only to see it thrown out.
                state.turns += 1;
                Ok(Wanted::Missing(Ticket(self)))
            }
            Some(Slot::Here(arrival)) => Ok(Wanted::Here(arrival)),
            Some(Slot::Failed(error)) => Err(error.into()),
            Some(Slot::Loading) => {
                state.slots.insert(index, Slot::Loading);
                Err(interrupted(carrier, index))
            }
        }
    }

    /// Waits until the layer is no longer on its way, or the run is interrupted.
    fn arrived<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        carrier: &dyn LayerLoader,
        index: usize,
    ) -> MutexGuard<'a, State> {
        while let Some(Slot::Loading) = state.slots.get(&index)
            && !carrier.is_interrupted()
        {
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Brings a layer that is not in the window and not on its way: nobody foresaw it, or the loader
    /// has not come to it yet.
    fn fetch(
        self: &Arc<Self>,
        carrier: &dyn LayerLoader,
        index: usize,
        turn: Ticket<'_>,
    ) -> Result<Arrival, TakeError> {
        if carrier.is_interrupted() {
            return Err(interrupted(carrier, index));
        }
        let place = self.make_room(index)?;
        drop(turn);
        Ok(self.carry(carrier, index, Instant::now(), place)?)
    }

    /// A place for a layer that is wanted now: layers that only wait give way. Beyond the window's
    /// bytes if need be, for several users at once, but never beyond the device's.
    fn make_room(self: &Arc<Self>, index: usize) -> Result<Reservation, TakeError> {
        loop {
            let mut state = self.lock();
            let bytes = state.size(index);
            let full = state.used.saturating_add(bytes) > state.limit;
            if full && let Some(slot) = state.evict() {
                drop(state);
                drop(slot);
                continue;
            }
            match self.pool.hold(bytes, state.reserved_bytes) {
                Ok(held) => return Ok(self.place(&mut state, held)),
                Err(error) => match state.evict() {
                    Some(slot) => {
                        drop(state);
                        drop(slot);
                    }
                    // What is on its way can give way once it is there, or once it was used.
                    None if !state.loading().is_empty() || !state.awaited.is_empty() => {
                        drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
                    }
                    None => return Err(TakeError::Memory(error)),
                },
            }
        }
    }

    /// Empties the window but for layers in use, and keeps it so until a layer is used again.
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

    /// Ends the loader.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// The layer has another size or home now; what of it waits in the window is dropped.
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

    /// Allows so many bytes, or what the two largest layers need. The peak from then on is the one
    /// under this limit.
    pub(super) fn set_limit(&self, limit: u64) {
        let mut state = self.lock();
        state.set_limit(limit);
        state.peak = state.used;
    }

    /// Leaves so many bytes of the device free from now on.
    pub(super) fn set_reserved_bytes(&self, reserved_bytes: u64) {
        self.lock().reserved_bytes = reserved_bytes;
    }

    /// Leaves so many bytes of the device free at least.
    pub(super) fn expect_reserved_bytes(&self, reserved_bytes: u64) {
        let mut state = self.lock();
        state.reserved_bytes = state.reserved_bytes.max(reserved_bytes);
    }

    /// Drops the layers that wait, until a layer is used again, and gives the bytes of those that it
    /// cannot do without: the two largest.
    pub(super) fn drop_waiting(&self) -> u64 {
        let mut state = self.lock();
        state.coming.clear();
        let gone = state.stale();
        let least = state.least();
        drop(state);
        drop(gone);
        least
    }

    /// Bytes that the window may hold.
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

fn interrupted(carrier: &dyn LayerLoader, index: usize) -> TakeError {
    TakeError::Weight(WeightError::Interrupted { layer: carrier.name(index) })
}

impl State {
    fn size(&self, index: usize) -> u64 {
        self.sizes.get(index).copied().unwrap_or(0)
    }

    /// Learns that the layer is used now, and what may come after it.
    fn use_layer(&mut self, index: usize) {
        self.order.learn(index);
        let (sizes, limit, mut bytes) = (&self.sizes, self.limit, 0_u64);
        self.coming = self.order.ahead(|next| {
            let size = sizes.get(next).copied().unwrap_or(0);
            bytes = bytes.saturating_add(size);
            size > 0 && bytes <= limit
        });
        self.since = Instant::now();
    }

    fn set_limit(&mut self, limit: u64) {
        self.limit = limit.max(self.least());
    }

    /// What the two largest layers need.
    fn least(&self) -> u64 {
        let (mut largest, mut second) = (0, 0);
        for &size in &self.sizes {
            if size > largest {
                (largest, second) = (size, largest);
            } else {
                second = second.max(size);
            }
        }
        largest + second
    }

    fn loading(&self) -> Vec<usize> {
        let loading = self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Loading));
        loading.map(|(&index, _)| index).collect()
    }

    /// What is there and nobody waits for.
    fn idle(&self) -> impl Iterator<Item = usize> {
        let there = self.slots.iter().filter(|(_, slot)| !matches!(slot, Slot::Loading));
        there.map(|(&index, _)| index).filter(|index| !self.awaited.contains(index))
    }

    /// Takes out what is idle and not coming.
    fn stale(&mut self) -> Vec<Slot> {
        let stale: Vec<_> = self.idle().filter(|index| !self.coming.contains(index)).collect();
        stale.iter().filter_map(|index| self.slots.remove(index)).collect()
    }

    /// Takes out what is needed last of what is idle.
    fn evict(&mut self) -> Option<Slot> {
        let distance = |index: usize| {
            self.coming.iter().position(|&coming| coming == index).unwrap_or(usize::MAX)
        };
        let index = self.idle().max_by_key(|&index| distance(index))?;
        self.slots.remove(&index)
    }

    fn no_longer_awaited(&mut self, index: usize) {
        if let Some(at) = self.awaited.iter().position(|&awaited| awaited == index) {
            self.awaited.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use distorch_allocation::{DeviceId, DeviceInfo, Topology};
    use distorch_checkpoint::{Checkpoint, Layer, LayerKind};

    use super::*;
    use crate::machine::Machine;

    /// Brings layers without parameters, at once or so late, and fails where it is told to.
    #[derive(Default)]
    struct Porter {
        late: Duration,
        panics: AtomicBool,
        brought: AtomicUsize,
    }

    impl LayerLoader for Porter {
        fn load(&self, index: usize, asked: Instant) -> Result<LoadedLayer, WeightError> {
            assert!(!self.panics.load(Ordering::Relaxed), "on purpose");
            self.brought.fetch_add(1, Ordering::Relaxed);
            let layer = Layer {
                name: self.name(index),
                kind: LayerKind::Linear,
                use_index: index,
                head: false,
                params: Vec::new(),
            };
            let part = ("x".to_owned(), distorch_checkpoint::Dtype::F32, vec![1]);
            let file = Checkpoint::from_parts("none", Default::default(), [part]).unwrap();
            let (layer, at) = (StoredLayer::read(&file, &layer)?, asked + self.late);
            Ok(LoadedLayer { layer, at, source: None, shared: 0 })
        }

        fn name(&self, index: usize) -> String {
            format!("l{index}")
        }

        fn is_interrupted(&self) -> bool {
            false
        }
    }

    fn window(sizes: &[u64], limit: u64) -> Arc<PrefetchCache> {
        let host = DeviceInfo::new(DeviceId::CPU, "host", 1 << 40);
        let machine = Machine::new(Topology::new(vec![host]).unwrap());
        let pool = Arc::clone(machine.pool(DeviceId::CPU).unwrap());
        let guess: Vec<usize> = (0..sizes.len()).collect();
        PrefetchCache::new(pool, 0, sizes.to_vec(), &guess, limit)
    }

    /// Runs `body` beside a loader.
    fn with_loader(window: &Arc<PrefetchCache>, porter: &Porter, body: impl FnOnce()) {
        /// Ends the loader when the body ends, well or not.
        struct Stop<'a>(&'a PrefetchCache);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop();
            }
        }
        std::thread::scope(|scope| {
            let _stop = Stop(window);
            scope.spawn(|| window.run_loader(porter));
            body();
        });
    }

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(20), "waited too long for {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_loader_fills_the_window_and_no_more() {
        let (window, porter) = (window(&[10, 10, 10, 10, 10], 30), Porter::default());
        with_loader(&window, &porter, || {
            let first = window.take(&porter, 0).unwrap();
            until("two more", || window.lock().used == 30);
            assert_eq!(window.lock().slots.len(), 2);
            drop(first);
            until("the third", || window.stats().0.transfers == 4);
            let (stats, peak) = window.stats();
            assert_eq!((stats.transfers, stats.bytes, peak), (4, 40, 30));
            window.drain();
            assert_eq!(window.lock().used, 0);
        });
        assert_eq!(porter.brought.load(Ordering::Relaxed), 4);
    }

    /// Layers that wait give way to one that is wanted now, and come again when it is their turn.
    #[test]
    fn a_wrong_guess_gives_way() {
        let (window, porter) = (window(&[10; 6], 20), Porter::default());
        with_loader(&window, &porter, || {
            drop(window.take(&porter, 0).unwrap());
            until("the next two", || window.lock().slots.len() == 2);
            let wanted = window.take(&porter, 4).unwrap();
            assert!(window.lock().used <= 20);
            let (stats, _) = window.stats();
            assert_eq!(stats.unforeseen, 2, "the first, and this one");
            drop(wanted);
            drop(window.take(&porter, 5).unwrap());
        });
    }

    /// The loader does not fill the room that a user needs who is faster than it.
    #[test]
    fn a_user_who_overtakes_the_loader_goes_first() {
        let (window, porter) = (window(&[10; 4], 20), Porter::default());
        let turn = match window.wanted(&porter, 0).unwrap() {
            Wanted::Missing(turn) => turn,
            Wanted::Here(arrival) => panic!("{arrival:?}"),
        };
        assert!(matches!(window.job(&mut window.lock()), Job::Wait), "1 and 2 have to wait");
        let first = window.fetch(&porter, 0, turn).unwrap();
        let job = window.job(&mut window.lock());
        assert!(matches!(job, Job::Load(1, ..)));
        assert!(matches!(window.job(&mut window.lock()), Job::Wait), "full");
        drop((first, job));
    }

    /// A layer that came for a user who has not woken up yet is not thrown out for later ones.
    #[test]
    fn what_a_user_waits_for_does_not_give_way() {
        let (window, porter) = (window(&[10; 6], 20), Porter::default());
        drop(window.take(&porter, 0).unwrap());
        let Job::Load(1, place, asked) = window.job(&mut window.lock()) else { panic!("not 1") };
        std::thread::scope(|scope| {
            let user = scope.spawn(|| window.take(&porter, 1));
            until("the user to wait", || window.lock().awaited == [1]);
            let arrival = window.carry(&porter, 1, asked, place).unwrap();
            // Locked from its arrival on, so that the user does not wake up in between.
            let mut state = window.lock();
            state.slots.insert(1, Slot::Here(arrival));
            let next = window.job(&mut state);
            let full = window.job(&mut state);
            let given = state.evict();
            drop(state);
            assert!(matches!(next, Job::Load(2, ..)));
            assert!(matches!(full, Job::Wait) && given.is_none(), "1 stays");
            drop(user.join().unwrap().unwrap());
        });
        assert_eq!(window.stats().0.transfers, 2, "0 and 1, once each");
        assert!(window.lock().awaited.is_empty());
    }

    #[test]
    fn the_wait_for_a_late_layer_is_counted() {
        let porter = Porter { late: Duration::from_millis(30), ..Porter::default() };
        let window = window(&[10, 10], 20);
        with_loader(&window, &porter, || {
            let start = Instant::now();
            let first = window.take(&porter, 0).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(30));
            assert!(Instant::now() >= first.at);
            assert!(window.stats().0.stalled >= Duration::from_millis(30));
        });
    }

    #[test]
    fn a_carrier_that_panics_is_an_error_and_is_asked_again() {
        let (window, porter) = (window(&[10, 10, 10], 30), Porter::default());
        with_loader(&window, &porter, || {
            porter.panics.store(true, Ordering::Relaxed);
            for index in [0, 1, 2] {
                let error = window.take(&porter, index).unwrap_err();
                let TakeError::Weight(error) = error else { panic!("{error:?}") };
                assert!(error.to_string().contains(&format!("`l{index}`")), "{error}");
            }
            porter.panics.store(false, Ordering::Relaxed);
            window.drain();
            for index in [0, 1, 2] {
                drop(window.take(&porter, index).unwrap());
            }
            window.drain();
            assert_eq!(window.lock().used, 0);
        });
    }
}
