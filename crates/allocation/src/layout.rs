//! Which blocks a device gets for its share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::block::ComponentBlocks;
use crate::device::DeviceId;
use crate::pins::Pins;
use crate::plan::Reason;
use crate::shares::Shares;

/// How blocks are chosen. Both layouts give every device the same share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The placement that DisTorch2 users know, to the byte: blocks from last to first, each into
    /// the first device with room, accelerators in numeric order, `cpu` last, and what fits
    /// nowhere on the compute device.
    #[default]
    Distorch2,
    /// The blocks that leave are spread evenly over the order in which a forward pass uses them,
    /// so that the link is busy all through a step.
    Interleave,
}

/// A text that names no layout.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no layout `{0}`; there are `distorch2` and `interleave`")]
pub struct UnknownLayout(String);

impl FromStr for Layout {
    type Err = UnknownLayout;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_ascii_lowercase().as_str() {
            "distorch2" => Ok(Layout::Distorch2),
            "interleave" => Ok(Layout::Interleave),
            _ => Err(UnknownLayout(text.trim().to_owned())),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Layout::Distorch2 => "distorch2",
            Layout::Interleave => "interleave",
        })
    }
}

/// A block's home and why it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub device: DeviceId,
    pub reason: Reason,
}

/// A device while it is being filled.
struct Bin {
    device: DeviceId,
    /// Bytes that still fit.
    room: u64,
    /// Its part of what may move.
    share: u64,
    /// What it has got so far.
    filled: u64,
}

impl Bin {
    fn put(&mut self, bytes: u64) {
        self.room = self.room.saturating_sub(bytes);
        self.filled += bytes;
    }
}

impl Layout {
    /// Gives every block a home, in definition order.
    pub(crate) fn place(
        self,
        component: &ComponentBlocks,
        pins: &Pins,
        shares: &Shares,
        compute: DeviceId,
    ) -> Vec<Home> {
        let charge = match self {
            Layout::Distorch2 => pins.familiar_charge,
            Layout::Interleave => pins.bytes,
        };
        let mut bins = bins(component.bytes().saturating_sub(pins.bytes), charge, shares, compute);
        let stay = |reason| Home { device: compute, reason };
        let mut homes: Vec<Home> =
            pins.reasons.iter().map(|pin| stay(pin.unwrap_or(Reason::Overflow))).collect();
        match self {
            Layout::Distorch2 => fill_from_the_tail(component, pins, &mut bins, &mut homes),
            Layout::Interleave => spread(component, pins, &mut bins, &mut homes),
        }
        homes
    }
}

/// The devices in the order in which they are filled. The compute device's room is less by the
/// `charge` for what stays there anyway; `left` bytes may move.
fn bins(mut left: u64, charge: u64, shares: &Shares, compute: DeviceId) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::with_capacity(shares.by_device.len());
    for (&device, share) in &shares.by_device {
        let charge = if device == compute { charge } else { 0 };
        let room = share.room.saturating_sub(charge);
        let share = room.min(left);
        left -= share;
        bins.push(Bin { device, room, share, filled: 0 });
    }
    if let Some(bin) = bins.iter_mut().find(|bin| bin.device == compute) {
        bin.share += left;
    }
    bins
}

/// First fit, from the last block to the first.
fn fill_from_the_tail(
    component: &ComponentBlocks,
    pins: &Pins,
    bins: &mut [Bin],
    homes: &mut [Home],
) {
    let blocks = component.blocks().iter().zip(&pins.reasons).zip(homes);
    for ((block, _), home) in blocks.rev().filter(|((_, pin), _)| pin.is_none()) {
        if let Some(bin) = bins.iter_mut().find(|bin| bin.room >= block.bytes) {
            bin.put(block.bytes);
            *home = Home { device: bin.device, reason: Reason::Share };
        }
    }
}

/// Error diffusion over the use order: each block goes to the device that is furthest behind the
/// part of its share that is due by then, if it has room.
fn spread(component: &ComponentBlocks, pins: &Pins, bins: &mut [Bin], homes: &mut [Home]) {
    let movable: u128 = bins.iter().map(|bin| u128::from(bin.share)).sum();
    for bin in &mut *bins {
        bin.room = bin.share;
    }
    let mut passed = 0_u128;
    for index in component.use_order() {
        let (Some(block), Some(None)) = (component.blocks().get(index), pins.reasons.get(index))
        else {
            continue;
        };
        passed += u128::from(block.bytes);
        // Both factors are under 2^64.
        let behind = |bin: &Bin| {
            let due = (passed * u128::from(bin.share)).checked_div(movable).unwrap_or(0);
            due as i128 - i128::from(bin.filled)
        };
        let takers = bins.iter_mut().filter(|bin| bin.room >= block.bytes);
        // `min_by_key` keeps the first of equals: the first device in order.
        if let Some(bin) = takers.min_by_key(|bin| -behind(bin)) {
            bin.put(block.bytes);
            if let Some(home) = homes.get_mut(index) {
                *home = Home { device: bin.device, reason: Reason::Share };
            }
        }
    }
}
