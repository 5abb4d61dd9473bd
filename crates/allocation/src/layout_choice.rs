//! Which layout a plan has, and why that one.
//!
//! Where the settings leave it open, blocks live where DisTorch2 puts them as long as the window has
//! its full size. With less of a window the link of such a placement rests while the blocks that
//! stay are computed with, for what leaves is one run of blocks. So a step of both layouts is
//! played over links of several speeds, and the blocks are interleaved where that saves more than
//! [`MARGIN`] of a step.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::block::ComponentBlocks;
use crate::layout::{Layout, LayoutReason, LayoutRule, UnknownLayout, Waits};
use crate::plan::Plan;
use crate::streaming::Step;

/// What a layout has to save of a step before blocks live elsewhere than DisTorch2's users expect.
const MARGIN: f64 = 0.02;

/// Times of moving what lives elsewhere, in parts of computing, over the links that are tried: how fast
/// either is is not known, and waiting is longest where both take as long.
const BALANCES: [f64; 5] = [0.5, 0.75, 1.0, 1.5, 2.0];

/// How the layout is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LayoutChoice {
    /// By the planner: `distorch2`, but where the window is small and a step waits less so, `interleave`.
    #[default]
    Auto,
    /// This one.
    Fixed(Layout),
}

impl LayoutChoice {
    /// The layout of what is planned first.
    pub(crate) fn first(self) -> Layout {
        match self {
            LayoutChoice::Auto => Layout::Distorch2,
            LayoutChoice::Fixed(layout) => layout,
        }
    }
}

impl From<Layout> for LayoutChoice {
    fn from(layout: Layout) -> Self {
        LayoutChoice::Fixed(layout)
    }
}

impl FromStr for LayoutChoice {
    type Err = UnknownLayout;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().eq_ignore_ascii_case("auto") {
            return Ok(LayoutChoice::Auto);
        }
        text.parse().map(LayoutChoice::Fixed)
    }
}

impl fmt::Display for LayoutChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayoutChoice::Auto => f.pad("auto"),
            LayoutChoice::Fixed(layout) => layout.fmt(f),
        }
    }
}

impl Serialize for LayoutChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Waits {
    /// Plays a step of both plans; `None` where nothing is computed or moved.
    fn compare(component: &ComponentBlocks, distorch2: &Plan, interleave: &Plan) -> Option<Waits> {
        let steps = [distorch2, interleave].map(|plan| Some((Step::of(component, plan)?, plan)));
        let [Some((familiar, distorch2)), Some((spread, interleave))] = steps else { return None };
        let bytes_elsewhere = familiar.bytes();
        let compared = BALANCES.map(|balance| {
            let per_byte = balance / bytes_elsewhere.max(1) as f64;
            let play = |step: &Step, plan: &Plan| {
                let never_waits = (step.bytes() as f64 * per_byte).max(1.0);
                let time = step.time(plan.window_bytes, per_byte);
                (time, to_a_thousandth(time / never_waits - 1.0))
            };
            let (familiar, spread) = (play(&familiar, distorch2), play(&spread, interleave));
            (familiar.0 / spread.0, familiar.1, spread.1)
        });
        let apart = |ratio: f64| ratio.max(1.0 / ratio);
        let widest = compared.iter().max_by(|a, b| apart(a.0).total_cmp(&apart(b.0)))?;
        // By how much either is slower than the other at most.
        let slower = compared.iter().fold(1.0, |most: f64, (ratio, ..)| most.max(*ratio));
        let faster = compared.iter().fold(1.0, |most: f64, (ratio, ..)| most.max(1.0 / ratio));
        Some(Waits {
            window_bytes: distorch2.window_bytes,
            bytes_elsewhere,
            distorch2: widest.1,
            interleave: widest.2,
            saves: slower > faster + MARGIN,
        })
    }
}

/// No less than nothing: the time of a step that never waits is rounded too.
fn to_a_thousandth(part: f64) -> f64 {
    (part * 1000.0).round().max(0.0) / 1000.0
}

/// Which of two plans of one component `auto` takes. `distorch2` is settled on the memory that is free;
/// `interleave` makes the other one, settled too, where its blocks find homes.
///
/// The reason, and the other plan where that is taken.
pub(crate) fn choose(
    component: &ComponentBlocks,
    distorch2: &Plan,
    interleave: impl FnOnce() -> Option<Plan>,
) -> (LayoutReason, Option<Plan>) {
    let because = |rule, waits| LayoutReason { rule, waits };
    let elsewhere = distorch2.bytes_elsewhere();
    if elsewhere == 0 {
        return (because(LayoutRule::NothingElsewhere, None), None);
    }
    let full = distorch2.window_is_full();
    if full && distorch2.window_bytes >= elsewhere {
        return (because(LayoutRule::FullWindow, None), None);
    }
    if !full && !distorch2.fits {
        return (because(LayoutRule::NoRoom, None), None);
    }
    let other = interleave();
    let waits = other.as_ref().and_then(|other| Waits::compare(component, distorch2, other));
    if full {
        return (because(LayoutRule::FullWindow, waits), None);
    }
    let rule = match &other {
        Some(other) if !other.fits => LayoutRule::NoRoom,
        None => LayoutRule::NoRoom,
        Some(_) if waits.is_some_and(|waits| waits.saves) => LayoutRule::WaitsLess,
        Some(_) => LayoutRule::NoSlower,
    };
    let taken = other.filter(|_| rule == LayoutRule::WaitsLess).map(|other| {
        let (window_bytes, bytes_elsewhere) = (other.window_bytes, other.bytes_elsewhere());
        let waits = waits.map(|waits| Waits { window_bytes, bytes_elsewhere, ..waits });
        Plan { layout_reason: because(rule, waits), ..other }
    });
    (because(rule, waits), taken)
}
