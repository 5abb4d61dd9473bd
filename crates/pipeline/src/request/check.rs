//! What is known of a request before anything of it is computed, and everything that is wrong with it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use distorch_allocation::LoaderSettings;
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::lora::{self, Target};
use distorch_checkpoint::source::{ModelFiles, SourceError};
use distorch_checkpoint::{Checkpoint, ComponentKind};
use distorch_models::estimate::Workload;
use distorch_models::family;
use distorch_sampling::sampler::Sampler;
use distorch_sampling::schedule::Scheduler;

use super::kinds::{ImageToImage, TextToImage};
use super::picture::{Start, brought_to};
use crate::diffusion::conditioning::Guidance;
use crate::error::{Argument, PipelineError};
use crate::image::room;
use crate::models::{Loader, ModelFile, Task, Tasks, in_words, trained_sampling};
use crate::session::Session;
use crate::steps::{self, CHECKPOINT, Sampling};

/// Sides of pictures, in pixels.
const SIDES: RangeInclusive<u32> = 16..=16384;
const BATCHES: RangeInclusive<u32> = 1..=4096;
const STEPS: RangeInclusive<usize> = 1..=10_000;
const SCALES: RangeInclusive<f64> = 0.0..=100.0;
const STRENGTHS: RangeInclusive<f64> = -100.0..=100.0;
const LAYERS: RangeInclusive<usize> = 1..=24;

/// A request whose files are open and that has nothing wrong that can be known before it is computed.
pub(super) struct Checked {
    pub request: TextToImage,
    pub start: Start,
    /// The checkpoint's name for people.
    pub name: String,
    pub files: ModelFiles,
    /// The open file, so that it is not opened anew when it is loaded.
    pub file: Arc<ModelFile>,
    pub settings: LoaderSettings,
    pub tasks: Tasks,
    pub loras: Vec<CheckedLora>,
    pub sampling: Sampling,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A LoRA that changes something of the checkpoint.
pub(super) struct CheckedLora {
    pub file: Arc<Checkpoint>,
    pub strength_model: f32,
    pub strength_text: f32,
}

impl Checked {
    /// Checks a request for a picture from nothing.
    pub(super) fn text(session: &Session, request: TextToImage) -> Result<Self, PipelineError> {
        check_numbers(&request)?;
        let opened = Opened::new(session, &request)?;
        let Workload { width, height, .. } = opened.file.native();
        let [width, height] = [request.width.unwrap_or(width), request.height.unwrap_or(height)];
        let cell = opened.downscale;
        let sides = [height, width].map(|side| usize::try_from(side).unwrap_or(usize::MAX));
        let batch = usize::try_from(request.batch).unwrap_or(usize::MAX);
        let start = Start::Nothing { batch, cells: sides.map(|side| side / cell.max(1)) };
        opened.checked(session, request, start, sides)
    }

    /// Checks a request for a picture from a picture.
    pub(super) fn image(session: &Session, request: ImageToImage) -> Result<Self, PipelineError> {
        let ImageToImage { request, image, mask } = request;
        check_numbers(&request)?;
        let opened = Opened::new(session, &request)?;
        let start = brought_to(&image, mask.as_ref(), [request.height, request.width])?;
        let [_, height, width, _] = start.image.shape();
        let cell = opened.downscale;
        if height < cell || width < cell {
            let problem = format!(
                "a picture of {width}×{height} pixels is smaller than one pixel of the latent, which is \
                 {cell}×{cell}: scale it up first"
            );
            return Err(PipelineError::argument(Argument::Image, problem));
        }
        opened.checked(session, request, Start::Picture(start), [height, width])
    }

    /// The checkpoint for the store of models.
    pub(super) fn loader(&self) -> Loader<'_> {
        Loader {
            name: &self.name,
            files: &self.files,
            settings: &self.settings,
            kinds: CHECKPOINT,
            high_precision_loras: self.request.high_precision_loras,
            eject_models: self.request.eject_models,
            tasks: self.tasks,
        }
    }
}

