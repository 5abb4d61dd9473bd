//! One run of a sampler, from latent to latent.

use std::ops::ControlFlow;

use distorch_models::estimate::Picture;
use distorch_runtime::Tensor;
use distorch_runtime::tensor::{self, DType, cpu};
use distorch_sampling::guidance::Guided;
use distorch_sampling::inpaint::latent_mask;
use distorch_sampling::ksampler::KSampler;
use distorch_sampling::sampler::SampleError;

use crate::diffusion::denoise::{Call, Denoise, Setting};
use crate::diffusion::guider::Guider;
use crate::diffusion::noise::NoiseSource;
use crate::diffusion::sampler::SamplerChoice;
use crate::execute::Context;
use crate::inputs::NodeError;
use crate::value::Latent;

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
    context: &mut Context<'_>,
    guider: &Guider,
    noise: NoiseSource,
    choice: SamplerChoice,
    sigmas: &[f64],
    latent: &Latent,
) -> Result<Sampled, NodeError> {
    let model = &guider.model;
    let unmasked = || latent.clone();
    if sigmas.len() < 2 {
        return Ok(Sampled { latent: unmasked(), denoised: unmasked() });
    }
    let channels = latent.samples.dims()[1];
    if channels != model.latent_channels() {
        let problem = format!(
            "{} takes latents of {} channels, but these have {channels}: they were made with a VAE \
             of another family",
            model.name(),
            model.latent_channels(),
        );
        return Err(NodeError::input("latent_image", problem));
    }
    let context = &*context;
    let mut picture = picture(latent, model.downscale());
    let has_room = |picture| context.environment().models.has_room(model.part(), picture);
    // Where neither fits, weights have to leave, and then both do.
    if !has_room(picture) && has_room(picture.half_by_half()) {
        picture = picture.half_by_half();
    }
    let (unet, steps) = model.unet(context, picture)?;
    let unet = unet.with_freeu(model.options().freeu.clone());
    let (device, scale) = (model.device(), model.latent_scale());
    let start = latent.samples.clone().to_device(&device) * scale;
    let setting = Setting {
        family: model.diffusion().family,
        variant: model.diffusion().variant,
        sampling: model.sampling(),
        device: device.clone(),
        dtype: model.dtype(),
        latent: &start,
        source: latent,
        scale,
        downscale: model.downscale(),
    };
    // A call that runs out of memory is made again once there is room: no step is lost.
    let attempt = |call: &mut Call<'_>| {
        let call = || call().map_err(NodeError::failed);
        context.attempt(model.part(), picture, call).map_err(Into::into)
    };
    let plan = model.part().plan();
    let steps = (plan.resident_bytes < plan.bytes).then_some(&*steps);
    let mut denoise = Denoise::new(&unet, &setting, &guider.positive, guider.negative.as_ref())
        .map_err(NodeError::Failed)?
        .attempting(&attempt)
        .side_by_side(steps);
    denoise.one_at_a_time = picture.halves == 1;
    let cfg = if guider.negative.is_some() { guider.cfg } else { 1.0 };
    let mut guided = Guided { model: denoise, scale: cfg, rescale: model.options().rescale_cfg };

    let mask = match &latent.noise_mask {
        None => None,
        Some(mask) => Some(
            latent_mask(mask.values(), mask.shape(), start.dims(), &device)
                .map_err(NodeError::failed)?,
        ),
    };
    let run = KSampler {
        sampler: choice.sampler,
        options: choice.options,
        sampling: &setting.sampling,
        sigmas,
        seed: noise.seed,
        latent: start.clone(),
        noise: noise.noise(latent).to_device(&device),
        mask,
    };
    let mut last: Option<Tensor<4>> = None;
    let result = run.run(&mut guided, &mut |step| {
        last = Some(step.denoised.clone());
        // A device that works off a queue is not as far as it was told: without this, progress
        // would run ahead of it and a stop would come too late.
        tensor::wait(&device);
        context.step(step.index + 1, step.total, Some(step.denoised));
        if context.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let x = match result {
        Ok(x) => x,
        Err(SampleError::Stopped { .. }) => return Err(NodeError::Interrupted),
        Err(error) => return Err(NodeError::failed(error)),
    };
    let out = |x: Tensor<4>| latent.with_samples((x / scale).cast(DType::F32).to_device(&cpu()));
    let denoised = last.unwrap_or_else(|| x.clone());
    Ok(Sampled { latent: out(x), denoised: out(denoised) })
}

/// The picture that a latent becomes, as far as it matters to memory.
fn picture(latent: &Latent, downscale: usize) -> Picture {
    let [batch, _, height, width] = latent.samples.dims();
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Picture {
        width: number(width.saturating_mul(downscale)),
        height: number(height.saturating_mul(downscale)),
        batch: number(batch),
        halves: 2,
    }
}
