//! Noise against PyTorch's and torchsde's, made by `tools/reference/make_sampling.py`.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`
#![allow(clippy::excessive_precision)] // values are written as they are published

use distorch_runtime::Tensor;
use distorch_runtime::tensor::cpu;
use distorch_sampling::noise::{
    BrownianNoise, CudaGenerator, Generator, NoiseDevice, StepNoise, batch_noise, latent_noise,
};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/noise.json")).unwrap()
}

fn seed(case: &Value) -> u64 {
    case["seed"].as_str().unwrap().parse().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn shape(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|v| v as usize).collect()
}

/// FNV-1a over the bit patterns.
fn digest(numbers: &[f32]) -> String {
    let hash = numbers.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, number| {
        (hash ^ u64::from(number.to_bits())).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Every bit of every number, for each seed and shape, and for several calls in a row.
#[test]
fn randn_has_the_bits_of_pytorch() {
    let fixture = fixture();
    let mut pairs = 0;
    for case in fixture["randn"].as_array().unwrap() {
        let mut generator = Generator::new(seed(case));
        let digests = case["digests"].as_array().unwrap();
        for (dims, expected) in case["shapes"].as_array().unwrap().iter().zip(digests) {
            let size = shape(dims).iter().product();
            let found = digest(&generator.randn(size));
            assert_eq!(found, expected.as_str().unwrap(), "seed {} shape {dims}", case["seed"]);
            pairs += 1;
        }
    }
    assert!(pairs > 100, "{pairs}");
}

/// torchsde's arithmetic is followed step by step, so only a compiler's freedom is left: 1e-6.
#[test]
fn brownian_noise_is_that_of_torchsde() {
    for case in fixture()["brownian"].as_array().unwrap() {
        let dims: [usize; 4] = shape(&case["shape"]).try_into().unwrap();
        let x = Tensor::<4>::zeros(dims, &cpu());
        let noise = BrownianNoise::new(&x, &numbers(&case["sigmas"]), seed(case), NoiseDevice::Cpu);
        let expected = case["noise"].as_array().unwrap();
        for (query, expected) in case["queries"].as_array().unwrap().iter().zip(expected) {
            let query = numbers(query);
            let found = noise.between(query[0], query[1], &x).into_data().to_vec::<f32>().unwrap();
            for (found, expected) in found.iter().zip(numbers(expected)) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 1e-6, "seed {} query {query:?}: {error}", case["seed"]);
            }
        }
    }
}

#[test]
fn latent_noise_is_one_call_and_batch_noise_one_call_a_picture() {
    let shape = [3, 4, 5, 3];
    let flat = |tensor: Tensor<4>| tensor.into_data().to_vec::<f32>().unwrap();
    assert_eq!(flat(latent_noise(shape, 11, &cpu())), Generator::new(11).randn(180));

    let mut generator = Generator::new(11);
    let pictures: Vec<_> = (0..4).map(|_| generator.randn(60)).collect();
    let picked = batch_noise(shape, 11, &[3, 0, 3], &cpu());
    assert_eq!(picked.dims(), shape);
    assert_eq!(flat(picked), [&pictures[3][..], &pictures[0], &pictures[3]].concat());
    assert_eq!(batch_noise([1, 4, 2, 2], 11, &[], &cpu()).dims()[0], 0);
}

#[test]
fn nothing_asked_is_nothing_drawn() {
    let mut generator = Generator::new(1);
    assert!(generator.randn(0).is_empty());
    assert_eq!(generator.randn(20), Generator::new(1).randn(20));
}