/// The checkpoint of a request.
struct Opened {
    name: String,
    files: ModelFiles,
    file: Arc<ModelFile>,
    /// Pixels to one of the latent.
    downscale: usize,
}

impl Opened {
    /// Opens the checkpoint, which must have all three components, and checks the sides that were asked for.
    fn new(session: &Session, request: &TextToImage) -> Result<Self, PipelineError> {
        let (name, path) =
            request.checkpoint.find(&session.folders, ModelKind::Checkpoints, Argument::Model)?;
        let files = ModelFiles::from(path);
        let file = session.models.open(&name, &files).map_err(of_the_file)?;
        let model = &file.model;
        if let Some(kind) = CHECKPOINT.iter().find(|kind| model.component(**kind).is_none()) {
            let (lacks, label) = (in_words(*kind), model.label());
            let problem = format!("`{name}` has no {lacks}; it is {label}");
            return Err(PipelineError::argument(Argument::Model, problem));
        }
        let format = model
            .diffusion
            .as_ref()
            .map(|diffusion| family::of(diffusion.family).latent_format(diffusion));
        let downscale = format.map_or(1, |format| format.downscale);
        side(Argument::Width, request.width, downscale)?;
        side(Argument::Height, request.height, downscale)?;
        Ok(Self { name, files, file, downscale })
    }

    /// Everything else; `sides` are height and width in pixels.
    fn checked(
        self,
        session: &Session,
        request: TextToImage,
        start: Start,
        sides: [usize; 2],
    ) -> Result<Checked, PipelineError> {
        let placed = request.placement.settings(session.topology(), session.layout);
        let settings =
            placed.map_err(|error| PipelineError::argument(Argument::Placement, error))?;
        let batch = start.pictures(&request);
        room([batch, sides[0], sides[1], 3])
            .map_err(|error| PipelineError::argument(Argument::Batch, error))?;
        let sampling = self.sampling(&request)?;
        let (loras, warnings) = self.loras(session, &request)?;
        let tasks = self.tasks(batch, sides, matches!(start, Start::Picture(_)));
        let Self { name, files, file, .. } = self;
        Ok(Checked {
            request,
            start,
            name,
            files,
            file,
            settings,
            tasks,
            loras,
            sampling,
            warnings,
        })
    }

    /// What the components are to do.
    fn tasks(&self, batch: usize, sides: [usize; 2], encodes: bool) -> Tasks {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let whole = |side: usize| side / self.downscale.max(1) * self.downscale.max(1);
        let [height, width] = sides.map(|side| number(whole(side)));
        let mut tasks = Tasks::default();
        let picture = Workload { width, height, batch: number(batch), cfg_batch: 2 };
        tasks.add(ComponentKind::DiffusionModel, Task::of(Some(picture)));
        tasks.add(ComponentKind::TextEncoders, Task::of(Some(Workload::WORDS)));
        let one = Workload { batch: 1, cfg_batch: 1, ..picture };
        tasks.add(ComponentKind::Vae, Task::of(Some(one)));
        if encodes {
            let [height, width] = sides.map(number);
            tasks.add(ComponentKind::Vae, Task::of(Some(Workload { width, height, ..one })));
        }
        tasks
    }

    fn sampling(&self, request: &TextToImage) -> Result<Sampling, PipelineError> {
        let sampler = Sampler::by_name(&request.sampler)
            .map_err(|error| PipelineError::argument(Argument::Sampler, error))?;
        let scheduler = Scheduler::by_name(&request.scheduler)
            .map_err(|error| PipelineError::argument(Argument::Scheduler, error))?;
        let sampling = Sampling {
            seed: request.seed,
            steps: request.steps,
            denoise: request.denoise,
            ..Sampling::new(sampler, scheduler)
        };
        if let Some(diffusion) = &self.file.model.diffusion {
            // The schedule is made again in the run; what is wrong with it is known now.
            sampling
                .sigmas(&trained_sampling(diffusion))
                .map_err(|error| steps::schedule(&error))?;
        }
        Ok(sampling)
    }

