//! A diffusion network as a denoiser: every conditioning where and when it counts, as few calls as may be.

use std::ops::RangeInclusive;

use distorch_models::conditioning::PictureSize;
use distorch_models::family::{DiffusionFamily, ExtraChannels, Reads, VectorInputs};
use distorch_models::latent_format::LatentFormat;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_runtime::shared_pass::SharedPass;
use distorch_runtime::{DType, Device, Tensor};
use distorch_sampling::NoiseProcess;
use distorch_sampling::guidance::{Conditioned, Guesses, Wanted};
use distorch_sampling::model_sampling::ModelSampling;
use distorch_sampling::sampler::ModelError;

use crate::diffusion::conditioning::{Cond, Conditioning};
use crate::diffusion::evaluations::Evaluations;
use crate::diffusion::region::{Region, fitted};
use crate::latent::Latent;

/// The two halves of the guidance.
const POSITIVE: usize = 0;
const NEGATIVE: usize = 1;

/// Context tokens are repeated to a common length only up to so many times: more would cost more
/// than a second call.
const MOST_REPEATS: usize = 4;

/// Calls of the model, which may be made again.
pub type Call<'a> = dyn FnMut() -> Result<Vec<Tensor<4>>, distorch_models::ModelError> + 'a;

/// Makes calls of the model, and makes them again where that helps.
pub type Attempt<'a> = dyn Fn(&mut Call<'_>) -> Result<Vec<Tensor<4>>, ModelError> + 'a;

/// A network with its conditionings, for one run.
pub struct Denoise<'a> {
    network: &'a dyn Network,
    attempt: Option<&'a Attempt<'a>>,
    /// Is told every guess.
    evaluations: Option<&'a Evaluations>,
    /// Has calls share the layers that come over a link.
    steps: Option<&'a SharedPass>,
    sampling: ModelSampling,
    dtype: DType,
    /// Of both halves.
    told: Vec<Told>,
    /// More calls, each with fewer activations.
    pub one_at_a_time: bool,
    /// Layers that the negative guess is made without, and the sigmas at which it is.
    pub negative_without: Option<(SkipLayers, RangeInclusive<f64>)>,
}

/// One conditioning, ready for the model.
#[derive(Clone)]
struct Told {
    half: usize,
    /// `[1, tokens, width]`.
    context: Tensor<3>,
    /// `[1, adm width]`.
    y: Option<Tensor<2>>,
    /// Further channels of the input: `[batch, channels, height, width]`.
    extra: Option<Tensor<4>>,
    guidance: Option<f64>,
    /// Latents of further pictures, scaled: `[batch, channels, height, width]` each.
    references: Vec<Tensor<4>>,
    reference_method: ReferenceMethod,
    /// Before which tokens these stand.
    reference_slots: Vec<usize>,
    /// Whether the context's tokens may be repeated.
    repeats: bool,
    region: Region,
    /// Counts at sigmas from `first` down to `last`.
    first: f64,
    last: f64,
}

/// What is common to a run's conditionings.
pub struct Setting<'a> {
    /// The model's family.
    pub family: &'static dyn DiffusionFamily,
    /// What the model reads of a conditioning.
    pub reads: Reads,
    /// How the model sees noise.
    pub sampling: ModelSampling,
    /// The device that computes.
    pub device: Device,
    /// The dtype that it computes in.
    pub dtype: DType,
    /// The latent of the run as the model has it, `[batch, channels, height, width]`.
    pub latent: &'a Tensor<4>,
    /// Its mask, as the user gave it.
    pub source: &'a Latent,
    /// From an autoencoder's latents to the model's.
    pub format: LatentFormat,
}

impl<'a> Denoise<'a> {
    /// Prepares the conditionings for a run.
    ///
    /// # Errors
    /// When one of them does not fit the model or the latent.
    pub fn new(
        network: &'a dyn Network,
        setting: &Setting<'_>,
        positive: &Conditioning,
        negative: Option<&Conditioning>,
    ) -> Result<Self, ModelError> {
        let mut told = Vec::new();
        for (half, conditioning) in [(POSITIVE, Some(positive)), (NEGATIVE, negative)] {
            for cond in conditioning.map_or(&[][..], Conditioning::conds) {
                told.push(Told::new(half, cond, setting)?);
            }
        }
        if negative.is_some() {
            oppose(&mut told);
        }
        Ok(Self {
            network,
            attempt: None,
            evaluations: None,
            steps: None,
            sampling: setting.sampling.clone(),
            dtype: setting.dtype,
            told,
            one_at_a_time: false,
            negative_without: None,
        })
    }

