//! The stages of a picture, each run and timed on its own.

use std::time::Instant;

use distorch_allocation::ByteSize;
use distorch_checkpoint::family::DiffusionModel;
use distorch_checkpoint::{Component, ComponentKind};
use distorch_models::estimate::{Compute, Workload};
use distorch_models::family::{self, NetworkPatches};
use distorch_models::network::Network;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::text::{Prompt, TextConditioner, TextOptions};
use distorch_models::vae::Vae;
use distorch_runtime::heap::PeakMeter;
use distorch_runtime::tensor::TensorData;
use distorch_runtime::{DType, Device, Tensor, kernels, tensor, usage};
use serde::Serialize;

use crate::error::BenchError;
use crate::progress::Reporter;
use crate::{LATENT_CELL, Subject, network, random};

/// Prompt and negative prompt: of a usual length, one chunk each, without weights, which would have the
/// empty prompt encoded too.
const PROMPTS: [&str; 2] = [
    "a photograph of a lighthouse on a cliff above the sea, evening light, storm clouds",
    "blurry, low quality, watermark",
];

/// A stage and how long it took.
#[derive(Debug, Serialize)]
pub struct Stage {
    /// `text`, `step` or `decode`.
    pub stage: &'static str,
    /// Seconds of the call before the timed ones, which fills caches and tunes kernels.
    pub first_seconds: f64,
    /// Seconds of every timed call.
    pub seconds: Vec<f64>,
    /// Seconds of the fastest.
    pub min_seconds: f64,
    /// Seconds of the one in the middle.
    pub median_seconds: f64,
    /// Seconds that all threads computed, in the call where that was least.
    pub cpu_seconds: f64,
    /// The most memory beside weights, where the CPU computes.
    pub activation_bytes: Option<u64>,
    /// What plans take that to be.
    pub estimated_bytes: u64,
}

/// What a checkpoint holds, ready to run.
pub struct Stages {
    device: Device,
    dtype: DType,
    picture: Workload,
    text: Option<Box<dyn TextConditioner>>,
    network: Option<(Box<dyn Network>, DiffusionModel)>,
    vae: Option<Vae>,
    /// What plans take activations to be, by component.
    estimates: Vec<(ComponentKind, u64)>,
}

impl Stages {
    /// Loads what the model has of text encoders, diffusion model and VAE.
    ///
    /// # Errors
    /// When its diffusion model cannot run, or weights cannot be loaded.
    pub fn load(
        subject: &Subject,
        device: &Device,
        dtype: DType,
        picture: Workload,
        reporter: &dyn Reporter,
    ) -> Result<Self, BenchError> {
        let model = &subject.model;
        let load = |kind| subject.load(kind, device, dtype, reporter);
        let estimate = |component: &Component| {
            let element = kernels::activation_dtype(device, dtype).size() as u64;
            let compute = Compute { element, host: tensor::is_host(device) };
            let workload = match component.kind {
                ComponentKind::TextEncoders => Workload::WORDS,
                _ => picture,
            };
            (component.kind, family::activation_bytes(model, component, workload, compute))
        };
        let mut stages = Self {
            device: device.clone(),
            dtype: kernels::activation_dtype(device, dtype),
            picture: picture.as_usual(model),
            text: None,
            network: None,
            vae: None,
            estimates: model.components.iter().map(estimate).collect(),
        };
        // A text encoder in a file of its own has no family that says how it is read.
        if let (Some(family), false) = (model.family(), model.text_encoders.is_empty())
            && let Some(scope) = load(ComponentKind::TextEncoders)?
        {
            let text = family::of(family).text(&scope, &model.text_encoders);
            stages.text = Some(text.map_err(BenchError::input)?);
        }
        if let (Some(diffusion), Some(scope)) =
            (&model.diffusion, load(ComponentKind::DiffusionModel)?)
        {
            let family = family::of(diffusion.family);
            let network = family.network(&scope, diffusion, &NetworkPatches::default());
            stages.network = Some((network.map_err(BenchError::input)?, diffusion.clone()));
        }
        if let (Some(config), Some(scope)) = (&model.vae, load(ComponentKind::Vae)?) {
            stages.vae = Some(Vae::load(&scope, config).map_err(BenchError::input)?);
        }
        Ok(stages)
    }

