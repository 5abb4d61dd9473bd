//! Products of matrices.

use std::fmt::Debug;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::CubeTuneId;
use burn_cubecl::cubecl::tune::{LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::components::tile::TileMatmulKind;
use cubek::matmul::definition::MatmulKind;
use cubek::matmul::launch::{MatmulAutotuneKey, MatmulGlobalScale, Strategy, launch_ref};
use cubek::matmul::routines::BlueprintStrategy::Inferred;
use cubek::matmul::routines::TileSizeSelection;
use cubek::matmul::routines::ordered_double_buffering::OrderedSelectionArgs;
use cubek::matmul::routines::simple::SimpleArgs;
use cubek::matmul::routines::simple_unit::SimpleUnitSelectionArgs;

use super::operation::{Operation, apply};
use super::{Purpose, dtypes, has_mma, input};
use crate::Tensor;

/// `lhs · rhs`, `[…, m, k]` by `[…, k, n]`, in the dtype `out`: f32, or that of both. What is in front of them is the
/// same on both sides. Sums are in f32.
///
/// # Errors
/// The operands, where they are on no accelerator.
pub fn matmul<const D: usize>(
    lhs: Tensor<D>,
    rhs: Tensor<D>,
    out: DType,
) -> Result<Tensor<D>, (Tensor<D>, Tensor<D>)> {
    apply(Product { out }, [lhs, rhs]).map_err(|[lhs, rhs]| (lhs, rhs))
}

#[derive(Debug)]
struct Product {
    out: DType,
}

impl Operation for Product {
    fn run<R: CubeRuntime>(&self, inputs: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        let Ok([lhs, rhs]) = <[_; 2]>::try_from(inputs) else {
            unreachable!("a product has two operands")
        };
        multiply(lhs, rhs, self.out)
    }
}

/// The product, by whichever of the kernels for its size is the fastest here.
pub(crate) fn multiply<R: CubeRuntime>(
    lhs: CubeTensor<R>,
    rhs: CubeTensor<R>,
    out: DType,
) -> CubeTensor<R> {
    // That of the left side, with the columns of the right one.
    let mut shape = lhs.meta.shape().to_vec();
    if let (Some(columns), Some(n)) = (shape.last_mut(), rhs.meta.shape().last()) {
        *columns = *n;
    }
    let (client, device) = (lhs.client.clone(), lhs.device.clone());
    let out = empty_device_contiguous_dtype(client, device, Shape::from(shape), out);
    multiply_to(lhs, rhs, out.clone());
    out
}

/// As [`multiply`], to where there is place for the result.
pub(crate) fn multiply_to<R: CubeRuntime>(
    lhs: CubeTensor<R>,
    rhs: CubeTensor<R>,
    out: CubeTensor<R>,
) {
    static TUNER: LocalTuner<MatmulAutotuneKey, CubeTuneId> = local_tuner!();

    let client = lhs.client.clone();
    TUNER.execute(
        &CubeTuneId::new(&client, &lhs.device),
        &client,
        TUNER.init(candidates::<R>),
        (lhs, rhs, out, Purpose::Result),
    );
}

type Operands<R> = (CubeTensor<R>, CubeTensor<R>, CubeTensor<R>, Purpose);

/// The kernels, and for which sizes they are.
fn candidates<R: CubeRuntime>() -> TunableSet<MatmulAutotuneKey, Operands<R>, ()> {
    type Key = MatmulAutotuneKey;
    let is = |kind: fn(&Key) -> bool| move |key: &Key| if kind(key) { 2 } else { -1 };
    let tensor_cores = TuneGroup::new("tensor cores", is(on_tensor_cores));
    let vectors = TuneGroup::new("vectors", is(of_a_vector));
    let registers = TuneGroup::new("registers", |_: &Key| 1);
    let any = TuneGroup::new("any", |_: &Key| 0);
    let always = |_: &Key| 1;
    let only = |kind: fn(&Key) -> bool| move |key: &Key| if kind(key) { 1 } else { -1 };

    let tunable = |name: &'static str, strategy: fn(bool) -> Strategy| {
        Tunable::new(name, move |(lhs, rhs, out, purpose): Operands<R>| {
            let strategy = strategy(has_mma(&lhs.client));
            match launch(&strategy, lhs.clone(), rhs.clone(), out.clone()) {
                Err(error) if purpose == Purpose::Trial => Err(error),
                Err(_) => launch(&Strategy::Naive, lhs, rhs, out),
                Ok(()) => Ok(()),
            }
        })
    };
    // The values are not looked at, but the result is.
    let trial = |_: &Key, (lhs, rhs, out, _): &Operands<R>| {
        (lhs.clone(), rhs.clone(), out.copy(), Purpose::Trial)
    };
    TunableSet::new(key::<R>, trial)
        .with(tunable("naive", |_| Strategy::Naive).group(&any, always))
        .with(
            tunable("unit_small", |_| unit(TileSizeSelection::MinTileSize))
                .group(&registers, always),
        )
        // Of 16 bits, eight values are a vector, and a tile of 8×8 by 8×8 is too much for a compiler.
        .with(
            tunable("unit_large", |_| unit(TileSizeSelection::MaxTileSize))
                .group(&registers, only(|key| key.definition.elem_lhs.size() == 4)),
        )
        .with(
            tunable("gemv", |_| Strategy::GemvPlaneParallel(Inferred(Default::default())))
                .group(&vectors, always),
        )
        .with(tunable("simple", simple).group(&tensor_cores, always))
        .with(tunable("ordered_double", ordered_double).group(&tensor_cores, only(not_small)))
        .with(tunable("specialized_tma", specialized_tma).group(&tensor_cores, only(for_tma)))
}