    /// The same, where every call of the model is made by `attempt`.
    pub fn attempting(self, attempt: &'a Attempt<'a>) -> Self {
        Self { attempt: Some(attempt), ..self }
    }

    /// The same, where the model's guesses are told to `evaluations`.
    pub fn telling(self, evaluations: &'a Evaluations) -> Self {
        Self { evaluations: Some(evaluations), ..self }
    }

    /// The same, where calls that cannot be one are made side by side.
    pub fn side_by_side(self, steps: Option<&'a SharedPass>) -> Self {
        Self { steps, ..self }
    }

    /// The guesses of one half: the weighted mean of what its conditionings say.
    fn half(&self, x: &Tensor<4>, parts: &[(&Told, Tensor<4>)], half: usize) -> Tensor<4> {
        let [batch, channels, rows, columns] = x.dims();
        let of_half: Vec<_> = parts.iter().filter(|(told, _)| told.half == half).collect();
        if let [(told, guess)] = of_half.as_slice()
            && told.region.everything
        {
            return guess.clone();
        }
        let zeros =
            |channels| Tensor::zeros([batch, channels, rows, columns], (&x.device(), DType::F32));
        let (mut sum, mut weights) = (zeros(channels), zeros(1) + 1e-37);
        for (told, guess) in of_half {
            let [weight_batch, ..] = told.region.weight.dims();
            let [_, _, height, width] = guess.dims();
            let weight = match weight_batch {
                1 => told.region.weight.clone().expand([batch, 1, height, width]),
                _ => told.region.weight.clone(),
            };
            let size = [rows, columns];
            sum = sum + told.region.spread(guess.clone() * weight.clone(), size);
            weights = weights + told.region.spread(weight, size);
        }
        sum / weights
    }

    /// The conditionings of these halves that count at a sigma.
    fn at(&self, sigma: f64, wanted: impl Fn(usize) -> bool) -> Vec<&Told> {
        let counts = |told: &&Told| wanted(told.half) && sigma <= told.first && sigma >= told.last;
        self.told.iter().filter(counts).collect()
    }

    /// Asks the model for all of these conditionings, those of one shape in one call.
    fn guesses<'t>(
        &self,
        x: &Tensor<4>,
        sigma: f64,
        told: &[&'t Told],
        skip: &SkipLayers,
    ) -> Result<Vec<(&'t Told, Tensor<4>)>, ModelError> {
        let mut calls = Vec::new();
        let mut left = told.to_vec();
        while let Some(&first) = left.first() {
            let most = if self.one_at_a_time { 1 } else { 2 };
            let mut together = Vec::new();
            left.retain(|candidate| {
                let joins = together.len() < most && first.joins(candidate);
                if joins {
                    together.push(*candidate);
                }
                !joins
            });
            calls.push((self.inputs(x, sigma, &together, skip), together));
        }
        let mut forward = || {
            let run = |inputs: &Inputs| self.network.forward(inputs.network.clone());
            match self.steps {
                Some(steps) => {
                    let run = &run;
                    let calls = calls.iter().map(|(inputs, _)| {
                        Box::new(move || run(inputs)) as Box<dyn FnOnce() -> _ + Send + '_>
                    });
                    steps.run(calls.collect()).into_iter().collect()
                }
                None => calls.iter().map(|(inputs, _)| run(inputs)).collect(),
            }
        };
        let outputs = match self.attempt {
            Some(attempt) => attempt(&mut forward)?,
            None => forward()?,
        };
        let mut guesses = Vec::with_capacity(told.len());
        for ((inputs, told), output) in calls.iter().zip(outputs) {
            let guess = output.cast(DType::F32);
            let guess = self.sampling.denoised(guess, inputs.noisy.clone(), sigma);
            if let Some(evaluations) = self.evaluations {
                evaluations.guess(&guess);
            }
            let batch = x.dims()[0];
            let parts = told.iter().enumerate();
            guesses.extend(
                parts.map(|(at, told)| (*told, guess.clone().narrow(0, at * batch, batch))),
            );
        }
        Ok(guesses)
    }

