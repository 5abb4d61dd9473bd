//! How a model was trained to see noise: its sigmas, its timesteps and what its output means.

use distorch_runtime::Tensor;

use crate::process::NoiseProcess;

/// What the model's output is. Formulas are those of k-diffusion's wrappers, with unit data
/// deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise: `denoised = x - sigma·output`.
    Eps,
    /// Velocity (Salimans and Ho 2022):
    /// `denoised = x / (sigma² + 1) - output·sigma / sqrt(sigma² + 1)`.
    V,
    /// The clean latent.
    X0,
    /// The clean latent, of a model that is given the noisy one as it is: one from picture to
    /// picture, which knows no noise.
    ImageToImage,
    /// As [`ImageToImage`](Self::ImageToImage), but the run puts no noise on the latent and its
    /// result is `1 - latent`.
    ImageToImageFlow,
    /// The noise, of a latent consistency model (Luo and others 2023): what `Eps` means is mixed
    /// with the noisy latent so that nothing changes at timestep 0.
    Lcm,
    /// Rectified flow, where `x = (1 - sigma)·latent + sigma·noise`: `denoised = x - sigma·output`.
    Flow,
}

/// How timesteps and sigmas follow from each other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TimestepMap {
    /// The table has every `stride`-th timestep, the last of each stride; between two, the
    /// logarithm of sigma is linear.
    Table { stride: usize },
    /// `sigma = shift·t / (1 + (shift - 1)·t)` at `t = timestep / multiplier` (SD3).
    Shift { shift: f64, multiplier: f64 },
    /// `sigma = e^mu / (e^mu + 1/t - 1)`, where `t` is the timestep (Flux).
    Exponential { mu: f64 },
}

/// A model's noise levels and the meaning of its output.
///
/// Tables are made in float64 and kept in float32, and what is looked up in them is computed in
/// float32, step by step as in ComfyUI: a run often asks for a timestep half way between two of the
/// table, and the last bit decides which one it gets.
#[derive(Clone, Debug)]
pub struct ModelSampling {
    prediction: Prediction,
    timesteps: TimestepMap,
    /// Rising.
    exact: Vec<f64>,
    /// The same in float32, as in the tables that ComfyUI keeps.
    sigmas: Vec<f64>,
    /// The logarithms of the exact ones, in float32.
    log_sigmas: Vec<f64>,
}

impl ModelSampling {
    /// Stable Diffusion 1.x, 2.x and XL: 1000 steps of `sqrt(beta)` linear from 0.00085 to 0.012.
    pub fn stable_diffusion(prediction: Prediction) -> Self {
        Self::scaled_linear(prediction, 0.00085, 0.012, 1000)
    }

    /// `steps` noise levels whose `sqrt(beta)` goes linearly from that of `first` to that of `last`;
    /// `sigma = sqrt((1 - ᾱ) / ᾱ)` where `ᾱ` is the running product of `1 - beta`.
    pub fn scaled_linear(prediction: Prediction, first: f64, last: f64, steps: usize) -> Self {
        let (first, last) = (first.sqrt(), last.sqrt());
        let stride = (last - first) / steps.saturating_sub(1).max(1) as f64;
        let mut alpha_bar = 1.0;
        let sigmas = (0..steps)
            .map(|step| {
                alpha_bar *= 1.0 - (first + stride * step as f64).powi(2);
                ((1.0 - alpha_bar) / alpha_bar).sqrt()
            })
            .collect();
        Self::from_sigmas(prediction, sigmas)
    }

    /// A table of rising sigmas above 0, one for each timestep. An empty table is one of sigma 1.
    pub fn from_sigmas(prediction: Prediction, sigmas: Vec<f64>) -> Self {
        Self::new(prediction, TimestepMap::Table { stride: 1 }, sigmas)
    }

    /// Rectified flow with SD3's shift: 1000 levels, timesteps from 0 to `multiplier`. SD3 and SD3.5: shift 3,
    /// multiplier 1000. Flux schnell: both 1.
    pub fn flow(shift: f64, multiplier: f64) -> Self {
        Self::from_timesteps(TimestepMap::Shift { shift, multiplier }, 1000, multiplier)
    }

