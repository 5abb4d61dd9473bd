//! What the user of a plan should know about it.

use std::fmt;

use serde::Serialize;

use crate::device::DeviceId;
use crate::number::Number;
use crate::size::ByteSize;
use crate::topology::list;

/// Something about a plan that its user should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
pub enum PlanWarning {
    /// A bare number among percentages is read as a part.
    BarePart {
        /// The device.
        device: DeviceId,
        /// The number.
        part: Number,
    },
    /// Devices have less free memory than they were to take.
    NoRoom {
        /// The devices.
        devices: Vec<DeviceId>,
        /// What they were to take.
        asked: u64,
        /// What they can take.
        taken: u64,
        /// Who gets the rest; `None` for the entries that follow.
        keeper: Option<DeviceId>,
    },
    /// A device was to hold a share and holds no block.
    EmptyShare {
        /// The device.
        device: DeviceId,
        /// What it was to hold.
        share: u64,
        /// The smallest block that may leave the compute device, if there is one.
        smallest: Option<u64>,
    },
    /// Ceilings leave a rest that no device may take, so that it stays on the compute device.
    Unclaimed {
        /// How much.
        bytes: u64,
        /// The compute device.
        keeper: DeviceId,
    },
    /// What has to stay on the compute device is more than the ceiling that the allocation gives it.
    OverCeiling {
        /// The compute device.
        device: DeviceId,
        /// Its ceiling.
        ceiling: u64,
        /// What has to stay there.
        bytes: u64,
    },
    /// The compute device can't hold what it needs at its peak.
    DoesNotFit {
        /// The compute device.
        device: DeviceId,
        /// What it needs.
        peak: u64,
        /// What it has.
        available: u64,
        /// The donors that were considered.
        donors: Vec<DeviceId>,
        /// The least virtual VRAM with these donors that fits, if one does.
        least_virtual_vram_gb: Option<Number>,
    },
    /// Another component can make the room that this one lacks.
    RoomFromAnother {
        /// The other component, which computes on the same device.
        component: String,
        /// The least of its virtual VRAM with which both fit.
        least_virtual_vram_gb: Number,
    },
}

impl fmt::Display for PlanWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanWarning::BarePart { device, part } => write!(
                f,
                "`{device},{part}` is read as `{device},{part}%`, a part of the model like the \
                 amounts beside it"
            ),
            PlanWarning::NoRoom { devices, asked, taken, keeper } => {
                let short = asked.saturating_sub(*taken);
                let (taken, asked, size) = (ByteSize(*taken), ByteSize(*asked), ByteSize(short));
                write!(f, "{} can take {taken} of the {asked} asked; ", list(devices))?;
                match keeper {
                    Some(keeper) => write!(f, "{size} ({short} bytes) go to {keeper}"),
                    None => write!(f, "{size} ({short} bytes) go to the entries after it"),
                }
            }
            PlanWarning::EmptyShare { device, share, smallest } => {
                write!(f, "{device} was to hold {} and holds nothing: ", ByteSize(*share))?;
                match smallest {
                    Some(bytes) if bytes > share => write!(
                        f,
                        "the smallest block that may move is {}; give it more or leave it out",
                        ByteSize(*bytes)
                    ),
                    Some(_) => write!(f, "the blocks small enough for it went to other devices"),
                    None => write!(f, "no block of this component may leave the compute device"),
                }
            }
            PlanWarning::Unclaimed { bytes, keeper } => write!(
                f,
                "the sizes leave {} over, which stay on {keeper}; raise one or give one device `*`",
                ByteSize(*bytes)
            ),
            PlanWarning::OverCeiling { device, ceiling, bytes } => write!(
                f,
                "{device} holds {}, more than the {} it was given: embeddings, small layers and a \
                 module's own parameters have to stay on the compute device",
                ByteSize(*bytes),
                ByteSize(*ceiling)
            ),
            PlanWarning::RoomFromAnother { component, least_virtual_vram_gb } => write!(
                f,
                "it fits once `{component}` leaves it room: the least virtual VRAM of \
                 `{component}` that does is {:.1} GB",
                least_virtual_vram_gb.to_f64()
            ),
            PlanWarning::DoesNotFit { device, peak, available, donors, least_virtual_vram_gb } => {
                write!(
                    f,
                    "{device} needs {} at its peak and has {}: ",
                    ByteSize(*peak),
                    ByteSize(*available)
                )?;
                match least_virtual_vram_gb {
                    Some(gigabytes) => write!(
                        f,
                        "the least virtual VRAM that fits is {:.1} GB (donor {})",
                        gigabytes.to_f64(),
                        list(donors)
                    ),
                    None if donors.is_empty() => write!(
                        f,
                        "no virtual VRAM helps, for there is no donor but {device} itself"
                    ),
                    None => {
                        write!(f, "no virtual VRAM fits with the donor {}", list(donors))
                    }
                }
            }
        }
    }
}
