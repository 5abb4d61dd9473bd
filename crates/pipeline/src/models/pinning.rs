//! Whether what lives on `cpu` is kept in page-locked memory, from which a device fetches it while it computes.
//!
//! Weights in their file cost no memory: the system keeps the file's pages where it has room, and takes them back where
//! it has not. Page-locked memory is taken for good. So without being asked for, it is taken only where a device
//! fetches from it, and where enough of the host's memory stays free.

use distorch_allocation::{ByteSize, DeviceId, Plan, Topology};
use distorch_runtime::devices::{self, Memory};

/// This part of the host's memory stays free where pinning was not asked for: one in so many.
const STAYS_FREE: u64 = 4;

/// What the user says of pinning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// What lives on `cpu` is kept in RAM, page-locked where the device that computes fetches from such memory.
    On,
    /// It stays in its file.
    Off,
    /// It is page-locked where that is of use and the host has room.
    #[default]
    Auto,
}

/// What was decided for a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinning {
    /// Whether what lives on `cpu` is kept in RAM instead of in its file.
    pub on: bool,
    /// Why not, where that is not what the user says.
    pub refused: Option<String>,
}

impl Pin {
    /// What it comes to for a component: `host` is the host's memory now, of which `promised` bytes are to be
    /// page-locked for others already.
    pub fn decide(self, plan: &Plan, topology: &Topology, host: Memory, promised: u64) -> Pinning {
        let simulated = |device| topology.get(device).is_ok_and(|info| info.simulated);
        let fetches = devices::has_page_locked(plan.compute_device.kind())
            && !simulated(plan.compute_device)
            && !simulated(DeviceId::CPU);
        self.within(plan, fetches, host, promised)
    }

    /// As [`decide`](Self::decide), on a device that fetches from page-locked memory or not.
    fn within(self, plan: &Plan, fetches: bool, host: Memory, promised: u64) -> Pinning {
        match self {
            Pin::On => return Pinning { on: true, refused: None },
            Pin::Off => return Pinning::default(),
            Pin::Auto => {}
        }
        let need = plan.bytes_on(DeviceId::CPU);
        if !fetches || need == 0 {
            return Pinning::default();
        }
        let room = host.free.saturating_sub(host.total / STAYS_FREE).saturating_sub(promised);
        let refused = (need > room).then(|| {
            let (need, room) = (ByteSize(need), ByteSize(room));
            format!("{need} needed, {room} free beside the quarter of RAM that stays free (--pin takes that too)")
        });
        Pinning { on: refused.is_none(), refused }
    }
}

#[cfg(test)]
mod tests {
    use distorch_allocation::{
        Allocation, Block, ComponentBlocks, ComponentSettings, DeviceInfo, Ledger, plan,
    };

    use super::*;

    const GIB: u64 = 1 << 30;

    fn topology(simulated: &str) -> Topology {
        let host = DeviceInfo::new(DeviceId::CPU, "host", 64 * GIB);
        let gpu = DeviceInfo::new("cuda:0".parse().unwrap(), "GPU", 24 * GIB);
        Topology::new(vec![gpu, host]).unwrap().simulate(simulated).unwrap()
    }

    fn planned(topology: &Topology, expert: &str) -> Plan {
        let block = |i: usize| Block::new(format!("b{i}"), "Linear", GIB);
        let blocks = ComponentBlocks::new("unet", (0..8).map(block).collect(), 0).unwrap();
        let mut settings = ComponentSettings::new("cuda:0".parse().unwrap());
        settings.expert = Allocation::parse(expert).unwrap();
        plan(&blocks, &settings, &Ledger::new(topology.clone())).unwrap()
    }

    fn host(total: u64, free: u64) -> Memory {
        Memory { total: total * GIB, free: free * GIB, swap: 0 }
    }

    #[test]
    fn by_itself_it_leaves_a_quarter_of_ram() {
        let plan = planned(&topology(""), "cuda:0,50%;cpu,50%");
        let need = plan.bytes_on(DeviceId::CPU);
        assert_eq!(need, 4 * GIB);
        let auto = |free, promised| Pin::Auto.within(&plan, true, host(16, free), promised * GIB);
        assert_eq!(auto(8, 0), Pinning { on: true, refused: None });
        let refused = auto(7, 0);
        assert!(!refused.on);
        assert!(refused.refused.unwrap().starts_with("4.00 GiB needed, 3.00 GiB free"), "{need}");
        assert!(!auto(8, 1).on, "others were promised a part of it");
        assert!(auto(9, 1).on);
        assert!(!auto(0, 0).on && !auto(2, 0).on);
    }

    #[test]
    fn what_the_user_says_goes() {
        let plan = planned(&topology(""), "cuda:0,50%;cpu,50%");
        assert!(Pin::On.within(&plan, true, host(16, 0), 0).on);
        assert!(Pin::On.within(&plan, false, host(16, 0), 0).on, "RAM instead of the file");
        assert_eq!(Pin::Off.within(&plan, true, host(64, 64), 0), Pinning::default());
    }

    #[test]
    fn without_use_nothing_is_pinned_or_said() {
        let (real, simulated) = (topology(""), topology("cuda:0=8GiB"));
        let all_there = planned(&real, "cuda:0,100%");
        assert_eq!(Pin::Auto.within(&all_there, true, host(64, 64), 0), Pinning::default());
        let half = planned(&simulated, "cuda:0,50%;cpu,50%");
        assert_eq!(Pin::Auto.within(&half, false, host(64, 64), 0), Pinning::default());
        assert_eq!(Pin::Auto.decide(&half, &simulated, host(64, 64), 0), Pinning::default());
    }
}
