//! Samplers against brute force in float64, made by `tools/reference/make_sampler_formulas.py`: 12 steps
//! of a guided model whose negative guess is another function. Tolerance: 1e-4 of the largest value;
//! float32 differences grow little on this model.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`

use std::ops::ControlFlow;

use distorch_runtime::Tensor;
use distorch_runtime::tensor::cpu;
use distorch_sampling::NoiseProcess;
use distorch_sampling::noise::{NoiseDevice, latent_noise};
use distorch_sampling::sampler::{Denoiser, ModelError, Options, Run, Sampler, Step};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/sampler_formulas.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The fixture's model, guided or not.
struct Model {
    scale: f64,
}

impl Model {
    fn positive(x: &Tensor<4>, sigma: f64) -> Tensor<4> {
        let variance = 0.7 * 0.7;
        let bent = (x.clone() * (1.0 / (sigma * sigma + 1.0).sqrt())).tanh();
        x.clone() * (variance / (sigma * sigma + variance)) + bent * 0.2
    }

    fn negative(x: &Tensor<4>, sigma: f64) -> Tensor<4> {
        let bent = (x.clone() * (1.0 / (sigma * sigma + 1.0).sqrt())).sin();
        x.clone() * (0.25 / (sigma * sigma + 0.25)) - bent * 0.1
    }
}

impl Denoiser for Model {
    fn denoise(&mut self, x: Tensor<4>, sigma: f64) -> Result<Tensor<4>, ModelError> {
        let negative = Self::negative(&x, sigma);
        Ok(negative.clone() + (Self::positive(&x, sigma) - negative) * self.scale)
    }

    fn denoise_both(
        &mut self,
        x: Tensor<4>,
        sigma: f64,
    ) -> Result<(Tensor<4>, Tensor<4>), ModelError> {
        let negative = Self::negative(&x, sigma);
        Ok((self.denoise(x, sigma)?, negative))
    }
}

