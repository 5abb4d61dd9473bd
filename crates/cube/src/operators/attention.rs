//! Attention without its scores in memory.

use burn::DispatchDevice as Device;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::client::ComputeClient;
use burn_cubecl::cubecl::ir::{ElemType, FloatKind, StorageType};
use burn_cubecl::cubecl::zspace::metadata::Metadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::permute;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeRuntime, cubecl};
use cubek::attention::components::tile::TileAttentionKind;
use cubek::attention::definition::{
    AccumulatorPrecision, AttentionBlueprint, AttentionGlobalTypes, AttentionOptions,
    AttentionProblem, AttentionSetupError,
};
use cubek::attention::launch::{BlueprintStrategy, launch_attention};
use cubek::attention::routines::blackbox_accelerated::{
    BlackboxAcceleratedRoutine, BlackboxAcceleratedStrategy,
};
use cubek::attention::routines::{DeviceSettings, LaunchInfo, Routine};

use super::operation::{Operation, apply};
use crate::Tensor;

/// The side of the tiles that its products are made of.
const TILE: usize = 16;

/// Values that it reads at once.
const VECTOR: usize = 8;

/// A head's greatest size: its queries and results are in registers.
const WIDEST: usize = 128;

/// `softmax(q · kᵗ / √d) · v` of f16 or bf16, `query` `[batch, heads, queries, d]`, `key` and `value`
/// `[batch, heads, keys, d]`, with scores, their softmax and sums in f32.
///
/// # Errors
/// All three, where the device or their sizes do not have it: `queries`, `keys` and `d` are multiples of 16, `d` is 128 at
/// most.
pub fn flash_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    causal: bool,
) -> Result<Tensor<4>, [Tensor<4>; 3]> {
    let (shape, dtype) = (query.dims(), query.dtype());
    let ([_, _, queries, d], keys) = (shape, key.dims()[2]);
    if !has_flash_attention(&query.device(), dtype, [queries, keys, d]) {
        return Err([query, key, value]);
    }
    apply(Flash { causal }, [query, key, value], shape, dtype)
}

/// Whether the device has [`flash_attention`] of this dtype, for so many queries and keys, with heads of this size.
pub fn has_flash_attention(device: &Device, dtype: DType, size: [usize; 3]) -> bool {
    let fits = size.iter().all(|side| *side > 0 && side.is_multiple_of(TILE)) && size[2] <= WIDEST;
    fits && has_tiles(device, dtype)
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
        let [query, key, value] = [query, key, value].map(in_vectors);
        let [batch, heads, queries, _] = query.meta.shape().dims();
        let d = value.meta.shape()[3];
        let (client, device, dtype) = (query.client.clone(), query.device.clone(), query.dtype);
        // As the next projection reads it: a token's heads beside each other.
        let shape = Shape::from(vec![batch, queries, heads, d]);
        let y = permute(empty_device_contiguous_dtype(client, device, shape, dtype), &[0, 2, 1, 3]);
        for image in 0..batch {
            let [query, key, value, y] = [&query, &key, &value, &y].map(|all| of_image(all, image));
            self.attend([query, key, value, y]);
        }
        y
    }
}

/// The tensor, copied where its rows do not lie in whole vectors.
fn in_vectors<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    match &tensor.meta.strides()[..] {
        [rows @ .., 1] if rows.iter().all(|stride| stride.is_multiple_of(VECTOR)) => tensor,
        _ => into_contiguous(tensor),
    }
}

/// What belongs to one image, as a batch of one: the kernel takes the second stride for that of all images' heads one
/// after the other, which it is only where each head's tokens are together in memory.
fn of_image<R: CubeRuntime>(tensor: &CubeTensor<R>, image: usize) -> CubeTensor<R> {
    let (mut shape, strides) = (tensor.meta.shape().clone(), tensor.meta.strides().clone());
    let start = image * strides[0] * tensor.dtype.size();
    shape[0] = 1;
    CubeTensor::new(
        tensor.client.clone(),
        tensor.handle.clone().offset_start(start as u64),
        Metadata::new(shape, strides),
        tensor.device.clone(),
        tensor.dtype,
    )
}

impl Flash {
    fn attend<R: CubeRuntime>(&self, [query, key, value, y]: [CubeTensor<R>; 4]) {
        let queries = query.meta.shape()[2];
        let fits = |planes: &u8| queries.is_multiple_of(TILE * usize::from(*planes));
        let mut refused = None;
        for num_planes in [8, 4, 2, 1].into_iter().filter(fits) {
            let by = BlackboxAcceleratedStrategy { num_planes, seq_q: 1, seq_kv: 1 };
            match self.launch([&query, &key, &value, &y], by) {
                Ok(()) => return,
                Err(error) => refused = Some(error),
            }
        }
        unreachable!("what it needs of devices and sizes is asked before: {refused:?}")
    }

