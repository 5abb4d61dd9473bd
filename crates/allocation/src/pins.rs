//! Which blocks never leave the compute device, and what they take of its share.

use crate::block::ComponentBlocks;
use crate::reason::Reason;

/// The blocks of a component that stay on the compute device whatever the shares are.
pub(crate) struct Pins {
    /// For each block, why it stays; `None` for one that may move.
    pub reasons: Vec<Option<Reason>>,
    /// Bytes of all blocks that stay.
    pub bytes: u64,
    /// What they take of the compute device's memory, in bytes.
    pub at_home: u64,
    /// What they take of the compute device's share in the layout that DisTorch2 users know.
    pub familiar_charge: u64,
}

impl Pins {
    /// Tiny blocks (under 0.01 % of the component), heads and the parameters that a parent module
    /// owns itself.
    ///
    /// All count against the compute device's share. DisTorch2 doesn't count parameters of a
    /// parent, so its layout counts them only as far as they exceed the component's largest
    /// block: the placement is the familiar one, and shares are still true to within one block
    /// where a model has many.
    pub fn of(component: &ComponentBlocks) -> Pins {
        let total = u128::from(component.bytes());
        let mut pins = Pins { reasons: Vec::new(), bytes: 0, at_home: 0, familiar_charge: 0 };
        let (mut params, mut largest) = (0, 0);
        for block in component.blocks() {
            largest = largest.max(block.bytes);
            let reason = if block.head {
                Some(Reason::Head)
            } else if block.bytes == 0 || u128::from(block.bytes) * 10_000 < total {
                Some(Reason::Tiny)
            } else if block.is_param() {
                Some(Reason::Param)
            } else {
                None
            };
            match reason {
                Some(Reason::Param) => params += block.bytes,
                Some(_) => pins.familiar_charge += block.bytes,
                None => {}
            }
            if reason.is_some() {
                pins.at_home += block.at_home();
            }
            pins.reasons.push(reason);
        }
        // No sum here passes the component's own, which fits.
        pins.bytes = pins.familiar_charge + params;
        pins.familiar_charge += params.saturating_sub(largest);
        pins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;

    #[test]
    fn the_limit_of_tiny_is_a_ten_thousandth() {
        let blocks = vec![
            Block::new("rest", "linear", 1_000_000 - 99 - 100 - 101),
            Block::new("under", "norm", 99),
            Block::new("at", "norm", 100),
            Block::new("over", "norm", 101),
        ];
        let pins = Pins::of(&ComponentBlocks::new("unet", blocks, 0).unwrap());
        assert_eq!(pins.reasons, [None, Some(Reason::Tiny), None, None]);
        assert_eq!((pins.bytes, pins.familiar_charge), (99, 99));
    }

    #[test]
    fn params_count_beyond_one_block() {
        let blocks = vec![
            Block::new("l", "linear", 100),
            Block::new("p0", "param", 60),
            Block::new("p1", "Parameter", 70),
            Block { head: true, ..Block::new("h", "param", 5) },
        ];
        let pins = Pins::of(&ComponentBlocks::new("unet", blocks, 0).unwrap());
        let param = Some(Reason::Param);
        assert_eq!(pins.reasons, [None, param, param, Some(Reason::Head)]);
        assert_eq!((pins.bytes, pins.familiar_charge), (135, 35));
    }
}
