//! The operations that a diffusion model spends its time in, fused.
//!
//! On the CPU in f32 each has a kernel of its own: Burn's `flex` leaves some of them on one thread
//! and makes copies where strides would do. On every other device, and in other dtypes, each is a
//! few Burn operations with the same result. Shapes that don't fit go to Burn, which panics with
//! its own message: layers check them before they call.
//!
//! How fast they are beside PyTorch's is in `docs/measurements.md`.

mod attention;
mod conv;
mod elementwise;
pub(crate) mod host;
mod linear;
mod norm;
mod winograd;

pub use attention::attention;
pub use conv::conv2d;
pub use elementwise::{geglu, gelu, quick_gelu};
pub use linear::{Rows, linear};
pub use norm::{group_norm, layer_norm};
