//! Guidance, masks and whole runs. References: PyTorch's interpolation and diffusers' rescaled
//! guidance, made by `tools/reference/make_sampling.py`, in float32: 1e-6 and 1e-5.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`

use std::ops::ControlFlow;

use distorch_runtime::Tensor;
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_sampling::guidance::{
    Conditioned, Correction, Formula, Guesses, Guidance, Guided, Wanted, away_from, combine,
    renormed, rescaled,
};
use distorch_sampling::inpaint::{Fading, Inpaint, latent_mask};
use distorch_sampling::ksampler::KSampler;
use distorch_sampling::model_sampling::{ModelSampling, Prediction};
use distorch_sampling::noise::{NoiseDevice, latent_noise};
use distorch_sampling::sampler::{Denoiser, ModelError, Options, SAMPLERS, Sampler, Step};
use distorch_sampling::schedule::{Scheduler, Span};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/guidance.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn tensor(values: Vec<f32>, shape: [usize; 4]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values, shape), &cpu())
}

fn flat(x: Tensor<4>) -> Vec<f32> {
    x.into_data().to_vec().unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "{place}: {found} {expected}");
    }
}

#[test]
fn masks_are_interpolated_as_pytorch_does() {
    for case in fixture()["masks"].as_array().unwrap() {
        let sizes = |key: &str| numbers(&case[key]).iter().map(|v| *v as usize).collect::<Vec<_>>();
        let (shape, latent) = (sizes("shape"), sizes("latent"));
        let mask = latent_mask(
            &numbers(&case["values"]),
            shape.try_into().unwrap(),
            latent.try_into().unwrap(),
            &cpu(),
        );
        assert_close(&flat(mask.unwrap()), &numbers(&case["fitted"]), 1e-6);
    }
}

#[test]
fn masks_of_wrong_sizes_are_errors() {
    for shape in [[1, 2, 3], [0, 2, 2], [1, 0, 4], [2, usize::MAX, 2]] {
        let error = latent_mask(&[0.0; 4], shape, [1, 4, 2, 2], &cpu()).unwrap_err();
        assert!(error.to_string().starts_with("a mask of 4 values"), "{error}");
    }
}

#[test]
fn rescaled_guidance_is_that_of_diffusers() {
    let case = &fixture()["rescale"];
    let read = |key: &str| tensor(numbers(&case[key]), [2, 4, 3, 3]);
    let number = |key: &str| case[key].as_f64().unwrap();
    let found = rescaled(
        read("x"),
        read("positive"),
        read("negative"),
        number("sigma"),
        number("scale"),
        number("part"),
    );
    assert_close(&flat(found), &numbers(&case["guided"]), 1e-5);
}

/// Guesses 2 by the positive conditioning and 1 by the negative one, and a number that the perturbation says; notes
/// what it was asked.
#[derive(Default)]
struct TwoAndOne {
    asked: Vec<(Wanted, usize)>,
    perturbed: Vec<f32>,
}

impl Conditioned for TwoAndOne {
    type Perturbation = f32;

    fn denoise(&mut self, x: &Tensor<4>, _: f64, wanted: Wanted) -> Result<Guesses, ModelError> {
        self.asked.push((wanted, x.dims()[0]));
        let ones = x.ones_like();
        let negative = (wanted == Wanted::Both).then(|| ones.clone());
        Ok(Guesses { positive: ones * 2.0, negative })
    }

    fn denoise_perturbed(
        &mut self,
        x: &Tensor<4>,
        _: f64,
        perturbation: &f32,
    ) -> Result<Tensor<4>, ModelError> {
        self.perturbed.push(*perturbation);
        Ok(x.ones_like() * *perturbation)
    }
}

#[test]
fn the_negative_guess_is_made_only_where_it_counts() {
    let x = Tensor::<4>::zeros([3, 1, 1, 2], &cpu());
    for (scale, wanted) in [(7.0, Wanted::Both), (1.0, Wanted::Positive), (0.0, Wanted::Both)] {
        let mut guided = Guided::new(TwoAndOne::default(), scale);
        let guess = flat(guided.denoise(x.clone(), 1.0).unwrap());
        assert_eq!(guess, vec![1.0 + scale as f32; 6]);
        assert_eq!(guided.model.asked, [(wanted, 3)]);
    }
}

