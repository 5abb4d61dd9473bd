//! Which devices a machine has and how much each holds, real or simulated.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use thiserror::Error;

use crate::device::{DeviceId, DeviceIdError};
use crate::number::{Number, NumberError};
use crate::size::{bandwidth_unit, memory_unit};
use crate::span::Span;

/// What the planner needs to know about one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// Its name in this program.
    pub id: DeviceId,
    /// The hardware's name, for people.
    pub name: String,
    /// All of its memory, in bytes.
    pub total: u64,
    /// The memory that nobody uses now, in bytes.
    pub free: u64,
    /// Whether it is declared rather than found.
    pub simulated: bool,
    /// The measured or declared speed of its link to the compute device, in bytes per second.
    pub bandwidth: Option<u64>,
    /// Whether it computes in bf16.
    #[serde(skip)]
    pub bf16: bool,
}

impl DeviceInfo {
    /// A real device whose memory (`total` bytes) is all free, with a link of unknown speed, that computes in bf16.
    pub fn new(id: DeviceId, name: impl Into<String>, total: u64) -> Self {
        let name = name.into();
        DeviceInfo { id, name, total, free: total, simulated: false, bandwidth: None, bf16: true }
    }
}

/// The devices of a machine in [`DeviceId`] order: accelerators first, `cpu` last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Topology {
    devices: Vec<DeviceInfo>,
}

/// Why a list of devices is no [`Topology`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// One device twice.
    #[error("device `{0}` is listed twice")]
    Duplicate(DeviceId),
    /// No host: what fits nowhere else has to live somewhere.
    #[error("a machine always has `cpu`, but it is not among the devices")]
    NoCpu,
    /// The text that declares simulated devices is wrong.
    #[error(transparent)]
    Simulation(#[from] SimulationError),
}

/// A device was named that the machine doesn't have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no device `{device}`; present: {}", list(present))]
pub struct UnknownDevice {
    /// The device that was named.
    pub device: DeviceId,
    /// The devices that there are.
    pub present: Vec<DeviceId>,
}

/// Device names with commas between them.
pub(crate) fn list(devices: &[DeviceId]) -> String {
    let names: Vec<String> = devices.iter().map(DeviceId::to_string).collect();
    names.join(", ")
}

impl Topology {
    /// Puts the devices in order. Free memory beyond a device's total counts as its total.
    ///
    /// # Errors
    /// A device that is listed twice, or no `cpu`.
    pub fn new(mut devices: Vec<DeviceInfo>) -> Result<Topology, TopologyError> {
        devices.sort_by_key(|device| device.id);
        let twice = devices.windows(2).find_map(|pair| match pair {
            [a, b] if a.id == b.id => Some(a.id),
            _ => None,
        });
        if let Some(id) = twice {
            return Err(TopologyError::Duplicate(id));
        }
        if !devices.iter().any(|device| device.id.is_cpu()) {
            return Err(TopologyError::NoCpu);
        }
        for device in &mut devices {
            device.free = device.free.min(device.total);
        }
        Ok(Topology { devices })
    }

    /// This machine with the simulated devices that `text` declares, such as
    /// `cuda:0=8GiB,cuda:1=6GiB@12GB/s`. A declared device replaces one that is really there.
    /// A blank text declares none.
    ///
    /// Memory units are binary with or without the `i`, as in the allocation language. Bandwidth
    /// units are decimal (`GB/s` = 10⁹ bytes per second) unless they have the `i` (`GiB/s`).
    ///
    /// # Errors
    /// A text that doesn't follow this form, with the place in it.
    pub fn simulate(&self, text: &str) -> Result<Topology, TopologyError> {
        let declared = parse_simulation(text)?;
        let replaced = |device: &&DeviceInfo| declared.iter().all(|other| other.id != device.id);
        let kept: Vec<DeviceInfo> = self.devices.iter().filter(replaced).cloned().collect();
        Topology::new(kept.into_iter().chain(declared).collect())
    }

    /// All devices in order.
    pub fn devices(&self) -> &[DeviceInfo] {
        &self.devices
    }

