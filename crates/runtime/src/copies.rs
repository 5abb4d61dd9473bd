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

#[cfg(feature = "cuda")]
use crate::tensor::{self, AnyTensor, DType, TensorData};
use crate::tensor::{Device, Movable};

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

/// The tensor on another device, by the way that the pair has.
///
/// # Errors
/// When the device that it is on fails to hand it over.
pub fn to_device<T: Movable>(tensor: T, device: &Device) -> Result<T, String> {
    match is_staged(&tensor.device(), device) {
        true => tensor.through_host(device),
        false => Ok(tensor.directly(device)),
    }
}

/// Whether a copy between the two has to be sent through the host by us: Burn would insist on a
/// direct one.
#[allow(unused_variables)] // without CUDA
fn is_staged(from: &Device, to: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if let (Device::Cuda(from), Device::Cuda(to)) = (from, to) {
        return from.index != to.index && !is_direct(from.index, to.index);
    }
    false
}

/// Whether a tensor may go directly from one CUDA device to another.
#[cfg(feature = "cuda")]
fn is_direct(from: usize, to: usize) -> bool {
    let trial = move || {
        crate::devices::peers(from, to)?;
        try_cuda_copy(from, to)
    };
    CUDA.between((from, to), PATIENCE, trial) == Route::Direct
}

/// Copies a few bytes from one CUDA device to another, directly, and looks whether they are there.
#[cfg(feature = "cuda")]
fn try_cuda_copy(from: usize, to: usize) -> Result<(), String> {
    let device = |index| u32::try_from(index).map(tensor::device::cuda);
    let (Ok(from), Ok(to)) = (device(from), device(to)) else {
        return Err("there are no devices of such numbers".to_owned());
    };
    let values: Vec<f32> = (0..1024_u16).map(f32::from).collect();
    let data = TensorData::new(values.clone(), [values.len()]);
    let copied = AnyTensor::from_data(data, &from, DType::F32).directly(&to).into_data()?;
    match copied.to_vec::<f32>() {
        Ok(copied) if copied == values => Ok(()),
        _ => Err("a trial copy arrived changed".to_owned()),
    }
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