/// One run; `change` sets it up.
fn sample(
    name: &str,
    model: &mut dyn Denoiser,
    seed: u64,
    x: Tensor<4>,
    sigmas: &[f64],
    change: impl FnOnce(Run<'_>) -> Run<'_>,
) -> Tensor<4> {
    let mut go_on = |_: &Step<'_>| ControlFlow::Continue(());
    let run = change(Run::new(model, seed, &mut go_on));
    Sampler::by_name(name).unwrap().sample(run, x, sigmas).unwrap()
}

fn flat(x: Tensor<4>) -> Vec<f32> {
    x.into_data().to_vec().unwrap()
}

/// The largest difference, in parts of the largest value.
fn difference(found: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
    let errors = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
    errors.fold(0.0f64, |worst, e| if e.is_nan() { f64::NAN } else { worst.max(e) }) / largest
}

#[test]
fn guided_runs_end_where_brute_force_does() {
    let fixture = fixture();
    let (seed, sigmas) = (fixture["seed"].as_u64().unwrap(), numbers(&fixture["sigmas"]));
    let stochastic = numbers(&fixture["stochastic"]);
    let mut wrong = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let (name, zero) = (case["name"].as_str().unwrap(), case["zero"].as_bool().unwrap());
        let sigmas = if zero { &sigmas[..] } else { &sigmas[..sigmas.len() - 1] };
        let x = latent_noise([1, 4, 4, 4], seed, &cpu()) * sigmas[0];
        let mut model = Model { scale: fixture["scale"].as_f64().unwrap() };
        let found = flat(sample(name, &mut model, seed, x, sigmas, |run| {
            run.with_stochastic_sigmas(stochastic[0]..=stochastic[1])
        }));
        let error = difference(&found, &numbers(&case["latent"]));
        println!("{name} to zero {zero}: {error:.1e}");
        if error.is_nan() || error >= 1e-4 {
            wrong.push(format!("{name} to zero {zero}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A model without guidance has one guess, and then CFG++ changes nothing. (But in ComfyUI's
/// `dpmpp_2s_ancestral_cfg_pp`, which takes both guesses of a step.)
#[test]
fn without_guidance_cfg_pp_is_the_plain_sampler() {
    let sigmas = numbers(&fixture()["sigmas"]);
    let mut model =
        |x: Tensor<4>, sigma: f64| -> Result<_, ModelError> { Ok(Model::positive(&x, sigma)) };
    let mut made = |name: &str| {
        let x = latent_noise([1, 4, 4, 4], 3, &cpu()) * sigmas[0];
        flat(sample(name, &mut model, 3, x, &sigmas, |run| run))
    };
    for name in [
        "euler",
        "euler_ancestral",
        "dpmpp_2m",
        "res_multistep",
        "res_multistep_ancestral",
        "gradient_estimation",
    ] {
        let plain: Vec<f64> = made(name).into_iter().map(f64::from).collect();
        let error = difference(&made(&format!("{name}_cfg_pp")), &plain);
        assert!(error < 1e-5, "{name}: {error}");
    }
}

/// The CPU's noise or CUDA's, as the run says; the SDE samplers without `_gpu` take the CPU's always.
#[test]
fn noise_between_steps_is_that_of_the_runs_device() {
    let sigmas = numbers(&fixture()["sigmas"]);
    let made = |name: &str, device| {
        let x = latent_noise([1, 4, 4, 4], 3, &cpu()) * sigmas[0];
        let mut model = Model { scale: 1.5 };
        flat(sample(name, &mut model, 3, x, &sigmas, |run| run.with_noise_device(device)))
    };
    let cuda = NoiseDevice::Cuda { blocks: 8 };
    for name in ["euler_ancestral", "lcm", "ddpm", "seeds_3", "er_sde", "sa_solver"] {
        assert_ne!(made(name, NoiseDevice::Cpu), made(name, cuda), "{name}");
    }
    for name in ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"] {
        let gpu = format!("{name}_gpu");
        let found = made(name, NoiseDevice::Cpu);
        assert_eq!(made(name, cuda), found, "{name}");
        assert_eq!(made(&gpu, NoiseDevice::Cpu), found, "{name}");
        assert_ne!(made(&gpu, cuda), found, "{name}");
    }
}

/// Without noise, each SDE sampler is one of the probability flow: all come to the same end.
#[test]
fn without_noise_they_follow_the_flow() {
    let sigmas: Vec<f64> =
        (0..=300).map(|i| 14.0 * (0.02f64 / 14.0).powf(f64::from(i) / 300.0)).collect();
    let made = |name: &str, eta: Option<f64>| {
        let x = latent_noise([1, 4, 4, 4], 3, &cpu()) * sigmas[0];
        let mut model = Model { scale: 1.5 };
        let options = Options { eta, ..Options::default() };
        flat(sample(name, &mut model, 3, x, &sigmas, |run| run.with_options(options)))
    };
    let flow: Vec<f64> = made("heun", None).into_iter().map(f64::from).collect();
    for name in [
        "res_multistep_ancestral",
        "seeds_2",
        "seeds_3",
        "exp_heun_2_x0_sde",
        "sa_solver",
        "sa_solver_pece",
        "dpmpp_2m_sde_heun",
    ] {
        let error = difference(&made(name, Some(0.0)), &flow);
        println!("{name}: {error:.1e}");
        assert!(error < 3e-3, "{name}: {error}");
    }
    for name in ["exp_heun_2_x0", "ipndm_v"] {
        let error = difference(&made(name, None), &flow);
        println!("{name}: {error:.1e}");
        assert!(error < 3e-3, "{name}: {error}");
    }
}

/// From picture to noise and back: samplers go up the sigmas as well as down.
#[test]
fn multistep_samplers_go_up_too() {
    let up: Vec<f64> = (0..=200).map(|i| 0.05 * (60f64).powf(f64::from(i) / 200.0)).collect();
    let down: Vec<f64> = up.iter().rev().copied().collect();
    let x = latent_noise([1, 4, 4, 4], 3, &cpu());
    for name in ["sa_solver", "exp_heun_2_x0", "res_multistep", "dpmpp_2m_cfg_pp"] {
        let made = |x: Tensor<4>, sigmas: &[f64]| {
            let mut model = |x: Tensor<4>, sigma: f64| -> Result<_, ModelError> {
                Ok(Model::positive(&x, sigma))
            };
            let options = Options { eta: Some(0.0), ..Options::default() };
            sample(name, &mut model, 3, x, sigmas, |run| run.with_options(options))
        };
        let noisy = made(x.clone(), &up);
        let back = flat(made(noisy, &down));
        let expected: Vec<f64> = flat(x.clone()).into_iter().map(f64::from).collect();
        let error = difference(&back, &expected);
        println!("{name}: {error:.1e}");
        assert!(error < 2e-2, "{name}: {error}");
    }
}

/// On a flow, a step whose guess is right is exact for every sampler that puts no noise in.
#[test]
fn flows_are_followed_exactly_where_the_guess_is_right() {
    struct Known;
    impl Denoiser for Known {
        fn denoise(&mut self, x: Tensor<4>, _: f64) -> Result<Tensor<4>, ModelError> {
            Ok(x.ones_like() * 0.25)
        }
        fn process(&self) -> NoiseProcess {
            NoiseProcess::RectifiedFlow { largest: 0.9999 }
        }
    }
    let noise = latent_noise([1, 4, 4, 4], 3, &cpu());
    let sigmas = [0.9, 0.7, 0.45, 0.3, 0.2, 0.1];
    let at = |sigma: f64| noise.clone() * sigma + 0.25 * (1.0 - sigma);
    let expected: Vec<f64> = flat(at(0.1)).into_iter().map(f64::from).collect();
    for name in [
        "euler_cfg_pp",
        "dpmpp_2m_cfg_pp",
        "res_multistep_cfg_pp",
        "gradient_estimation_cfg_pp",
        "exp_heun_2_x0",
        "seeds_2",
        "seeds_3",
        "sa_solver",
        "sa_solver_pece",
    ] {
        let options = Options { eta: Some(0.0), ..Options::default() };
        let found = sample(name, &mut Known, 3, at(0.9), &sigmas, |run| run.with_options(options));
        let found = flat(found);
        let error = difference(&found, &expected);
        assert!(error < 1e-5, "{name}: {error}");
    }
}
