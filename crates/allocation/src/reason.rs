//! Why a block is where it is.

use serde::Serialize;

/// Why a block is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It belongs to its device's share.
    Share,
    /// Under 0.01 % of the component: not worth a transfer, so it stays on the compute device.
    Tiny,
    /// A text encoder's embedding, which stays on the compute device.
    Head,
    /// Parameters that a parent module owns itself, which stay on the compute device.
    Param,
    /// It fits into no share, so it stays on the compute device or, where the shares are sizes, goes
    /// to the device that takes what is left.
    Overflow,
}
