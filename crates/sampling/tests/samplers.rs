//! Samplers against k-diffusion's and diffusers', and published formulas in float64 where neither
//! has them: the fixture, made by `tools/reference/make_sampling.py`, says which is which.
//!
//! All run 20 steps from the same noise with one analytic model. Tolerance: 1e-4 of the largest
//! value; float32 differences grow little on this model. `dpmpp_sde` is held to
//! 1e-3: it draws noise at times whose sixth decimal hangs on the
//! last bit of a float32 exponential.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`

use std::ops::ControlFlow;

use distorch_runtime::Tensor;
use distorch_runtime::tensor::cpu;
use distorch_sampling::noise::latent_noise;
use distorch_sampling::sampler::{ModelError, Options, Run, SAMPLERS, Sampler};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/samplers.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The fixture's model.
fn model(x: Tensor<4>, sigma: f64) -> Result<Tensor<4>, ModelError> {
    let variance = 0.7 * 0.7;
    let bent = (x.clone() * (1.0 / (sigma * sigma + 1.0).sqrt())).tanh();
    Ok(x * (variance / (sigma * sigma + variance)) + bent * 0.2)
}

fn go_on(_: &distorch_sampling::sampler::Step<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn flat(x: Tensor<4>) -> Vec<f32> {
    x.into_data().to_vec().unwrap()
}

fn sample(name: &str, seed: u64, sigmas: &[f64], options: Options) -> Vec<f32> {
    let x = latent_noise([1, 4, 4, 4], seed, &cpu()) * sigmas[0];
    let (mut model, mut callback) = (model, go_on);
    let run = Run::new(&mut model, seed, &mut callback).with_options(options);
    flat(Sampler::by_name(name).unwrap().sample(run, x, sigmas).unwrap())
}

#[test]
fn twenty_steps_end_where_the_references_do() {
    let fixture = fixture();
    let cases = fixture["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let options = Options { eta: case["options"]["eta"].as_f64(), ..Options::default() };
        let sigmas = numbers(&case["sigmas"]);
        let found = sample(name, fixture["seed"].as_u64().unwrap(), &sigmas, options);
        let expected = numbers(&case["latent"]);
        let largest = expected.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
        let error = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs());
        let error = error.fold(0.0f64, |worst, e| if e.is_nan() { f64::NAN } else { worst.max(e) });
        let tolerance = if name == "dpmpp_sde" { 1e-3 } else { 1e-4 };
        let to_zero = sigmas.last() == Some(&0.0);
        println!("{name} to zero {to_zero}: {:.1e}", error / largest);
        if error.is_nan() || error >= tolerance * largest {
            wrong.push(format!(
                "{name} {} to zero {to_zero}: {}",
                case["options"],
                error / largest
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let more: Value = serde_json::from_str(include_str!("fixtures/sampler_formulas.json")).unwrap();
    let more = more["cases"].as_array().unwrap();
    for sampler in SAMPLERS {
        let name = sampler.name().trim_end_matches("_gpu");
        // Of the same function as `euler`.
        let known = name == "ddim" || cases.iter().chain(more).any(|case| case["name"] == name);
        assert!(known, "{name} has no reference");
    }
}
