//! Virtual VRAM: how much of a component leaves its compute device, and who takes it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::device::{DeviceId, DeviceIdError};
use crate::number::{Number, NumberError};
use crate::span::Span;
use crate::topology::Topology;

/// How much of a component moves off the compute device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualVram {
    /// This many GiB, from 0 to 128; 0 keeps all on the compute device.
    Gigabytes(Number),
    /// The least that makes the component fit into the memory that is free now.
    Auto,
}

/// Why a text is no virtual VRAM or list of donors.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VirtualVramError {
    /// The gigabytes are no number.
    #[error("virtual VRAM `{text}`: {error}; write gigabytes from 0.0 to 128.0, or `auto`")]
    Number {
        /// What was written.
        text: String,
        /// What is wrong with it.
        error: NumberError,
    },
    /// The gigabytes are over 128.
    #[error("virtual VRAM of {0} GB is out of range; write 0.0 to 128.0, or `auto`")]
    OutOfRange(Number),
    /// A donor's or the compute device's name is none.
    #[error("character {character}: {error}")]
    Device {
        /// The place in the text in characters, counted from 1.
        character: usize,
        /// What is wrong with the name.
        error: DeviceIdError,
    },
    /// One donor twice.
    #[error("character {character}: donor `{device}` is listed twice")]
    DuplicateDonor {
        /// The place in the text in characters, counted from 1.
        character: usize,
        /// The donor.
        device: DeviceId,
    },
    /// Not two semicolons.
    #[error("write COMPUTE;GIGABYTES;DONOR[,DONOR…], such as `cuda:0;4.0;cpu`")]
    Form,
}

impl VirtualVram {
    /// None: all stays on the compute device.
    pub const ZERO: VirtualVram = VirtualVram::Gigabytes(Number::ZERO);
    /// The largest amount, in GiB.
    pub const MAX_GIGABYTES: u32 = 128;

    /// This many GiB.
    ///
    /// # Errors
    /// Anything outside 0.0–128.0.
    pub fn gigabytes(value: f64) -> Result<VirtualVram, VirtualVramError> {
        match Number::from_f64(value) {
            Ok(number) => VirtualVram::from_number(number),
            Err(error) => Err(VirtualVramError::Number { text: value.to_string(), error }),
        }
    }

    /// This many GiB.
    ///
    /// # Errors
    /// Anything over 128.0.
    pub fn from_number(number: Number) -> Result<VirtualVram, VirtualVramError> {
        if number > Number::from_tenths(VirtualVram::MAX_GIGABYTES * 10) {
            return Err(VirtualVramError::OutOfRange(number));
        }
        Ok(VirtualVram::Gigabytes(number))
    }
}

/// Gigabytes in bytes, rounded down.
pub(crate) fn gigabytes_in_bytes(gigabytes: Number) -> u64 {
    gigabytes.times(1 << 30).unwrap_or(u64::MAX)
}

impl FromStr for VirtualVram {
    type Err = VirtualVramError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("auto") {
            return Ok(VirtualVram::Auto);
        }
        match Number::parse(text) {
            Ok(number) => VirtualVram::from_number(number),
            Err(error) => Err(VirtualVramError::Number { text: text.to_owned(), error }),
        }
    }
}

impl fmt::Display for VirtualVram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VirtualVram::Gigabytes(number) => write!(f, "{number}"),
            VirtualVram::Auto => f.write_str("auto"),
        }
    }
}

/// In what order donors are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DonorOrder {
    /// As written.
    AsWritten,
    /// The fastest link first; those of unknown speed last, in device order.
    ByBandwidth,
}

/// The devices that take what leaves the compute device.
///
/// As text: `cuda:1,cpu` asks them in this order, `auto:cuda:1,cpu` by bandwidth, and `auto` asks
/// all other devices by bandwidth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Donors {
    /// The devices; none means all other devices.
    pub devices: Vec<DeviceId>,
    /// The order in which they are asked.
    pub order: DonorOrder,
}

impl Donors {
    /// One donor.
    pub fn one(device: DeviceId) -> Donors {
        Donors::ordered(vec![device])
    }

    /// Donors that are asked in this order.
    pub fn ordered(devices: Vec<DeviceId>) -> Donors {
        Donors { devices, order: DonorOrder::AsWritten }
    }

    /// All other devices, the fastest link first.
    pub fn auto() -> Donors {
        Donors { devices: Vec::new(), order: DonorOrder::ByBandwidth }
    }

    /// The donors in the order in which they are asked, without `compute`, which can't donate to
    /// itself.
    pub(crate) fn resolve(&self, compute: DeviceId, topology: &Topology) -> Vec<DeviceId> {
        let mut devices =
            if self.devices.is_empty() { topology.ids() } else { self.devices.clone() };
        devices.retain(|&device| device != compute);
        if self.order == DonorOrder::ByBandwidth {
            let speed = |device| topology.get(device).ok().and_then(|info| info.bandwidth);
            devices.sort_by_key(|&device| (std::cmp::Reverse(speed(device)), device));
        }
        devices
    }
}

impl Default for Donors {
    /// `cpu`, as in the node.
    fn default() -> Self {
        Donors::one(DeviceId::CPU)
    }
}

impl FromStr for Donors {
    type Err = VirtualVramError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_donors(text, Span::whole(text))
    }
}

