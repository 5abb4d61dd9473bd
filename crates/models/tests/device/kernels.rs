//! Kernels on the device beside the CPU's in f32.

use distorch_runtime::kernels::{self, Precision, Rows};
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Device, Tensor};

use super::common::{max_error, seeded, values};
use super::{Errors, Tested};

/// What [`super`] says of them.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 1e-4,
    }
}

/// Makes the same inputs for both sides: values that the dtype has exactly.
struct Inputs {
    device: Device,
    dtype: DType,
    /// Of the device's side, what the values are rounded to on both.
    rounded: DType,
}

impl Inputs {
    fn make<const D: usize>(&self, name: &str, shape: [usize; D], scale: f32) -> Tensor<D> {
        let mut values = seeded::uniform(name, shape.iter().product(), 3);
        values.iter_mut().for_each(|value| *value *= scale);
        let data = TensorData::new(values, shape).convert_dtype(self.rounded);
        Tensor::from_data(data.convert_dtype(self.dtype), (&self.device, self.dtype))
    }

    fn precision(&self) -> Precision {
        Precision::of(self.dtype)
    }

    fn activations<const D: usize>(&self, name: &str, shape: [usize; D]) -> Tensor<D> {
        self.make(name, shape, 1.0)
    }

    /// Weights that keep results as large as inputs.
    fn weight<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let inputs: usize = shape.iter().skip(1).product();
        self.make("weight", shape, (3.0 / inputs as f32).sqrt())
    }
}

/// Holds what the device computes in each of its dtypes against the CPU's f32.
fn compare<const D: usize>(what: &str, errors: &mut Errors, run: impl Fn(&Inputs) -> Tensor<D>) {
    let tested = Tested::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        if !tested.has(dtype) {
            continue;
        }
        let there = Inputs { device: tested.device.clone(), dtype, rounded: dtype };
        let here = Inputs { device: cpu(), dtype: DType::F32, rounded: dtype };
        let (actual, expected) = (run(&there), run(&here));
        assert_eq!(actual.dims(), expected.dims(), "{what}");
        assert_eq!(actual.dtype(), dtype, "{what}");
        let error = max_error(&values(&actual), &values(&expected));
        errors.add(what, dtype, error, tolerance(dtype));
    }
}

#[test]
fn linear() {
    let mut errors = Errors::default();
    for (batch, count, inputs, outputs, bias, rows) in [
        (2, 256, 320, 640, true, Rows::Tokens),
        (2, 77, 768, 320, false, Rows::Tokens),
        (1, 33, 50, 31, true, Rows::Tokens),
        (1, 1, 320, 1280, true, Rows::Tokens),
        (1, 64, 96, 40, true, Rows::Channels),
    ] {
        let what = format!("linear {batch}x{count}, {inputs} to {outputs}, {rows:?}");
        compare(&what, &mut errors, |make| {
            let x = make.activations("x", [batch, count, inputs]);
            let bias = bias.then(|| make.activations("bias", [outputs]));
            kernels::linear(x, make.weight([outputs, inputs]), bias, rows, make.precision())
        });
    }
    errors.judge();
}

#[test]
fn conv() {
    let mut errors = Errors::default();
    for ([batch, inputs, outputs], [height, width], kernel, stride) in [
        ([2, 320, 64], [16, 16], 3, 1),
        ([1, 64, 128], [32, 24], 3, 1),
        ([1, 33, 7], [9, 11], 3, 1),
        ([2, 64, 64], [17, 16], 3, 2),
        ([1, 96, 40], [16, 16], 1, 1),
        ([1, 4, 32], [64, 64], 3, 1),
    ] {
        let what =
            format!("conv {batch}x{inputs}x{height}x{width} to {outputs}, {kernel}/{stride}");
        compare(&what, &mut errors, |make| {
            let x = make.activations("x", [batch, inputs, height, width]);
            let weight = make.weight([outputs, inputs, kernel, kernel]);
            let bias = Some(make.activations("bias", [outputs]));
            kernels::conv2d(x, weight, bias, stride, kernel / 2, make.precision())
        });
    }
    errors.judge();
}

#[test]
fn attention() {
    let mut errors = Errors::default();
    for (batch, queries, keys, heads, dim, causal) in [
        (2, 256, 256, 8, 40, false),
        (1, 64, 77, 4, 64, false),
        (1, 50, 33, 3, 20, false),
        (2, 77, 77, 2, 64, true),
        (2, 128, 128, 3, 64, false),
        (2, 144, 200, 3, 64, false),
    ] {
        let what = format!("attention {batch}x{queries} to {keys}, {heads}x{dim}, causal {causal}");
        compare(&what, &mut errors, |make| {
            let q = make.activations("q", [batch, queries, heads * dim]);
            let k = make.activations("k", [batch, keys, heads * dim]);
            let v = make.activations("v", [batch, keys, heads * dim]);
            kernels::attention(q, k, v, heads, causal, None, make.precision())
        });
    }
    errors.judge();
}

/// Else the device computes it by scores, which the test above does not notice.
#[test]
fn attention_in_tiles_passes_its_trial() {
    let tested = Tested::new();
    for dtype in [DType::F16, DType::BF16] {
        for dim in [64, 128] {
            match kernels::attention_in_tiles(&tested.device, dtype, dim) {
                None => println!("skipped: no tiles of {dtype:?} for heads of {dim}"),
                Some(right) => assert!(right, "{dtype:?}, heads of {dim}"),
            }
        }
    }
}

