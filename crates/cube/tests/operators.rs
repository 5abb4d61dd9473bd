//! The operators beside the CPU's, on `vulkan:0` where the environment promises a driver, and what they do with tensors
//! of the CPU. Errors are in parts of the largest value: f32 adds up to 3,000 products in another order, f16 rounds
//! the result once and what is between two operators once more.

#![allow(clippy::unwrap_used)]

use burn::DispatchDevice as Device;
use burn::tensor::{DType, Distribution, TensorData};
use distorch_cube::{Tensor, conv2d, flash_attention, matmul};

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
}

#[cfg(feature = "vulkan")]
mod on_vulkan {
    use burn::tensor::module;
    use burn::tensor::ops::ConvOptions;

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
        for dtype in [DType::F32, DType::F16] {
            for [m, k, n] in [[64, 320, 96], [2, 96, 33], [1, 320, 64], [50, 31, 7]] {
                let (a, b) = (values([m, k], dtype), values([n, k], dtype).transpose());
                let expected = a.clone().matmul(b.clone());
                // A weight is stored as rows of outputs.
                let right = there(&b.transpose(), dtype, &device).transpose();
                for out in [dtype, DType::F32] {
                    let product = matmul(there(&a, dtype, &device), right.clone(), out).unwrap();
                    near(&format!("{m}×{k}×{n}"), product, expected.clone(), out);
                }
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

    #[test]
    fn convolutions() {
        let Some(device) = device() else { return };
        for dtype in [DType::F32, DType::F16] {
            for (channels, outputs, side, kernel, stride) in [
                (32, 16, 9, 3, 1),
                (4, 24, 8, 3, 1),
                (24, 4, 8, 3, 1),
                (16, 8, 9, 3, 2),
                (40, 16, 6, 1, 1),
            ] {
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
}