    /// The names of all devices in order.
    pub fn ids(&self) -> Vec<DeviceId> {
        self.devices.iter().map(|device| device.id).collect()
    }

    /// The device with this name.
    ///
    /// # Errors
    /// [`UnknownDevice`], which lists the devices that there are.
    pub fn get(&self, id: DeviceId) -> Result<&DeviceInfo, UnknownDevice> {
        self.devices
            .iter()
            .find(|device| device.id == id)
            .ok_or_else(|| UnknownDevice { device: id, present: self.ids() })
    }

    /// Where to compute when the user doesn't say: the first accelerator, else `cpu`.
    pub fn default_compute(&self) -> DeviceId {
        self.devices.first().map_or(DeviceId::CPU, |device| device.id)
    }
}

/// What is wrong with a text that declares simulated devices, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("entry {entry}, character {character}: {problem}")]
pub struct SimulationError {
    /// The entry, counted from 1.
    pub entry: usize,
    /// The place in the text in characters, counted from 1.
    pub character: usize,
    /// What is wrong there.
    pub problem: SimulationProblem,
}

/// What can be wrong with a declaration of simulated devices.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SimulationProblem {
    /// No `=` in an entry.
    #[error("write DEVICE=CAPACITY, such as `cuda:0=8GiB` or `cuda:0=8GiB@12GB/s`")]
    Form,
    /// The device's name is none.
    #[error(transparent)]
    Device(#[from] DeviceIdError),
    /// One device twice.
    #[error("`{0}` is declared twice")]
    Duplicate(DeviceId),
    /// A bad number before a unit.
    #[error("`{text}`: {error}")]
    Number {
        /// What was written.
        text: String,
        /// What is wrong with it.
        error: NumberError,
    },
    /// A capacity with no or an unknown unit.
    #[error("`{0}`: the capacity needs a unit: GiB, MiB, KiB or B")]
    MemoryUnit(String),
    /// A bandwidth with no or an unknown unit.
    #[error("`{0}`: the bandwidth needs a unit: GB/s, MB/s, GiB/s or MiB/s")]
    BandwidthUnit(String),
    /// A capacity or bandwidth of 0.
    #[error("`{0}`: must be more than 0")]
    Zero(String),
    /// More than a `u64` holds.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// Declared devices in the order written; all their memory is free.
fn parse_simulation(text: &str) -> Result<Vec<DeviceInfo>, SimulationError> {
    let mut seen = BTreeSet::new();
    let entries = Span::whole(text).split(',').filter(|entry| !entry.text.is_empty());
    let parsed = entries.enumerate().map(|(index, entry)| {
        let at = |span: Span<'_>, problem| SimulationError {
            entry: index + 1,
            character: span.character_in(text),
            problem,
        };
        let (name, amounts) =
            entry.split_once('=').ok_or_else(|| at(entry, SimulationProblem::Form))?;
        let id: DeviceId =
            name.text.parse().map_err(|error| at(name, SimulationProblem::Device(error)))?;
        if !seen.insert(id) {
            return Err(at(name, SimulationProblem::Duplicate(id)));
        }
        let (capacity, bandwidth) = match amounts.split_once('@') {
            Some((capacity, bandwidth)) => (capacity, Some(bandwidth)),
            None => (amounts, None),
        };
        let total = quantity(capacity, memory_unit, SimulationProblem::MemoryUnit)
            .map_err(|problem| at(capacity, problem))?;
        let bandwidth = match bandwidth {
            Some(span) => Some(
                quantity(span, bandwidth_unit, SimulationProblem::BandwidthUnit)
                    .map_err(|problem| at(span, problem))?,
            ),
            None => None,
        };
        let name = "simulated device".to_owned();
        Ok(DeviceInfo { id, name, total, free: total, simulated: true, bandwidth, bf16: true })
    });
    parsed.collect()
}