    fn launch<R: CubeRuntime>(
        &self,
        [query, key, value, y]: [&CubeTensor<R>; 4],
        by: BlackboxAcceleratedStrategy,
    ) -> Result<(), AttentionSetupError> {
        let dtypes = AttentionGlobalTypes {
            query: query.dtype.into(),
            key: key.dtype.into(),
            value: value.dtype.into(),
            mask: DType::U8.into(),
            out: y.dtype.into(),
        };
        let options = AttentionOptions {
            causal: self.causal,
            accumulator_precision: AccumulatorPrecision::Strict(scalar(FloatKind::F32)),
        };
        let binding = |tensor: &CubeTensor<R>| tensor.clone().binding();
        launch_attention::<R, InTheirDtype>(
            &query.client,
            binding(query),
            binding(key),
            binding(value),
            None,
            binding(y),
            &dtypes,
            BlueprintStrategy::Inferred(by),
            options,
        )
    }
}

/// CubeCL's kernel on tensor cores, which multiplies in f16 whatever it is given, in the dtype of its operands: bf16 has
/// values beyond f16's.
#[derive(Clone, Debug)]
struct InTheirDtype;

type InF16 = BlackboxAcceleratedRoutine;

impl Routine for InTheirDtype {
    const TILE_KIND: TileAttentionKind = <InF16 as Routine>::TILE_KIND;

    type StageAttention = <InF16 as Routine>::StageAttention;
    type GlobalAttention = <InF16 as Routine>::GlobalAttention;
    type BatchAttention = <InF16 as Routine>::BatchAttention;
    type Strategy = BlackboxAcceleratedStrategy;
    type Blueprint = AttentionBlueprint;

    fn prepare<R: cubecl::Runtime>(
        problem: &AttentionProblem,
        device_settings: &DeviceSettings<R>,
        strategy: BlueprintStrategy<Self>,
    ) -> Result<LaunchInfo<AttentionBlueprint>, AttentionSetupError> {
        let strategy = match strategy {
            BlueprintStrategy::Forced(blueprint) => BlueprintStrategy::Forced(blueprint),
            BlueprintStrategy::Inferred(strategy) => BlueprintStrategy::Inferred(strategy),
        };
        let mut info = InF16::prepare(problem, device_settings, strategy)?;
        let operands = problem.global_dtypes.query;
        let dtypes = &mut info.dtypes;
        for dtype in [
            &mut dtypes.query_tile,
            &mut dtypes.key_stage,
            &mut dtypes.value_stage,
            &mut dtypes.key_value_tile,
            &mut dtypes.softmax_lhs,
        ] {
            *dtype = operands;
        }
        Ok(info)
    }
}

/// Whether the device has instructions for products of tiles of this dtype that are summed in f32, and of f16, by which the
/// kernel is laid out.
fn has_tiles(device: &Device, dtype: DType) -> bool {
    let kinds = match dtype {
        DType::F16 => [FloatKind::F16; 2],
        DType::BF16 => [FloatKind::F16, FloatKind::BF16],
        _ => return false,
    };
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => has_tiles_of::<cubecl::cuda::CudaRuntime>(device, kinds),
        #[cfg(feature = "rocm")]
        Device::Rocm(device) => has_tiles_of::<cubecl::hip::HipRuntime>(device, kinds),
        #[cfg(feature = "vulkan")]
        Device::Vulkan(device) => has_tiles_of::<cubecl::wgpu::WgpuRuntime>(device, kinds),
        #[cfg(feature = "metal")]
        Device::Metal(device) => has_tiles_of::<cubecl::wgpu::WgpuRuntime>(device, kinds),
        _ => false,
    }
}

fn has_tiles_of<R: cubecl::Runtime>(device: &R::Device, kinds: [FloatKind; 2]) -> bool {
    let client: ComputeClient<R> = R::client(device);
    let tiles = &client.properties().features.matmul.cmma;
    let sums = scalar(FloatKind::F32);
    kinds.map(scalar).iter().all(|kind| {
        tiles.iter().any(|tile| {
            (tile.a_type, tile.b_type, tile.cd_type) == (*kind, *kind, sums)
                && [tile.m, tile.n, tile.k] == [TILE as u32; 3]
        })
    })
}

fn scalar(kind: FloatKind) -> StorageType {
    StorageType::Scalar(ElemType::Float(kind))
}
