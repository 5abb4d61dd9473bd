//! Rectified flows as SD3 and Flux have them, against PyTorch, diffusers, k-diffusion and formulas in float64: the
//! fixture is made by `tools/reference/make_flow.py`, which says what is whose.
//!
//! Tables and what is looked up in them are compared by their bits. Runs of 20 steps of one analytic model are held to
//! 1e-4 of the largest value; `dpmpp_sde` to 1e-3, since it draws noise at times whose sixth decimal hangs on the last
//! bit of a float32.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`

use std::ops::ControlFlow;

use distorch_runtime::Tensor;
use distorch_runtime::tensor::cpu;
use distorch_sampling::NoiseProcess;
use distorch_sampling::inpaint::Inpaint;
use distorch_sampling::ksampler::KSampler;
use distorch_sampling::model_sampling::{ModelSampling, flux_shift};
use distorch_sampling::noise::{NoiseDevice, latent_noise};
use distorch_sampling::sampler::{Denoiser, ModelError, Options, Run, Sampler, Step};
use distorch_sampling::schedule::{Scheduler, Span};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/flow.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The models of the fixture.
fn models() -> [(&'static str, ModelSampling); 5] {
    [
        ("sd3", ModelSampling::flow(3.0, 1000.0)),
        ("schnell", ModelSampling::flow(1.0, 1.0)),
        ("auraflow", ModelSampling::flow(1.73, 1.0)),
        ("flux", ModelSampling::flux(1.15)),
        ("flux_square", ModelSampling::flux(0.5)),
    ]
}

fn model(name: &str) -> ModelSampling {
    models().into_iter().find(|(known, _)| *known == name).unwrap().1
}

/// FNV-1a over the bits of float32: equal digests mean equal bits.
fn digest(values: &[f64]) -> String {
    let hash = values.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, value| {
        (hash ^ u64::from((*value as f32).to_bits())).wrapping_mul(0x0100_0000_01B3)
    });
    format!("{hash:016x}")
}

#[test]
fn tables_have_pytorchs_bits() {
    let fixture = fixture();
    for (name, model) in models() {
        let expected = &fixture["tables"][name];
        let table = model.sigmas();
        let some: Vec<f64> = table.iter().step_by(table.len() / 10).copied().collect();
        let single = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<_>>();
        assert_eq!(single(&some), single(&numbers(&expected["some"])), "{name}");
        assert_eq!(digest(table), expected["digest"], "{name}");
        assert_eq!(model.sigma_max(), 1.0, "{name}");
    }
}

