//! The devices of a machine with the memory that is held on each and the links between them.
//!
//! A simulated device is memory of this process under a hard limit; its link is a clock that says
//! when bytes arrive. One [`Machine`] is shared by all models, so what one holds is not free for
//! another.

mod shortage;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use distorch_allocation::{ByteSize, DeviceId, DeviceInfo, Topology, UnknownDevice};

use crate::devices::{self, OpenDeviceError};
use crate::heap;
use crate::tensor::Device;

pub use shortage::{Remedy, Shortage};

/// The devices of a machine, their memory and their links.
#[derive(Debug)]
pub struct Machine {
    topology: Topology,
    pools: BTreeMap<DeviceId, Arc<Pool>>,
    /// When each device's link is free again.
    busy: Mutex<BTreeMap<DeviceId, Instant>>,
}

impl Machine {
    /// A machine on which nothing is held.
    pub fn new(topology: Topology) -> Arc<Self> {
        let pool = |info: &DeviceInfo| (info.id, Arc::new(Pool::new(info)));
        let pools = topology.devices().iter().map(pool).collect();
        Arc::new(Self { topology, pools, busy: Mutex::default() })
    }

    /// Its devices.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The memory of a device.
    ///
    /// # Errors
    /// When the machine has no such device.
    pub fn pool(&self, device: DeviceId) -> Result<&Arc<Pool>, UnknownDevice> {
        let present = || UnknownDevice { device, present: self.topology.ids() };
        self.pools.get(&device).ok_or_else(present)
    }

    /// The device to compute on.
    ///
    /// # Errors
    /// When the machine has no such device, or this build no backend for it.
    pub fn open(&self, device: DeviceId) -> Result<Device, OpenDeviceError> {
        devices::open(self.topology.get(device)?)
    }

    /// When `bytes` that are asked for at `asked` arrive.
    ///
    /// Between real devices that is at once: their copies take the time that they take. To or from a simulated
    /// one, the bytes pass the slower of the two links, after what is on its way already.
    pub fn transfer(&self, from: DeviceId, to: DeviceId, bytes: u64, asked: Instant) -> Instant {
        let ends = [from, to].map(|id| self.topology.get(id).ok().filter(|info| info.simulated));
        let limited = ends.into_iter().flatten().filter(|info| info.bandwidth.is_some());
        let links: Vec<DeviceId> = limited.clone().map(|info| info.id).collect();
        let Some(bandwidth) = limited.filter_map(|info| info.bandwidth).min() else {
            return asked;
        };
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let free = links.iter().filter_map(|id| busy.get(id)).max().copied();
        let start = free.map_or(asked, |free| free.max(asked));
        let arrival = start + Duration::from_secs_f64(bytes as f64 / bandwidth.max(1) as f64);
        busy.extend(links.into_iter().map(|id| (id, arrival)));
        arrival
    }

    /// The slower of the two links in bytes per second, where one is simulated and limited.
    pub fn bandwidth(&self, from: DeviceId, to: DeviceId) -> Option<u64> {
        let ends = [from, to].map(|id| self.topology.get(id).ok().filter(|info| info.simulated));
        ends.into_iter().flatten().filter_map(|info| info.bandwidth).min()
    }
}

/// The memory of one device: how much is held, and how much may be.
#[derive(Debug)]
pub struct Pool {
    device: DeviceId,
    simulated: bool,
    /// Whether it is this process's own memory.
    on_heap: bool,
    capacity: Option<u64>,
    used: Mutex<Used>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    now: u64,
    peak: u64,
}

