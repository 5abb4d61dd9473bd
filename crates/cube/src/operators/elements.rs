//! What kernels of our own share beside sums: how values are read, and what is done with each.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;

/// How many values of the tensor are read at once, so that lines of each of these lengths are whole vectors.
pub(super) fn vector_size<R: CubeRuntime>(tensor: &CubeTensor<R>, lengths: &[usize]) -> usize {
    widest(tensor, |size| lengths.iter().all(|length| length.is_multiple_of(size)))
}

/// How many values of the tensor are read at once, of what fits.
pub(super) fn widest<R: CubeRuntime>(
    tensor: &CubeTensor<R>,
    fits: impl Fn(usize) -> bool,
) -> usize {
    let sizes = tensor.client.io_optimized_vector_sizes(tensor.dtype.size());
    sizes.filter(|size| fits(*size)).max().unwrap_or(1)
}

/// Both in f32, where they differ.
pub(super) fn same_dtype<R: CubeRuntime>(params: [CubeTensor<R>; 2]) -> [CubeTensor<R>; 2] {
    let [first, second] = &params;
    match first.dtype == second.dtype {
        true => params,
        false => params.map(|param| cast(param, DType::F32)),
    }
}

/// `x / (1 + exp(-x))`.
#[cube]
pub(super) fn silu<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    x / (Vector::new(1.0) + (Vector::new(0.0) - x).exp())
}