    /// The LoRAs that change something, and what is to be known of them.
    fn loras(
        &self,
        session: &Session,
        request: &TextToImage,
    ) -> Result<(Vec<CheckedLora>, Vec<String>), PipelineError> {
        let wrong = |error: String| PipelineError::argument(Argument::Lora, error);
        let (mut loras, mut warnings) = (Vec::new(), Vec::new());
        for lora in &request.loras {
            let (name, path) =
                lora.file.find(&session.folders, ModelKind::Loras, Argument::Lora)?;
            if !lora.is_used() {
                continue;
            }
            let file = Checkpoint::open(&path).map_err(|error| wrong(error.to_string()))?;
            let target = |component| Target { model: &self.file.model, component };
            let targets = [ComponentKind::DiffusionModel, ComponentKind::TextEncoders].map(target);
            let fit = lora::check(&file, &targets)
                .map_err(|error| wrong(format!("`{name}`: {error}")))?;
            if let Some(key) = fit.unknown.first() {
                let count = fit.unknown.len();
                warnings.push(format!(
                    "{count} keys of the LoRA `{name}` are left out, since this model has nothing that \
                     they could change; the first is `{key}`"
                ));
            }
            loras.push(CheckedLora {
                file: Arc::new(file),
                strength_model: lora.strength_model as f32,
                strength_text: lora.strength_text as f32,
            });
        }
        Ok((loras, warnings))
    }
}

/// A file that cannot be used is a matter of the one who names it.
fn of_the_file(error: PipelineError) -> PipelineError {
    match error {
        PipelineError::Failed(error) if error.is::<SourceError>() => {
            PipelineError::argument(Argument::Model, error)
        }
        other => other,
    }
}

/// The numbers whose ranges do not depend on a model.
fn check_numbers(request: &TextToImage) -> Result<(), PipelineError> {
    within(Argument::Batch, &request.batch, &BATCHES)?;
    within(Argument::Steps, &request.steps, &STEPS)?;
    within(Argument::Cfg, &request.cfg, &SCALES)?;
    within(Argument::Denoise, &request.denoise, &(0.0..=1.0))?;
    if let Guidance::Strength(guidance) = &request.guidance {
        within(Argument::Guidance, guidance, &SCALES)?;
    }
    if let Some(layer) = &request.clip_skip {
        within(Argument::ClipSkip, layer, &LAYERS)?;
    }
    for lora in &request.loras {
        for strength in [lora.strength_model, lora.strength_text] {
            within(Argument::Lora, &strength, &STRENGTHS).map_err(|_| {
                let (least, most) = (STRENGTHS.start(), STRENGTHS.end());
                let file = &lora.file;
                let problem =
                    format!("the strength of `{file}` is {strength}; it is from {least} to {most}");
                PipelineError::argument(Argument::Lora, problem)
            })?;
        }
    }
    Ok(())
}

/// Whether a number is in a range. NaN is in none.
fn within<T: PartialOrd + std::fmt::Display>(
    argument: Argument,
    value: &T,
    range: &RangeInclusive<T>,
) -> Result<(), PipelineError> {
    if range.contains(value) {
        return Ok(());
    }
    let problem = format!("it is {value}; it must be from {} to {}", range.start(), range.end());
    Err(PipelineError::argument(argument, problem))
}

/// Whether a side in pixels is whole pixels of the latent.
fn side(argument: Argument, side: Option<u32>, cell: usize) -> Result<(), PipelineError> {
    let Some(side) = side else { return Ok(()) };
    within(argument, &side, &SIDES)?;
    let cell = u32::try_from(cell).unwrap_or(1).max(1);
    if side.is_multiple_of(cell) {
        return Ok(());
    }
    let near = [side / cell * cell, side.next_multiple_of(cell)];
    let near: Vec<String> =
        near.iter().filter(|near| SIDES.contains(near)).map(u32::to_string).collect();
    let problem = format!(
        "it is {side} pixels; sides are multiples of {cell} with this model: try {}",
        near.join(" or ")
    );
    Err(PipelineError::argument(argument, problem))
}