    /// What one call of the model takes, for conditionings of one shape.
    fn inputs(&self, x: &Tensor<4>, sigma: f64, told: &[&Told], skip: &SkipLayers) -> Inputs {
        let [batch, ..] = x.dims();
        let cut: Vec<_> = told.iter().map(|told| told.region.cut(x)).collect();
        let noisy = join(cut, 0);
        let mut input = self.sampling.scale_input(noisy.clone(), sigma);
        let extra: Vec<_> =
            told.iter().filter_map(|told| Some(told.region.cut(told.extra.as_ref()?))).collect();
        if !extra.is_empty() {
            input = Tensor::cat(vec![input, join(extra, 0)], 1);
        }
        let tokens = told.iter().map(|told| told.context.dims()[1]).fold(1, lcm);
        let context = told.iter().map(|told| {
            let [_, own, width] = told.context.dims();
            told.context.clone().repeat_dim(1, tokens / own).expand([batch, tokens, width])
        });
        let y: Vec<_> = told
            .iter()
            .filter_map(|told| told.y.clone())
            .map(|y| {
                let width = y.dims()[1];
                y.expand([batch, width])
            })
            .collect();
        let timestep = self.sampling.timestep(sigma) as f32;
        let timesteps = vec![timestep; told.len() * batch];
        let guidance: Vec<f32> = told
            .iter()
            .filter_map(|told| told.guidance)
            .flat_map(|guidance| std::iter::repeat_n(guidance as f32, batch))
            .collect();
        let references = told.first().map_or(0, |told| told.references.len());
        let reference = |at: usize| {
            let latents = told.iter().filter_map(|told| told.references.get(at));
            let latents = latents.map(|latent| fill(latent.clone(), batch)).collect();
            join(latents, 0).cast(self.dtype)
        };
        let options = (&x.device(), DType::F32);
        let network = NetworkInput {
            x: input.cast(self.dtype),
            timesteps: Tensor::from_data(timesteps.as_slice(), options),
            context: join(context.collect(), 0),
            vector: (!y.is_empty()).then(|| join(y, 0)),
            guidance: (!guidance.is_empty())
                .then(|| Tensor::from_data(guidance.as_slice(), options)),
            reference_latents: (0..references).map(reference).collect(),
            reference_method: told.first().map(|told| told.reference_method).unwrap_or_default(),
            reference_slots: told
                .first()
                .map(|told| told.reference_slots.clone())
                .unwrap_or_default(),
            skip: skip.clone(),
        };
        Inputs { network, noisy }
    }
}

/// What one call of the model takes.
#[derive(Clone)]
struct Inputs {
    network: NetworkInput,
    /// The latents that it was made of.
    noisy: Tensor<4>,
}

impl Conditioned for Denoise<'_> {
    type Perturbation = SkipLayers;

    fn denoise(
        &mut self,
        x: &Tensor<4>,
        sigma: f64,
        wanted: Wanted,
    ) -> Result<Guesses, ModelError> {
        let both = wanted == Wanted::Both;
        let told = self.at(sigma, |half| both || half == POSITIVE);
        let all = SkipLayers::default();
        let without =
            self.negative_without.as_ref().filter(|(_, sigmas)| both && sigmas.contains(&sigma));
        let guesses = match without {
            None => self.guesses(x, sigma, &told, &all)?,
            Some((layers, _)) => {
                let (negative, positive): (Vec<_>, Vec<_>) =
                    told.into_iter().partition(|told| told.half == NEGATIVE);
                let mut guesses = self.guesses(x, sigma, &positive, &all)?;
                guesses.extend(self.guesses(x, sigma, &negative, layers)?);
                guesses
            }
        };
        Ok(Guesses {
            positive: self.half(x, &guesses, POSITIVE),
            negative: both.then(|| self.half(x, &guesses, NEGATIVE)),
        })
    }

    fn denoise_perturbed(
        &mut self,
        x: &Tensor<4>,
        sigma: f64,
        skip: &SkipLayers,
    ) -> Result<Tensor<4>, ModelError> {
        let told = self.at(sigma, |half| half == POSITIVE);
        let guesses = self.guesses(x, sigma, &told, skip)?;
        Ok(self.half(x, &guesses, POSITIVE))
    }

    fn process(&self) -> NoiseProcess {
        self.sampling.process()
    }
}

