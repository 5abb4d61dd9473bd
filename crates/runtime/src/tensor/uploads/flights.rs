//! How many copies are under way, when their sources are let go of, and whom they wait for.

use std::collections::VecDeque;

use crate::tensor::Stream;

/// So many layers may be on their way before the next one is asked for.
const DEPTH: usize = 2;

/// So many threads' streams are waited for, those that used layers last. More than one thread computes with layers
/// of one device where programs run several models.
const STREAMS: usize = 16;

/// The stream for copies of a device.
pub(super) trait Queue {
    /// A point in the stream.
    type Point;

    /// The point behind all that the stream was told so far.
    fn point(&self) -> Result<Self::Point, String>;

    /// Waits, on this thread, until the stream has come there.
    fn wait(&self, point: Self::Point) -> Result<(), String>;

    /// Lets go of what was copied from before the last call of this, and takes note of what was since. The device's
    /// own thread waits for the copies of the last call: they have to be done.
    fn let_go(&self);
}

/// The copies of a device that are on their way.
#[derive(Debug)]
pub(super) struct Flights<P> {
    /// The points behind copies that nobody has waited for.
    points: VecDeque<P>,
    /// How many copies there were, are known to be done, and had been told when sources were last let go of.
    told: u64,
    done: u64,
    noted: u64,
}

impl<P> Default for Flights<P> {
    fn default() -> Self {
        Self { points: VecDeque::new(), told: 0, done: 0, noted: 0 }
    }
}

impl<P> Flights<P> {
    /// A layer's copies were ordered. Waits for older ones.
    pub(super) fn ordered<Q: Queue<Point = P>>(&mut self, queue: &Q) -> Result<(), String> {
        self.told += 1;
        self.points.push_back(queue.point()?);
        self.wait(queue, DEPTH)?;
        if self.done > 0 && self.done >= self.noted {
            queue.let_go();
            self.noted = self.told;
        }
        Ok(())
    }

    /// Waits for all copies, and lets go of what they were made from.
    pub(super) fn finish<Q: Queue<Point = P>>(&mut self, queue: &Q) -> Result<(), String> {
        let waited = self.wait(queue, 0);
        if self.told > 0 {
            // What was copied since the last time is noted at first, then let go of.
            queue.let_go();
            queue.let_go();
        }
        *self = Self::default();
        waited
    }

    fn wait<Q: Queue<Point = P>>(&mut self, queue: &Q, left: usize) -> Result<(), String> {
        while self.points.len() > left {
            let Some(point) = self.points.pop_front() else { break };
            queue.wait(point)?;
            self.done = self.told - self.points.len() as u64;
        }
        Ok(())
    }
}

/// The streams that compute with layers of a device, the one that did last at the end.
#[derive(Debug, Default)]
pub(super) struct Users(pub(super) Vec<Stream>);