fn parse_donors(text: &str, span: Span<'_>) -> Result<Donors, VirtualVramError> {
    let span = span.trim();
    if span.text.eq_ignore_ascii_case("auto") {
        return Ok(Donors::auto());
    }
    let (list, order) = match span.split_once(':') {
        Some((word, list)) if word.text.eq_ignore_ascii_case("auto") => {
            (list, DonorOrder::ByBandwidth)
        }
        _ => (span, DonorOrder::AsWritten),
    };
    let mut devices = Vec::new();
    for name in list.split(',') {
        let character = name.character_in(text);
        let device =
            name.text.parse().map_err(|error| VirtualVramError::Device { character, error })?;
        if devices.contains(&device) {
            return Err(VirtualVramError::DuplicateDonor { character, device });
        }
        devices.push(device);
    }
    Ok(Donors { devices, order })
}

impl fmt::Display for Donors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.devices.iter().map(DeviceId::to_string).collect();
        match (self.order, names.is_empty()) {
            (_, true) => f.write_str("auto"),
            (DonorOrder::ByBandwidth, false) => write!(f, "auto:{}", names.join(",")),
            (DonorOrder::AsWritten, false) => f.write_str(&names.join(",")),
        }
    }
}

/// Virtual VRAM in one text, `compute;gigabytes;donor[,donor…]`: `cuda:0;4.0;cuda:1,cpu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualVramText {
    /// The device that computes.
    pub compute: DeviceId,
    /// How much leaves it.
    pub amount: VirtualVram,
    /// Who takes it.
    pub donors: Donors,
}

impl FromStr for VirtualVramText {
    type Err = VirtualVramError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<Span<'_>> = Span::whole(text).split(';').collect();
        let [compute, amount, donors] = parts.as_slice() else {
            return Err(VirtualVramError::Form);
        };
        let character = compute.character_in(text);
        Ok(VirtualVramText {
            compute: compute
                .text
                .parse()
                .map_err(|error| VirtualVramError::Device { character, error })?,
            amount: amount.text.parse()?,
            donors: parse_donors(text, *donors)?,
        })
    }
}

impl fmt::Display for VirtualVramText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{};{}", self.compute, self.amount, self.donors)
    }
}

impl Serialize for VirtualVram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            VirtualVram::Gigabytes(number) => serializer.serialize_f64(number.to_f64()),
            VirtualVram::Auto => serializer.serialize_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::DeviceInfo;

    fn id(name: &str) -> DeviceId {
        name.parse().unwrap()
    }

    #[test]
    fn amounts() {
        for (text, printed) in [("4.0", "4"), (" 0.1 ", "0.1"), ("128", "128"), ("AUTO", "auto")] {
            let amount: VirtualVram = text.parse().unwrap();
            assert_eq!(amount.to_string(), printed);
            assert_eq!(printed.parse(), Ok(amount));
        }
        assert_eq!(VirtualVram::gigabytes(0.3), "0.3".parse());
        for text in ["-1", "128.1", "nan", "4gb", "", "1e9"] {
            assert!(text.parse::<VirtualVram>().is_err(), "{text}");
        }
        for value in [-0.1, 128.5, f64::NAN, f64::INFINITY, f64::MAX] {
            assert!(VirtualVram::gigabytes(value).is_err(), "{value}");
        }
    }

    #[test]
    fn donors_read_back() {
        for (text, printed) in [
            ("cpu", "cpu"),
            (" cuda:1 , CPU", "cuda:1,cpu"),
            ("auto", "auto"),
            ("Auto: cuda:1,cpu", "auto:cuda:1,cpu"),
        ] {
            let donors: Donors = text.parse().unwrap();
            assert_eq!(donors.to_string(), printed);
            assert_eq!(printed.parse(), Ok(donors));
        }
        for (text, message) in [
            ("cpu,,cuda:1", "character 5: a device name is missing"),
            ("cpu,foo", "character 5: `foo` is no device"),
            ("cuda:0, cuda", "character 9: donor `cuda:0` is listed twice"),
            ("", "character 1: a device name is missing"),
        ] {
            let error = text.parse::<Donors>().unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn one_text_holds_it_all() {
        let text: VirtualVramText = "cuda:0; 4.0 ;cuda:1,cpu".parse().unwrap();
        assert_eq!(text.to_string(), "cuda:0;4;cuda:1,cpu");
        assert_eq!("cuda:0;4;cuda:1,cpu".parse(), Ok(text));
        assert_eq!("cuda:0;4".parse::<VirtualVramText>(), Err(VirtualVramError::Form));
        let error = "cuda:0;4;cpu,bar".parse::<VirtualVramText>().unwrap_err().to_string();
        assert!(error.starts_with("character 14: `bar`"), "{error}");
    }

    #[test]
    fn bandwidth_orders_donors_that_have_no_order() {
        let cpu = DeviceInfo::new(DeviceId::CPU, "host", 1 << 30);
        let machine = Topology::new(vec![cpu])
            .and_then(|m| {
                m.simulate("cuda:0=1gb,cuda:1=1gb@2GB/s,cuda:2=1gb@50GB/s,cuda:3=1gb,cpu=9gb@7GB/s")
            })
            .unwrap();
        let resolve = |text: &str| text.parse::<Donors>().unwrap().resolve(id("cuda:0"), &machine);
        assert_eq!(resolve("auto"), ["cuda:2", "cpu", "cuda:1", "cuda:3"].map(id));
        assert_eq!(resolve("auto:cuda:1,cpu,cuda:0"), ["cpu", "cuda:1"].map(id));
        assert_eq!(resolve("cuda:1,cuda:0,cpu"), ["cuda:1", "cpu"].map(id));
    }
}