/// In their order, each where its sigmas are, and at a scale of 1 too.
#[test]
fn corrections_follow_the_formula() {
    let x = Tensor::<4>::zeros([1, 1, 1, 2], &cpu());
    let away = |perturbation: f32, scale: f64, first: f64| Correction::Perturbed {
        perturbation,
        scale,
        rescale: 0.0,
        sigmas: 0.5..=first,
    };
    let corrections = vec![away(1.5, 3.0, 2.0), away(4.0, 0.0, 2.0), away(-1.0, 0.5, 1.0)];
    for (scale, sigma, expected, perturbed) in [
        (7.0, 2.0, 8.0 + 3.0 * 0.5, vec![1.5]),
        (7.0, 1.0, 8.0 + 3.0 * 0.5 + 0.5 * 3.0, vec![1.5, -1.0]),
        (1.0, 0.5, 2.0 + 3.0 * 0.5 + 0.5 * 3.0, vec![1.5, -1.0]),
        (7.0, 2.1, 8.0, vec![]),
        (7.0, 0.4, 8.0, vec![]),
    ] {
        let guidance = Guidance { corrections: corrections.clone(), ..Guidance::plain(scale) };
        let mut guided = Guided { model: TwoAndOne::default(), guidance };
        let guess = flat(guided.denoise(x.clone(), sigma).unwrap());
        assert_eq!(guess, [expected; 2]);
        assert_eq!(guided.model.perturbed, perturbed);
    }
}

/// Against the formula in float64.
#[test]
fn what_is_away_from_a_guess_keeps_the_deviation_that_is_asked() {
    let shape = [2, 4, 3, 3];
    let noise = |seed, scale: f64| latent_noise(shape, seed, &cpu()) * scale;
    let (guided, positive, other) = (noise(1, 3.0), noise(2, 1.0), noise(3, 2.0));
    let wide = |x: &Tensor<4>| flat(x.clone()).into_iter().map(f64::from).collect::<Vec<_>>();
    let (g, p, o) = (wide(&guided), wide(&positive), wide(&other));
    let deviation = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / (values.len() - 1) as f64).sqrt()
    };
    let plain: Vec<f64> = g.iter().zip(&p).zip(&o).map(|((g, p), o)| g + 1.5 * (p - o)).collect();
    for rescale in [0.0, 0.4, 1.0] {
        let factor = rescale * deviation(&p) / deviation(&plain) + (1.0 - rescale);
        let expected: Vec<f32> = plain.iter().map(|value| (value * factor) as f32).collect();
        let found = away_from(guided.clone(), positive.clone(), other.clone(), 1.5, rescale);
        assert_close(&flat(found), &expected, 1e-5);
    }
}

/// Against the formula in float64: one picture is longer than it may be, another one is not.
#[test]
fn guesses_are_no_longer_than_is_asked() {
    let shape = [2, 4, 3, 3];
    let positive = latent_noise(shape, 2, &cpu());
    let scales = tensor(vec![3.0, 0.5], [2, 1, 1, 1]);
    let guided = latent_noise(shape, 1, &cpu()) * scales;
    let wide = |x: &Tensor<4>| flat(x.clone()).into_iter().map(f64::from).collect::<Vec<_>>();
    let (g, p) = (wide(&guided), wide(&positive));
    let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    for longest in [0.0, 0.3, 1.0, 100.0] {
        let pictures = g.chunks(36).zip(p.chunks(36)).flat_map(|(g, p)| {
            let most = longest * length(p);
            let cut = longest > 0.0 && length(g) >= most;
            let factor = if cut { most / length(g) } else { 1.0 };
            g.iter().map(move |value| (value * factor) as f32)
        });
        let expected: Vec<f32> = pictures.collect();
        let found = flat(renormed(guided.clone(), positive.clone(), longest));
        assert_close(&found, &expected, 1e-6);
    }
    let zeros = positive.clone() * 0.0;
    assert_eq!(flat(renormed(zeros.clone(), positive, 1.0)), flat(zeros));
}

