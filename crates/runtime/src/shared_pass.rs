//! Several runs of one model side by side, so that a layer's weights come once for all of them.
//!
//! The halves of the guidance, or conditionings of different shapes, do not always fit into one
//! batch. Run one after the other, each would have all weights brought again. Here they take
//! turns, layer by layer: one run computes until it asks for the next layer, then the
//! next run gets the layer that the first has just used.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::tensor::{DType, Device, Stream};
use crate::weights::{LayerParams, LayerSource, WeightError};

thread_local! {
    /// Which of the runs this thread is.
    static WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// A source of layers whose users may run side by side.
pub struct SharedPass {
    source: Arc<dyn LayerSource>,
    round: Mutex<Round>,
    turned: Condvar,
}

#[derive(Default)]
struct Round {
    /// Whose turn it is.
    turn: usize,
    /// Which runs have come to their end.
    done: Vec<bool>,
    /// The layer that goes round.
    layer: Option<(usize, LayerParams)>,
}

impl SharedPass {
    /// The same layers.
    pub fn new(source: Arc<dyn LayerSource>) -> Arc<Self> {
        Arc::new(Self { source, round: Mutex::default(), turned: Condvar::default() })
    }

    /// Runs all of these side by side, and gives what they give. One alone runs on this thread. A
    /// run that panics ends with that of the caller; where no thread can be started, runs follow one
    /// another.
    ///
    /// Not to be called by two threads at once: the second waits for no one and may take the first's
    /// turns.
    pub fn run<T: Send>(&self, runs: Vec<Box<dyn FnOnce() -> T + Send + '_>>) -> Vec<T> {
        if runs.len() < 2 {
            return runs.into_iter().map(|run| run()).collect();
        }
        *self.lock() = Round { turn: 0, done: vec![false; runs.len()], layer: None };
        // One computes at a time, with layers that others have used: in one order.
        let stream = Stream::current();
        let runs: Vec<_> = runs.into_iter().map(|run| Mutex::new(Some(run))).collect();
        let take = |run: &Mutex<Option<_>>| run.lock().ok().and_then(|mut run| run.take());
        let results: Vec<Option<T>> = std::thread::scope(|scope| {
            let start = |(worker, run)| {
                let work = move || {
                    let _end = Worker::begin(self, worker);
                    take(run).map(|run: Box<dyn FnOnce() -> T + Send + '_>| stream.run(run))
                };
                let started = std::thread::Builder::new().spawn_scoped(scope, work);
                if started.is_err() {
                    self.leave_out(worker);
                }
                started.ok()
            };
            let workers: Vec<_> = runs.iter().enumerate().map(start).collect();
            let end = |worker: std::thread::ScopedJoinHandle<'_, Option<T>>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(|worker| worker.and_then(end)).collect()
        });
        // Those for which there was no thread run on this one, after the others.
        let late = results.into_iter().zip(&runs);
        late.filter_map(|(result, run)| result.or_else(|| take(run).map(|run| run()))).collect()
    }

    /// A run that has no thread takes no turns.
    fn leave_out(&self, worker: usize) {
        let mut round = self.lock();
        round.end(worker);
        if round.turn == worker {
            round.pass(worker);
        }
        drop(round);
        self.turned.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_turn(&self, worker: usize) -> MutexGuard<'_, Round> {
        let turn = self.turned.wait_while(self.lock(), |round| round.turn != worker);
        turn.unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer for one of the runs, which has done with the one before.
    fn fetch_in(
        &self,
        worker: usize,
        index: usize,
        started: bool,
    ) -> Result<LayerParams, WeightError> {
        if started {
            self.lock().pass(worker);
            self.turned.notify_all();
        }
        let mut round = self.wait_for_turn(worker);
        match round.layer.take() {
            Some((known, params)) if known == index => {
                // The last of them keeps it, so that it leaves the window when it is done with.
                if round.someone_follows(worker) {
                    round.layer = Some((index, params.clone()));
                }
                Ok(params)
            }
            // Another way through the model, or the first of this layer.
            other => {
                drop(other);
                // The others wait for their turn anyway.
                drop(round);
                let params = self.source.fetch(index)?;
                let mut round = self.lock();
                if round.someone_follows(worker) {
                    round.layer = Some((index, params.clone()));
                }
                Ok(params)
            }
        }
    }
}

impl Round {
    /// The turn goes to the next run that has not ended.
    fn pass(&mut self, worker: usize) {
        let count = self.done.len();
        let next = (1..=count).map(|step| (worker + step) % count.max(1));
        if let Some(next) = next.into_iter().find(|&next| self.done.get(next) == Some(&false)) {
            self.turn = next;
        }
    }

    /// A run has ended, and needs no layer any more.
    fn end(&mut self, worker: usize) {
        if let Some(done) = self.done.get_mut(worker) {
            *done = true;
        }
        if !self.someone_follows(worker) {
            self.layer = None;
        }
    }

    /// Whether a later run has this layer still before it.
    fn someone_follows(&self, worker: usize) -> bool {
        self.done.iter().skip(worker + 1).any(|done| !done)
    }
}

/// A thread that is one of the runs.
struct Worker<'a> {
    pass: &'a SharedPass,
    worker: usize,
}

impl<'a> Worker<'a> {
    fn begin(pass: &'a SharedPass, worker: usize) -> Self {
        WORKER.set(Some(worker));
        STARTED.set(false);
        Self { pass, worker }
    }
}

thread_local! {
    /// Whether this run has a turn to pass on.
    static STARTED: Cell<bool> = const { Cell::new(false) };
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        // A run that never asked for a layer still has to have its turn, to give it away.
        if !STARTED.get() {
            drop(self.pass.wait_for_turn(self.worker));
        }
        let mut round = self.pass.lock();
        round.end(self.worker);
        round.pass(self.worker);
        drop(round);
        self.pass.turned.notify_all();
        WORKER.set(None);
    }
}

impl LayerSource for SharedPass {
    fn find(&self, name: &str) -> Option<usize> {
        self.source.find(name)
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.source.has_prefix(prefix)
    }

    fn fetch(&self, index: usize) -> Result<LayerParams, WeightError> {
        match WORKER.get() {
            Some(worker) => self.fetch_in(worker, index, STARTED.replace(true)),
            None => self.source.fetch(index),
        }
    }

    fn device(&self) -> &Device {
        self.source.device()
    }

    fn dtype(&self) -> DType {
        self.source.dtype()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Layers without parameters, counted, one of which fails.
    #[derive(Default)]
    struct Counter {
        fetched: AtomicUsize,
        fails: Option<usize>,
        device: Device,
    }

    impl LayerSource for Counter {
        fn find(&self, _: &str) -> Option<usize> {
            None
        }

        fn has_prefix(&self, _: &str) -> bool {
            false
        }

        fn fetch(&self, index: usize) -> Result<LayerParams, WeightError> {
            self.fetched.fetch_add(1, Ordering::Relaxed);
            if self.fails == Some(index) {
                return Err(WeightError::NoLayer { name: index.to_string() });
            }
            Ok(LayerParams::new(index.to_string(), Vec::new()))
        }

        fn device(&self) -> &Device {
            &self.device
        }

        fn dtype(&self) -> DType {
            DType::F32
        }
    }

    type Walked = Result<Vec<String>, WeightError>;

    fn walk(pass: &SharedPass, layers: &[usize]) -> Walked {
        layers.iter().map(|&index| Ok(pass.fetch(index)?.layer().to_owned())).collect()
    }

    fn run(counter: Counter, orders: &[&[usize]]) -> (Vec<Walked>, usize) {
        let counter = Arc::new(counter);
        let pass = SharedPass::new(Arc::clone(&counter) as Arc<dyn LayerSource>);
        let runs = orders.iter().map(|order| {
            let pass = &pass;
            Box::new(move || walk(pass, order)) as Box<dyn FnOnce() -> Walked + Send + '_>
        });
        let walked = pass.run(runs.collect());
        assert!(pass.lock().layer.is_none(), "nothing stays behind");
        (walked, counter.fetched.load(Ordering::Relaxed))
    }

    fn names(order: &[usize]) -> Vec<String> {
        order.iter().map(usize::to_string).collect()
    }

    #[test]
    fn a_layer_comes_once_for_all_runs() {
        let order = [0, 1, 2, 1, 3];
        for count in 1..5 {
            let (walked, fetched) = run(Counter::default(), &vec![&order[..]; count]);
            assert!(walked.iter().all(|walked| *walked.as_ref().unwrap() == names(&order)));
            assert_eq!(fetched, order.len(), "{count} runs");
        }
    }

    #[test]
    fn runs_that_go_other_ways_end_too() {
        let orders: [&[usize]; 4] = [&[0, 1, 2], &[0, 2], &[], &[0, 1, 5, 6, 7]];
        let (walked, fetched) = run(Counter::default(), &orders);
        for (walked, order) in walked.iter().zip(orders) {
            assert_eq!(*walked.as_ref().unwrap(), names(order));
        }
        assert!(fetched <= 10, "{fetched}");
    }

    #[test]
    fn an_error_ends_its_own_run() {
        let counter = Counter { fails: Some(2), ..Counter::default() };
        let (walked, _) = run(counter, &[&[0, 1], &[0, 1, 2, 3], &[0, 1, 3]]);
        assert_eq!(walked[0].as_ref().unwrap(), &names(&[0, 1]));
        assert!(walked[1].is_err());
        assert_eq!(walked[2].as_ref().unwrap(), &names(&[0, 1, 3]));
    }
}
