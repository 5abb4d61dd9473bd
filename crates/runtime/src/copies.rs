//! Copies between two accelerators: directly where a pair of them can, else through the host.
//!
//! Burn copies between two CUDA devices through NCCL, and stops the program where that is missing or the
//! pair cannot reach each other. So a pair is tried out before it is used: the driver is asked, the
//! library looked for, and a few bytes are copied there and read back, by a thread that may fail
//! or hang. What does not come to a good end is copied through the host from then on. All other
//! pairs go through the host in any case.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a pair may take to copy a few bytes.
#[cfg(feature = "cuda")]
const PATIENCE: Duration = Duration::from_secs(20);

/// How bytes go from one accelerator to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// From one to the other.
    Direct,
    /// Through the host, and why.
    Staged(String),
}

/// The routes of pairs of devices, by number, each tried once.
#[derive(Debug, Default)]
pub struct Routes(Mutex<BTreeMap<(usize, usize), Route>>);

impl Routes {
    /// None is known yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The route of a pair. The first time, `trial` finds out whether it may be the direct one: it
    /// may fail, panic, or take longer than `patience`.
    pub fn between(
        &self,
        pair: (usize, usize),
        patience: Duration,
        trial: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Route {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.entry(pair).or_insert_with(|| attempt(patience, trial)).clone()
    }

    /// Every pair that was tried, with its route.
    pub fn known(&self) -> Vec<((usize, usize), Route)> {
        let routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.iter().map(|(pair, route)| (*pair, route.clone())).collect()
    }
}

fn attempt(
    patience: Duration,
    trial: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Route {
    let (tell, told) = mpsc::channel();
    let run = move || {
        let outcome = catch_unwind(AssertUnwindSafe(trial));
        let outcome = outcome.unwrap_or_else(|_| Err("a trial copy failed".to_owned()));
        // Nobody listens any more where it took too long.
        let _ = tell.send(outcome);
    };
    let thread = std::thread::Builder::new().name("trial copy".to_owned()).spawn(run);
    if let Err(error) = thread {
        return Route::Staged(format!("no thread for a trial copy: {error}"));
    }
    match told.recv_timeout(patience) {
        Ok(Ok(())) => Route::Direct,
        Ok(Err(reason)) => Route::Staged(reason),
        Err(_) => Route::Staged(format!("a trial copy took longer than {patience:?}")),
    }
}

/// The routes between CUDA devices.
#[cfg(feature = "cuda")]
pub static CUDA: Routes = Routes::new();

/// Whether a tensor may go directly from one CUDA device to another.
#[cfg(feature = "cuda")]
pub(crate) fn is_direct(from: usize, to: usize) -> bool {
    let trial = move || {
        crate::devices::peers(from, to)?;
        crate::tensor::try_cuda_copy(from, to)
    };
    CUDA.between((from, to), PATIENCE, trial) == Route::Direct
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(60);

    fn reason(route: Route) -> String {
        match route {
            Route::Staged(reason) => reason,
            Route::Direct => panic!("direct"),
        }
    }

    #[test]
    fn a_pair_that_can_copies_directly_and_is_tried_once() {
        let routes = Routes::new();
        assert_eq!(routes.between((0, 1), LATE, || Ok(())), Route::Direct);
        assert_eq!(routes.between((0, 1), LATE, || panic!("again")), Route::Direct);
        let refused = routes.between((1, 0), LATE, || Err("no peer access".to_owned()));
        assert_eq!(reason(refused), "no peer access");
        assert_eq!(routes.known().len(), 2, "one way is not the other");
    }

    #[test]
    fn a_trial_that_fails_in_any_way_is_not_fatal() {
        let routes = Routes::new();
        let broken = routes.between((0, 1), LATE, || panic!("the driver is broken"));
        assert_eq!(reason(broken), "a trial copy failed");
        let (keep, wait) = mpsc::channel::<()>();
        let hangs = routes.between((0, 2), SOON, move || wait.recv().map_err(|_| String::new()));
        assert!(reason(hangs).contains("took longer"));
        drop(keep);
    }
}
