//! What every sampler must do, on models whose answer is known: the right distribution, a clean stop,
//! errors that name what is wrong. No other implementation is needed here.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`

use std::ops::ControlFlow;

use distorch_runtime::Tensor;
use distorch_runtime::tensor::cpu;
use distorch_sampling::NoiseProcess;
use distorch_sampling::ksampler::KSampler;
use distorch_sampling::model_sampling::{ModelSampling, Prediction};
use distorch_sampling::noise::{NoiseDevice, latent_noise};
use distorch_sampling::sampler::{
    Denoiser, ModelError, Options, Run, SAMPLERS, SampleError, Sampler, Step,
};
use distorch_sampling::schedule::{Scheduler, Span};

fn go_on(_: &Step<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn flat(x: Tensor<4>) -> Vec<f32> {
    x.into_data().to_vec().unwrap()
}

/// Independent normal data of this deviation: the best guess is linear in `x`.
struct Gaussian {
    deviation: f64,
    process: NoiseProcess,
}

impl Denoiser for Gaussian {
    fn denoise(&mut self, x: Tensor<4>, sigma: f64) -> Result<Tensor<4>, ModelError> {
        let share = if self.process == NoiseProcess::VarianceExploding { 1.0 } else { 1.0 - sigma };
        let variance = self.deviation * self.deviation;
        Ok(x * (share * variance / (share * share * variance + sigma * sigma)))
    }

    fn process(&self) -> NoiseProcess {
        self.process
    }
}

/// Noise goes in, data of the right deviation comes out: 3 % over 8192 numbers (whose own
/// spread is 1 %) and 200 steps, which the samplers of first order need.
#[test]
fn every_sampler_ends_in_the_distribution_of_the_data() {
    const DEVIATION: f64 = 0.6;
    let shape = [2, 4, 32, 32];
    let models = [ModelSampling::stable_diffusion(Prediction::Eps), ModelSampling::flow(1.0, 1e3)];
    let mut wrong = Vec::new();
    for sampling in &models {
        for sampler in SAMPLERS.iter().filter(|sampler| !sampler.name().ends_with("_gpu")) {
            // The guess of a model whose data is spread is its mean: nothing to sample in one step.
            let consistency = sampler.name() == "lcm";
            let scheduler = Scheduler::by_name("normal").unwrap();
            let span = Span::whole(200);
            let sigmas = span.sigmas(scheduler, sampling, sampler.discards_penultimate()).unwrap();
            let run = KSampler {
                sampler: *sampler,
                options: Options::default(),
                sampling,
                sigmas: &sigmas,
                seed: 3,
                noise_device: NoiseDevice::Cpu,
                latent: Tensor::zeros(shape, &cpu()),
                noise: latent_noise(shape, 3, &cpu()),
                mask: None,
                differential: None,
            };
            let mut model = Gaussian { deviation: DEVIATION, process: sampling.process() };
            let what = format!("{} {:?}", sampler.name(), sampling.prediction());
            let found = match run.run(&mut model, &mut go_on) {
                Err(SampleError::NoFlowForm { sampler: "ddpm", .. }) => continue,
                found => flat(found.unwrap()),
            };
            let square: f64 = found.iter().map(|v| f64::from(*v).powi(2)).sum();
            let deviation = (square / found.len() as f64).sqrt();
            println!("{what}: {deviation:.4}");
            let off = (deviation / DEVIATION - 1.0).abs();
            // The methods, not their implementation: k-diffusion's `dpm_adaptive` and `dpmpp_3m_sde`
            // give 0.6198 and 0.6292 here, and ComfyUI's `dpmpp_2s_ancestral_cfg_pp` takes guesses of
            // two places for one another.
            let is_flow = sampling.process() != NoiseProcess::VarianceExploding;
            let tolerance = match sampler.name() {
                // ComfyUI puts their noise back as if noise were only added, so the latent's share comes out too
                // large.
                "res_multistep_ancestral" | "res_multistep_ancestral_cfg_pp" if is_flow => continue,
                "dpmpp_2s_ancestral_cfg_pp" if is_flow => continue,
                "dpm_adaptive" | "dpmpp_3m_sde" | "dpmpp_2m_sde_heun" => 0.06,
                "res_multistep_ancestral" | "res_multistep_ancestral_cfg_pp" => 0.06,
                "dpmpp_2s_ancestral_cfg_pp" => 0.3,
                _ => 0.03,
            };
            let right = off < tolerance || (consistency && deviation.is_finite());
            if !right {
                wrong.push(format!("{what}: {deviation}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn sigmas() -> Vec<f64> {
    let model = ModelSampling::stable_diffusion(Prediction::Eps);
    Scheduler::by_name("karras").unwrap().sigmas(&model, 8).unwrap()
}

fn sample(
    name: &str,
    model: &mut dyn Denoiser,
    callback: &mut dyn FnMut(&Step<'_>) -> ControlFlow<()>,
    sigmas: &[f64],
) -> Result<Tensor<4>, SampleError> {
    let x = latent_noise([1, 4, 2, 2], 1, &cpu()) * sigmas.first().copied().unwrap_or(1.0);
    Sampler::by_name(name).unwrap().sample(Run::new(model, 1, callback), x, sigmas)
}

fn half(x: Tensor<4>, _: f64) -> Result<Tensor<4>, ModelError> {
    Ok(x * 0.5)
}

#[test]
fn every_sampler_reports_each_step_and_stops_when_asked() {
    for sampler in SAMPLERS {
        let name = sampler.name();
        let mut reported = Vec::new();
        let mut count = |step: &Step<'_>| {
            reported.push((step.index, step.total, step.sigma));
            ControlFlow::Continue(())
        };
        sample(name, &mut half, &mut count, &sigmas()).unwrap();
        let total = match name {
            "dpm_adaptive" => None,
            // Evaluations: 3 + 3 + 2.
            "dpm_fast" => Some(3),
            _ => Some(8),
        };
        assert!(
            reported.iter().enumerate().all(|(i, step)| (step.0, step.1) == (i, total)),
            "{name}"
        );
        assert!(total.is_none_or(|total| reported.len() == total), "{name}");
        if !matches!(name, "dpm_fast" | "dpm_adaptive") {
            let reported: Vec<_> = reported.iter().map(|step| step.2).collect();
            assert_eq!(reported, sigmas()[..8], "{name}");
        }

        let mut stop = |step: &Step<'_>| match step.index {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        let error = sample(name, &mut half, &mut stop, &sigmas()).unwrap_err();
        assert!(matches!(error, SampleError::Stopped { step: 1, .. }), "{name} {error}");
        let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
        assert_eq!(error.to_string(), format!("stopped at step 2{of}"));
    }
}

/// `dpm_fast` of every count: as many steps reported as taken, and as many evaluations as steps asked.
#[test]
fn dpm_fast_counts_its_own_steps() {
    for asked in 1..30 {
        let sigmas: Vec<f64> =
            (0..=asked).map(|i| 10.0 - 9.0 * f64::from(i) / f64::from(asked)).collect();
        let (mut evaluations, mut reported) = (0, Vec::new());
        let mut model = |x: Tensor<4>, _: f64| {
            evaluations += 1;
            Ok(x * 0.5)
        };
        let mut count = |step: &Step<'_>| {
            reported.push((step.index, step.total));
            ControlFlow::Continue(())
        };
        sample("dpm_fast", &mut model, &mut count, &sigmas).unwrap();
        let expected: Vec<_> = (0..reported.len()).map(|i| (i, Some(reported.len()))).collect();
        assert_eq!(reported, expected, "{asked}");
        // One step asked is made as a step of second order and one of first: 3 evaluations.
        assert_eq!(evaluations, if asked == 3 { 3 } else { asked }, "{asked}");
    }
}

#[test]
fn one_step_two_steps_and_no_step_are_runs() {
    for sampler in SAMPLERS {
        for sigmas in [&[][..], &[1.0], &[1.0, 0.0], &[1.0, 0.5], &[9.0, 1.0, 0.0]] {
            let found = sample(sampler.name(), &mut half, &mut go_on, sigmas).unwrap();
            let finite = flat(found).iter().all(|v| v.is_finite());
            assert!(finite, "{} {sigmas:?}", sampler.name());
        }
    }
}

#[test]
fn sigmas_that_lead_nowhere_are_errors() {
    for (sigmas, wrong) in [
        (&[0.0, 0.0][..], 0),
        (&[1.0, f64::NAN, 0.0], 1),
        (&[1.0, 0.0, 0.5], 1),
        (&[f64::INFINITY, 1.0], 0),
        (&[1.0, -1.0], 1),
    ] {
        for sampler in SAMPLERS {
            let error = sample(sampler.name(), &mut half, &mut go_on, sigmas).unwrap_err();
            assert!(matches!(error, SampleError::Sigma { place, .. } if place == wrong), "{error}");
        }
    }
}

#[test]
fn a_model_that_fails_is_named_with_its_sigma() {
    let mut failing = |_: Tensor<4>, _: f64| Err("out of memory".into());
    for sampler in SAMPLERS {
        let error = sample(sampler.name(), &mut failing, &mut go_on, &[2.0, 1.0]).unwrap_err();
        assert!(matches!(error, SampleError::Model { .. }));
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "out of memory");
    }
}

/// The others pass it on; `dpm_adaptive` would look for a step for ever.
#[test]
fn a_model_that_is_not_finite_ends_the_run() {
    let mut broken = |x: Tensor<4>, _: f64| Ok(x * f64::NAN);
    for sampler in SAMPLERS {
        let found = sample(sampler.name(), &mut broken, &mut go_on, &sigmas());
        match found {
            Err(error) => assert!(matches!(error, SampleError::Diverged { .. }), "{error}"),
            Ok(x) => assert!(flat(x).iter().any(|v| v.is_nan()), "{}", sampler.name()),
        }
    }
}

#[test]
fn seeds_choose_the_noise_of_stochastic_samplers_only() {
    let stochastic = |name: &str| {
        let words = ["ancestral", "sde", "seeds", "sa_solver"];
        words.iter().any(|word| name.contains(word)) || matches!(name, "ddpm" | "lcm")
    };
    for sampler in SAMPLERS {
        let run = |seed| {
            let x = latent_noise([1, 4, 2, 2], 1, &cpu()) * 14.0;
            let (mut model, mut callback) = (half, go_on);
            let run = Run::new(&mut model, seed, &mut callback);
            flat(sampler.sample(run, x, &sigmas()[..6]).unwrap())
        };
        assert_eq!(run(5), run(5), "{}", sampler.name());
        assert_eq!(run(5) != run(6), stochastic(sampler.name()), "{}", sampler.name());
    }
}

#[test]
fn churn_puts_noise_in() {
    for name in ["euler", "heun", "heunpp2", "dpm_2"] {
        let run = |s_churn| {
            let x = latent_noise([1, 4, 2, 2], 1, &cpu()) * 14.0;
            let (mut model, mut callback) = (half, go_on);
            let options = Options { s_churn, ..Options::default() };
            let run = Run::new(&mut model, 1, &mut callback).with_options(options);
            flat(Sampler::by_name(name).unwrap().sample(run, x, &sigmas()).unwrap())
        };
        assert_ne!(run(0.0), run(4.0), "{name}");
    }
}

#[test]
fn an_unknown_sampler_is_an_error_with_near_names() {
    let error = Sampler::by_name("dpmpp2m").unwrap_err().to_string();
    assert!(error.starts_with(r#"no sampler is named "dpmpp2m"; near: dpmpp_2m"#), "{error}");
}

#[test]
fn noise_of_no_flow_form_is_refused() {
    let mut flow =
        Gaussian { deviation: 1.0, process: NoiseProcess::RectifiedFlow { largest: 0.9999 } };
    let x = latent_noise([1, 4, 2, 2], 1, &cpu());
    let mut callback = go_on;
    let options = Options { eta: Some(1.0), ..Options::default() };
    let run = Run::new(&mut flow, 1, &mut callback).with_options(options);
    let error = Sampler::by_name("dpm_fast").unwrap().sample(run, x, &[1.0, 0.5]).unwrap_err();
    assert!(error.to_string().contains("set eta to 0"), "{error}");
}