    /// Rectified flow with Flux's shift (`mu`, 1.15 for Flux dev): 10000 levels, timesteps are 0 to 1.
    pub fn flux(mu: f64) -> Self {
        Self::from_timesteps(TimestepMap::Exponential { mu }, 10000, 1.0)
    }

    fn from_timesteps(timesteps: TimestepMap, levels: usize, last: f64) -> Self {
        let sigma = |level| {
            let timestep = level as f32 / levels as f32 * last as f32;
            f64::from(timesteps.sigma(timestep).unwrap_or(0.0))
        };
        let sigmas = (1..=levels).map(sigma).collect();
        Self::new(Prediction::Flow, timesteps, sigmas)
    }

    fn new(prediction: Prediction, timesteps: TimestepMap, sigmas: Vec<f64>) -> Self {
        let sigmas = if sigmas.is_empty() { vec![1.0] } else { sigmas };
        let log_sigmas = sigmas.iter().map(|sigma| single(sigma.ln())).collect();
        let exact = sigmas;
        let sigmas = exact.iter().copied().map(single).collect();
        Self { prediction, timesteps, exact, sigmas, log_sigmas }
    }

    /// The table rescaled so that its last level is nearly pure noise (Lin and others 2023, algorithm
    /// 1), with ComfyUI's convention for that level: `ᾱ = 4.8973451890853435e-8`, sigma 4518.8.
    pub fn zero_terminal_snr(&self) -> Self {
        const LAST_ALPHA_BAR: f64 = 4.897_345_189_085_343_5e-8;
        let root = |sigma: f64| (1.0 / (sigma * sigma + 1.0)).sqrt();
        let end = |sigma: Option<&f64>| root(sigma.copied().unwrap_or(1.0));
        let (first, last) = (end(self.exact.first()), end(self.exact.last()));
        let count = self.exact.len();
        let sigmas = self.exact.iter().enumerate().map(|(place, sigma)| {
            let alpha_bar = if place + 1 == count {
                LAST_ALPHA_BAR
            } else {
                ((root(*sigma) - last) * (first / (first - last))).powi(2)
            };
            ((1.0 - alpha_bar) / alpha_bar).sqrt()
        });
        Self::new(self.prediction, self.timesteps, sigmas.collect())
    }

    /// The table thinned to `count` levels at an even stride that ends with the last, as models
    /// distilled from this one know it: 50 for latent consistency models. Timesteps stay as they
    /// were. Flows have no table to be thinned.
    pub fn distilled(&self, count: usize) -> Self {
        let TimestepMap::Table { stride } = self.timesteps else { return self.clone() };
        let thin = (self.sigmas.len() / count.max(1)).max(1);
        let mut sigmas: Vec<f64> =
            self.exact.iter().rev().step_by(thin).take(count.max(1)).copied().collect();
        sigmas.reverse();
        Self::new(self.prediction, TimestepMap::Table { stride: stride * thin }, sigmas)
    }

    /// What the model's output is.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The table, rising.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// The smallest sigma of the table.
    pub fn sigma_min(&self) -> f64 {
        self.sigmas.first().copied().unwrap_or(1.0)
    }

    /// The largest sigma of the table.
    pub fn sigma_max(&self) -> f64 {
        self.sigmas.last().copied().unwrap_or(1.0)
    }

    /// The sigma at a timestep, which may lie between two of the table.
    pub fn sigma(&self, timestep: f64) -> f64 {
        if let Some(sigma) = self.timesteps.sigma(timestep as f32) {
            return f64::from(sigma);
        }
        let TimestepMap::Table { stride } = self.timesteps else { return 0.0 };
        let last = self.log_sigmas.len().saturating_sub(1);
        let place = (timestep as f32 - (stride - 1) as f32) / stride as f32;
        // `max` first, so that a NaN becomes the first place.
        let place = place.max(0.0).min(last as f32);
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        let weight = place.fract();
        let at = |place: usize| self.log_sigmas.get(place).map_or(0.0, |log| *log as f32);
        let log = (1.0 - weight) * at(low) + weight * at(high);
        single(f64::from(log).exp())
    }

