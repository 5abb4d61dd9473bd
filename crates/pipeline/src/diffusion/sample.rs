//! One run of a sampler, from latent to latent.

use std::ops::ControlFlow;

use distorch_models::estimate::Workload;
use distorch_models::latent_format::LatentFormat;
use distorch_runtime::tensor::{self, DType, cpu};
use distorch_runtime::{Device, Tensor};
use distorch_sampling::guidance::{Guidance, Guided};
use distorch_sampling::inpaint::latent_mask;
use distorch_sampling::ksampler::KSampler;
use distorch_sampling::noise::NoiseDevice;
use distorch_sampling::sampler::SampleError;

use crate::diffusion::denoise::{Call, Denoise, Setting};
use crate::diffusion::evaluations::{Broken, Culprit, Evaluations, Watched};
use crate::diffusion::fit;
use crate::diffusion::guider::Guider;
use crate::diffusion::noise::NoiseSource;
use crate::diffusion::sampler::SamplerChoice;
use crate::error::{Argument, PipelineError};
use crate::finite::{self, NotFinite, odd_in};
use crate::latent::Latent;
use crate::models::Model;
use crate::preview_decoder::{PreviewDecoder, preview};
use crate::run::Run;

/// What comes out of a run.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// The latent, with what noise the last sigma leaves.
    pub latent: Latent,
    /// The clean latent as the last step guessed it.
    pub denoised: Latent,
}

