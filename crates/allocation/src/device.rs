//! Device names, as ComfyUI users write them: `cpu`, `cuda:0`, `rocm:1`, `vulkan:0`, `metal`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// What drives a device. The order is the order in which devices are filled: `cpu` comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// An NVIDIA GPU.
    Cuda,
    /// An AMD GPU.
    Rocm,
    /// Any GPU (or software driver) that speaks Vulkan.
    Vulkan,
    /// The GPU of an Apple machine; ComfyUI calls it `mps`.
    Metal,
    /// The host and its memory.
    Cpu,
}

impl DeviceKind {
    /// The lower-case name, without an index.
    pub const fn name(self) -> &'static str {
        match self {
            DeviceKind::Cuda => "cuda",
            DeviceKind::Rocm => "rocm",
            DeviceKind::Vulkan => "vulkan",
            DeviceKind::Metal => "metal",
            DeviceKind::Cpu => "cpu",
        }
    }

    /// Whether a machine has at most one device of this kind, which then has no index.
    pub const fn is_single(self) -> bool {
        matches!(self, DeviceKind::Metal | DeviceKind::Cpu)
    }

    fn named(name: &str) -> Option<DeviceKind> {
        match name.to_ascii_lowercase().as_str() {
            "cuda" => Some(DeviceKind::Cuda),
            "rocm" => Some(DeviceKind::Rocm),
            "vulkan" => Some(DeviceKind::Vulkan),
            "metal" | "mps" => Some(DeviceKind::Metal),
            "cpu" => Some(DeviceKind::Cpu),
            _ => None,
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One device by name. Ordered by kind, then by the number of the index (`cuda:2` before
/// `cuda:10`), `cpu` last.
///
/// Reading is forgiving about case and blanks; `cuda` is `cuda:0`, and so for `rocm` and
/// `vulkan`; `mps` and `metal:0` are `metal`, `cpu:0` is `cpu`. An index has no leading zeros,
/// so that a device has one name only. Printing gives `cuda:0`, `metal`, `cpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    kind: DeviceKind,
    index: u32,
}

/// Why a text names no device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceIdError {
    /// Nothing but blanks.
    #[error("a device name is missing, such as `cpu` or `cuda:0`")]
    Missing,
    /// A kind that ComfyUI has a name for and distorch no backend.
    #[error(
        "`{name}`: distorch has no `{kind}` backend; it has `cpu`, `cuda`, `rocm`, `vulkan` and `metal`"
    )]
    NoBackend {
        /// What was written.
        name: String,
        /// The kind in it.
        kind: String,
    },
    /// No known kind.
    #[error(
        "`{name}` is no device name; write `cpu`, `cuda:N`, `rocm:N`, `vulkan:N` or `metal`{}",
        did_you_mean(name)
    )]
    Unknown {
        /// What was written.
        name: String,
    },
    /// Something other than a plain number after the colon.
    #[error("`{name}`: the part after the colon must be a plain number, such as `{kind}:1`")]
    BadIndex {
        /// What was written.
        name: String,
        /// The kind in it.
        kind: DeviceKind,
    },
    /// An index over zero for a kind of which there is one device.
    #[error("`{name}`: there is only one `{kind}`; write `{kind}`")]
    Single {
        /// What was written.
        name: String,
        /// The kind in it.
        kind: DeviceKind,
    },
}

/// Kinds of device that ComfyUI lists and for which distorch has no backend.
const FOREIGN_KINDS: [&str; 5] = ["xpu", "npu", "mlu", "directml", "corex"];

fn did_you_mean(name: &str) -> String {
    let at = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
    let (letters, digits) = name.split_at(at);
    match DeviceKind::named(letters) {
        Some(kind) if !kind.is_single() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!(" (did you mean `{kind}:{digits}`?)")
        }
        _ => String::new(),
    }
}

impl DeviceId {
    /// The host.
    pub const CPU: DeviceId = DeviceId { kind: DeviceKind::Cpu, index: 0 };