impl Told {
    fn new(half: usize, cond: &Cond, setting: &Setting<'_>) -> Result<Self, ModelError> {
        let Setting { device, dtype, sampling, reads, .. } = setting;
        let shape = setting.latent.dims();
        Ok(Self {
            half,
            context: cond.context.clone().to_device(device).cast(*dtype),
            y: class_vector(half, cond, setting)?.map(|y| y.to_device(device)),
            extra: extra_channels(cond, setting)?,
            guidance: cond.guidance.strength(reads.guidance),
            references: match reads.reference_latents {
                true => {
                    let scaled = |latent: &Tensor<4>| {
                        setting.format.to_model(latent.clone().to_device(device))
                    };
                    cond.reference_latents.iter().map(scaled).collect()
                }
                false => Vec::new(),
            },
            reference_method: cond.reference_method,
            reference_slots: cond.reference_slots.clone(),
            repeats: reads.repeats_context,
            region: Region::new(cond, shape, device)?,
            // From the start on is from any sigma, be it above the largest of the model.
            first: if cond.start > 0.0 {
                sampling.percent_to_sigma(cond.start)
            } else {
                f64::INFINITY
            },
            last: sampling.percent_to_sigma(cond.end),
        })
    }

    /// Whether both can go through the model in one call.
    fn joins(&self, other: &Told) -> bool {
        let tokens = |told: &Told| told.context.dims()[1];
        let (mine, theirs) = (tokens(self), tokens(other));
        let repeats = lcm(mine, theirs) / mine.min(theirs);
        let size = |told: &Told| (told.region.area.height, told.region.area.width);
        let references = |told: &Told| told.references.iter().map(|x| x.dims()).collect::<Vec<_>>();
        size(self) == size(other)
            && (mine == theirs || (self.repeats && repeats <= MOST_REPEATS))
            && references(self) == references(other)
            && self.reference_method == other.reference_method
            && self.reference_slots == other.reference_slots
            && self.guidance.is_some() == other.guidance.is_some()
            && self.y.is_some() == other.y.is_some()
            && self.extra.is_some() == other.extra.is_some()
    }
}

/// Gives each conditioning of a rectangle an opposite of the same rectangle, where the other half
/// has none: what counts for the smallest rectangle around it, or for the whole, is said there too,
/// so that both guesses are made of equal cuts. As ComfyUI does.
fn oppose(told: &mut Vec<Told>) {
    for half in [POSITIVE, NEGATIVE] {
        let mut place = 0;
        while let Some(one) = told.get(place) {
            place += 1;
            if one.half != half || !one.region.named {
                continue;
            }
            let Some(other) =
                told.iter().filter(|other| other.half != half).fold(None, nearer(one))
            else {
                continue;
            };
            if other.region.named && other.region.area == one.region.area {
                continue;
            }
            let opposite = Told {
                region: one.region.clone(),
                first: one.first,
                last: one.last,
                ..other.clone()
            };
            told.push(opposite);
        }
    }
}

/// Of two conditionings, the one that the rectangle of `one` lies in more closely.
fn nearer<'t>(one: &Told) -> impl FnMut(Option<&'t Told>, &'t Told) -> Option<&'t Told> {
    let area = one.region.area;
    move |best, other| match (best, other.region.named) {
        (None, false) => Some(other),
        (_, false) => best,
        (_, true) if !area.is_inside(other.region.area) => best,
        (Some(best), true)
            if best.region.named && best.region.area.pixels() <= other.region.area.pixels() =>
        {
            Some(best)
        }
        (_, true) => Some(other),
    }
}

