//! Which blocks a device gets for its share.

use crate::block::{Block, ComponentBlocks};
use crate::device::DeviceId;
use crate::layout::Layout;
use crate::pins::Pins;
use crate::reason::Reason;
use crate::shares::{Shares, Taker};

/// A block's home and why it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub device: DeviceId,
    pub reason: Reason,
}

/// A block that no device may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Homeless {
    pub block: String,
    pub bytes: u64,
}

/// The devices while they are being filled.
struct Filling<'a> {
    bins: Vec<Bin>,
    shares: &'a Shares,
}

impl Filling<'_> {
    /// The home of a block that fits into no share.
    fn overflow(&mut self, block: &Block) -> Result<Home, Homeless> {
        for taker in &self.shares.takers {
            let at = self.bins.iter().position(|bin| bin.device == taker.device);
            let at = at.unwrap_or_else(|| {
                self.bins.push(Bin {
                    device: taker.device,
                    room: 0,
                    share: 0,
                    filled: 0,
                    extra: 0,
                });
                self.bins.len() - 1
            });
            let Some(bin) = self.bins.get_mut(at) else { continue };
            let held = bin.filled.saturating_add(bin.extra).saturating_add(block.bytes);
            if let Some(left) = taker.most.checked_sub(held) {
                bin.extra += block.bytes;
                // Its share is as large as before, but for what it may not hold any more.
                bin.room = bin.room.min(left);
                return Ok(Home { device: taker.device, reason: Reason::Overflow });
            }
        }
        Err(Homeless { block: block.name.clone(), bytes: block.bytes })
    }
}

/// A device while it is being filled.
struct Bin {
    device: DeviceId,
    /// Bytes that still fit.
    room: u64,
    /// Its part of what may move.
    share: u64,
    /// What it has of its share so far.
    filled: u64,
    /// What it has besides, of blocks that fit into no share.
    extra: u64,
}

impl Bin {
    fn put(&mut self, bytes: u64) {
        self.room = self.room.saturating_sub(bytes);
        self.filled += bytes;
    }
}

impl Layout {
    /// The home of every block, in definition order.
    ///
    /// # Errors
    /// A block that fits nowhere.
    pub(crate) fn place(
        self,
        component: &ComponentBlocks,
        pins: &Pins,
        shares: &Shares,
        compute: DeviceId,
    ) -> Result<Vec<Home>, Homeless> {
        let charge = match self {
            Layout::Distorch2 if !shares.strict => pins.familiar_charge,
            Layout::Distorch2 | Layout::Interleave => pins.bytes,
        };
        let left = component.bytes().saturating_sub(pins.bytes);
        let mut filling = Filling { bins: bins(left, charge, shares, compute), shares };
        let stay = |reason| Home { device: compute, reason };
        let mut homes: Vec<Home> =
            pins.reasons.iter().map(|pin| stay(pin.unwrap_or(Reason::Overflow))).collect();
        match self {
            Layout::Distorch2 => fill_from_the_tail(component, pins, &mut filling, &mut homes)?,
            Layout::Interleave => spread(component, pins, &mut filling, &mut homes)?,
        }
        Ok(homes)
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
        bins.push(Bin { device, room, share, filled: 0, extra: 0 });
    }
    let keeps_all = Taker { device: compute, most: u64::MAX };
    let bin = bins.iter_mut().find(|bin| bin.device == compute);
    if let Some(bin) = bin.filter(|_| shares.takers.contains(&keeps_all)) {
        bin.share += left;
    }
    bins
}

/// First fit, from the last block to the first.
fn fill_from_the_tail(
    component: &ComponentBlocks,
    pins: &Pins,
    filling: &mut Filling<'_>,
    homes: &mut [Home],
) -> Result<(), Homeless> {
    let blocks = component.blocks().iter().zip(&pins.reasons).zip(homes);
    for ((block, _), home) in blocks.rev().filter(|((_, pin), _)| pin.is_none()) {
        *home = match filling.bins.iter_mut().find(|bin| bin.room >= block.bytes) {
            Some(bin) => {
                bin.put(block.bytes);
                Home { device: bin.device, reason: Reason::Share }
            }
            None => filling.overflow(block)?,
        };
    }
    Ok(())
}

/// Error diffusion over the use order: each block goes to the device that is furthest behind the
/// part of its share that is due by then, if it has room.
fn spread(
    component: &ComponentBlocks,
    pins: &Pins,
    filling: &mut Filling<'_>,
    homes: &mut [Home],
) -> Result<(), Homeless> {
    let movable: u128 = filling.bins.iter().map(|bin| u128::from(bin.share)).sum();
    for bin in &mut filling.bins {
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
        let takers = filling.bins.iter_mut().filter(|bin| bin.room >= block.bytes);
        // `min_by_key` keeps the first of equals: the first device in order.
        let found = match takers.min_by_key(|bin| -behind(bin)) {
            Some(bin) => {
                bin.put(block.bytes);
                Home { device: bin.device, reason: Reason::Share }
            }
            None => filling.overflow(block)?,
        };
        if let Some(home) = homes.get_mut(index) {
            *home = found;
        }
    }
    Ok(())
}
