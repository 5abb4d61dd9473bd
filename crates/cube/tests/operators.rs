//! The operators beside the CPU's, on `vulkan:0` where the environment promises a driver, and what they do with tensors
//! of the CPU. Errors are in parts of the largest value: f32 adds up to 3,000 products in another order, f16 rounds
//! the result once and what is between two operators once more.

#![allow(clippy::unwrap_used)]

use burn::DispatchDevice as Device;
use burn::tensor::{DType, Distribution};
use distorch_cube::{
    Activation, Tensor, activated, activated_sum, channel_rms_norm, conv2d, flash_attention, gated,
    gated_sum, gated_sums, group_norm, layer_norm, matmul, rms_norm, rotated, softmax, sum,
};

fn cpu() -> Device {
    Device::Flex(Default::default())
}

/// Values from -1 to 1 that `dtype` has exactly, on the CPU in f32.
fn values<const D: usize>(shape: [usize; D], dtype: DType) -> Tensor<D> {
    let made = Tensor::<D>::random(shape, Distribution::Uniform(-1.0, 1.0), (&cpu(), DType::F32));
    made.cast(dtype).cast(DType::F32)
}

#[test]
fn tensors_of_the_cpu_come_back() {
    let (a, b) = (values([3, 4], DType::F32), values([4, 5], DType::F32));
    let (back, _) = matmul(a.clone(), b, DType::F32).unwrap_err();
    back.into_data().assert_eq(&a.into_data(), true);
    let (x, weight) = (values([1, 2, 5, 5], DType::F32), values([3, 2, 3, 3], DType::F32));
    assert_eq!(conv2d(x, weight, 1, 1).unwrap_err().1.dims(), [3, 2, 3, 3]);
    let tokens = || values([1, 2, 16, 16], DType::F16).cast(DType::F16);
    assert!(flash_attention(tokens(), tokens(), tokens(), false).is_err());
    let rows = |count| values([count, 8], DType::F32);
    assert!(layer_norm(rows(3), rows(1), rows(1), 1e-5, false).is_err());
    assert!(rms_norm(rows(3), rows(1), 1e-5).is_err());
    assert!(softmax(rows(3), 1.0, None, DType::F32).is_err());
    assert!(sum([rows(3), rows(1)]).is_err());
    assert!(gated_sum(rows(3), rows(3), rows(1)).is_err());
    assert!(activated(rows(3), Activation::Silu).is_err());
    assert!(activated_sum(rows(3), rows(1), Activation::Silu).is_err());
    assert!(gated(rows(3), rows(3), Activation::Gelu).is_err());
    let [x, ones] = [3, 1].map(|count| [(); 2].map(|()| rows(count)));
    assert!(gated_sums(x, ones, Activation::Gelu).is_err());
    let heads = || values([1, 2, 1, 4], DType::F32);
    assert!(rotated(heads(), heads(), heads()).is_err());
    let of_channels = || values([1, 4, 1, 1], DType::F32);
    let picture = || values([1, 4, 2, 2], DType::F32);
    assert!(group_norm(picture(), 2, of_channels(), of_channels(), 1e-5, false).is_err());
    assert!(channel_rms_norm(picture(), of_channels(), false).is_err());
}

#[cfg(feature = "vulkan")]
mod on_vulkan {
    use burn::tensor::activation::silu;
    use burn::tensor::ops::ConvOptions;
    use burn::tensor::{TensorData, module};
    use distorch_cube::flash_tile;

    use super::*;

    /// The device, where it is promised.
    fn device() -> Option<Device> {
        std::env::var_os("DISTORCH_EXPECT_VULKAN").map(|_| Device::Vulkan(Default::default()))
    }

    fn there<const D: usize>(tensor: &Tensor<D>, dtype: DType, device: &Device) -> Tensor<D> {
        let data: TensorData = tensor.clone().into_data();
        Tensor::from_data(data.convert_dtype(dtype), (device, dtype))
    }