    /// The device `kind:index`; `None` for an index over 0 of a kind with one device.
    pub const fn new(kind: DeviceKind, index: u32) -> Option<DeviceId> {
        if kind.is_single() && index > 0 { None } else { Some(DeviceId { kind, index }) }
    }

    /// What drives it.
    pub const fn kind(self) -> DeviceKind {
        self.kind
    }

    /// Its number among the devices of its kind; 0 for `cpu` and `metal`.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Whether it is the host.
    pub const fn is_cpu(self) -> bool {
        matches!(self.kind, DeviceKind::Cpu)
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.trim();
        if name.is_empty() {
            return Err(DeviceIdError::Missing);
        }
        let (kind_text, index_text) = match name.split_once(':') {
            Some((kind, index)) => (kind.trim(), Some(index.trim())),
            None => (name, None),
        };
        let Some(kind) = DeviceKind::named(kind_text) else {
            let lower = kind_text.to_ascii_lowercase();
            return Err(if FOREIGN_KINDS.contains(&lower.as_str()) {
                DeviceIdError::NoBackend { name: name.to_owned(), kind: lower }
            } else {
                DeviceIdError::Unknown { name: name.to_owned() }
            });
        };
        let index = match index_text {
            None => 0,
            Some(digits) => plain_index(digits)
                .ok_or_else(|| DeviceIdError::BadIndex { name: name.to_owned(), kind })?,
        };
        DeviceId::new(kind, index)
            .ok_or_else(|| DeviceIdError::Single { name: name.to_owned(), kind })
    }
}

/// A decimal index without sign or leading zeros.
fn plain_index(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let padded = digits.len() > 1 && digits.starts_with('0');
    if plain && !padded { digits.parse().ok() } else { None }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.is_single() {
            f.pad(self.kind.name())
        } else {
            f.pad(&format!("{}:{}", self.kind, self.index))
        }
    }
}

impl Serialize for DeviceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> String {
        text.parse::<DeviceId>().unwrap().to_string()
    }

    #[test]
    fn reads_every_spelling() {
        for (text, name) in [
            ("cpu", "cpu"),
            (" CPU ", "cpu"),
            ("cpu:0", "cpu"),
            ("cuda", "cuda:0"),
            ("CUDA:1", "cuda:1"),
            ("cuda : 12", "cuda:12"),
            ("rocm", "rocm:0"),
            ("vulkan:3", "vulkan:3"),
            ("mps", "metal"),
            ("mps:0", "metal"),
            ("Metal", "metal"),
        ] {
            assert_eq!(printed(text), name, "{text}");
            assert_eq!(printed(name), name, "round trip of {name}");
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        for (text, part) in [
            ("", "missing"),
            ("foo", "`foo` is no device name"),
            ("cuda0", "did you mean `cuda:0`?"),
            ("cuda:", "plain number"),
            ("cuda:01", "plain number"),
            ("cuda:-1", "plain number"),
            ("cuda:+1", "plain number"),
            ("cuda:1:2", "plain number"),
            ("cuda:99999999999", "plain number"),
            ("cpu:1", "only one `cpu`"),
            ("mps:1", "only one `metal`"),
            ("xpu:0", "no `xpu` backend"),
            ("DirectML:0", "no `directml` backend"),
        ] {
            let message = text.parse::<DeviceId>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn order_is_numeric_with_cpu_last() {
        let mut devices: Vec<DeviceId> =
            ["cpu", "cuda:10", "metal", "vulkan:0", "cuda:2", "rocm:0"]
                .map(|name| name.parse().unwrap())
                .into();
        devices.sort();
        let names: Vec<String> = devices.iter().map(DeviceId::to_string).collect();
        assert_eq!(names, ["cuda:2", "cuda:10", "rocm:0", "vulkan:0", "metal", "cpu"]);
    }

    #[test]
    fn is_a_string_in_json() {
        let device: DeviceId = serde_json::from_str("\"mps\"").unwrap();
        assert_eq!(serde_json::to_string(&device).unwrap(), "\"metal\"");
        assert!(serde_json::from_str::<DeviceId>("\"xpu:0\"").is_err());
    }
}
