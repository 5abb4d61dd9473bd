//! Latent consistency models against diffusers' `LCMScheduler`, and schedules between sigmas of
//! one's choice against k-diffusion's (`tools/reference/make_sampling.py`).
//!
//! Tolerance: 2e-6 of the value, some units in the last place of float32, which k-diffusion computes
//! in. diffusers' table is a running product in float32 of up to 1000 factors: 1e-4.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside `#[test]`

use distorch_runtime::Tensor;
use distorch_runtime::tensor::cpu;
use distorch_sampling::model_sampling::{ModelSampling, Prediction};
use distorch_sampling::schedule::{
    exponential_between, karras_between, polyexponential_between, turbo, variance_preserving,
};
use serde_json::Value;

const TABLE: f64 = 1e-4;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/model_sampling.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: {found:?} {expected:?}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs();
        assert!(error <= tolerance * expected.abs(), "{what}: {found} {expected}");
    }
}

fn lcm() -> ModelSampling {
    ModelSampling::stable_diffusion(Prediction::Lcm).distilled(50)
}

#[test]
fn a_distilled_model_knows_each_twentieth_level() {
    let (model, expected) = (lcm(), &fixture()["lcm"]);
    let timesteps = numbers(&expected["timesteps"]);
    assert_close(model.sigmas(), &numbers(&expected["sigmas"]), TABLE, "sigmas");
    for (sigma, timestep) in model.sigmas().iter().zip(&timesteps) {
        assert_eq!(model.timestep(*sigma), *timestep);
        // Logarithms are float32, and a step is 20 timesteps.
        assert!((model.fractional_timestep(*sigma) - timestep).abs() < 1e-3);
        assert!((model.sigma(*timestep) - sigma).abs() < 1e-6 * sigma);
    }
    // Between two levels, the nearer one; outside, the outermost.
    assert_eq!(model.timestep(model.sigmas()[7] * 1.001), timesteps[7]);
    assert_eq!((model.timestep(0.0001), model.timestep(99.0)), (19.0, 999.0));
    assert_eq!((model.sigma(0.0), model.sigma(999.0)), (model.sigma(19.0), model.sigma(2000.0)));
    // The way from noise to picture is that of all timesteps.
    let whole = ModelSampling::stable_diffusion(Prediction::Eps);
    for percent in [0.1, 0.5, 0.9] {
        let (thin, whole) = (model.percent_to_sigma(percent), whole.percent_to_sigma(percent));
        assert!((thin - whole).abs() < 0.01 * whole, "{thin} {whole}");
    }
}

#[test]
fn a_consistency_model_mixes_its_guess_with_what_it_sees() {
    let (model, expected) = (lcm(), &fixture()["lcm"]);
    let (skip, out) = (numbers(&expected["skip"]), numbers(&expected["out"]));
    let one = |value: f64| Tensor::<4>::full([1, 1, 1, 1], value as f32, &cpu());
    let (x, output) = (3.0, 0.4);
    for (place, sigma) in model.sigmas().iter().enumerate() {
        let found = f64::from(model.denoised(one(output), one(x), *sigma).into_scalar());
        let expected = out[place] * (x - sigma * output) + skip[place] * x;
        assert!((found - expected).abs() < 1e-5, "{place}: {found} {expected}");
    }
}

#[test]
fn from_picture_to_picture_the_input_is_what_it_is() {
    let model = ModelSampling::stable_diffusion(Prediction::ImageToImage);
    let x = Tensor::<4>::full([1, 1, 1, 1], 3.0, &cpu());
    assert_eq!(model.scale_input(x.clone(), 5.0).into_scalar(), 3.0);
    assert_eq!(model.denoised(x.clone() * 2.0, x, 5.0).into_scalar(), 6.0);
}

#[test]
fn schedules_between_sigmas_are_k_diffusions() {
    let fixture = fixture();
    let cases = fixture["between"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let given = numbers(&case["given"]);
        let (steps, rest) = (given[0] as usize, &given[1..]);
        let sigmas = match (name, rest) {
            ("karras", &[max, min, rho]) => karras_between(steps, max, min, rho),
            ("exponential", &[max, min]) => exponential_between(steps, max, min),
            ("polyexponential", &[max, min, rho]) => polyexponential_between(steps, max, min, rho),
            ("vp", &[growth, rate, first]) => variance_preserving(steps, growth, rate, first),
            other => panic!("{other:?}"),
        };
        // k-diffusion takes 1 from the exponential in float32.
        let tolerance = if name == "vp" { 1e-3 } else { 2e-6 };
        assert_close(&sigmas, &numbers(&case["sigmas"]), tolerance, name);
    }
}

#[test]
fn turbo_models_step_by_a_hundred() {
    let model = ModelSampling::stable_diffusion(Prediction::Eps);
    let all = numbers(&fixture()["turbo"]);
    assert_close(&turbo(&model, 10, 1.0)[..10], &all, TABLE, "all");
    assert_close(&turbo(&model, 2, 1.0)[..2], &all[..2], TABLE, "two");
    assert_close(&turbo(&model, 4, 0.5)[..4], &all[5..9], TABLE, "half");
    assert_eq!(turbo(&model, 4, 0.0), [0.0]);
    assert_eq!(turbo(&model, 10, 0.3).len(), 4);
}
