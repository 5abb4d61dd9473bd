//! How long a step takes whose weights come over a link through a window.
//!
//! The model of a step is that of the loader that runs it: blocks are used one after the other; those
//! that live elsewhere come over one link in the order of their use, each as soon as the link is free and
//! the window has room for it; a block leaves the window when its use is over, and may set off again for
//! the next step from then on. Computing waits for a block that is not there yet.

use crate::block::ComponentBlocks;
use crate::plan::Plan;

/// Steps that are played; the last one counts. From the second one on, steps take equally long.
const STEPS: usize = 3;

/// What a step does, in the order of use, in parts of its computing time.
pub(crate) struct Step {
    passes: Vec<Pass>,
    /// Computing behind the last block that passes.
    tail: f64,
    /// Bytes of all blocks that pass.
    bytes: u64,
}

/// A block that passes through the window.
struct Pass {
    bytes: u64,
    /// Computing since the block that passed before it.
    before: f64,
    /// Computing with it.
    with: f64,
}

impl Step {
    /// The step of a component whose blocks live where the plan says; `None` where nothing is computed.
    pub fn of(component: &ComponentBlocks, plan: &Plan) -> Option<Step> {
        let costs = component.costs();
        let whole: f64 = costs.iter().sum();
        if whole <= 0.0 {
            return None;
        }
        let mut step = Step { passes: Vec::new(), tail: 0.0, bytes: 0 };
        for index in component.use_order() {
            let (Some(block), Some(cost)) = (plan.blocks.get(index), costs.get(index)) else {
                continue;
            };
            let with = cost / whole;
            if block.device == plan.compute_device || block.bytes == 0 {
                step.tail += with;
            } else {
                let before = std::mem::take(&mut step.tail);
                step.bytes = step.bytes.saturating_add(block.bytes);
                step.passes.push(Pass { bytes: block.bytes, before, with });
            }
        }
        Some(step)
    }

    /// Bytes over the link in a step.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The time of a step in parts of its computing time, with a window of so many bytes and a link that
    /// takes `per_byte` of the computing time for each byte.
    ///
    /// A block that is larger than the window passes alone.
    pub fn time(&self, window: u64, per_byte: f64) -> f64 {
        let count = self.passes.len();
        // When the last use of each block was over.
        let mut released = vec![0.0_f64; count];
        // What is in the window: `held` bytes of the `inside` blocks up to the one that comes now.
        let (mut held, mut inside) = (0_u64, 0_usize);
        let (mut link, mut clock, mut begun) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..STEPS {
            begun = clock;
            for (place, pass) in self.passes.iter().enumerate() {
                held = held.saturating_add(pass.bytes);
                inside += 1;
                // No block twice, and no more than fits, unless it is alone.
                while (inside > 1 && held > window) || inside > count {
                    let oldest = (place + count + 1).saturating_sub(inside) % count;
                    let bytes = self.passes.get(oldest).map_or(0, |pass| pass.bytes);
                    held = held.saturating_sub(bytes);
                    inside -= 1;
                }
                // There is room once the one before the oldest has left.
                let before = (place + count).saturating_sub(inside) % count;
                let room = released.get(before).copied().unwrap_or(0.0);
                let arrived = link.max(room) + pass.bytes as f64 * per_byte;
                link = arrived;
                clock = arrived.max(clock + pass.before) + pass.with;
                if let Some(released) = released.get_mut(place) {
                    *released = clock;
                }
            }
            clock += self.tail;
        }
        clock - begun
    }
}