    fn near<const D: usize>(what: &str, actual: Tensor<D>, expected: Tensor<D>, dtype: DType) {
        assert_eq!((actual.dims(), actual.dtype()), (expected.dims(), dtype), "{what}");
        let actual = Tensor::<D>::from_data(actual.into_data().convert_dtype(DType::F32), &cpu());
        let largest: f32 = expected.clone().abs().max().into_scalar();
        let error: f32 = (actual - expected).abs().max().into_scalar();
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 1e-3 };
        assert!(error <= tolerance * largest, "{what} in {dtype:?}: {}", error / largest);
    }

    #[test]
    fn products() {
        let Some(device) = device() else { return };
        let sizes = [[64, 320, 96], [1, 320, 64], [50, 31, 7], [2, 96, 33]];
        // A driver takes seconds to compile a kernel: not all sizes in 16 bits.
        for (dtype, out, count) in
            [(DType::F32, DType::F32, 4), (DType::F16, DType::F16, 3), (DType::F16, DType::F32, 2)]
        {
            for [m, k, n] in &sizes[..count] {
                let (a, b) = (values([*m, *k], dtype), values([*n, *k], dtype).transpose());
                let expected = a.clone().matmul(b.clone());
                // A weight is stored as rows of outputs.
                let right = there(&b.transpose(), dtype, &device).transpose();
                let product = matmul(there(&a, dtype, &device), right, out).unwrap();
                near(&format!("{m}×{k}×{n} of {dtype:?}"), product, expected, out);
            }
        }
    }

    /// Queries and keys as they leave their projections: heads beside each other.
    #[test]
    fn products_of_heads() {
        let Some(device) = device() else { return };
        let tokens = |count: usize| values([2, count, 3, 40], DType::F16);
        let (q, k) = (tokens(30), tokens(77));
        let heads = |x: Tensor<4>| x.swap_dims(1, 2);
        let expected = heads(q.clone()).matmul(heads(k.clone()).swap_dims(2, 3));
        let [q, k] = [q, k].map(|x| heads(there(&x, DType::F16, &device)));
        let scores = matmul(q, k.swap_dims(2, 3), DType::F32).unwrap();
        near("scores", scores, expected, DType::F32);
    }

    /// Heads beside each other, of two images; many queries for few keys; keys that fill the last tile and that do not.
    #[test]
    fn attention_in_tiles() {
        let Some(device) = device() else { return };
        let Some(tile) = flash_tile(&device, DType::F16, 32) else {
            return println!("skipped: the driver multiplies no tiles of f16");
        };
        for (queries, keys, d, causal) in [
            (8 * tile, 77, 32, false),
            (2 * tile, 4 * tile, 64, false),
            // The second image begins where no tensor can.
            (3 * tile, 5, 32, false),
            (tile, 19, 8, false),
            (8 * tile, 4 * tile, 128, false),
            (4 * tile, 4 * tile - 3, 32, true),
        ] {
            let tokens = |count: usize| values([2, count, 3, d], DType::F16).swap_dims(1, 2);
            let (q, k, v) = (tokens(queries), tokens(keys), tokens(keys));
            let mut scores = q.clone().matmul(k.clone().swap_dims(2, 3)) / (d as f64).sqrt();
            if causal {
                let mask = burn::tensor::Tensor::<burn::Dispatch, 2, burn::tensor::Bool>::tril_mask(
                    [queries, keys],
                    0,
                    &cpu(),
                );
                scores = scores.mask_fill(mask.unsqueeze(), f32::NEG_INFINITY);
            }
            let expected = burn::tensor::activation::softmax(scores, 3).matmul(v.clone());
            let on = |x: Tensor<4>| there(&x.swap_dims(1, 2), DType::F16, &device).swap_dims(1, 2);
            let y = flash_attention(on(q), on(k), on(v), causal).unwrap();
            near(&format!("{queries} to {keys}, {d}, {causal}"), y, expected, DType::F16);
        }
    }

    #[test]
    fn convolutions() {
        let Some(device) = device() else { return };
        for dtype in [DType::F32, DType::F16] {
            let shapes = [
                (32, 16, 9, 3, 1),
                (4, 24, 8, 3, 1),
                (24, 4, 8, 3, 1),
                (16, 8, 9, 3, 2),
                (40, 16, 6, 1, 1),
            ];
            // The last one is a product.
            let count = if dtype == DType::F32 { 5 } else { 4 };
            for (channels, outputs, side, kernel, stride) in shapes.into_iter().take(count) {
                let what = format!("{channels} to {outputs}, {side}², {kernel}/{stride}");
                let padding = kernel / 2;
                let x = values([2, channels, side, side], dtype);
                let weight = values([outputs, channels, kernel, kernel], dtype);
                let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
                let expected = module::conv2d(x.clone(), weight.clone(), None, options);
                let [x, weight] = [x, weight].map(|tensor| there(&tensor, dtype, &device));
                near(&what, conv2d(x, weight, stride, padding).unwrap(), expected, dtype);
            }
        }
    }

    /// Far from zero, so that a sum of squares would lose the variance; rows that fill units and vectors and that do not,
    /// with one weight for all of them or for as many as there are tokens.
    #[test]
    fn norms_of_rows() {
        let Some(device) = device() else { return };
        for dtype in [DType::F32, DType::F16] {
            for ([pictures, tokens, features], of_picture) in
                [([2, 5, 320], false), ([3, 7, 1100], true), ([1, 3, 33], false), ([2, 1, 4], true)]
            {
                let what = format!("{pictures}×{tokens}×{features}");
                let x = values([pictures, tokens, features], dtype);
                let x = (x + 8.0).cast(dtype).cast(DType::F32);
                let params = if of_picture { pictures } else { 1 };
                let [weight, bias] = [(); 2].map(|()| values([params, 1, features], dtype));
                let on = |x: &Tensor<3>| there(x, dtype, &device);

                let mean = x.clone().mean_dim(2);
                let variance = (x.clone() - mean.clone()).square().mean_dim(2);
                let normal = (x.clone() - mean) / (variance + 1e-3).sqrt();
                for from_one in [false, true] {
                    let scale = weight.clone() + f32::from(u8::from(from_one));
                    let expected = normal.clone() * scale + bias.clone();
                    let y = layer_norm(on(&x), on(&weight), on(&bias), 1e-3, from_one).unwrap();
                    near(&format!("layer norm of {what}"), y, expected, dtype);
                }
                if !of_picture {
                    let root = (x.clone().square().mean_dim(2) + 1e-3).sqrt();
                    let y = rms_norm(on(&x), on(&weight), 1e-3).unwrap();
                    near(&format!("RMS norm of {what}"), y, x.clone() / root * weight, dtype);
                    // Rows in another order than in memory.
                    let weight = values([1, 1, tokens], dtype);
                    let x = x.swap_dims(1, 2);
                    let root = (x.clone().square().mean_dim(2) + 1e-3).sqrt();
                    let y =
                        rms_norm(on(&x.clone().swap_dims(1, 2)).swap_dims(1, 2), on(&weight), 1e-3);
                    near(&format!("columns of {what}"), y.unwrap(), x / root * weight, dtype);
                }
            }
        }
    }

    /// Groups in one part and in several, the last of which is shorter; planes that fill vectors and that do not.
    #[test]
    fn norms_of_pictures() {
        let Some(device) = device() else { return };
        for dtype in [DType::F32, DType::F16] {
            for ([batch, channels, height, width], groups) in [
                ([2, 64, 16, 16], 32),
                ([1, 12, 7, 9], 4),
                ([1, 6, 130, 100], 2),
                ([2, 5, 1, 3], 1),
            ] {
                let what = format!("{batch}×{channels}×{height}×{width}");
                let x = values([batch, channels, height, width], dtype);
                let x = (x + 8.0).cast(dtype).cast(DType::F32);
                let [weight, bias] = [(); 2].map(|()| values([1, channels, 1, 1], dtype));
                let on = |x: &Tensor<4>| there(x, dtype, &device);

                let rows = x.clone().reshape([batch * groups, channels / groups * height * width]);
                let mean = rows.clone().mean_dim(1);
                let variance = (rows.clone() - mean.clone()).square().mean_dim(1);
                let normal = (rows - mean) / (variance + 1e-3).sqrt();
                let normal = normal.reshape([batch, channels, height, width]);
                let of_group = normal * weight.clone() + bias.clone();
                let norm = x.clone().square().sum_dim(1).sqrt();
                let of_pixel = x.clone() / norm * (channels as f32).sqrt() * weight.clone();
                for activate in [false, true] {
                    let act = |y: Tensor<4>| if activate { silu(y) } else { y };
                    let (weight, bias) = (on(&weight), on(&bias));
                    let y =
                        group_norm(on(&x), groups, weight.clone(), bias, 1e-3, activate).unwrap();
                    near(&format!("group norm of {what}"), y, act(of_group.clone()), dtype);
                    let y = channel_rms_norm(on(&x), weight, activate).unwrap();
                    near(&format!("channel norm of {what}"), y, act(of_pixel.clone()), dtype);
                }
            }
        }
        let zeros = Tensor::<4>::zeros([1, 3, 2, 2], (&device, DType::F32));
        let ones = Tensor::<4>::ones([1, 3, 1, 1], (&device, DType::F32));
        let y = channel_rms_norm(zeros, ones, false).unwrap();
        assert_eq!(y.into_data().to_vec::<f32>().unwrap(), [0.0; 12]);
    }

    /// Values of a picture whose channels are last in memory, of parts of wider rows, of one vector for all rows or for each
    /// picture; in vectors and singly; the first operand in a place of its own and in that of the result.
    #[test]
    fn sums() {
        let Some(device) = device() else { return };
        for dtype in [DType::F32, DType::F16] {
            for [batch, channels, height, width] in [[2, 16, 5, 8], [1, 5, 3, 7]] {
                let shape = [batch, channels, height, width];
                let [a, b] = [(); 2].map(|()| values(shape, dtype));
                let of_channels = values([1, channels, 1, 1], dtype);
                let of_pictures = values([batch, channels, 1, 1], dtype);
                let last = |x: &Tensor<4>| {
                    let x = there(&x.clone().permute([0, 2, 3, 1]), dtype, &device);
                    x.permute([0, 3, 1, 2])
                };
                let on = |x: &Tensor<4>| there(x, dtype, &device);
                let what = format!("{shape:?}");
                let y = sum([last(&a), last(&b)]).unwrap();
                near(&what, y, a.clone() + b.clone(), dtype);
                let y = sum([last(&a), on(&b)]).unwrap();
                near(&format!("{what}, in two orders"), y, a.clone() + b.clone(), dtype);
                let kept = last(&a);
                let y = sum([kept.clone(), on(&of_channels), on(&of_pictures)]).unwrap();
                let expected = a.clone() + of_channels.clone() + of_pictures.clone();
                near(&format!("{what}, vectors"), y, expected.clone(), dtype);
                near(&format!("{what}, not written to"), kept, a.clone(), dtype);
                let y = sum([on(&of_channels), on(&of_pictures), on(&a)]).unwrap();
                near(&format!("{what}, the vectors first"), y, expected, dtype);
                let (half, most) = (width / 2, width - width / 2);
                let (narrow, wide) = (a.clone().narrow(3, half, most), b.clone());
                let y = gated_sum(
                    on(&a).narrow(3, half, most),
                    on(&wide).narrow(3, 0, most),
                    on(&of_channels),
                );
                let expected = narrow + wide.narrow(3, 0, most) * of_channels;
                near(&format!("{what}, parts"), y.unwrap(), expected, dtype);
            }
        }
        // Of other sides or dtypes they come back.
        let ones = |shape, dtype| Tensor::<2>::ones(shape, (&device, dtype));
        assert!(sum([ones([3, 4], DType::F32), ones([3, 2], DType::F32)]).is_err());
        assert!(sum([ones([3, 4], DType::F32), ones([3, 4], DType::F16)]).is_err());
    }

    /// From where all is small to where their exponentials are beyond f32.
    #[test]
    fn activations() {
        use burn::tensor::activation::{gelu, gelu_approximate, relu, sigmoid};

        type Function = fn(Tensor<2>) -> Tensor<2>;
        let Some(device) = device() else { return };
        let functions: [(Activation, Function); 5] = [
            (Activation::Relu, relu),
            (Activation::Silu, silu),
            (Activation::Gelu, gelu),
            (Activation::GeluTanh, gelu_approximate),
            (Activation::QuickGelu, |x| x.clone() * sigmoid(x * 1.702)),
        ];
        for dtype in [DType::F32, DType::F16] {
            for (count, scale) in [(64, 3.0), (33, 3.0), (64, 200.0)] {
                let [x, gate] = [(); 2].map(|()| (values([3, count], dtype) * scale).cast(dtype));
                let [x, gate] = [x, gate].map(|x| x.cast(DType::F32));
                let biases = [(); 2].map(|()| values([1, count], dtype));
                let on = |x: &Tensor<2>| there(x, dtype, &device);
                for (activation, function) in functions {
                    let what = format!("{activation:?} of {count} up to {scale}");
                    let y = activated(on(&x), activation).unwrap();
                    near(&what, y, function(x.clone()), dtype);
                    let y = gated(on(&x), on(&gate), activation).unwrap();
                    let expected = x.clone() * function(gate.clone());
                    near(&format!("gated, {what}"), y, expected, dtype);
                    let [a, b] = biases.each_ref().map(on);
                    let y = activated_sum(on(&x), a.clone(), activation).unwrap();
                    let biased = x.clone() + biases[0].clone();
                    near(&format!("biased, {what}"), y, function(biased.clone()), dtype);
                    let y = gated_sums([on(&x), on(&gate)], [a, b], activation).unwrap();
                    let expected = biased * function(gate.clone() + biases[1].clone());
                    near(&format!("gated and biased, {what}"), y, expected, dtype);
                }
            }
        }
    }

    /// Heads that fill vectors and that do not, in wider rows and alone.
    #[test]
    fn rotations() {
        let Some(device) = device() else { return };
        for dtype in [DType::F32, DType::F16] {
            for (heads, d, wider) in [(3, 32, 32), (2, 6, 0), (1, 2, 1)] {
                let (batch, tokens) = (2, 5);
                let all = values([batch, tokens, heads * d + wider], dtype);
                let x = all.clone().narrow(2, 0, heads * d).reshape([batch, tokens, heads, d]);
                let [cosines, sines] = [(); 2].map(|()| values([1, tokens, 1, d], DType::F32));
                let pairs = x.clone().reshape([batch, tokens, heads, d / 2, 2]);
                let turned = pairs.flip([4]).reshape([batch, tokens, heads, d]);
                let expected = x * cosines.clone() + turned * sines.clone();
                let x = there(&all, dtype, &device).narrow(2, 0, heads * d);
                let angles = [cosines, sines].map(|x| there(&x, DType::F32, &device));
                let [cosines, sines] = angles;
                let y = rotated(x.reshape([batch, tokens, heads, d]), cosines, sines).unwrap();
                near(&format!("{heads} heads of {d}"), y, expected, dtype);
            }
        }
    }

    /// Of scores whose exponentials are beyond f32, all keys and those up to a query's.
    #[test]
    fn softmaxes() {
        let Some(device) = device() else { return };
        for ([heads, queries, keys], seen) in [
            ([3, 5, 320], None),
            ([2, 7, 1100], None),
            ([1, 77, 77], Some(1)),
            ([2, 9, 33], Some(25)),
        ] {
            let scores = values([heads, queries, keys], DType::F32) * 1000.0;
            let mut expected = scores.clone() * 0.125;
            if let Some(seen) = seen {
                let mask = burn::tensor::Tensor::<burn::Dispatch, 2, burn::tensor::Bool>::tril_mask(
                    [queries, keys],
                    seen as i64 - 1,
                    &cpu(),
                );
                expected = expected.mask_fill(mask.unsqueeze(), f32::NEG_INFINITY);
            }
            let expected = burn::tensor::activation::softmax(expected, 2);
            for out in [DType::F32, DType::F16] {
                let y = softmax(there(&scores, DType::F32, &device), 0.125, seen, out).unwrap();
                near(&format!("{heads}×{queries}×{keys}, {seen:?}"), y, expected.clone(), out);
            }
        }
    }
}