/// The class vector `[1, width]`, for families that read one.
fn class_vector(
    half: usize,
    cond: &Cond,
    setting: &Setting<'_>,
) -> Result<Option<Tensor<2>>, ModelError> {
    let [_, _, rows, columns] = setting.latent.dims();
    let downscale = setting.format.downscale;
    let own = PictureSize::new(columns * downscale, rows * downscale);
    let inputs = VectorInputs {
        pooled: cond.pooled.clone(),
        size: cond.size.unwrap_or(own),
        aesthetic_score: cond.aesthetic_score,
        is_negative: half == NEGATIVE,
    };
    Ok(setting.family.vector(inputs)?)
}

/// What an inpainting or editing model reads beside the latent, `[batch, channels, height, width]`.
fn extra_channels(cond: &Cond, setting: &Setting<'_>) -> Result<Option<Tensor<4>>, ModelError> {
    let [batch, channels, rows, columns] = setting.latent.dims();
    let device = &setting.device;
    let options = (device, DType::F32);
    let picture = match &cond.picture {
        Some(picture) => {
            let latent = picture.latent.samples.clone().to_device(device);
            let [own, _, height, width] = latent.dims();
            if (height, width) != (rows, columns) || own == 0 {
                return Err(format!(
                    "the picture to fill in has a latent of {height}×{width}, the run one of \
                     {rows}×{columns}"
                )
                .into());
            }
            Some(fill(latent, batch))
        }
        None => None,
    };
    let own_mask = cond.picture.as_ref().and_then(|picture| picture.mask.as_ref());
    let mask = own_mask.or(setting.source.noise_mask.as_ref());
    let nothing = || Tensor::zeros([batch, channels, rows, columns], options);
    match setting.reads.extra {
        ExtraChannels::None => Ok(None),
        ExtraChannels::MaskAndPicture { grey } => {
            let latent = match (picture, mask) {
                (Some(picture), _) => setting.format.to_model(picture),
                (None, Some(_)) => setting.latent.clone(),
                (None, None) => {
                    let width = grey.len();
                    let grey = Tensor::<1>::from_data(grey, options).reshape([1, width, 1, 1]);
                    grey.expand([batch, width, rows, columns])
                }
            };
            let mask = match mask {
                Some(mask) => fitted(mask, setting.latent.dims(), device)?.round(),
                None => Tensor::ones([batch, 1, rows, columns], options),
            };
            Ok(Some(Tensor::cat(vec![mask, latent], 1)))
        }
        ExtraChannels::Picture { scaled } => {
            let picture = picture.unwrap_or_else(nothing);
            Ok(Some(if scaled { setting.format.to_model(picture) } else { picture }))
        }
        ExtraChannels::PictureAndMaskPatches => {
            let picture = setting.format.to_model(picture.unwrap_or_else(nothing));
            let side = setting.format.downscale;
            let size = [batch, 1, rows * side, columns * side];
            let mask = match mask {
                Some(mask) => fitted(mask, size, device)?,
                None => Tensor::ones(size, options),
            };
            Ok(Some(Tensor::cat(vec![picture, patches(mask, side)], 1)))
        }
        ExtraChannels::Unsupported => {
            Err("this model reads a depth or control map, which no node here makes".into())
        }
    }
}

/// The pixels of each `side`×`side` square as channels, row by row: `[batch, 1, height × side, width × side]` to
/// `[batch, side², height, width]`.
fn patches(mask: Tensor<4>, side: usize) -> Tensor<4> {
    let [batch, _, height, width] = mask.dims();
    let (rows, columns) = (height / side, width / side);
    let squares = mask.reshape([batch, rows, side, columns, side]);
    squares.permute([0, 2, 4, 1, 3]).reshape([batch, side * side, rows, columns])
}

/// A batch repeated in turn, or cut, to this many.
fn fill(latent: Tensor<4>, batch: usize) -> Tensor<4> {
    let own = latent.dims()[0].max(1);
    latent.repeat_dim(0, batch.div_ceil(own)).narrow(0, 0, batch)
}

/// Tensors along a dimension; one alone is itself.
fn join<const D: usize>(mut tensors: Vec<Tensor<D>>, dim: usize) -> Tensor<D> {
    match tensors.len() {
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, dim),
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: usize, b: usize) -> usize {
    a / gcd(a, b).max(1) * b
}