/// Each formula is the function of its name.
#[test]
fn a_formula_is_chosen_by_the_guidance() {
    struct Noise;
    impl Conditioned for Noise {
        type Perturbation = std::convert::Infallible;
        fn denoise(&mut self, x: &Tensor<4>, _: f64, _: Wanted) -> Result<Guesses, ModelError> {
            let negative = Some(latent_noise(x.dims(), 2, &cpu()) * 0.5);
            Ok(Guesses { positive: latent_noise(x.dims(), 1, &cpu()), negative })
        }
        fn denoise_perturbed(
            &mut self,
            _: &Tensor<4>,
            _: f64,
            perturbation: &std::convert::Infallible,
        ) -> Result<Tensor<4>, ModelError> {
            match *perturbation {}
        }
    }
    let x = latent_noise([2, 4, 3, 3], 3, &cpu());
    let Guesses { positive, negative } = Noise.denoise(&x, 2.0, Wanted::Both).unwrap();
    let negative = negative.unwrap();
    let made = |formula| {
        let guidance = Guidance { formula, ..Guidance::plain(5.0) };
        flat(Guided { model: Noise, guidance }.denoise(x.clone(), 2.0).unwrap())
    };
    assert_eq!(made(Formula::Plain), flat(combine(positive.clone(), negative.clone(), 5.0)));
    let expected = flat(rescaled(x.clone(), positive.clone(), negative.clone(), 2.0, 5.0, 0.7));
    assert_eq!(made(Formula::Rescaled { part: 0.7 }), expected);
    assert_ne!(made(Formula::Plain), expected);
    let renorm = |until| made(Formula::Renormed { until, longest: 1.0 });
    let expected = flat(renormed(combine(positive.clone(), negative, 5.0), positive.clone(), 1.0));
    assert_eq!(renorm(2.5), expected);
    // The noise is as high as where it ends.
    assert_eq!(renorm(2.0), flat(positive));
}

/// Data all at 0.5: the guess is that, whatever `x` is.
fn half(x: Tensor<4>, _: f64) -> Result<Tensor<4>, ModelError> {
    Ok(x.ones_like() * 0.5)
}

