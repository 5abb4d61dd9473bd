//! Noise against PyTorch's and torchsde's, made by `tools/reference/make_sampling.py`.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`

use distorch_runtime::Tensor;
use distorch_runtime::tensor::cpu;
use distorch_sampling::noise::{BrownianNoise, Generator, batch_noise, latent_noise};
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
        let noise = BrownianNoise::new(&x, &numbers(&case["sigmas"]), seed(case));
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
