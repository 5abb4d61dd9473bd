//! A whole run as ComfyUI's KSampler nodes make it: from a latent and unit noise to a latent.

use distorch_runtime::Tensor;

use crate::inpaint::{Fading, Inpaint};
use crate::model_sampling::ModelSampling;
use crate::noise::{Generator, NoiseDevice};
use crate::sampler::{Callback, Denoiser, Options, Run, SampleError, Sampler};

/// What a run goes from and through.
#[derive(Clone, Debug)]
pub struct KSampler<'a, const D: usize = 4> {
    /// The sampler.
    pub sampler: Sampler,
    /// Its numbers.
    pub options: Options,
    /// How the model sees noise.
    pub sampling: &'a ModelSampling,
    /// The schedule, as [`Span::sigmas`](crate::schedule::Span::sigmas) gives it. With one sigma the
    /// run takes no step, but adds the noise; without any, the latent is the result.
    pub sigmas: &'a [f64],
    /// The seed of the noise that the sampler puts in.
    pub seed: u64,
    /// Whose generator makes that noise.
    pub noise_device: NoiseDevice,
    /// The latent to start from, scaled as the model has it: zeros for a picture from nothing, a
    /// picture's for img2img, another run's result to go on with the noise that it left.
    pub latent: Tensor<D>,
    /// Unit noise of the latent's shape: [`latent_noise`](crate::noise::latent_noise), or zeros where
    /// the latent has its noise already.
    pub noise: Tensor<D>,
    /// 1 where the latent changes, of its shape: [`latent_mask`](crate::inpaint::latent_mask).
    pub mask: Option<Tensor<D>>,
    /// How much the mask says when a pixel begins to change, from 0 to 1, instead of how much it does: [`Fading`].
    pub differential: Option<f64>,
}

impl<const D: usize> KSampler<'_, D> {
    /// Runs. The result carries the noise of the last sigma.
    pub fn run<'a>(
        self,
        model: &'a mut dyn Denoiser<D>,
        callback: &'a mut Callback<'a, D>,
    ) -> Result<Tensor<D>, SampleError> {
        let (Some(&first), Some(&last)) = (self.sigmas.first(), self.sigmas.last()) else {
            return Ok(self.latent);
        };
        let x = self.sampling.start(self.latent.clone(), self.noise.clone(), first);
        let x = match self.mask.clone() {
            None => self.sample(model, callback, x)?,
            Some(mask) => {
                let noise = match self.sampler.random_inpaint_noise() {
                    true => Generator::new(self.seed.wrapping_add(1))
                        .randn_tensor(x.dims(), &x.device())
                        .cast(x.dtype()),
                    false => self.noise.clone(),
                };
                let (sampling, latent) = (self.sampling, self.latent.clone());
                let fading = self.differential.map(|strength| Fading { strength, first, last });
                let mut inpaint = Inpaint { model, sampling, mask, latent, noise, fading };
                self.sample(&mut inpaint, callback, x)?
            }
        };
        Ok(self.sampling.finish(x, last))
    }

    fn sample(
        &self,
        model: &mut dyn Denoiser<D>,
        callback: &mut Callback<'_, D>,
        x: Tensor<D>,
    ) -> Result<Tensor<D>, SampleError> {
        let percent = |percent| self.sampling.percent_to_sigma(percent);
        let run = Run::new(model, self.seed, callback)
            .with_options(self.options)
            .with_noise_device(self.noise_device)
            .with_stochastic_sigmas(percent(0.8)..=percent(0.2));
        self.sampler.sample(run, x, self.sigmas)
    }
}
