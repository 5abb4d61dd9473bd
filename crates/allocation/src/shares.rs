//! How many bytes of a component each device is to hold, before any block is looked at.

use std::collections::BTreeMap;

use crate::device::DeviceId;
use crate::language::{Allocation, Amount, Mode};
use crate::ledger::Ledger;
use crate::number::Number;
use crate::warning::PlanWarning;

/// What one device is to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Its share. All shares together are the component.
    pub bytes: u64,
    /// How far blocks may fill it. On the compute device this leaves out what other devices had
    /// no room for: such blocks come to it because they fit nowhere, as in DisTorch2. With
    /// fractions of a device's memory it may be more than the share.
    pub room: u64,
}

/// A device that takes blocks which fit into no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taker {
    pub device: DeviceId,
    /// How much it may hold in all, in bytes, besides what stays on the compute device anyway.
    pub most: u64,
}

/// The shares of all devices that matter to a component, the compute device's always among them.
pub(crate) struct Shares {
    pub by_device: BTreeMap<DeviceId, Share>,
    /// Who takes the blocks that fit into no share: the first that has room.
    pub takers: Vec<Taker>,
    /// Whether everything that stays on the compute device counts against its room: a ceiling is
    /// passed only where that alone is larger.
    pub strict: bool,
    pub warnings: Vec<PlanWarning>,
}

/// What shares are made from.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Bytes of the component.
    pub total: u64,
    /// Bytes of the blocks that stay on the compute device whatever is asked.
    pub pinned: u64,
    pub compute: DeviceId,
    pub ledger: &'a Ledger,
}

impl Request<'_> {
    /// What `device` could hold. The compute device is never refused here: whether it can hold
    /// what it gets is the plan's last question.
    fn limit(&self, device: DeviceId) -> u64 {
        if device == self.compute { u64::MAX } else { self.ledger.available(device) }
    }

    fn shares(&self) -> Shares {
        let by_device = BTreeMap::from([(self.compute, Share::default())]);
        let takers = vec![Taker { device: self.compute, most: u64::MAX }];
        Shares { by_device, takers, strict: false, warnings: Vec::new() }
    }

    /// Moves `bytes` (at most the whole component) to the donors in order, each up to what it can
    /// hold.
    pub fn virtual_vram(&self, bytes: u64, donors: &[DeviceId]) -> Shares {
        let mut shares = self.shares();
        let asked = if donors.is_empty() { 0 } else { bytes.min(self.total) };
        let mut left = asked;
        for &donor in donors.iter().filter(|_| asked > 0) {
            let taken = left.min(self.limit(donor));
            shares.add(donor, taken, taken);
            left -= taken;
        }
        if left > 0 {
            let (devices, taken) = (donors.to_vec(), asked - left);
            let keeper = Some(self.compute);
            shares.warnings.push(PlanWarning::NoRoom { devices, asked, taken, keeper });
        }
        shares.add(self.compute, self.total - asked + left, self.total - asked);
        shares
    }

    /// The shares that an expert allocation asks for.
    pub fn allocation(&self, allocation: &Allocation) -> Shares {
        match allocation.mode() {
            Mode::Ratio => self.ratio(&allocation.parts()),
            Mode::Bytes => self.bytes(allocation),
            Mode::Fraction => self.fraction(allocation),
        }
    }

    fn ratio(&self, parts: &[(DeviceId, Number)]) -> Shares {
        let mut shares = self.shares();
        for (&(device, _), asked) in parts.iter().zip(apportion(self.total, parts)) {
            let taken = self.taken(device, asked, Some(self.compute), &mut shares.warnings);
            shares.add(device, taken, taken);
            shares.add(self.compute, asked - taken, 0);
        }
        shares
    }

    /// Ceilings are filled in the order written. What stays on the compute device counts against its
    /// ceiling. The wildcard, written or not, takes what is left, and then the blocks that fit into no
    /// share; a device with a ceiling takes such blocks only up to it.
    fn bytes(&self, allocation: &Allocation) -> Shares {
        let mut shares = self.shares();
        shares.strict = true;
        shares.takers.clear();
        shares.add(self.compute, self.pinned, self.pinned);
        let mut left = self.total.saturating_sub(self.pinned);
        let mut ceilings = BTreeMap::new();
        for entry in allocation.entries() {
            let Amount::Bytes(ceiling) = entry.amount else { continue };
            let device = entry.device;
            let stays = if device == self.compute { self.pinned } else { 0 };
            let ceiling = ceiling.saturating_sub(stays);
            let taken = self.taken(device, ceiling.min(left), None, &mut shares.warnings);
            shares.add(device, taken, taken);
            left -= taken;
            ceilings.insert(device, ceiling.min(self.limit(device)));
        }
        let keeper = (!ceilings.contains_key(&self.compute)).then_some(self.compute);
        let cpu = (!ceilings.contains_key(&DeviceId::CPU)).then_some(DeviceId::CPU);
        if let Some(wildcard) = allocation.wildcard().or(cpu) {
            let taken = self.taken(wildcard, left, keeper, &mut shares.warnings);
            if taken > 0 {
                shares.add(wildcard, taken, taken);
            }
            left -= taken;
            shares.takers.push(Taker { device: wildcard, most: self.limit(wildcard) });
        } else if let (Some(keeper), true) = (keeper, left > 0) {
            shares.warnings.push(PlanWarning::Unclaimed { bytes: left, keeper });
        }
        shares.takers.extend(ceilings.into_iter().map(|(device, most)| Taker { device, most }));
        if let Some(keeper) = keeper {
            shares.add(keeper, left, 0);
            shares.takers.push(Taker { device: keeper, most: u64::MAX });
        }
        shares
    }

    fn fraction(&self, allocation: &Allocation) -> Shares {
        let mut shares = self.shares();
        let mut fractions = BTreeMap::new();
        for entry in allocation.entries() {
            let Amount::Fraction(fraction) = entry.amount else { continue };
            let total = self.ledger.topology().get(entry.device).map_or(0, |info| info.total);
            fractions.insert(entry.device, fraction.times(total).unwrap_or(u64::MAX));
        }
        let mut left = self.total;
        for (device, asked) in fractions {
            let wanted = asked.min(left);
            let keeper = Some(self.compute);
            let taken = self.taken(device, wanted, keeper, &mut shares.warnings);
            shares.add(device, taken, asked.min(self.limit(device)));
            left -= taken;
        }
        shares.add(self.compute, left, 0);
        shares
    }

    /// What `device` takes of the bytes `asked`, with a warning if that is not all.
    fn taken(
        &self,
        device: DeviceId,
        asked: u64,
        keeper: Option<DeviceId>,
        warnings: &mut Vec<PlanWarning>,
    ) -> u64 {
        let taken = asked.min(self.limit(device));
        if taken < asked {
            warnings.push(PlanWarning::NoRoom { devices: vec![device], asked, taken, keeper });
        }
        taken
    }
}

