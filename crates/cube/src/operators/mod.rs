//! The operators, with accelerators.

mod attention;
mod conv;
mod matmul;
mod operation;

pub use attention::flash_attention;
pub use conv::conv2d;
pub use matmul::matmul;

use burn_cubecl::cubecl::Runtime;
use burn_cubecl::cubecl::client::ComputeClient;

/// Why a kernel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To see how long it takes: what cannot run says so.
    Trial,
    /// For its result: where it cannot run, another one does.
    Result,
}

/// Whether the device has instructions for products of small matrices that a kernel feeds by itself.
fn has_mma<R: Runtime>(client: &ComputeClient<R>) -> bool {
    !client.properties().features.matmul.mma.is_empty()
}
