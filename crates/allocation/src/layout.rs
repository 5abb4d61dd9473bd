//! The layouts, and why a plan has its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::size::ByteSize;

/// How blocks are chosen. Both layouts give every device the same share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The placement that DisTorch2 users know, to the byte: blocks from last to first, each into
    /// the first device with room, accelerators in numeric order, `cpu` last, and what fits
    /// nowhere on the compute device or, with sizes, on the wildcard.
    #[default]
    Distorch2,
    /// The blocks that leave are spread evenly over the order in which a forward pass uses them,
    /// so that the link is busy all through a step.
    Interleave,
}

/// A text that names no layout.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no layout `{0}`; there are `auto`, `distorch2` and `interleave`")]
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

/// Why a plan has its layout.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayoutReason {
    /// What decided.
    pub rule: LayoutRule,
    /// How the layouts compare, where that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
}

/// What decides about a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutRule {
    /// It was asked for.
    Requested,
    /// `auto`: nothing lives elsewhere.
    NothingElsewhere,
    /// `auto`: the window has its full size, so blocks live where DisTorch2 puts them.
    FullWindow,
    /// `auto`: the window is small, but interleaved blocks would not save a step much.
    NoSlower,
    /// `auto`: the window is small, and a step waits less for interleaved blocks.
    WaitsLess,
    /// `auto`: the component does not fit, or would not with interleaved blocks.
    NoRoom,
}

/// How long a step waits for weights in either layout, over the link with which they differ most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Waits {
    /// Bytes of the plan's window.
    pub window_bytes: u64,
    /// Bytes that live elsewhere in the plan.
    pub bytes_elsewhere: u64,
    /// With `distorch2`, in parts of a step that never waits, to a thousandth.
    pub distorch2: f64,
    /// With `interleave`, likewise.
    pub interleave: f64,
    /// Whether `interleave` is the better choice where the speed of the link is not known.
    #[serde(skip)]
    pub(crate) saves: bool,
}

impl LayoutReason {
    /// The reason of a layout that was asked for.
    pub(crate) const REQUESTED: LayoutReason =
        LayoutReason { rule: LayoutRule::Requested, waits: None };
}

impl fmt::Display for LayoutReason {
    /// A clause behind the name of the layout.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayoutReason { rule, waits } = self;
        f.write_str(match rule {
            LayoutRule::Requested => return f.write_str("as asked"),
            LayoutRule::NothingElsewhere => "chosen by auto: nothing lives elsewhere",
            LayoutRule::FullWindow => "chosen by auto: the window has its full size",
            LayoutRule::NoSlower => "chosen by auto: interleave would not save much",
            LayoutRule::WaitsLess => "chosen by auto",
            LayoutRule::NoRoom => "chosen by auto: there is no room for another",
        })?;
        let Some(waits) = waits else { return Ok(()) };
        let Waits { window_bytes, bytes_elsewhere, distorch2, interleave, saves } = waits;
        let (window, elsewhere) = (ByteSize(*window_bytes), ByteSize(*bytes_elsewhere));
        match rule {
            LayoutRule::WaitsLess => write!(
                f,
                ": window {window} of {elsewhere} elsewhere; distorch2 would wait {distorch2:.2} of \
                 a step, interleave {interleave:.2}"
            ),
            // What the user could ask for.
            LayoutRule::FullWindow if *saves => write!(
                f,
                ", {window} of {elsewhere} elsewhere; over a slow link it waits up to \
                 {distorch2:.2} of a step, interleave {interleave:.2}"
            ),
            _ => Ok(()),
        }
    }
}
