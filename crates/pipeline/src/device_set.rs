//! The devices that a run has to itself, and the locks that see to it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use distorch_allocation::{DeviceId, Topology};
use thiserror::Error;

use crate::error::PipelineError;

/// How often a run that waits for its devices looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// The devices that a run has to itself: those that compute its models, and other accelerators that hold weights of them.
/// Runs share the host's memory: `cpu` is among them where it computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSet(BTreeSet<DeviceId>);

/// A run would compute on a device that it does not have to itself.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{what}` uses {device}, which this run did not ask for as it began: it has {devices}")]
pub struct NotReserved {
    /// What would compute or live there.
    pub what: String,
    /// The device, by name.
    pub device: String,
    /// The devices that the run has.
    pub devices: DeviceSet,
}

impl DeviceSet {
    /// The host alone, where all is computed that is done without a model.
    pub fn host() -> Self {
        Self::from_iter([DeviceId::CPU])
    }

    /// All devices of a machine: for what is not known before it runs.
    pub fn all(topology: &Topology) -> Self {
        topology.ids().into_iter().chain([DeviceId::CPU]).collect()
    }

    /// Whether a device is among them.
    pub fn contains(&self, device: DeviceId) -> bool {
        self.0.contains(&device)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any device is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    /// The first that is not in the other set.
    pub fn missing_in(&self, other: &Self) -> Option<DeviceId> {
        self.0.difference(&other.0).next().copied()
    }

    /// Them, in order.
    pub fn iter(&self) -> impl Iterator<Item = DeviceId> {
        self.0.iter().copied()
    }
}

impl FromIterator<DeviceId> for DeviceSet {
    fn from_iter<I: IntoIterator<Item = DeviceId>>(devices: I) -> Self {
        Self(devices.into_iter().collect())
    }
}

impl Extend<DeviceId> for DeviceSet {
    fn extend<I: IntoIterator<Item = DeviceId>>(&mut self, devices: I) {
        self.0.extend(devices);
    }
}

impl fmt::Display for DeviceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|device| device.to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

/// The devices of this process: sessions that share a process share them.
pub(crate) static LOCKS: DeviceLocks = DeviceLocks::new();

/// A lock for each device. A run takes all of its own at once, so that no two wait for each other; none passes one that
/// has waited longer for a device that both need.
pub(crate) struct DeviceLocks {
    state: Mutex<Locks>,
    changed: Condvar,
}

struct Locks {
    held: DeviceSet,
    /// In the order in which they came.
    waiting: VecDeque<(u64, DeviceSet)>,
    tickets: u64,
}

/// Devices that are held until this is dropped.
pub(crate) struct DeviceLock<'a> {
    locks: &'a DeviceLocks,
    devices: DeviceSet,
}

impl DeviceLocks {
    const fn new() -> Self {
        let state =
            Locks { held: DeviceSet(BTreeSet::new()), waiting: VecDeque::new(), tickets: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for the devices.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] once `cancelled` says so.
    pub fn lock(
        &self,
        devices: &DeviceSet,
        cancelled: impl Fn() -> bool,
    ) -> Result<DeviceLock<'_>, PipelineError> {
        let mut state = self.state();
        state.tickets = state.tickets.wrapping_add(1);
        let ticket = state.tickets;
        state.waiting.push_back((ticket, devices.clone()));
        loop {
            let is_cancelled = cancelled();
            if is_cancelled || state.may_go(ticket, devices) {
                state.waiting.retain(|(number, _)| *number != ticket);
            }
            if is_cancelled {
                self.changed.notify_all();
                return Err(PipelineError::Cancelled);
            }
            if !state.waiting.iter().any(|(number, _)| *number == ticket) {
                state.held.extend(devices.iter());
                return Ok(DeviceLock { locks: self, devices: devices.clone() });
            }
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, Locks> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Locks {
    /// Whether nobody holds any of the devices, nor waits longer for one.
    fn may_go(&self, ticket: u64, devices: &DeviceSet) -> bool {
        let mut before = self.waiting.iter().take_while(|(number, _)| *number != ticket);
        !self.held.overlaps(devices) && !before.any(|(_, other)| other.overlaps(devices))
    }
}

impl Drop for DeviceLock<'_> {
    fn drop(&mut self) {
        self.locks.state().held.0.retain(|device| !self.devices.contains(*device));
        self.locks.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn set(names: &str) -> DeviceSet {
        names.split_whitespace().map(|name| name.parse::<DeviceId>().unwrap()).collect()
    }

    #[test]
    fn sets_without_a_common_device_are_held_together() {
        let locks = DeviceLocks::new();
        let first = locks.lock(&set("cuda:0 cpu"), || false).unwrap();
        let second = locks.lock(&set("cuda:1"), || false).unwrap();
        assert_eq!(locks.state().held, set("cpu cuda:0 cuda:1"));
        drop(first);
        assert_eq!(locks.state().held, set("cuda:1"));
        drop(second);
        assert!(locks.state().held.is_empty());
    }

    #[test]
    fn who_shares_a_device_waits_and_none_passes_who_waited_longer() {
        let locks = DeviceLocks::new();
        let held = locks.lock(&set("cuda:0"), || false).unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let wait_for = |count| {
                while locks.state().waiting.len() < count {
                    std::thread::yield_now();
                }
            };
            let start = |name: &'static str| {
                let (tell, locks) = (tell.clone(), &locks);
                scope.spawn(move || {
                    let lock = locks.lock(&set(name), || false).unwrap();
                    tell.send(name).unwrap();
                    lock
                })
            };
            let both = start("cuda:0 cuda:1");
            wait_for(1);
            // It is free, but the one before waits for it.
            let second = start("cuda:1");
            wait_for(2);
            let third = start("cuda:2");
            assert_eq!(told.recv().unwrap(), "cuda:2");
            assert_eq!(locks.state().waiting.len(), 2);
            drop(held);
            let lock = both.join().unwrap();
            assert_eq!(told.recv().unwrap(), "cuda:0 cuda:1");
            assert_eq!(locks.state().waiting.len(), 1);
            drop(lock);
            assert_eq!(told.recv().unwrap(), "cuda:1");
            drop((second.join().unwrap(), third.join().unwrap()));
        });
        assert!(locks.state().held.is_empty());
    }

    #[test]
    fn who_is_cancelled_waits_no_more_and_holds_nobody_up() {
        let locks = DeviceLocks::new();
        let held = locks.lock(&set("cuda:0"), || false).unwrap();
        let refused = locks.lock(&set("cuda:0 cuda:1"), || true);
        assert!(matches!(refused, Err(PipelineError::Cancelled)));
        drop(locks.lock(&set("cuda:1"), || false).unwrap());
        drop(held);
        drop(locks.lock(&set("cuda:0"), || false).unwrap());
    }
}
