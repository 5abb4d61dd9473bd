//! The operators, with accelerators.

mod attention;
mod axes;
mod conv;
mod elements;
mod elementwise;
mod group_norm;
mod matmul;
mod norm;
mod operation;
mod patches;
mod reduce;
mod rotate;
mod rows;
mod softmax;

pub use attention::{flash_attention, flash_tile};
pub use conv::{channels_last, conv2d};
pub use elementwise::{activated, activated_sum, gated, gated_sum, gated_sums, sum};
pub use group_norm::group_norm;
pub use matmul::matmul;
pub use norm::{channel_rms_norm, layer_norm, rms_norm};
pub use rotate::rotated;
pub use softmax::softmax;

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::Runtime;
use burn_cubecl::cubecl::client::ComputeClient;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::std::InputBinding;

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

/// What a kernel of products reads.
fn input<R: CubeRuntime>(tensor: &CubeTensor<R>) -> InputBinding<R> {
    InputBinding::new(tensor.clone().binding(), tensor.dtype.into())
}

/// The dtypes of a product: what is read and written, with f32 between.
fn dtypes<R: CubeRuntime>([lhs, rhs, out]: [&CubeTensor<R>; 3]) -> MatmulElems {
    MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: lhs.dtype.into(),
        rhs: rhs.dtype.into(),
        out: out.dtype.into(),
    })
}