    /// The timestep that the model is given for a sigma: the place of the nearest logarithm in the
    /// table, the first of two that are equally near; for flows, the timestep of that sigma.
    pub fn timestep(&self, sigma: f64) -> f64 {
        match self.timesteps {
            TimestepMap::Shift { multiplier, .. } => sigma * multiplier,
            TimestepMap::Exponential { .. } => sigma,
            TimestepMap::Table { stride } => {
                let log = single(single(sigma).ln());
                let above = self.log_sigmas.partition_point(|entry| *entry < log);
                let distance = |place: usize| {
                    self.log_sigmas.get(place).map(|entry| (log as f32 - *entry as f32).abs())
                };
                let below = above.saturating_sub(1);
                let nearest = match (distance(below), distance(above)) {
                    (Some(low), Some(high)) if high < low => above,
                    (Some(_), _) => below,
                    _ => above,
                };
                (nearest * stride + stride - 1) as f64
            }
        }
    }

    /// The timestep between two places of the table, in the logarithm of sigma, as k-diffusion's
    /// wrappers give it when they do not quantize.
    pub fn fractional_timestep(&self, sigma: f64) -> f64 {
        let TimestepMap::Table { stride } = self.timesteps else { return self.timestep(sigma) };
        let timestep = |place: f64| place * stride as f64 + (stride - 1) as f64;
        let log = sigma.ln();
        let above = self.log_sigmas.partition_point(|entry| *entry <= log);
        let (Some(low), Some(high)) = (
            above.checked_sub(1).and_then(|low| self.log_sigmas.get(low)),
            self.log_sigmas.get(above),
        ) else {
            return timestep(above.saturating_sub(1) as f64);
        };
        timestep((above - 1) as f64 + (log - low) / (high - low))
    }

    /// The sigma at a part of the way from noise to picture: 0 is the start (for flows, sigma 1; for tables, above all of
    /// them), 1 is after the end.
    pub fn percent_to_sigma(&self, percent: f64) -> f64 {
        let TimestepMap::Table { stride } = self.timesteps else {
            let t = 1.0 - percent.clamp(0.0, 1.0);
            let sigma = if t == 1.0 { Some(1.0) } else { self.timesteps.flow_sigma(t) };
            return sigma.filter(|_| t > 0.0).unwrap_or(0.0);
        };
        if percent <= 0.0 {
            return 999_999_999.9;
        }
        if percent >= 1.0 {
            return 0.0;
        }
        let last = (self.sigmas.len() * stride - 1) as f64;
        self.sigma((1.0 - percent) * last)
    }

    /// What the model is given for a noisy latent: of unit deviation, but for flows.
    pub fn scale_input<const D: usize>(&self, x: Tensor<D>, sigma: f64) -> Tensor<D> {
        match self.prediction {
            Prediction::Flow | Prediction::ImageToImage | Prediction::ImageToImageFlow => x,
            _ => x * (1.0 / (sigma * sigma + 1.0).sqrt()),
        }
    }

    /// The clean latent that the model's output means. `x` is the noisy latent before
    /// [`scale_input`](Self::scale_input).
    pub fn denoised<const D: usize>(
        &self,
        output: Tensor<D>,
        x: Tensor<D>,
        sigma: f64,
    ) -> Tensor<D> {
        let variance = sigma * sigma + 1.0;
        match self.prediction {
            Prediction::Eps | Prediction::Flow => x - output * sigma,
            Prediction::V => x * (1.0 / variance) - output * (sigma / variance.sqrt()),
            Prediction::X0 | Prediction::ImageToImage | Prediction::ImageToImageFlow => output,
            Prediction::Lcm => {
                let (skip, out) = consistency_scales(self.timestep(sigma));
                (x.clone() - output * sigma) * out + x * skip
            }
        }
    }

    /// A latent with unit `noise` added up to `sigma`. From picture to picture, in the way of flows,
    /// the latent is left as it is.
    pub fn add_noise<const D: usize>(
        &self,
        latent: Tensor<D>,
        noise: Tensor<D>,
        sigma: f64,
    ) -> Tensor<D> {
        match self.prediction {
            Prediction::ImageToImageFlow => latent,
            _ => self.process().add_noise(latent, noise, sigma),
        }
    }