fn go_on(_: &Step<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

const SHAPE: [usize; 4] = [1, 2, 2, 2];

fn ksampler<'a>(name: &str, sampling: &'a ModelSampling, sigmas: &'a [f64]) -> KSampler<'a> {
    KSampler {
        sampler: Sampler::by_name(name).unwrap(),
        options: Options::default(),
        sampling,
        sigmas,
        seed: 7,
        noise_device: NoiseDevice::Cpu,
        latent: Tensor::ones(SHAPE, &cpu()) * 3.0,
        noise: latent_noise(SHAPE, 7, &cpu()),
        mask: None,
        differential: None,
    }
}

fn sigmas(sampling: &ModelSampling, span: Span) -> Vec<f64> {
    span.sigmas(Scheduler::by_name("normal").unwrap(), sampling, false).unwrap()
}

#[test]
fn a_masked_run_keeps_what_the_mask_leaves() {
    let sampling = ModelSampling::stable_diffusion(Prediction::Eps);
    let sigmas = sigmas(&sampling, Span::whole(5));
    let left: Vec<f32> = vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
    for name in ["euler", "ddim", "dpmpp_2m_sde", "euler_ancestral"] {
        let mask = Some(tensor(left.clone(), SHAPE));
        let run = KSampler { mask, ..ksampler(name, &sampling, &sigmas) };
        let (mut model, mut callback) = (half, go_on);
        let found = flat(run.run(&mut model, &mut callback).unwrap());
        let expected: Vec<f32> = left.iter().map(|m| if *m == 1.0 { 0.5 } else { 3.0 }).collect();
        assert_close(&found, &expected, 1e-5);
    }
}

#[test]
fn the_model_sees_the_kept_part_at_the_sigma_of_the_step() {
    let sampling = ModelSampling::stable_diffusion(Prediction::Eps);
    let sigmas = [1.0, 0.5, 0.0];
    let mut seen = Vec::new();
    let mut model = |x: Tensor<4>, sigma: f64| {
        seen.push((sigma, flat(x.clone())));
        half(x, sigma)
    };
    let mask = Some(Tensor::zeros(SHAPE, &cpu()));
    let run = KSampler { mask, ..ksampler("euler", &sampling, &sigmas) };
    run.run(&mut model, &mut go_on).unwrap();
    let noise = flat(latent_noise(SHAPE, 7, &cpu()));
    assert_eq!(seen.len(), 2);
    for (sigma, x) in seen {
        let expected: Vec<f32> = noise.iter().map(|n| 3.0 + n * sigma as f32).collect();
        assert_close(&x, &expected, 1e-6);
    }
}

#[test]
fn runs_start_from_noise_and_latent() {
    let sampling = ModelSampling::stable_diffusion(Prediction::Eps);
    let noise = latent_noise(SHAPE, 1, &cpu());
    let latent = Tensor::<4>::ones(SHAPE, &cpu());
    let start = |sigma: f64| flat(sampling.start(latent.clone(), noise.clone(), sigma));
    let scaled = |scale: f64| -> Vec<f32> {
        flat(noise.clone()).iter().map(|n| 1.0 + n * scale as f32).collect()
    };
    assert_close(&start(2.0), &scaled(2.0), 1e-6);
    let max = sampling.sigma_max();
    assert_close(&start(max), &scaled((1.0 + max * max).sqrt()), 1e-5);

    let flow = ModelSampling::flow(3.0, 1000.0);
    let found = flat(flow.start(latent.clone(), noise.clone(), 0.25));
    let expected: Vec<f32> = flat(noise.clone()).iter().map(|n| 0.75 + 0.25 * n).collect();
    assert_close(&found, &expected, 1e-6);
}

/// A run cut in two, the first part handing on its noise, ends where the whole run does.
#[test]
fn leftover_noise_is_taken_up_by_the_next_run() {
    let bent = |x: Tensor<4>, sigma: f64| -> Result<Tensor<4>, ModelError> {
        Ok((x * (1.0 / (1.0 + sigma * sigma))).tanh())
    };
    for sampling in
        [ModelSampling::stable_diffusion(Prediction::Eps), ModelSampling::flow(3.0, 1000.0)]
    {
        let run = |span: Span, latent: Tensor<4>, noise: Tensor<4>| {
            let sigmas = sigmas(&sampling, span);
            let run = KSampler { latent, noise, ..ksampler("heun", &sampling, &sigmas) };
            run.run(&mut { bent }, &mut go_on).unwrap()
        };
        let zeros = Tensor::<4>::zeros(SHAPE, &cpu());
        let noise = latent_noise(SHAPE, 7, &cpu());
        let whole = run(Span::whole(8), zeros.clone(), noise.clone());
        let first = run(Span { end: Some(5), ..Span::whole(8) }, zeros.clone(), noise);
        let second = run(Span { start: 5, ..Span::whole(8) }, first, zeros);
        assert_close(&flat(second), &flat(whole), 1e-5);
    }
}

#[test]
fn without_a_sigma_the_latent_comes_back() {
    let sampling = ModelSampling::stable_diffusion(Prediction::V);
    let found = ksampler("dpmpp_sde", &sampling, &[]).run(&mut { half }, &mut go_on);
    assert_eq!(flat(found.unwrap()), vec![3.0; 8]);
}

/// `latent + sigma·noise`, or `latent + sqrt(1 + sigma²)·noise` from the model's largest sigma on.
#[test]
fn one_sigma_adds_the_noise_and_takes_no_step() {
    let sampling = ModelSampling::stable_diffusion(Prediction::Eps);
    let noise = flat(latent_noise(SHAPE, 7, &cpu()));
    let largest = sampling.sigma_max();
    let full = |sigma: f64| (1.0 + sigma * sigma).sqrt();
    for (sigma, scale) in [
        (0.0, 0.0),
        (2.5, 2.5),
        (largest * (1.0 - 1e-3), largest * (1.0 - 1e-3)),
        (largest, full(largest)),
        (largest * (1.0 - 5e-6), full(largest * (1.0 - 5e-6))),
        (40.0, full(40.0)),
    ] {
        for sampler in SAMPLERS {
            let run = ksampler(sampler.name(), &sampling, std::slice::from_ref(&sigma));
            let mut model = |_: Tensor<4>, _: f64| Err("asked".into());
            let found = flat(run.run(&mut model, &mut go_on).unwrap());
            let expected: Vec<f32> = noise.iter().map(|n| 3.0 + n * scale as f32).collect();
            assert_close(&found, &expected, 1e-5);
        }
    }
    // A flow hands on what the next run adds nothing to.
    let flow = ModelSampling::flow(1.0, 1000.0);
    let found = flat(ksampler("euler", &flow, &[0.25]).run(&mut { half }, &mut go_on).unwrap());
    let expected: Vec<f32> = noise.iter().map(|n| (0.75 * 3.0 + 0.25 * n) / 0.75).collect();
    assert_close(&found, &expected, 1e-6);
}

/// From picture to picture in the way of flows: no noise, the input as it is, the output as it is, the
/// result turned over.
#[test]
fn from_picture_to_picture_in_the_way_of_flows() {
    let sampling = ModelSampling::stable_diffusion(Prediction::ImageToImageFlow);
    let noise = latent_noise(SHAPE, 1, &cpu());
    let latent = noise.clone() * 2.0;
    assert_eq!(flat(sampling.start(latent.clone(), noise.clone(), 99.0)), flat(latent.clone()));
    assert_eq!(flat(sampling.add_noise(latent.clone(), noise, 0.5)), flat(latent.clone()));
    assert_eq!(flat(sampling.scale_input(latent.clone(), 3.0)), flat(latent.clone()));
    assert_eq!(
        flat(sampling.denoised(latent.clone() * 3.0, latent, 3.0))[0],
        flat(noise_of(1))[0] * 6.0
    );
    let sigmas = sigmas(&sampling, Span::whole(4));
    let found = ksampler("euler", &sampling, &sigmas).run(&mut { half }, &mut go_on);
    assert_eq!(flat(found.unwrap()), vec![0.5; 8]);
    // One sigma: the latent, turned over.
    let found = ksampler("euler", &sampling, &[5.0]).run(&mut { half }, &mut go_on);
    assert_eq!(flat(found.unwrap()), vec![-2.0; 8]);
}

fn noise_of(seed: u64) -> Tensor<4> {
    latent_noise(SHAPE, seed, &cpu())
}

/// The samplers that step along the unconditional guess get it at scale 1 too, and it is not put
/// together with what a mask keeps.
#[test]
fn both_guesses_are_there_at_every_scale() {
    let x = Tensor::<4>::zeros([3, 1, 1, 2], &cpu());
    for scale in [1.0, 7.0] {
        let mut guided = Guided::new(TwoAndOne::default(), scale);
        let (guess, negative) = guided.denoise_both(x.clone(), 1.0).unwrap();
        assert_eq!((flat(guess), flat(negative)), (vec![1.0 + scale as f32; 6], vec![1.0; 6]));
        assert_eq!(guided.model.asked, [(Wanted::Both, 3)]);
    }
    let sampling = ModelSampling::stable_diffusion(Prediction::Eps);
    let mut guided = Guided::new(TwoAndOne::default(), 7.0);
    let mut inpaint = Inpaint {
        model: &mut guided,
        sampling: &sampling,
        mask: x.clone(),
        latent: x.clone() + 5.0,
        noise: x.clone(),
        fading: None,
    };
    let (guess, negative) = inpaint.denoise_both(x, 1.0).unwrap();
    assert_eq!((flat(guess), flat(negative)), (vec![5.0; 6], vec![1.0; 6]));
}

/// A pixel whose mask is m changes from where m of the way is left, by the model's timesteps: for this flow, sigma.
#[test]
fn a_fading_mask_says_when_a_pixel_begins_to_change() {
    let sampling = ModelSampling::flow(1.0, 1000.0);
    let mask = Tensor::<4>::from_floats([[[[0.0, 0.25, 0.5, 1.0]]]], &cpu());
    let zeros = mask.clone() * 0.0;
    let guess = |sigma: f64, strength: f64| {
        let mut ones = |x: Tensor<4>, _: f64| Ok(x * 0.0 + 1.0);
        let fading = Some(Fading { strength, first: 1.0, last: 0.0 });
        let (latent, noise) = (zeros.clone(), zeros.clone());
        let sampling = &sampling;
        let mut inpaint =
            Inpaint { model: &mut ones, sampling, mask: mask.clone(), latent, noise, fading };
        flat(inpaint.denoise(zeros.clone(), sigma).unwrap())
    };
    assert_eq!(guess(1.0, 1.0), [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(guess(0.6, 1.0), [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(guess(0.4, 1.0), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(guess(0.2, 1.0), [0.0, 1.0, 1.0, 1.0]);
    assert_eq!(guess(0.4, 0.5), [0.0, 0.125, 0.75, 1.0]);
}

/// Each prediction's output, made from a known noise and latent, leads back to the latent.
#[test]
fn every_prediction_leads_to_the_latent() {
    let (latent, noise) = (latent_noise(SHAPE, 1, &cpu()), latent_noise(SHAPE, 2, &cpu()));
    for sigma in [0.03, 0.9, 14.0] {
        let alpha = 1.0 / (sigma * sigma + 1.0f64).sqrt();
        for prediction in [Prediction::Eps, Prediction::V, Prediction::X0] {
            let sampling = ModelSampling::stable_diffusion(prediction);
            let x = sampling.add_noise(latent.clone(), noise.clone(), sigma);
            let output = match prediction {
                Prediction::Eps => noise.clone(),
                // Velocity of a variance preserving process: alpha·noise - std·latent.
                Prediction::V => noise.clone() * alpha - latent.clone() * (alpha * sigma),
                _ => latent.clone(),
            };
            let found = sampling.denoised(output, x.clone(), sigma);
            assert_close(&flat(found), &flat(latent.clone()), 1e-5);
            let deviation = flat(sampling.scale_input(x.clone(), sigma))[0] / flat(x)[0];
            assert!((f64::from(deviation) - alpha).abs() < 1e-6);
        }
        let flow = ModelSampling::flow(1.0, 1000.0);
        let sigma = sigma.min(0.97);
        let x = flow.add_noise(latent.clone(), noise.clone(), sigma);
        let found = flow.denoised(noise.clone() - latent.clone(), x, sigma);
        assert_close(&flat(found), &flat(latent.clone()), 1e-5);
    }
}
