use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use distorch_allocation::{DeviceId, DeviceInfo, Topology};
use distorch_checkpoint::{Checkpoint, Layer, LayerKind};

use super::loader::Job;
use super::*;
use crate::machine::Machine;

/// Loads layers without parameters, at once or so late, and fails where it is told to.
#[derive(Default)]
struct TestLoader {
    late: Duration,
    panics: AtomicBool,
    loaded: AtomicUsize,
}

impl LayerLoader for TestLoader {
    fn load(&self, index: usize, asked: Instant) -> Result<LoadedLayer, WeightError> {
        assert!(!self.panics.load(Ordering::Relaxed), "on purpose");
        self.loaded.fetch_add(1, Ordering::Relaxed);
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

fn cache(sizes: &[u64], limit: u64) -> Arc<PrefetchCache> {
    let host = DeviceInfo::new(DeviceId::CPU, "host", 1 << 40);
    let machine = Machine::new(Topology::new(vec![host]).unwrap());
    let pool = Arc::clone(machine.pool(DeviceId::CPU).unwrap());
    let guess: Vec<usize> = (0..sizes.len()).collect();
    PrefetchCache::new(pool, 0, sizes.to_vec(), &guess, limit)
}

/// Runs `body` beside a loader.
fn with_loader(cache: &Arc<PrefetchCache>, loader: &TestLoader, body: impl FnOnce()) {
    /// Ends the loader when the body ends, well or not.
    struct Stop<'a>(&'a PrefetchCache);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.stop();
        }
    }
    std::thread::scope(|scope| {
        let _stop = Stop(cache);
        scope.spawn(|| cache.run_loader(loader));
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
fn the_loader_fills_the_cache_and_no_more() {
    let (cache, loader) = (cache(&[10, 10, 10, 10, 10], 30), TestLoader::default());
    with_loader(&cache, &loader, || {
        let first = cache.take(&loader, 0).unwrap();
        until("two more", || cache.lock().used == 30);
        assert_eq!(cache.lock().slots.len(), 2);
        drop(first);
        until("the third", || cache.stats().0.transfers == 4);
        let (stats, peak) = cache.stats();
        assert_eq!((stats.transfers, stats.bytes, peak), (4, 40, 30));
        cache.drain();
        assert_eq!(cache.lock().used, 0);
    });
    assert_eq!(loader.loaded.load(Ordering::Relaxed), 4);
}

/// Layers that wait are evicted for one that is wanted now, and come again when it is their turn.
#[test]
fn a_wrong_guess_is_evicted() {
    let (cache, loader) = (cache(&[10; 6], 20), TestLoader::default());
    with_loader(&cache, &loader, || {
        drop(cache.take(&loader, 0).unwrap());
        until("the next two", || cache.lock().slots.len() == 2);
        let wanted = cache.take(&loader, 4).unwrap();
        assert!(cache.lock().used <= 20);
        let (stats, _) = cache.stats();
        assert_eq!(stats.unforeseen, 2, "the first, and this one");
        drop(wanted);
        drop(cache.take(&loader, 5).unwrap());
    });
}

/// The loader does not fill the room that a user needs who is faster than it.
#[test]
fn a_user_who_overtakes_the_loader_goes_first() {
    let (cache, loader) = (cache(&[10; 4], 20), TestLoader::default());
    let ticket = match cache.wanted(&loader, 0).unwrap() {
        Wanted::Missing(ticket) => ticket,
        Wanted::Here(arrival) => panic!("{arrival:?}"),
    };
    assert!(matches!(cache.job(&mut cache.lock()), Job::Wait), "1 and 2 have to wait");
    let first = cache.fetch(&loader, 0, ticket).unwrap();
    let job = cache.job(&mut cache.lock());
    assert!(matches!(job, Job::Load(1, ..)));
    assert!(matches!(cache.job(&mut cache.lock()), Job::Wait), "full");
    drop((first, job));
}

/// A layer that came for a user who has not woken up yet is not evicted for later ones.
#[test]
fn what_a_user_waits_for_is_not_evicted() {
    let (cache, loader) = (cache(&[10; 6], 20), TestLoader::default());
    drop(cache.take(&loader, 0).unwrap());
    let Job::Load(1, reservation, asked) = cache.job(&mut cache.lock()) else { panic!("not 1") };
    std::thread::scope(|scope| {
        let user = scope.spawn(|| cache.take(&loader, 1));
        until("the user to wait", || cache.lock().awaited == [1]);
        let arrival = cache.load(&loader, 1, asked, reservation).unwrap();
        // Locked from its arrival on, so that the user does not wake up in between.
        let mut state = cache.lock();
        state.slots.insert(1, Slot::Here(arrival));
        let next = cache.job(&mut state);
        let full = cache.job(&mut state);
        let evicted = state.evict();
        drop(state);
        assert!(matches!(next, Job::Load(2, ..)));
        assert!(matches!(full, Job::Wait) && evicted.is_none(), "1 stays");
        drop(user.join().unwrap().unwrap());
    });
    assert_eq!(cache.stats().0.transfers, 2, "0 and 1, once each");
    assert!(cache.lock().awaited.is_empty());
}

#[test]
fn the_wait_for_a_late_layer_is_counted() {
    let loader = TestLoader { late: Duration::from_millis(30), ..TestLoader::default() };
    let cache = cache(&[10, 10], 20);
    with_loader(&cache, &loader, || {
        let start = Instant::now();
        let first = cache.take(&loader, 0).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert!(Instant::now() >= first.at);
        assert!(cache.stats().0.stalled >= Duration::from_millis(30));
    });
}

#[test]
fn a_loader_that_panics_is_an_error_and_is_asked_again() {
    let (cache, loader) = (cache(&[10, 10, 10], 30), TestLoader::default());
    with_loader(&cache, &loader, || {
        loader.panics.store(true, Ordering::Relaxed);
        for index in [0, 1, 2] {
            let error = cache.take(&loader, index).unwrap_err();
            let TakeError::Weight(error) = error else { panic!("{error:?}") };
            assert!(error.to_string().contains(&format!("`l{index}`")), "{error}");
        }
        loader.panics.store(false, Ordering::Relaxed);
        cache.drain();
        for index in [0, 1, 2] {
            drop(cache.take(&loader, index).unwrap());
        }
        cache.drain();
        assert_eq!(cache.lock().used, 0);
    });
}
