//! The threads that compute.

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use rayon::{ThreadBuilder, ThreadPoolBuilder};

use crate::error::CliError;

/// So many threads may be asked for on every machine, and [`EACH`] for each of its processors.
const ANYWHERE: usize = 64;
const EACH: usize = 4;

/// Starts the threads that compute: `count`, or one for each processor; where the system gives fewer,
/// half of as many as it gives.
///
/// # Errors
/// When it gives none.
pub fn start(count: Option<usize>) -> Result<(), CliError> {
    let named = || std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    let wanted = count.or_else(named);
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let wanted = wanted.filter(|&count: &usize| count > 0).unwrap_or(processors);
    let wanted = wanted.min(processors.saturating_mul(EACH).max(ANYWHERE));
    // A pool that cannot start its threads cannot be tried again, so they are there before it.
    let mut waiting: VecDeque<(Sender<ThreadBuilder>, JoinHandle<()>)> = VecDeque::new();
    while waiting.len() < wanted {
        let (sender, receiver) = channel::<ThreadBuilder>();
        let work = move || {
            if let Ok(worker) = receiver.recv() {
                worker.run();
            }
        };
        match thread::Builder::new().name("compute".to_owned()).spawn(work) {
            Ok(thread) => waiting.push_back((sender, thread)),
            Err(error) if waiting.is_empty() => {
                return Err(CliError::internal(format!(
                    "no thread can be started ({error}): raise the limit of memory or of threads"
                )));
            }
            Err(_) => {
                // Others need threads and memory too.
                for (sender, thread) in waiting.split_off(waiting.len().div_ceil(2)) {
                    drop(sender);
                    // It waits for nothing any more.
                    drop(thread.join());
                }
                break;
            }
        }
    }
    let pool = ThreadPoolBuilder::new().num_threads(waiting.len()).spawn_handler(move |worker| {
        let gone = || std::io::Error::other("a thread that computes ended early");
        let (sender, _) = waiting.pop_front().ok_or_else(gone)?;
        sender.send(worker).map_err(|_| gone())
    });
    pool.build_global().map_err(CliError::internal)
}