impl Pool {
    /// A simulated device and an accelerator hold what was free; the host, whose memory the system
    /// manages, what it gets.
    fn new(info: &DeviceInfo) -> Self {
        let limited = info.simulated || !info.id.is_cpu();
        Self {
            device: info.id,
            simulated: info.simulated,
            on_heap: info.simulated || info.id.is_cpu(),
            capacity: limited.then_some(info.free),
            used: Mutex::default(),
        }
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Whether the device is simulated.
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Whether it is memory of this process: the host's, or that of a simulated device.
    pub fn is_on_heap(&self) -> bool {
        self.on_heap
    }

    /// Bytes that may be held at once; `None` where the system decides.
    pub fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    /// Bytes that are held now.
    pub fn used(&self) -> u64 {
        self.lock().now
    }

    /// The most bytes that were held at once.
    pub fn peak(&self) -> u64 {
        self.lock().peak
    }

    /// Counts the peak anew, from what is held now.
    pub fn reset_peak(&self) {
        let mut used = self.lock();
        used.peak = used.now;
    }

    /// Bytes that may still be held; without end on the host.
    pub fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.lock().now))
    }

    /// Holds `bytes`, where `reserved_bytes` more must stay free.
    ///
    /// # Errors
    /// When the device has not that much left.
    pub fn hold(self: &Arc<Self>, bytes: u64, reserved_bytes: u64) -> Result<Held, OutOfMemory> {
        let mut used = self.lock();
        let need = bytes.saturating_add(reserved_bytes);
        if let Some(capacity) = self.capacity
            && used.now.saturating_add(need) > capacity
        {
            let free = capacity.saturating_sub(used.now);
            return Err(OutOfMemory { device: self.device, simulated: self.simulated, need, free });
        }
        used.now = used.now.saturating_add(bytes);
        used.peak = used.peak.max(used.now);
        self.account(bytes, 1);
        Ok(Held { pool: Arc::clone(self), bytes, shared: 0 })
    }

    /// Tells the count of this process's memory whose these bytes are, or were.
    fn account(&self, bytes: u64, sign: i64) {
        if self.on_heap {
            // No device holds more than `i64` counts, but the host may be asked to.
            heap::account(sign * i64::try_from(bytes).unwrap_or(0));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a device that are held until this is dropped.
#[derive(Debug)]
pub struct Held {
    pool: Arc<Pool>,
    bytes: u64,
    /// So many of them were not taken from this process's memory for it.
    shared: u64,
}

impl Held {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many bytes of it are at home elsewhere in this process's memory, or in a file's pages, and were
    /// not copied: the device is as full, but no more memory was taken.
    pub(crate) fn share(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes - self.shared);
        self.shared += bytes;
        self.pool.account(bytes, -1);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut used = self.pool.lock();
        used.now = used.now.saturating_sub(self.bytes);
        self.pool.account(self.bytes - self.shared, -1);
    }
}

/// A device that has less memory left than is needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device}{} is out of memory: {} needed, {} free", mark(*simulated), ByteSize(*need), ByteSize(*free))]
pub struct OutOfMemory {
    /// The device.
    pub device: DeviceId,
    /// Whether it is simulated.
    pub simulated: bool,
    /// Bytes that were asked for.
    pub need: u64,
    /// Bytes that it has left.
    pub free: u64,
}

fn mark(simulated: bool) -> &'static str {
    if simulated { " (simulated)" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(text: &str) -> Arc<Machine> {
        let host = DeviceInfo::new(DeviceId::CPU, "host", 1 << 40);
        Machine::new(Topology::new(vec![host]).unwrap().simulate(text).unwrap())
    }

    fn id(name: &str) -> DeviceId {
        name.parse().unwrap()
    }

    #[test]
    fn a_simulated_device_is_full_at_its_capacity() {
        let machine = machine("cuda:0=1000B");
        let pool = machine.pool(id("cuda:0")).unwrap();
        let first = pool.hold(600, 0).unwrap();
        let error = pool.hold(300, 101).unwrap_err();
        assert_eq!((error.need, error.free), (401, 400));
        assert!(error.to_string().starts_with("cuda:0 (simulated) is out of memory: 401 B needed"));
        let second = pool.hold(400, 0).unwrap();
        assert_eq!((pool.used(), pool.free(), second.bytes()), (1000, 0, 400));
        drop((first, second));
        assert_eq!((pool.used(), pool.peak()), (0, 1000));
        assert!(machine.pool(DeviceId::CPU).unwrap().hold(u64::MAX, 0).is_ok(), "the host swaps");
        assert!(machine.pool(id("cuda:1")).is_err());
    }

    #[test]
    fn transfers_take_bytes_over_bandwidth_one_after_the_other() {
        let machine = machine("cuda:0=1GiB@100MB/s,cuda:1=1GiB@50MB/s,cuda:2=1GiB");
        let now = Instant::now();
        let after = |arrival: Instant| arrival.duration_since(now).as_secs_f64();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        let cpu = DeviceId::CPU;
        assert!(near(after(machine.transfer(cpu, id("cuda:0"), 10_000_000, now)), 0.1));
        let second = machine.transfer(id("cuda:1"), id("cuda:0"), 10_000_000, now);
        assert!(near(after(second), 0.3), "the slower link, after what is on its way");
        let later = now + Duration::from_secs(1);
        assert!(near(after(machine.transfer(cpu, id("cuda:0"), 10_000_000, later)), 1.1));
        assert_eq!(machine.transfer(cpu, id("cuda:2"), 1 << 30, now), now, "no limit");
        assert_eq!(machine.bandwidth(id("cuda:1"), id("cuda:0")), Some(50_000_000));
        assert_eq!(machine.bandwidth(cpu, id("cuda:2")), None);
    }
}
