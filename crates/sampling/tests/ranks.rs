//! Latents of any rank: a video is sampled, masked and guided as the picture of the same values.

#![allow(clippy::unwrap_used)] // helpers outside `#[test]`

use std::convert::Infallible;
use std::ops::ControlFlow;

use distorch_runtime::Tensor;
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_sampling::NoiseProcess;
use distorch_sampling::guidance::{
    Conditioned, Formula, Guesses, Guidance, Guided, Wanted, away_from, rescaled,
};
use distorch_sampling::inpaint::latent_mask;
use distorch_sampling::ksampler::KSampler;
use distorch_sampling::model_sampling::{ModelSampling, Prediction};
use distorch_sampling::noise::{NoiseDevice, batch_noise, latent_noise};
use distorch_sampling::sampler::{
    Denoiser, ModelError, Options, Run, SAMPLERS, SampleError, Sampler, Step,
};
use distorch_sampling::schedule::Scheduler;
use serde_json::Value;

/// Two videos of two channels and three frames, and pictures of as many values.
const VIDEO: [usize; 5] = [2, 2, 3, 4, 5];
const PICTURE: [usize; 4] = [2, 2, 12, 5];

fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    x.into_data().to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// A model that looks at each value by itself.
struct Bent(NoiseProcess);

impl<const D: usize> Conditioned<D> for Bent {
    type Perturbation = Infallible;

    fn denoise(
        &mut self,
        x: &Tensor<D>,
        sigma: f64,
        wanted: Wanted,
    ) -> Result<Guesses<D>, ModelError> {
        let positive = x.clone() * (1.0 / (1.0 + sigma * sigma)) + x.clone().tanh() * 0.1;
        let negative = (wanted == Wanted::Both).then(|| x.clone() * (0.5 / (0.5 + sigma)));
        Ok(Guesses { positive, negative })
    }

    fn denoise_perturbed(
        &mut self,
        _: &Tensor<D>,
        _: f64,
        perturbation: &Infallible,
    ) -> Result<Tensor<D>, ModelError> {
        match *perturbation {}
    }

    fn process(&self) -> NoiseProcess {
        self.0
    }
}

/// A masked run, and what its callback saw.
fn run<const D: usize>(
    sampler: Sampler,
    sampling: &ModelSampling,
    shape: [usize; D],
) -> (Vec<u32>, Vec<Vec<u32>>) {
    let scheduler = Scheduler::by_name("simple").unwrap();
    let sigmas = scheduler.sigmas(sampling, 6).unwrap();
    let mask: Vec<f32> = (0..shape.iter().product()).map(|i| (i % 3) as f32 / 2.0).collect();
    let run = KSampler {
        sampler,
        options: Options::default(),
        sampling,
        sigmas: &sigmas,
        seed: 11,
        noise_device: NoiseDevice::Cpu,
        latent: latent_noise(shape, 3, &cpu()) * 0.5,
        noise: latent_noise(shape, 11, &cpu()),
        mask: Some(Tensor::from_data(TensorData::new(mask, shape), &cpu())),
        differential: None,
    };
    let guidance = Guidance::<Infallible>::plain(3.0);
    let mut model = Guided { model: Bent(sampling.process()), guidance };
    let mut seen = Vec::new();
    let mut callback = |step: &Step<'_, D>| {
        assert_eq!((step.x.dims(), step.denoised.dims()), (shape, shape));
        seen.push([bits(step.x.clone()), bits(step.denoised.clone())].concat());
        ControlFlow::Continue(())
    };
    let found = run.run(&mut model, &mut callback).unwrap();
    assert_eq!(found.dims(), shape);
    (bits(found), seen)
}

#[test]
fn a_video_is_sampled_as_a_picture_of_its_values() {
    for sampling in [ModelSampling::stable_diffusion(Prediction::Eps), ModelSampling::flux(1.15)] {
        let flow = sampling.process() != NoiseProcess::VarianceExploding;
        for sampler in SAMPLERS.iter().filter(|sampler| !(flow && sampler.name() == "ddpm")) {
            let (video, picture) =
                (run(*sampler, &sampling, VIDEO), run(*sampler, &sampling, PICTURE));
            assert!(video == picture, "{}", sampler.name());
            assert!(!video.1.is_empty(), "{}", sampler.name());
        }
    }
}