#[test]
fn the_way_from_noise_to_picture_is_that_of_the_shift() {
    let fixture = fixture();
    for (name, model) in models() {
        let expected = numbers(&fixture["percents"][name]);
        for (percent, expected) in [1e-4, 0.01, 0.15, 0.5, 0.8, 0.99].into_iter().zip(expected) {
            let found = model.percent_to_sigma(percent);
            assert!((found - expected).abs() < 1e-14, "{name} {percent}: {found} {expected}");
        }
        for (percent, sigma) in [(-1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (2.0, 0.0)] {
            assert_eq!(model.percent_to_sigma(percent), sigma, "{name} {percent}");
        }
    }
    // SD3's timesteps go to 1000, those of the others to 1.
    assert_eq!(model("sd3").timestep(0.75), 750.0);
    assert_eq!(model("schnell").timestep(0.75), 0.75);
    assert_eq!(model("flux").timestep(0.75), 0.75);
}

#[test]
fn the_shift_of_flux_is_linear_in_the_tokens() {
    for case in fixture()["shifts"].as_array().unwrap() {
        let case = numbers(case);
        let found = flux_shift(1.15, 0.5, case[0] as u32, case[1] as u32);
        assert!((found - case[2]).abs() < 1e-12, "{case:?}: {found}");
    }
    assert!((flux_shift(1.15, 0.5, 256, 256) - 0.5).abs() < 1e-12);
    assert!((flux_shift(1.15, 0.5, 1024, 1024) - 1.15).abs() < 1e-12);
}

/// Sigmas of the table have its bits. The others are computed in float32: 2e-6.
#[test]
fn schedules_of_flows_are_those_of_the_references() {
    let fixture = fixture();
    for (name, cases) in fixture["schedules"].as_object().unwrap() {
        let model = model(name);
        for (case, expected) in cases.as_object().unwrap() {
            let (scheduler, steps) = case.split_once(' ').unwrap();
            let steps = steps.parse().unwrap();
            let found = Scheduler::by_name(scheduler).unwrap().sigmas(&model, steps).unwrap();
            let expected = numbers(expected);
            assert_eq!(found.len(), expected.len(), "{name} {case}");
            let of_the_table = matches!(scheduler, "simple" | "beta" | "ddim_uniform");
            let tolerance = if of_the_table { 0.0 } else { 2e-6 };
            for (found, expected) in found.iter().zip(expected) {
                let (found, expected) = (*found as f32, expected as f32);
                let error = (found - expected).abs();
                assert!(error <= tolerance * expected, "{name} {case}: {found} {expected}");
            }
        }
    }
}

/// The fixture's model.
struct Velocity(NoiseProcess);

impl Denoiser for Velocity {
    fn denoise(&mut self, x: Tensor<4>, sigma: f64) -> Result<Tensor<4>, ModelError> {
        let share = 1.0 - sigma;
        let kept = share * 0.49 / (share * share * 0.49 + sigma * sigma);
        Ok(x.clone() * kept + x.tanh() * 0.2)
    }

    fn process(&self) -> NoiseProcess {
        self.0
    }
}

fn go_on(_: &Step<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn sample(
    name: &str,
    model: &mut dyn Denoiser,
    x: Tensor<4>,
    sigmas: &[f64],
    change: impl FnOnce(Run<'_>) -> Run<'_>,
) -> Vec<f32> {
    let mut callback = go_on;
    let run = change(Run::new(model, 2025, &mut callback));
    let x = Sampler::by_name(name).unwrap().sample(run, x, sigmas).unwrap();
    x.into_data().to_vec().unwrap()
}

/// The largest difference, in parts of the largest value.
fn difference(found: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
    let errors = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
    errors.fold(0.0f64, |worst, e| if e.is_nan() { f64::NAN } else { worst.max(e) }) / largest
}

#[test]
fn twenty_steps_of_a_flow_end_where_the_references_do() {
    let fixture = fixture();
    let (steps, seed) = (fixture["steps"].as_u64().unwrap(), fixture["seed"].as_u64().unwrap());
    let mut wrong = Vec::new();
    for case in fixture["runs"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let (name, scheduler) = (text("sampler"), text("scheduler"));
        let sampling = model(text("model"));
        let scheduler_ = Scheduler::by_name(scheduler).unwrap();
        let sigmas = scheduler_.sigmas(&sampling, steps as usize).unwrap();
        let x = latent_noise([1, 4, 4, 4], seed, &cpu()) * sigmas[0];
        let found = sample(name, &mut Velocity(sampling.process()), x, &sigmas, |run| run);
        let error = difference(&found, &numbers(&case["latent"]));
        println!("{} {scheduler} {name}: {error:.1e}", text("model"));
        let tolerance = if name == "dpmpp_sde" { 1e-3 } else { 1e-4 };
        if error.is_nan() || error >= tolerance {
            wrong.push(format!("{} {scheduler} {name}: {error}", text("model")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A flow is a process where noise is only added, seen through `x / (1 - sigma)` and `sigma / (1 - sigma)`: samplers
/// that step in the ratio of both go the same way.
#[test]
fn samplers_in_the_ratio_go_the_way_of_added_noise() {
    struct Added;
    impl Denoiser for Added {
        fn denoise(&mut self, y: Tensor<4>, ratio: f64) -> Result<Tensor<4>, ModelError> {
            let sigma = ratio / (1.0 + ratio);
            Velocity(NoiseProcess::VarianceExploding).denoise(y * (1.0 - sigma), sigma)
        }
    }
    let sampling = ModelSampling::flow(3.0, 1000.0);
    let mut sigmas = Scheduler::by_name("simple").unwrap().sigmas(&sampling, 12).unwrap();
    // Ratios are finite below 1.
    sigmas[0] = 0.999;
    for sigmas in [&sigmas[..], &sigmas[..12]] {
        let ratio = |sigma: f64| sigma / (1.0 - sigma);
        let ratios: Vec<f64> = sigmas.iter().map(|sigma| ratio(*sigma)).collect();
        let share = |place: usize| 1.0 - sigmas[place];
        let x = latent_noise([1, 4, 4, 4], 5, &cpu()) * sigmas[0];
        for name in [
            "euler_cfg_pp",
            "euler_ancestral_cfg_pp",
            "er_sde",
            "seeds_2",
            "seeds_3",
            "exp_heun_2_x0",
            "exp_heun_2_x0_sde",
            "sa_solver",
            "sa_solver_pece",
        ] {
            let mut flow = Velocity(sampling.process());
            let (low, high) = (0.2, 0.8);
            let found = sample(name, &mut flow, x.clone(), sigmas, |run| {
                run.with_stochastic_sigmas(low..=high)
            });
            let start = x.clone() / share(0);
            let added = sample(name, &mut Added, start, &ratios, |run| {
                run.with_stochastic_sigmas(ratio(low)..=ratio(high))
            });
            let end = share(sigmas.len() - 1);
            let expected: Vec<f64> = added.iter().map(|value| f64::from(*value) * end).collect();
            let error = difference(&found, &expected);
            println!("{name}: {error:.1e}");
            assert!(error < 1e-4, "{name}: {error}");
        }
    }
}

fn flat(x: Tensor<4>) -> Vec<f32> {
    x.into_data().to_vec().unwrap()
}

/// A picture is mixed with noise to the first sigma of a shortened run, and what a mask keeps to the sigma of each step;
/// what is kept comes out as it was.
#[test]
fn pictures_and_masks_go_through_a_flow() {
    let shape = [1, 4, 4, 4];
    let latent = latent_noise(shape, 9, &cpu()) * 0.7;
    let noise = latent_noise(shape, 7, &cpu());
    let mixed = |sigma: f64| -> Vec<f32> {
        let (latent, noise) = (flat(latent.clone()), flat(noise.clone()));
        latent
            .iter()
            .zip(noise)
            .map(|(l, n)| (f64::from(*l) * (1.0 - sigma) + f64::from(n) * sigma) as f32)
            .collect()
    };
    let close = |found: &[f32], expected: &[f32]| {
        found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
    };
    for sampling in [ModelSampling::flow(3.0, 1000.0), ModelSampling::flux(1.15)] {
        let scheduler = Scheduler::by_name("simple").unwrap();
        let whole = scheduler.sigmas(&sampling, 16).unwrap();
        let span = Span { denoise: 0.5, ..Span::whole(8) };
        let sigmas = span.sigmas(scheduler, &sampling, false).unwrap();
        assert_eq!(sigmas, whole[8..]);
        let mask = Tensor::cat(
            vec![Tensor::<4>::zeros([1, 4, 2, 4], &cpu()), Tensor::ones([1, 4, 2, 4], &cpu())],
            2,
        );
        for mask in [None, Some(mask)] {
            let mut seen = Vec::new();
            let mut model = Velocity(sampling.process());
            let mut asked = |x: Tensor<4>, sigma: f64| {
                seen.push((sigma, flat(x.clone())));
                model.denoise(x, sigma)
            };
            let run = KSampler {
                sampler: Sampler::by_name("euler").unwrap(),
                options: Options::default(),
                sampling: &sampling,
                sigmas: &sigmas,
                seed: 7,
                noise_device: NoiseDevice::Cpu,
                latent: latent.clone(),
                noise: noise.clone(),
                mask: mask.clone(),
                differential: None,
            };
            let found = flat(run.run(&mut asked, &mut go_on).unwrap());
            assert_eq!(seen.len(), 8);
            assert!(close(&seen[0].1, &mixed(sigmas[0])));
            if mask.is_none() {
                continue;
            }
            // The first two rows of each channel are kept.
            let kept = |values: &[f32]| -> Vec<f32> {
                values.chunks(16).flat_map(|channel| channel[..8].to_vec()).collect()
            };
            for (sigma, x) in &seen {
                assert!(close(&kept(x), &kept(&mixed(*sigma))), "{sigma}");
            }
            assert!(close(&kept(&found), &kept(&flat(latent.clone()))));
            assert_ne!(found, flat(latent.clone()));
        }
    }
}

/// The kept part is of the model's own process: an inpainting model of a flow is a flow.
#[test]
fn inpainting_keeps_the_process() {
    let sampling = ModelSampling::flux(1.15);
    let x = Tensor::<4>::ones([1, 4, 2, 2], &cpu());
    let mut model = Velocity(sampling.process());
    let inpaint = Inpaint {
        model: &mut model,
        sampling: &sampling,
        mask: x.clone(),
        latent: x.clone(),
        noise: x.clone(),
        fading: None,
    };
    assert_eq!(inpaint.process(), sampling.process());
    assert!(matches!(inpaint.process(), NoiseProcess::RectifiedFlow { largest } if largest < 1.0));
}
