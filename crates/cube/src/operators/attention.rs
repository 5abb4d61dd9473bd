//! Attention without its scores in memory.

use burn::DispatchDevice as Device;
use burn::tensor::DType;
use burn::tensor::ops::AttentionModuleOptions;
use burn_cubecl::cubecl::client::ComputeClient;
use burn_cubecl::cubecl::ir::{ElemType, FloatKind, StorageType};
use burn_cubecl::kernel::attention::{AttentionStrategy, attention};
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeRuntime, cubecl};
use cubek::attention::routines::blackbox_accelerated::BlackboxAcceleratedStrategy;

use super::operation::{Operation, apply};
use crate::Tensor;

/// The side of the tiles that its products are made of.
const TILE: usize = 16;

/// A head's greatest size: its queries and results are in registers.
const WIDEST: usize = 128;

/// `softmax(q · kᵗ / √d) · v` of f16, `query` `[batch, heads, queries, d]`, `key` and `value` `[batch, heads, keys, d]`,
/// with scores, their softmax and sums in f32.
///
/// # Errors
/// All three, where the device or their sizes do not have it. What is multiplied is f16, so bf16 is not for it: that
/// has values beyond.
pub fn flash_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    causal: bool,
) -> Result<Tensor<4>, [Tensor<4>; 3]> {
    let shape = query.dims();
    let ([_, _, queries, d], keys) = (shape, key.dims()[2]);
    let fits = query.dtype() == DType::F16
        && queries.is_multiple_of(TILE)
        && keys.is_multiple_of(TILE)
        && d.is_multiple_of(TILE)
        && d <= WIDEST
        && has_tiles(&query.device());
    if !fits {
        return Err([query, key, value]);
    }
    apply(Flash { causal }, [query, key, value], shape, DType::F16)
}

#[derive(Debug)]
struct Flash {
    causal: bool,
}

impl Operation for Flash {
    const NAME: &'static str = "distorch-flash-attention";

    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([query, key, value]) = <[_; 3]>::try_from(inputs) else {
            unreachable!("attention has queries, keys and values")
        };
        let options = AttentionModuleOptions { scale: None, softcap: None, is_causal: self.causal };
        let queries = query.meta.shape()[2];
        let fits = |planes: &u8| queries.is_multiple_of(TILE * usize::from(*planes));
        for num_planes in [8, 4, 2, 1].into_iter().filter(fits) {
            let by = BlackboxAcceleratedStrategy { num_planes, seq_q: 1, seq_kv: 1 };
            let (query, key, value) = (query.clone(), key.clone(), value.clone());
            let by = AttentionStrategy::FlashBlackboxAccelerated(by);
            if let Ok(y) = attention(query, key, value, None, None, options, by) {
                return y;
            }
        }
        let [query, key, value] = [query, key, value].map(|input| cast(input, DType::F32));
        match attention(query, key, value, None, None, options, AttentionStrategy::Fallback) {
            Ok(y) => cast(y, DType::F16),
            Err(error) => unreachable!("it has no conditions: {error:?}"),
        }
    }
}

/// Whether the device has instructions for products of tiles of f16 that are summed in f32.
fn has_tiles(device: &Device) -> bool {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => has_tiles_of::<cubecl::cuda::CudaRuntime>(device),
        #[cfg(feature = "rocm")]
        Device::Rocm(device) => has_tiles_of::<cubecl::hip::HipRuntime>(device),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => has_tiles_of::<cubecl::wgpu::WgpuRuntime>(device),
        #[cfg(feature = "metal")]
        Device::Metal(device) => has_tiles_of::<cubecl::wgpu::WgpuRuntime>(device),
        _ => false,
    }
}

fn has_tiles_of<R: cubecl::Runtime>(device: &R::Device) -> bool {
    let client: ComputeClient<R> = R::client(device);
    let [f16, f32] =
        [FloatKind::F16, FloatKind::F32].map(|kind| StorageType::Scalar(ElemType::Float(kind)));
    client.properties().features.matmul.cmma.iter().any(|tile| {
        (tile.a_type, tile.b_type, tile.cd_type) == (f16, f16, f32)
            && [tile.m, tile.n, tile.k] == [TILE as u32; 3]
    })
}
