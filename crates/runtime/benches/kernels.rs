//! The CPU's kernels at sizes of SD 1.5 at 512×512, each beside Burn's own operator where it has one.

#![allow(missing_docs)] // of what criterion's macros make

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use distorch_runtime::Tensor;
use distorch_runtime::kernels::{Precision, Rows, attention, conv2d, geglu, group_norm, linear};
use distorch_runtime::tensor::{TensorData, cpu, ops};

fn values<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let value = |i: usize| (i * 7919 % 20_011) as f32 / 10_005.5 - 1.0;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), &cpu())
}

fn run<const D: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut call: impl FnMut() -> Tensor<D>,
) {
    group.bench_function(name, |bencher| bencher.iter(|| black_box(call())));
}

fn kernels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (channels, side) in [(320, 64), (640, 32), (1280, 16), (128, 256)] {
        let (x, weight) = (values([1, channels, side, side]), values([channels, channels, 3, 3]));
        run(&mut group, &format!("conv 3x3, {channels} channels, {side}x{side}"), || {
            conv2d(x.clone(), weight.clone(), None, 1, 1, Precision::F32)
        });
        run(&mut group, &format!("Burn's conv 3x3, {channels} channels, {side}x{side}"), || {
            let options = ops::ConvOptions::new([1; 2], [1; 2], [1; 2], 1);
            ops::module::conv2d(x.clone(), weight.clone(), None, options)
        });
    }
    let (x, weight) = (values([1, 4096, 320]), values([2560, 320]));
    run(&mut group, "linear, 4096 rows, 320 to 2560", || {
        linear(x.clone(), weight.clone(), None, Rows::Tokens, Precision::F32)
    });
    run(&mut group, "self-attention, 4096 tokens, 8 heads of 40", || {
        attention(x.clone(), x.clone(), x.clone(), 8, false, None, Precision::F32)
    });
    let text = values([1, 77, 320]);
    run(&mut group, "cross-attention, 4096 to 77 tokens, 8 heads of 40", || {
        attention(x.clone(), text.clone(), text.clone(), 8, false, None, Precision::F32)
    });
    let gated = values([1, 4096, 2560]);
    run(&mut group, "GEGLU, 4096 tokens, 1280 features", || geglu(gated.clone()));
    let picture = values([1, 320, 64, 64]);
    let affine = values([320]);
    run(&mut group, "group norm and SiLU, 320 channels, 64x64", || {
        group_norm(picture.clone(), 32, affine.clone(), affine.clone(), 1e-5, true)
    });
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