/// Samples.
///
/// # Errors
/// When the model cannot be loaded or run, when something does not fit it, or when the run is
/// stopped.
pub fn sample(
    run: &Run<'_>,
    guider: &Guider,
    noise: NoiseSource,
    choice: SamplerChoice,
    sigmas: &[f64],
    latent: &Latent,
) -> Result<Sampled, PipelineError> {
    let model = &guider.model;
    if sigmas.is_empty() {
        return Ok(Sampled { latent: latent.clone(), denoised: latent.clone() });
    }
    let format = model.latent_format();
    let latent = &fitted(latent, &format);
    let channels = latent.samples.dims()[1];
    if channels != format.channels {
        let problem = format!(
            "{} takes latents of {} channels, but these have {channels}: they were made with a VAE \
             of another family",
            model.name(),
            format.channels,
        );
        return Err(PipelineError::argument(Argument::Latent, problem));
    }
    let [_, _, height, width] = latent.samples.dims();
    fit::check(guider, [height, width])?;
    if sigmas.iter().any(|sigma| sigma.is_nan()) {
        finite::refuse(run, no_schedule(sigmas.len() - 1))?;
        // What is multiplied with NaN is NaN.
        let nan = latent.with_samples(latent.samples.full_like(f32::NAN));
        return Ok(Sampled { latent: nan.clone(), denoised: nan });
    }
    if let [_] = sigmas {
        return without_steps(model, noise, choice, sigmas, latent);
    }
    let mut picture = picture(latent, format.downscale);
    let both = guider.negative.is_some() && guider.cfg != 1.0;
    if !both {
        picture = picture.sequential_cfg();
    }
    let has_room = |picture| run.session().models.has_room(model.part(), picture);
    // Where neither fits, weights have to leave, and then both do.
    if !has_room(picture) && has_room(picture.sequential_cfg()) {
        picture = picture.sequential_cfg();
    }
    let (network, steps) = model.network(run, picture)?;
    let device = model.device();
    let start = start(latent, &format, &device);
    let setting = Setting {
        family: model.family(),
        reads: model.reads(),
        sampling: model.sampling(),
        device: device.clone(),
        dtype: model.activation_dtype(),
        latent: &start,
        source: latent,
        format,
    };
    // A call that runs out of memory is made again once there is room: no step is lost.
    let attempt = |call: &mut Call<'_>| {
        let call = || call().map_err(PipelineError::failed);
        run.attempt(model.part(), picture, call).map_err(Into::into)
    };
    let plan = model.part().plan();
    let steps = (plan.bytes_elsewhere() > 0).then_some(&*steps);
    let evaluations = Evaluations::on(&device);
    let mut denoise = Denoise::new(&*network, &setting, &guider.positive, guider.negative.as_ref())
        .map_err(PipelineError::Failed)?
        .attempting(&attempt)
        .telling(&evaluations)
        .side_by_side(steps);
    denoise.one_at_a_time = picture.cfg_batch == 1;
    denoise.negative_without = model.options().negative_without.clone();
    let cfg = if guider.negative.is_some() { guider.cfg } else { 1.0 };
    let formula = model.options().formula;
    let corrections = model.options().corrections.clone();
    let guidance = Guidance { scale: cfg, formula, corrections };
    let guided = Guided { model: denoise, guidance };
    let ends = !run.session().allow_nan;
    let mut watched = Watched { model: guided, evaluations: &evaluations, ends };

    let mask = match &latent.noise_mask {
        None => None,
        Some(mask) => Some(
            latent_mask(mask.values(), mask.shape(), start.dims(), &device)
                .map_err(PipelineError::failed)?,
        ),
    };
    let sampler_run = KSampler {
        sampler: choice.sampler,
        options: choice.options,
        sampling: &setting.sampling,
        sigmas,
        seed: noise.seed,
        noise_device: noise_device(run, model)?,
        latent: start.clone(),
        noise: noise.noise(latent).to_device(&device),
        mask,
        differential: model.options().differential,
    };
    let decoder = match run.wants_decoded_previews() {
        true => PreviewDecoder::of(run, &format, model.part().compute_device()),
        false => None,
    };
    let decoder = decoder.as_ref();
    let mut last: Option<Tensor<4>> = None;
    let mut untold = None;
    let result = sampler_run.run(&mut watched, &mut |step| {
        last = Some(step.denoised.clone());
        untold = step.total.is_none().then_some(step.index + 1);
        // A device that works off a queue is not as far as it was told: without this, progress
        // would run ahead of it and a stop would come too late.
        tensor::wait(&device);
        let preview = preview(run, decoder, step.denoised, &format);
        run.shown_step(step.index + 1, step.total, preview);
        let broken = evaluations.look().is_err();
        if run.cancelled() || (broken && ends) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    if run.cancelled() {
        return Err(PipelineError::Cancelled);
    }
    let broken = evaluations.look().err().or_else(|| evaluations.broken()).or_else(|| {
        let odd = odd_in(result.as_ref().ok()?)?;
        Some(Broken { culprit: Culprit::Sampler, odd, sigma: *sigmas.last()? })
    });
    if let Some(broken) = broken {
        finite::refuse(run, in_words(broken, guider, choice, sigmas))?;
    }
    let x = match result {
        Ok(x) => x,
        Err(SampleError::Stopped { .. }) => return Err(PipelineError::Cancelled),
        Err(error) => return Err(PipelineError::failed(error)),
    };
    if let Some(steps) = untold {
        let preview = last.as_ref().and_then(|latent| preview(run, decoder, latent, &format));
        run.shown_step(steps, steps, preview);
    }
    let out = |x: Tensor<4>| {
        latent.with_samples(format.to_autoencoder(x).cast(DType::F32).to_device(&cpu()))
    };
    let denoised = last.unwrap_or_else(|| x.clone());
    Ok(Sampled { latent: out(x), denoised: out(denoised) })
}

/// A latent as the model has it. An empty one, which stands for no picture, stays zeros.
fn start(latent: &Latent, format: &LatentFormat, device: &Device) -> Tensor<4> {
    let samples = latent.samples.clone().to_device(device);
    match format.moves_zero() && is_empty(&latent.samples) {
        true => samples,
        false => format.to_model(samples),
    }
}

/// Whether all values are 0.
fn is_empty(samples: &Tensor<4>) -> bool {
    let data = samples.clone().cast(DType::F32).to_device(&cpu()).into_data();
    data.as_slice::<f32>().is_ok_and(|values| values.iter().all(|value| *value == 0.0))
}

/// An empty latent has as many channels as the model's, and the sides of the same picture; others stay as they are.
fn fitted(latent: &Latent, format: &LatentFormat) -> Latent {
    let [batch, own, height, width] = latent.samples.dims();
    let sides = match latent.downscale {
        Some(from) if from != format.downscale => {
            [height, width].map(|side| Latent::rescaled(side, from, format.downscale))
        }
        _ => [height, width],
    };
    let fits = own == format.channels && sides == [height, width];
    if fits || !is_empty(&latent.samples) {
        return Latent { downscale: None, ..latent.clone() };
    }
    let [height, width] = sides;
    let samples = Tensor::zeros([batch, format.channels, height, width], (&cpu(), DType::F32));
    Latent { downscale: None, ..latent.with_samples(samples) }
}

/// A run of one sigma: the noise is added, and the model is not asked.
fn without_steps(
    model: &Model,
    noise: NoiseSource,
    choice: SamplerChoice,
    sigmas: &[f64],
    latent: &Latent,
) -> Result<Sampled, PipelineError> {
    let (sampling, format) = (model.sampling(), model.latent_format());
    let sampler_run = KSampler {
        sampler: choice.sampler,
        options: choice.options,
        sampling: &sampling,
        sigmas,
        seed: noise.seed,
        noise_device: NoiseDevice::Cpu,
        latent: start(latent, &format, &cpu()),
        noise: noise.noise(latent),
        mask: None,
        differential: None,
    };
    let mut unasked = |x: Tensor<4>, _: f64| Ok(x);
    let x = sampler_run.run(&mut unasked, &mut |_| ControlFlow::Continue(()));
    let latent = latent.with_samples(format.to_autoencoder(x.map_err(PipelineError::failed)?));
    Ok(Sampled { denoised: latent.clone(), latent })
}

/// Whose generator makes the noise between steps.
fn noise_device(run: &Run<'_>, model: &Model) -> Result<NoiseDevice, PipelineError> {
    let environment = run.session();
    let device = environment.topology().get(model.part().compute_device());
    Ok(environment.noise.on(device.map_err(PipelineError::failed)?))
}

/// The picture that a latent becomes, as far as it matters to memory.
fn picture(latent: &Latent, downscale: usize) -> Workload {
    let [batch, _, height, width] = latent.samples.dims();
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Workload {
        width: number(width.saturating_mul(downscale)),
        height: number(height.saturating_mul(downscale)),
        batch: number(batch),
        cfg_batch: 2,
    }
}

/// A schedule that is none.
fn no_schedule(steps: usize) -> NotFinite {
    NotFinite {
        found: format!(
            "the schedule of {steps} step{} has a noise level that is NaN",
            if steps == 1 { "" } else { "s" }
        ),
        remedy: "take another scheduler or more steps".to_owned(),
    }
}

/// What was not finite in a run, and what to do.
fn in_words(
    Broken { culprit, odd, sigma }: Broken,
    guider: &Guider,
    choice: SamplerChoice,
    sigmas: &[f64],
) -> NotFinite {
    let steps = sigmas.len().saturating_sub(1);
    let distance = |(_, level): &(usize, &f64)| (**level - sigma).abs();
    let nearest = sigmas.iter().take(steps).enumerate();
    let nearest = nearest.min_by(|a, b| distance(a).total_cmp(&distance(b)));
    let step = nearest.map_or(steps, |(step, _)| step + 1);
    let place = format!("at step {step} of {steps} (sigma {sigma})");
    let sampler = choice.sampler.name();
    let (found, remedy) = match culprit {
        Culprit::Model => return finite::given_by(guider.model.part(), odd, &place),
        Culprit::Start => (
            format!("the latents that the run starts from hold {odd}"),
            "look at the node that gives `latent_image`".to_owned(),
        ),
        Culprit::Guidance => (
            format!("the guidance gave {odd} {place}, though the model did not"),
            format!("take less cfg (it is {}), or leave RescaleCFG out", guider.cfg),
        ),
        Culprit::Sampler => (
            format!("the sampler {sampler} gave {odd} {place}, though the model did not"),
            "take another sampler or scheduler, or more steps".to_owned(),
        ),
    };
    NotFinite { found, remedy }
}