fn on_tensor_cores(key: &MatmulAutotuneKey) -> bool {
    matches!(key.analysis.kind, MatmulKind::General)
        && key.definition.elem_lhs.size() == 2
        && key.definition.elem_rhs.size() == 2
}

fn of_a_vector(key: &MatmulAutotuneKey) -> bool {
    matches!(key.analysis.kind, MatmulKind::MatVec | MatmulKind::VecMat)
}

fn not_small(key: &MatmulAutotuneKey) -> bool {
    !matches!(key.analysis.scale_global, MatmulGlobalScale::Small)
}

/// The sizes for which CubeCL's authors take the tensor memory accelerator's kernels for the best: large in all
/// directions, with rows that it can address.
fn for_tma(key: &MatmulAutotuneKey) -> bool {
    let size = &key.definition;
    let (least, most) = (size.m.min(size.n).min(size.k), size.m.max(size.n).max(size.k));
    matches!(key.analysis.scale_global, MatmulGlobalScale::Large)
        && least > 0
        && most / least < 8
        && size.lhs_stride_factor >= 4
        && size.rhs_stride_factor >= 4
}

fn unit(tile_size: TileSizeSelection) -> Strategy {
    Strategy::SimpleUnit(Inferred(SimpleUnitSelectionArgs { tile_size }))
}

fn tile(mma: bool) -> TileMatmulKind {
    if mma { TileMatmulKind::Mma } else { TileMatmulKind::Cmma }
}

fn simple(mma: bool) -> Strategy {
    let by = Inferred(SimpleArgs { multi_rows: true, tile_matmul: tile(mma) });
    if mma { Strategy::SimpleCyclicMma(by) } else { Strategy::SimpleCyclicCmma(by) }
}

fn ordered_double(mma: bool) -> Strategy {
    let by = Inferred(OrderedSelectionArgs {
        partition_k: Some(2),
        row_count: Some(8),
        rows_per_plane: Some(2),
        tile_matmul: tile(mma),
    });
    if mma { Strategy::OrderedDoubleMma(by) } else { Strategy::OrderedDoubleCmma(by) }
}

fn specialized_tma(mma: bool) -> Strategy {
    let by = Inferred(().into());
    if mma { Strategy::SpecializedTmaMma(by) } else { Strategy::SpecializedTmaCmma(by) }
}

fn launch<R: CubeRuntime>(
    strategy: &Strategy,
    lhs: CubeTensor<R>,
    rhs: CubeTensor<R>,
    out: CubeTensor<R>,
) -> Result<(), String> {
    let client = lhs.client.clone();
    let mut dtypes = dtypes([&lhs, &rhs, &out]);
    launch_ref(strategy, &client, input(&lhs), input(&rhs), out.binding(), &mut dtypes)
        .map_err(|error| format!("{error:?}"))
}

fn key<R: CubeRuntime>((lhs, rhs, out, _): &Operands<R>) -> MatmulAutotuneKey {
    MatmulAutotuneKey::generate(
        &lhs.client,
        lhs.meta.shape(),
        rhs.meta.shape(),
        lhs.meta.strides(),
        rhs.meta.strides(),
        lhs.dtype.into(),
        rhs.dtype.into(),
        out.dtype.into(),
        None,
        None,
    )
}