impl Shares {
    fn add(&mut self, device: DeviceId, bytes: u64, room: u64) {
        let share = self.by_device.entry(device).or_default();
        share.bytes = share.bytes.saturating_add(bytes);
        share.room = share.room.saturating_add(room);
    }
}

/// Splits `total` in proportion to the parts, exactly: each part is rounded down, and the bytes
/// that are left go to the largest remainders, the earlier part first among equals.
fn apportion(total: u64, parts: &[(DeviceId, Number)]) -> Vec<u64> {
    let weights = parts.iter().map(|(_, part)| part.billionths());
    let sum: u128 = weights.clone().sum();
    if sum == 0 {
        return vec![0; parts.len()];
    }
    // A part is at most 10⁹, so 10¹⁸ billionths: the product with a u64 stays within a u128.
    let products: Vec<u128> = weights.map(|weight| u128::from(total) * weight).collect();
    let mut split: Vec<u64> =
        products.iter().map(|product| u64::try_from(product / sum).unwrap_or(u64::MAX)).collect();
    let given: u64 = split.iter().sum();
    let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
    by_remainder.sort_by_key(|&i| std::cmp::Reverse(products.get(i).map(|product| product % sum)));
    let missing = usize::try_from(total - given).unwrap_or(usize::MAX);
    for index in by_remainder.into_iter().take(missing) {
        if let Some(bytes) = split.get_mut(index) {
            *bytes += 1;
        }
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{DeviceInfo, Topology};

    const GIB: u64 = 1 << 30;

    fn id(name: &str) -> DeviceId {
        name.parse().unwrap()
    }

    fn ledger(simulated: &str) -> Ledger {
        let cpu = DeviceInfo::new(DeviceId::CPU, "host", 64 * GIB);
        Ledger::new(Topology::new(vec![cpu]).unwrap().simulate(simulated).unwrap())
    }

    fn shares(total: u64, compute: &str, text: &str) -> (Vec<(String, u64, u64)>, usize) {
        let ledger = ledger("cuda:0=8GiB,cuda:1=4GiB");
        let request = Request { total, pinned: 0, compute: id(compute), ledger: &ledger };
        let shares = request.allocation(&Allocation::parse(text).unwrap().unwrap());
        let listed = shares.by_device.iter().map(|(d, s)| (d.to_string(), s.bytes, s.room));
        (listed.collect(), shares.warnings.len())
    }

    fn row(device: &str, bytes: u64, room: u64) -> (String, u64, u64) {
        (device.to_owned(), bytes, room)
    }

    #[test]
    fn remainders_are_given_out_to_the_byte() {
        let split = |total, parts: &[&str]| {
            let parts: Vec<_> =
                parts.iter().map(|p| (DeviceId::CPU, Number::parse(p).unwrap())).collect();
            apportion(total, &parts)
        };
        assert_eq!(split(10, &["1", "1", "1"]), [4, 3, 3]);
        assert_eq!(split(100, &["8", "8", "4"]), [40, 40, 20]);
        assert_eq!(split(11, &["70", "30"]), [8, 3]);
        assert_eq!(split(u64::MAX, &["999999999", "0.000000001"])[1], 18);
        assert_eq!(split(u64::MAX, &["1", "1"]), [u64::MAX / 2 + 1, u64::MAX / 2]);
    }

    #[test]
    fn a_ratio_is_of_the_component() {
        let (rows, warnings) = shares(10, "cuda:0", "cuda:0,1;cpu,3%");
        assert_eq!(rows, [row("cuda:0", 3, 3), row("cpu", 7, 7)]);
        assert_eq!(warnings, 0);
    }

    #[test]
    fn what_a_full_device_refuses_stays_on_compute() {
        let (rows, warnings) = shares(10 * GIB, "cuda:0", "cuda:1,50%;cpu,50%");
        assert_eq!(
            rows,
            [row("cuda:0", GIB, 0), row("cuda:1", 4 * GIB, 4 * GIB), row("cpu", 5 * GIB, 5 * GIB)]
        );
        assert_eq!(warnings, 1);
    }

    #[test]
    fn ceilings_fill_in_the_order_written() {
        let (rows, _) = shares(5 * GIB, "cuda:0", "cpu,4gb;cuda:1,3gb;cuda:0,*");
        assert_eq!(
            rows,
            [row("cuda:0", 0, 0), row("cuda:1", GIB, GIB), row("cpu", 4 * GIB, 4 * GIB)]
        );
        let (rows, _) = shares(5 * GIB, "cuda:0", "cuda:1,3gb");
        assert_eq!(
            rows,
            [row("cuda:0", 0, 0), row("cuda:1", 3 * GIB, 3 * GIB), row("cpu", 2 * GIB, 2 * GIB)]
        );
    }

    #[test]
    fn a_ceiling_of_cpu_is_a_ceiling_too() {
        let (rows, warnings) = shares(5 * GIB, "cuda:0", "cuda:1,1gb;cpu,2gb");
        assert_eq!(
            rows,
            [row("cuda:0", 2 * GIB, 0), row("cuda:1", GIB, GIB), row("cpu", 2 * GIB, 2 * GIB)]
        );
        assert_eq!(warnings, 1);
    }

    #[test]
    fn fractions_are_of_devices_and_may_spare_room() {
        let (rows, warnings) = shares(3 * GIB, "cuda:0", "cpu,0.5;cuda:1,0.5");
        assert_eq!(
            rows,
            [row("cuda:0", 0, 0), row("cuda:1", 2 * GIB, 2 * GIB), row("cpu", GIB, 32 * GIB)]
        );
        assert_eq!(warnings, 0);
    }

    #[test]
    fn donors_take_in_order_what_they_can() {
        let ledger = ledger("cuda:0=8GiB,cuda:1=4GiB,cpu=2GiB");
        let (total, pinned, compute) = (10 * GIB, 0, id("cuda:0"));
        let request = Request { total, pinned, compute, ledger: &ledger };
        let of = |gigabytes: u64, donors: &[&str]| {
            let donors: Vec<DeviceId> = donors.iter().map(|name| id(name)).collect();
            let shares = request.virtual_vram(gigabytes * GIB, &donors);
            let gib = |device: &str| {
                let share = shares.by_device.get(&id(device)).copied().unwrap_or_default();
                (share.bytes / GIB, share.room / GIB)
            };
            (gib("cuda:0"), gib("cuda:1"), gib("cpu"), shares.warnings.len())
        };
        assert_eq!(of(0, &["cpu"]), ((10, 10), (0, 0), (0, 0), 0));
        assert_eq!(of(3, &["cuda:1"]), ((7, 7), (3, 3), (0, 0), 0));
        assert_eq!(of(5, &["cpu", "cuda:1"]), ((5, 5), (3, 3), (2, 2), 0));
        assert_eq!(of(50, &["cuda:1", "cpu"]), ((4, 0), (4, 4), (2, 2), 1));
        assert_eq!(of(50, &[]), ((10, 10), (0, 0), (0, 0), 0));
    }
}