    /// Runs each stage once, and then this many times again, timed.
    ///
    /// # Errors
    /// When a stage fails.
    pub fn run(&self, steps: u32, reporter: &dyn Reporter) -> Result<Vec<Stage>, BenchError> {
        let mut timed = Vec::new();
        let mut conditioning = None;
        if let Some(encoder) = &self.text {
            timed.push(self.time(
                ComponentKind::TextEncoders,
                "encoding the prompts",
                (steps, reporter),
                || {
                    for prompt in PROMPTS {
                        let (prompt, options) =
                            (Prompt::Same(prompt.into()), TextOptions::default());
                        let encoded = encoder.encode(&prompt, &Embeddings::default(), &options);
                        let states = encoded.map_err(BenchError::input)?.states;
                        finish(states.context.clone());
                        conditioning.get_or_insert(states);
                    }
                    Ok(())
                },
            )?);
        }
        if let Some((network, model)) = &self.network {
            let states = conditioning.as_ref();
            let input = network::input(model, self.picture, states, &self.device, self.dtype);
            timed.push(self.time(
                ComponentKind::DiffusionModel,
                "steps of the diffusion model",
                (steps, reporter),
                || {
                    let out = network.forward(input.clone());
                    finish(out.map_err(BenchError::input)?);
                    Ok(())
                },
            )?);
        }
        if let Some(vae) = &self.vae {
            let latent = self.latent(1, vae.config().latent_channels);
            timed.push(self.time(ComponentKind::Vae, "decoding", (steps, reporter), || {
                for _ in 0..self.picture.batch {
                    finish(vae.decode(latent.clone()).map_err(BenchError::input)?);
                }
                Ok(())
            })?);
        }
        Ok(timed)
    }

    /// Calls once untimed, then `count` times.
    fn time(
        &self,
        kind: ComponentKind,
        doing: &str,
        (count, reporter): (u32, &dyn Reporter),
        mut call: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<Stage, BenchError> {
        let progress = reporter.stage(doing, u64::from(count) + 1);
        let meter = PeakMeter::begin().filter(|_| tensor::is_host(&self.device));
        let mut once = || {
            let (start, cpu) = (Instant::now(), usage::cpu_time());
            call()?;
            if let Some(bytes) = tensor::refused(&self.device) {
                let bytes = ByteSize(bytes);
                let place = "the device is out of memory";
                return Err(BenchError::failed(format!("{doing}: {place}: {bytes} more needed")));
            }
            progress.advance();
            let cpu = usage::cpu_time().saturating_sub(cpu);
            Ok::<_, BenchError>((start.elapsed().as_secs_f64(), cpu.as_secs_f64()))
        };
        let (first_seconds, _) = once()?;
        let timed = (0..count).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
        let seconds: Vec<f64> = timed.iter().map(|(seconds, _)| *seconds).collect();
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let estimate = self.estimates.iter().find(|(of, _)| *of == kind);
        Ok(Stage {
            stage: stage_of(kind),
            first_seconds,
            min_seconds: sorted[0],
            median_seconds: (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0,
            seconds,
            cpu_seconds: timed.iter().map(|(_, cpu)| *cpu).fold(f64::INFINITY, f64::min),
            activation_bytes: meter.map(|meter| meter.most()),
            estimated_bytes: estimate.map_or(0, |(_, bytes)| *bytes),
        })
    }

    fn latent(&self, rows: usize, channels: usize) -> Tensor<4> {
        let [height, width] = [self.picture.height, self.picture.width];
        self.random([
            rows,
            channels,
            (height / LATENT_CELL) as usize,
            (width / LATENT_CELL) as usize,
        ])
    }

    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(random::uniform(1, shape.iter().product()), shape);
        Tensor::from_data(data.convert_dtype(self.dtype), (&self.device, self.dtype))
    }
}

/// Waits until the device has computed a tensor.
fn finish<const D: usize>(tensor: Tensor<D>) {
    drop(tensor.into_data());
}

/// The name of the stage that runs a component.
fn stage_of(kind: ComponentKind) -> &'static str {
    match kind {
        ComponentKind::TextEncoders => "text",
        ComponentKind::DiffusionModel => "step",
        ComponentKind::Vae => "decode",
        ComponentKind::Upscaler => "enlarge",
    }
}