    /// What noise does to a latent of this model.
    pub fn process(&self) -> NoiseProcess {
        match self.prediction {
            // Where ComfyUI begins, too, if a sampler cannot begin at pure noise.
            Prediction::Flow | Prediction::ImageToImageFlow => {
                NoiseProcess::RectifiedFlow { largest: single(self.percent_to_sigma(1e-4)) }
            }
            _ => NoiseProcess::VarianceExploding,
        }
    }

    /// What a run starts from: as [`add_noise`](Self::add_noise), but where `sigma` is the model's
    /// largest (the latent's own share of the variance then counts as noise too, as ComfyUI has it)
    /// the noise is scaled by `sqrt(1 + sigma²)`.
    pub fn start<const D: usize>(
        &self,
        latent: Tensor<D>,
        noise: Tensor<D>,
        sigma: f64,
    ) -> Tensor<D> {
        let largest = self.sigma_max();
        let full = sigma > largest || (sigma - largest).abs() <= 1e-5 * largest.max(sigma);
        if full && self.process() == NoiseProcess::VarianceExploding {
            return latent + noise * (1.0 + sigma * sigma).sqrt();
        }
        self.add_noise(latent, noise, sigma)
    }

    /// What a run that ends at `sigma` returns: flows are divided by the latent's share, so that
    /// adding no noise to it continues the run.
    pub fn finish<const D: usize>(&self, x: Tensor<D>, sigma: f64) -> Tensor<D> {
        match self.prediction {
            Prediction::Flow if sigma < 1.0 => x * (1.0 / (1.0 - sigma)),
            Prediction::ImageToImageFlow => x.neg() + 1.0,
            _ => x,
        }
    }
}

impl TimestepMap {
    /// The sigma of a timestep, where a formula gives it: in float32, operation by operation as PyTorch computes it.
    fn sigma(self, timestep: f32) -> Option<f32> {
        match self {
            Self::Table { .. } => None,
            Self::Shift { shift, multiplier } => {
                let t = timestep / multiplier as f32;
                let sigma = shift as f32 * t / (1.0 + (shift - 1.0) as f32 * t);
                Some(if shift == 1.0 { t } else { sigma })
            }
            Self::Exponential { .. } if timestep <= 0.0 => Some(0.0),
            Self::Exponential { mu } => {
                let scale = mu.exp() as f32;
                // A number by a tensor is its reciprocal times the number.
                Some((scale + (timestep.recip() - 1.0)).recip() * scale)
            }
        }
    }

    /// The sigma of a flow at a time from 0 to 1, in float64.
    fn flow_sigma(self, t: f64) -> Option<f64> {
        match self {
            Self::Table { .. } => None,
            Self::Shift { shift: 1.0, .. } => Some(t),
            Self::Shift { shift, .. } => Some(shift * t / (1.0 + (shift - 1.0) * t)),
            Self::Exponential { mu } => Some(mu.exp() / (mu.exp() + (1.0 / t - 1.0))),
        }
    }
}

/// The `mu` of [`ModelSampling::flux`] for a picture of this size: linear in the tokens of the picture (16×16 pixels
/// each), from `base_shift` at 256 of them to `max_shift` at 4096, and beyond. Flux dev: 1.15 and 0.5.
pub fn flux_shift(max_shift: f64, base_shift: f64, width: u32, height: u32) -> f64 {
    const FEWEST: f64 = 256.0;
    const MOST: f64 = 4096.0;
    let slope = (max_shift - base_shift) / (MOST - FEWEST);
    let tokens = f64::from(width) * f64::from(height) / (8 * 8 * 2 * 2) as f64;
    tokens * slope + (base_shift - slope * FEWEST)
}

/// What the noisy latent and the guess count for in a consistency model at a timestep: data of
/// deviation 0.5, and timesteps counted in tenths, as latent consistency models are trained.
fn consistency_scales(timestep: f64) -> (f64, f64) {
    const VARIANCE: f64 = 0.25;
    let scaled = timestep * 10.0;
    let sum = scaled * scaled + VARIANCE;
    (VARIANCE / sum, scaled / sum.sqrt())
}

/// The nearest float32.
fn single(value: f64) -> f64 {
    f64::from(value as f32)
}