#[test]
fn joined_heads() {
    let mut errors = Errors::default();
    for (batch, tokens, heads, dim) in [(2, [33, 77], 4, 64), (1, [5, 9], 3, 20)] {
        for part in 0..3 {
            let what = format!("part {part} of heads {batch}x{tokens:?}, {heads}x{dim}");
            compare(&what, &mut errors, |make| {
                let streams = tokens.map(|tokens| kernels::Projected {
                    qkv: make.activations("qkv", [batch, tokens, 3 * heads * dim]),
                    norms: Some(["q", "k"].map(|name| make.activations(name, [dim]))),
                });
                let parts = kernels::join_heads(streams.into(), heads, 1e-6);
                parts.into_iter().nth(part).unwrap()
            });
            let what = format!("rotated, {what}");
            compare(&what, &mut errors, |make| {
                let streams = tokens.map(|tokens| kernels::Projected {
                    qkv: make.activations("qkv", [batch, tokens, 3 * heads * dim]),
                    norms: Some(["q", "k"].map(|name| make.activations(name, [dim]))),
                });
                let angles = (0..tokens.iter().sum::<usize>() * dim / 2).map(|at| at as f64 * 0.3);
                let rotation = kernels::Rotation::new(dim, &angles.collect::<Vec<_>>());
                let parts = kernels::join_rotated_heads(streams.into(), heads, 1e-6, &rotation);
                parts.into_iter().nth(part).unwrap()
            });
        }
    }
    errors.judge();
}

#[test]
fn attention_beside_activated_features() {
    let mut errors = Errors::default();
    for (batch, tokens, width, features) in [(2, 33, 64, 448), (1, 5, 20, 75)] {
        let what = format!("joined {batch}x{tokens}, {width} and {features}");
        compare(&what, &mut errors, |make| {
            let attended = make.activations("a", [batch, tokens, width]);
            let fused = make.activations("f", [batch, tokens, features]);
            kernels::join_activated(attended, fused, 3 * width)
        });
    }
    errors.judge();
}

#[test]
fn norms() {
    let mut errors = Errors::default();
    for (batch, channels, height, width, groups, activate) in [
        (2, 320, 16, 16, 32, true),
        (1, 12, 7, 9, 4, false),
        (1, 64, 64, 64, 32, true),
        (1, 32, 128, 96, 2, true),
    ] {
        let what = format!("group norm {batch}x{channels}x{height}x{width}, {groups}, {activate}");
        compare(&what, &mut errors, |make| {
            let x = make.activations("x", [batch, channels, height, width]);
            let [weight, bias] = ["w", "b"].map(|name| make.activations(name, [channels]));
            kernels::group_norm(x, groups, weight, bias, 1e-5, activate)
        });
    }
    for (channels, side, activate) in [(96, 16, true), (5, 7, false)] {
        compare(&format!("channel norm {channels}x{side}², {activate}"), &mut errors, |make| {
            let x = make.activations("x", [2, channels, side, side]);
            kernels::channel_rms_norm(x, make.activations("w", [channels]), activate)
        });
    }
    for (batch, rows, features) in [(2, 77, 768), (1, 5, 33)] {
        let what = format!("layer norm {batch}x{rows}x{features}");
        compare(&what, &mut errors, |make| {
            let x = make.activations("x", [batch, rows, features]);
            let [weight, bias] = ["w", "b"].map(|name| make.activations(name, [features]));
            kernels::layer_norm(x, weight, bias, 1e-5)
        });
        let what = format!("modulated norm {batch}x{rows}x{features}");
        compare(&what, &mut errors, |make| {
            let x = make.activations("x", [batch, rows, features]);
            let [shift, scale] = ["s", "c"].map(|name| make.activations(name, [batch, features]));
            kernels::modulated_norm(x, shift, scale, 1e-6)
        });
        let what = format!("gated sum {batch}x{rows}x{features}");
        compare(&what, &mut errors, |make| {
            let [x, branch] =
                ["x", "b"].map(|name| make.activations(name, [batch, rows, features]));
            kernels::add_gated(x, branch, make.activations("g", [batch, features]))
        });
        let what = format!("RMS norm {batch}x{rows}x{features}");
        compare(&what, &mut errors, |make| {
            let x = make.activations("x", [batch, rows, features]);
            kernels::rms_norm(x, make.activations("w", [features]), 1e-6)
        });
    }
    errors.judge();
}

#[test]
fn activations() {
    let mut errors = Errors::default();
    for features in [640, 34] {
        let shape = [2, 33, features];
        compare(&format!("GEGLU of {features}"), &mut errors, |make| {
            kernels::geglu(make.make("x", shape, 4.0))
        });
        compare(&format!("GELU of {features}"), &mut errors, |make| {
            kernels::gelu(make.make("x", shape, 4.0))
        });
        compare(&format!("GELU by tanh of {features}"), &mut errors, |make| {
            kernels::gelu_tanh(make.make("x", shape, 4.0))
        });
        compare(&format!("quick GELU of {features}"), &mut errors, |make| {
            kernels::quick_gelu(make.make("x", shape, 4.0))
        });
    }
    errors.judge();
}