/// Values that people have published of `torch.randn(…, device="cuda")`, as printed: four decimals, or
/// eight. The GPU decides how many blocks run at once, which shows in large tensors.
#[test]
fn cuda_noise_has_the_published_values() {
    // 48 multiprocessors of 1536 threads, 132 and 108 of 2048.
    const A4000: u32 = 48 * 6;
    const H100: u32 = 132 * 8;
    const A100: u32 = 108 * 8;
    let check = |found: &[f32], expected: &[f32], tolerance: f32| {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance, "{found} {expected}");
        }
    };
    let printed = 5.1e-5;

    let found = CudaGenerator::new(0, A4000).randn(12);
    #[rustfmt::skip]
    check(&found, &[
        -0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564,
        -0.62285122, -0.32838709, -1.07454231, -0.36314407, -1.67105067, 2.26550497,
    ], 1e-6);

    // One draw after the other.
    let mut generator = CudaGenerator::new(42, A4000);
    for expected in [
        [0.1940, 2.1614, -0.1721, 0.8491],
        [0.1391, -0.1082, -0.7174, 0.7566],
        [-0.5187, 1.2268, 0.6255, -0.9117],
        [-0.6974, -1.8688, -0.8832, -1.6627],
        [-1.2682, -0.0383, -0.1029, 1.4400],
        [1.4640, -0.3238, 0.7740, 1.5892],
    ] {
        check(&generator.randn(4), &expected, printed);
    }

    // More than one number a thread, of mean 5 and variance 5.
    let found = CudaGenerator::new(14, A4000).randn(100_000);
    let found: Vec<f32> = found.iter().map(|n| n * 5f32.sqrt() + 5.0).collect();
    for (row, expected) in [
        (0, [2.8731, 5.2727, 2.9889, 1.6853, 9.6331, 6.6319]),
        (1, [3.9968, 3.8097, 5.7328, 4.4029, 3.9804, 7.4698]),
        (2, [6.5552, 4.0857, 4.2315, 2.7704, 3.5479, 3.3063]),
        (997, [8.6297, 2.3137, 6.2596, 7.9358, 4.4697, 2.7475]),
        (998, [7.0551, 7.8583, 3.9990, 4.1139, 8.9315, 4.2042]),
        (999, [2.7337, 2.2106, 7.7815, 8.2207, 6.5395, 4.2604]),
    ] {
        let row = &found[row * 100..(row + 1) * 100];
        check(&[&row[..3], &row[97..]].concat(), &expected, printed);
    }

    // More than four numbers a thread.
    for (blocks, expected) in
        [(H100, [-0.6970, -0.7780, 0.3267]), (A100, [0.1549, -0.6797, -0.1656])]
    {
        let found = CudaGenerator::new(1, blocks).randn(49 * 12 * 112 * 144);
        check(&found[..3], &[-0.2963, 2.6764, -0.1408], printed);
        check(&found[found.len() - 3..], &expected, printed);
    }
}

/// Each draw goes on where the one before ended: behind all that one thread has made.
#[test]
fn cuda_draws_continue() {
    const THREADS: usize = 2 * 256;
    let blocks = 2;
    for before in [1, THREADS, 4 * THREADS, 4 * THREADS + 1, 9 * THREADS] {
        let mut generator = CudaGenerator::new(7, blocks);
        generator.randn(before);
        let found = generator.randn(40);
        // A thread's evaluations, four numbers each, in one large draw.
        let behind = before.div_ceil(4 * THREADS);
        let all = CudaGenerator::new(7, blocks).randn((behind + 1) * 4 * THREADS);
        assert_eq!(found, all[behind * 4 * THREADS..][..40], "{before}");
    }
    assert!(CudaGenerator::new(7, 0).randn(0).is_empty());
    assert_eq!(CudaGenerator::new(7, 0).randn(600), CudaGenerator::new(7, 1).randn(600));
}

/// Seed plus one on the CPU, the seed itself on CUDA; one generator for all draws.
#[test]
fn step_noise_is_one_generator_of_the_device() {
    let x = Tensor::<4>::zeros([1, 4, 3, 5], &cpu());
    let draws = |device| {
        let mut noise = StepNoise::new(11, device);
        [(); 2].map(|()| noise.like(&x).into_data().to_vec::<f32>().unwrap())
    };
    let (mut cpu, mut cuda) = (Generator::new(12), CudaGenerator::new(11, 5));
    assert_eq!(draws(NoiseDevice::Cpu), [(); 2].map(|()| cpu.randn(60)));
    assert_eq!(draws(NoiseDevice::Cuda { blocks: 5 }), [(); 2].map(|()| cuda.randn(60)));
}

/// The increments add up, whoever draws them, and CUDA's have its numbers: over the whole, one draw.
#[test]
fn brownian_noise_can_be_cudas() {
    let x = Tensor::<4>::zeros([1, 1, 2, 3], &cpu());
    let between = |device, from, to| -> Vec<f32> {
        let noise = BrownianNoise::new(&x, &[4.0, 2.0, 1.0], 5, device);
        noise.between(from, to, &x).into_data().to_vec().unwrap()
    };
    let cuda = NoiseDevice::Cuda { blocks: 1 };
    let (whole, upper, lower) =
        (between(cuda, 4.0, 1.0), between(cuda, 4.0, 2.0), between(cuda, 2.0, 1.0));
    for ((whole, upper), lower) in whole.iter().zip(&upper).zip(&lower) {
        let sum = upper * 2f32.sqrt() + lower;
        assert!((whole * 3f32.sqrt() - sum).abs() < 1e-5, "{whole} {sum}");
    }
    assert_ne!(whole, between(NoiseDevice::Cpu, 4.0, 1.0));
}
