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
use crate::device::{Task, with_client};

/// Values that it reads at once.
const VECTOR: usize = 8;

/// A head's greatest size: its queries and results are in registers.
const WIDEST: usize = 128;

/// `softmax(q · kᵗ / √d) · v` of f16 or bf16, `query` `[batch, heads, queries, d]`, `key` and `value`
/// `[batch, heads, keys, d]`, with scores, their softmax and sums in f32. With `causal` there are as many keys as queries
/// or fewer, and the query at a place sees the keys to that place.
///
/// `queries` in multiples of eight tiles are the fastest.
///
/// # Errors
/// All three, where the device does not have it ([`flash_tile`]), or `queries` or `d` are no multiples of its tiles.
pub fn flash_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    causal: bool,
) -> Result<Tensor<4>, [Tensor<4>; 3]> {
    let ([_, _, queries, d], keys) = (query.dims(), key.dims()[2]);
    let fits = |tile: usize| {
        let sides = [queries, d];
        keys > 0 && sides.iter().all(|side| *side > 0 && side.is_multiple_of(tile))
    };
    match flash_tile(&query.device(), query.dtype(), d) {
        Some(tile) if fits(tile) => apply(Flash { tile, causal }, [query, key, value]),
        _ => Err([query, key, value]),
    }
}

#[derive(Debug)]
struct Flash {
    /// The side of a tile.
    tile: usize,
    causal: bool,
}

impl Operation for Flash {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([query, key, value]) = <[_; 3]>::try_from(inputs) else {
            unreachable!("attention has queries, keys and values")
        };
        let [batch, heads, queries, d] = query.meta.shape().dims();
        let (client, device, dtype) = (query.client.clone(), query.device.clone(), query.dtype);
        // Rows of queries are read as if nothing lay between them.
        let (query, [key, value]) = (into_contiguous(query), [key, value].map(in_vectors));
        // As the next projection reads it: a token's heads beside each other.
        let shape = Shape::from(vec![batch, queries, heads, d]);
        let empty = |shape| empty_device_contiguous_dtype(client, device, shape, dtype);
        let apart = [&query, &key, &value].iter().all(|tensor| images_lie_apart(tensor));
        if apart {
            let y = permute(empty(shape), &[0, 2, 1, 3]);
            for image in 0..batch {
                let all = [&query, &key, &value, &y];
                self.attend(all.map(|tensor| of_image(tensor, image)));
            }
            return y;
        }
        let y = empty(Shape::from(vec![batch, heads, queries, d]));
        self.attend([query, into_contiguous(key), into_contiguous(value), y.clone()]);
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

/// Whether each image begins where a device can be told that a tensor does, or there is one only.
fn images_lie_apart<R: CubeRuntime>(tensor: &CubeTensor<R>) -> bool {
    let bytes = tensor.meta.strides()[0] * tensor.dtype.size();
    let alignment = tensor.client.properties().memory.alignment;
    tensor.meta.shape()[0] == 1 || (bytes as u64).is_multiple_of(alignment.max(1))
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
        let [_, _, queries, d] = query.meta.shape().dims();
        let shared = query.client.properties().hardware.max_shared_memory_size;
        let fits = |planes: &u8| {
            let planes = usize::from(*planes);
            queries.is_multiple_of(self.tile * planes) && self.shared(planes, d) <= shared
        };
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

    /// Bytes that a cube of so many planes shares at most: a tile of keys and values, and of each plane the results and
    /// twice the scores in f32.
    fn shared(&self, planes: usize, d: usize) -> usize {
        let tile = self.tile;
        4 * tile * d + planes * 4 * (tile * d + 2 * tile * tile)
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

/// CubeCL's kernel on tensor cores, but for two things. It multiplies in f16 whatever it is given, here in the dtype of its
/// operands: bf16 has values beyond f16's. And for many more queries than keys it takes long tiles, whose scores do not fit
/// the product with the values; here tiles are square.
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
        let mut square = problem.clone();
        square.dims.seq_kv = square.dims.seq_q;
        let mut info = InF16::prepare(&square, device_settings, strategy)?;
        // A part of all keys is looked at as if each stage of it were full, where all of them are.
        let keys = info.blueprint.tiling_scheme.elements_in_partition_seq_kv();
        info.blueprint.check_bounds.seq_kv = !problem.dims.seq_kv.is_multiple_of(keys as usize);
        info.blueprint.check_bounds.seq_q = false;
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

/// The side of the tiles that [`flash_attention`] of this dtype is made of, with heads of this size or a little less: what the
/// device has instructions for that sum in f32. `None` where it has none, or heads are too wide.
pub fn flash_tile(device: &Device, dtype: DType, d: usize) -> Option<usize> {
    let kinds = match dtype {
        // By f16's the kernel is laid out.
        DType::F16 => [FloatKind::F16; 2],
        DType::BF16 => [FloatKind::F16, FloatKind::BF16],
        _ => return None,
    };
    let tile = with_client(device, TileOf(kinds)).flatten();
    tile.filter(|tile| d.next_multiple_of(*tile) <= WIDEST)
}

/// The side of the tiles of these operands.
struct TileOf([FloatKind; 2]);

impl Task for TileOf {
    type Output = Option<usize>;

    fn run<R: cubecl::Runtime>(self, client: ComputeClient<R>) -> Option<usize> {
        let tiles = &client.properties().features.matmul.cmma;
        let sums = scalar(FloatKind::F32);
        let has = |side: u32| {
            self.0.map(scalar).iter().all(|kind| {
                tiles.iter().any(|tile| {
                    (tile.a_type, tile.b_type, tile.cd_type) == (*kind, *kind, sums)
                        && [tile.m, tile.n, tile.k] == [side; 3]
                })
            })
        };
        // In the order in which the kernel looks for one.
        [16, 8].into_iter().find(|side| has(*side)).map(|side| side as usize)
    }
}

fn scalar(kind: FloatKind) -> StorageType {
    StorageType::Scalar(ElemType::Float(kind))
}