impl Users {
    pub(super) fn note(&mut self, stream: Stream) {
        if self.0.last() == Some(&stream) {
            return;
        }
        self.0.retain(|known| *known != stream);
        if self.0.len() >= STREAMS {
            self.0.remove(0);
        }
        self.0.push(stream);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::pinned::double::Memory;
    use crate::pinned::{self, Driver};

    /// A copy engine as CUDA has it: does copies in their order, later than they are told, and reads their sources
    /// only then. Sources are held as CubeCL holds them, in two lists.
    #[derive(Default)]
    struct Engine {
        memory: Arc<Memory>,
        state: RefCell<State>,
    }

    #[derive(Default)]
    struct State {
        /// Copies that are told and not done: where from, and what has to arrive.
        copies: VecDeque<(*const u8, usize, u8)>,
        told: u64,
        done: u64,
        staged: Vec<Bytes>,
        pending: Vec<Bytes>,
        /// The copies that were told when sources were last let go of.
        fence: Option<u64>,
        most_held: usize,
        most_under_way: u64,
    }

    impl Engine {
        fn tell(&self, source: Bytes, value: u8) {
            let mut state = self.state.borrow_mut();
            state.copies.push_back((source.as_ptr(), source.len(), value));
            state.told += 1;
            state.staged.push(source);
            state.most_held = state.most_held.max(state.staged.len() + state.pending.len());
            state.most_under_way = state.most_under_way.max(state.told - state.done);
        }

        /// Does copies until so many are done.
        fn run(&self, until: u64) {
            let mut state = self.state.borrow_mut();
            while state.done < until {
                let (at, length, value) = state.copies.pop_front().expect("a copy to wait for");
                // SAFETY: the test's claim, which the next line checks first.
                let source = unsafe { std::slice::from_raw_parts(at, length) };
                assert!(self.memory.has(source), "copied from memory that was given back");
                assert!(source.iter().all(|byte| *byte == value), "the source changed");
                state.done += 1;
            }
        }
    }

    impl Queue for Engine {
        type Point = u64;

        fn point(&self) -> Result<u64, String> {
            Ok(self.state.borrow().told)
        }

        fn wait(&self, point: u64) -> Result<(), String> {
            self.run(point);
            Ok(())
        }

        fn let_go(&self) {
            let mut state = self.state.borrow_mut();
            if let Some(fence) = state.fence.take() {
                assert!(state.done >= fence, "the device's thread has to wait for a copy");
            }
            let (told, done) = (state.told, state.done);
            state.pending = std::mem::take(&mut state.staged);
            state.fence = Some(told);
            assert!(done <= told);
        }
    }

    fn layer(memory: &Arc<Memory>, value: u8) -> Bytes {
        let driver = Arc::clone(memory) as Arc<dyn Driver>;
        pinned::keep(&driver, &[&[value; 5000]]).unwrap().remove(0)
    }

    /// Homes that are given up as soon as their copy is told: the memory goes back after the copy, all of it at the
    /// end, and never does the device's own thread wait.
    #[test]
    fn sources_outlive_their_copies_and_no_longer() {
        let engine = Engine::default();
        let mut flights = Flights::default();
        for value in 0..100 {
            let home = layer(&engine.memory, value);
            engine.tell(home.clone(), value);
            drop(home);
            flights.ordered(&engine).unwrap();
        }
        let (held, under_way) = {
            let state = engine.state.borrow();
            (state.most_held, state.most_under_way)
        };
        assert!(held <= 3 * (DEPTH + 1), "{held} sources were held at once");
        assert_eq!(under_way, DEPTH as u64 + 1, "copies follow each other without a gap");
        flights.finish(&engine).unwrap();
        assert_eq!(engine.memory.held(), 0, "all was given back");
        assert!(engine.state.borrow().copies.is_empty());
    }

    #[test]
    fn homes_that_stay_are_copied_from_time_and_again() {
        let engine = Engine::default();
        let mut flights = Flights::default();
        let homes: Vec<Bytes> = (0..5).map(|value| layer(&engine.memory, value)).collect();
        let held = engine.memory.held();
        for pass in 0..4 {
            for (value, home) in (0..).zip(&homes) {
                engine.tell(home.clone(), value);
                flights.ordered(&engine).unwrap();
                assert_eq!(engine.memory.held(), held, "pass {pass}: nothing is staged");
            }
            flights.finish(&engine).unwrap();
        }
        // A home that changes while its copy is under way.
        engine.tell(homes[4].clone(), 4);
        drop(homes);
        assert!(engine.memory.held() > 0, "a copy is under way");
        flights.ordered(&engine).unwrap();
        flights.finish(&engine).unwrap();
        assert_eq!(engine.memory.held(), 0);
    }

    #[test]
    fn a_failed_copy_is_told_and_the_next_is_waited_for_anew() {
        struct Broken;
        impl Queue for Broken {
            type Point = ();
            fn point(&self) -> Result<(), String> {
                Ok(())
            }
            fn wait(&self, (): ()) -> Result<(), String> {
                Err("the copy failed".to_owned())
            }
            fn let_go(&self) {}
        }
        let mut flights = Flights::default();
        let told: Vec<_> = (0..=DEPTH).map(|_| flights.ordered(&Broken)).collect();
        assert_eq!(told.last().unwrap(), &Err("the copy failed".to_owned()));
        assert!(flights.finish(&Broken).is_err());
        assert!(flights.finish(&Broken).is_ok(), "nothing is left to wait for");
    }

    #[test]
    fn the_streams_that_computed_last_are_waited_for() {
        let stream = |value| Stream(cubecl_common::stream_id::StreamId { value });
        let mut users = Users::default();
        for value in (0..40).chain([39, 30]) {
            users.note(stream(value));
        }
        assert_eq!(users.0.len(), STREAMS);
        assert_eq!(users.0.last(), Some(&stream(30)));
        assert!(!users.0.contains(&stream(23)) && users.0.contains(&stream(24)));
    }
}