#[test]
fn noise_follows_the_values_not_the_shape() {
    assert_eq!(bits(latent_noise(VIDEO, 5, &cpu())), bits(latent_noise(PICTURE, 5, &cpu())));
    let videos = batch_noise(VIDEO, 5, &[3, 0, 3], &cpu());
    assert_eq!(videos.dims(), [3, 2, 3, 4, 5]);
    assert_eq!(bits(videos), bits(batch_noise(PICTURE, 5, &[3, 0, 3], &cpu())));
}

#[test]
fn guidance_is_that_of_each_of_the_batch() {
    let made = |seed| (latent_noise(VIDEO, seed, &cpu()), latent_noise(PICTURE, seed, &cpu()));
    let [(x, x4), (p, p4), (n, n4)] = [1, 2, 3].map(made);
    let found = rescaled(x.clone(), p.clone(), n.clone(), 2.0, 5.0, 0.7);
    assert_eq!(bits(found), bits(rescaled(x4.clone(), p4.clone(), n4.clone(), 2.0, 5.0, 0.7)));
    assert_eq!(bits(away_from(x, p, n, 3.0, 0.7)), bits(away_from(x4, p4, n4, 3.0, 0.7)));
    let formula = Formula::Rescaled { part: 0.5 };
    let guidance = Guidance::<Infallible> { formula, ..Guidance::plain(4.0) };
    let model = || Bent(NoiseProcess::VarianceExploding);
    let mut guided = Guided { model: model(), guidance: guidance.clone() };
    let video = guided.denoise(latent_noise(VIDEO, 1, &cpu()), 2.0).unwrap();
    let mut guided = Guided { model: model(), guidance };
    let picture = guided.denoise(latent_noise(PICTURE, 1, &cpu()), 2.0).unwrap();
    assert_eq!(bits(video), bits(picture));
}

#[test]
fn a_guess_of_another_shape_is_an_error() {
    let mut wrong =
        |x: Tensor<5>, _: f64| -> Result<Tensor<5>, ModelError> { Ok(x.narrow(2, 0, 1)) };
    let mut callback = |_: &Step<'_, 5>| ControlFlow::Continue(());
    let run = Run::new(&mut wrong, 1, &mut callback);
    let x = latent_noise(VIDEO, 1, &cpu());
    let error = Sampler::by_name("euler").unwrap().sample(run, x, &[1.0, 0.0]).unwrap_err();
    assert!(matches!(error, SampleError::Model { .. }));
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "a guess of shape [2, 2, 1, 4, 5] for a latent of [2, 2, 3, 4, 5]");
}

/// Against PyTorch's trilinear interpolation: `tools/reference/make_sampling.py`.
#[test]
fn masks_of_videos_are_interpolated_as_pytorch_does() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/guidance.json")).unwrap();
    let cases = fixture["video_masks"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let numbers = |key: &str| -> Vec<f32> {
            case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
        };
        let sizes = |key: &str| numbers(key).iter().map(|v| *v as usize).collect::<Vec<_>>();
        let latent: [usize; 5] = sizes("latent").try_into().unwrap();
        let shape = sizes("shape").try_into().unwrap();
        let found = latent_mask(&numbers("values"), shape, latent, &cpu()).unwrap();
        let found = found.into_data().to_vec::<f32>().unwrap();
        let expected = numbers("fitted");
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{case}");
    }
}

/// The masks of a video are those of its frames, brought to its length.
#[test]
fn masks_of_a_video_are_its_frames() {
    let values = [0.0, 0.2, 1.0, 0.6];
    let mask = |latent| latent_mask(&values, [2, 1, 2], latent, &cpu()).unwrap();
    let found = mask([2, 3, 4, 1, 2]).into_data().to_vec::<f32>().unwrap();
    // Two frames to four, corners not aligned: at 0, a quarter, three quarters and 1 of the way.
    let video = [0.0, 0.2, 0.25, 0.3, 0.75, 0.5, 1.0, 0.6];
    let expected: Vec<f32> = std::iter::repeat_n(video, 6).flatten().collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    // As many frames as masks: each its own.
    let same = mask([1, 1, 2, 1, 2]).into_data().to_vec::<f32>().unwrap();
    assert_eq!(same, values);
}