/// A number with a unit, more than 0.
fn quantity(
    span: Span<'_>,
    unit: impl Fn(&str) -> Option<u64>,
    no_unit: impl Fn(String) -> SimulationProblem,
) -> Result<u64, SimulationProblem> {
    let written = || span.text.to_owned();
    let (number, unit_name) = span.take_while(|c| !c.is_ascii_alphabetic());
    let number = Number::parse(number.text)
        .map_err(|error| SimulationProblem::Number { text: written(), error })?;
    let unit = unit(unit_name.text).ok_or_else(|| no_unit(written()))?;
    match number.times(unit) {
        None => Err(SimulationProblem::TooLarge(written())),
        Some(0) => Err(SimulationProblem::Zero(written())),
        Some(bytes) => Ok(bytes),
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.simulated { " (simulated)" } else { "" };
        write!(f, "{}{mark}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Topology {
        Topology::new(vec![DeviceInfo::new(DeviceId::CPU, "host", 64 << 30)]).unwrap()
    }

    fn id(name: &str) -> DeviceId {
        name.parse().unwrap()
    }

    #[test]
    fn simulated_devices_join_the_real_ones() {
        let machine = host().simulate(" CUDA:1 = 6 gb @ 12GB/s , cuda:0=512MiB, ").unwrap();
        assert_eq!(machine.ids(), [id("cuda:0"), id("cuda:1"), id("cpu")]);
        let second = machine.get(id("cuda:1")).unwrap();
        assert_eq!((second.total, second.free), (6 << 30, 6 << 30));
        assert_eq!(second.bandwidth, Some(12_000_000_000));
        assert_eq!(second.to_string(), "cuda:1 (simulated)");
        assert_eq!(machine.get(id("cuda:0")).unwrap().bandwidth, None);
        assert_eq!(machine.default_compute(), id("cuda:0"));
    }

    #[test]
    fn a_declared_device_replaces_the_real_one() {
        let machine = host().simulate("cpu=16GiB@1.5GiB/s").unwrap();
        let cpu = machine.get(DeviceId::CPU).unwrap();
        assert_eq!((cpu.total, cpu.simulated), (16 << 30, true));
        assert_eq!(cpu.bandwidth, Some(3 << 29));
        assert_eq!(machine.default_compute(), DeviceId::CPU);
        assert_eq!(host().simulate("  ").unwrap(), host());
    }

    #[test]
    fn errors_say_where() {
        for (text, message) in [
            ("cuda:0", "entry 1, character 1: write DEVICE=CAPACITY"),
            ("cuda:0=8GiB,foo=1gb", "entry 2, character 13: `foo` is no device name"),
            ("cuda:0=8", "entry 1, character 8: `8`: the capacity needs a unit"),
            ("cuda:0=8GB/s", "entry 1, character 8: `8GB/s`: the capacity needs a unit"),
            ("cuda:0=8GiB@5", "entry 1, character 13: `5`: the bandwidth needs a unit"),
            ("cuda:0=0GiB", "must be more than 0"),
            ("cuda:0=-1GiB", "negative"),
            ("cuda:0=GiB", "a number is missing"),
            ("cuda:0=99999999999999999999GiB", "too large"),
            ("cuda:0=1GiB,cuda=2GiB", "entry 2, character 13: `cuda:0` is declared twice"),
        ] {
            let error = host().simulate(text).unwrap_err().to_string();
            assert!(error.starts_with(message) || error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn an_absent_device_lists_those_present() {
        let error = host().simulate("cuda:0=8GiB").unwrap().get(id("cuda:3")).unwrap_err();
        assert_eq!(error.to_string(), "no device `cuda:3`; present: cuda:0, cpu");
    }

    #[test]
    fn lists_are_checked() {
        let cpu = || DeviceInfo::new(DeviceId::CPU, "host", 1);
        assert_eq!(Topology::new(vec![]), Err(TopologyError::NoCpu));
        let twice = Topology::new(vec![cpu(), cpu()]);
        assert_eq!(twice, Err(TopologyError::Duplicate(DeviceId::CPU)));
        let boastful = DeviceInfo { free: 9, ..cpu() };
        assert_eq!(Topology::new(vec![boastful]).unwrap().devices()[0].free, 1);
    }
}
