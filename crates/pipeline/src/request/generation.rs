//! A request that is ready to be computed.

use std::fmt;
use std::sync::Arc;

use distorch_allocation::Plan;
use distorch_models::family::ExtraChannels;
use distorch_runtime::lora::LoraFile;

use super::check::Checked;
use super::kinds::{ImageToImage, TextToImage};
use super::picture::{Picture, Start};
use crate::diffusion::conditioning::{ConcatPicture, Cond, Conditioning};
use crate::diffusion::guider::Guider;
use crate::diffusion::inpaint;
use crate::error::{Argument, PipelineError};
use crate::events::{Event, EventSink, Phase, RunId, Silent};
use crate::image::Pictures;
use crate::latent::Latent;
use crate::models::{Model, Vae};
use crate::run::{ActiveRun, CancelToken, Run};
use crate::session::Session;
use crate::steps::Checkpoint;

/// A request that was checked and is ready to be computed, by the thread that calls [`run`](Self::run).
#[must_use = "nothing is computed before `run`"]
pub struct Generation<'s> {
    session: &'s Session,
    id: RunId,
    cancel: CancelToken,
    checked: Checked,
}

/// What a request made.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The run's number, which its events had.
    pub run: RunId,
    /// The pictures.
    pub pictures: Pictures,
    /// The latent that they were decoded from.
    pub latent: Latent,
    /// The seed of the noise.
    pub seed: u64,
}

impl Session {
    /// A picture from a prompt: checks all that can be known before it is computed, which
    /// [`Generation::run`] does.
    ///
    /// # Errors
    /// Everything that is wrong with the request: [`PipelineError::Argument`] names what, the first that is found.
    pub fn text_to_image(&self, request: TextToImage) -> Result<Generation<'_>, PipelineError> {
        Ok(Generation::new(self, Checked::text(self, request)?))
    }

    /// A picture from a picture and a prompt, as [`text_to_image`](Self::text_to_image).
    ///
    /// # Errors
    /// As [`text_to_image`](Self::text_to_image).
    pub fn image_to_image(&self, request: ImageToImage) -> Result<Generation<'_>, PipelineError> {
        Ok(Generation::new(self, Checked::image(self, request)?))
    }
}

impl<'s> Generation<'s> {
    fn new(session: &'s Session, checked: Checked) -> Self {
        Self { session, id: RunId::next(), cancel: CancelToken::new(), checked }
    }

    /// The run's number, which its events have.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// What cancels the run, from any thread, before it starts or while it goes on.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// The same, to be cancelled by a token that is there already.
    pub fn cancelled_by(self, token: CancelToken) -> Self {
        Self { cancel: token, ..self }
    }

    /// What would go where, component by component. Nothing is promised or loaded.
    ///
    /// # Errors
    /// When the placement cannot be planned.
    pub fn plans(&self) -> Result<Vec<Plan>, PipelineError> {
        self.session.models.plan(&self.checked.loader())
    }

    /// Computes the pictures in this thread, after the runs before it that use a device of its placement.
    ///
    /// # Errors
    /// [`PipelineError::Cancelled`] where the token was used, also before; else what went wrong. What a component lacks
    /// of memory is found before anything is loaded.
    pub fn run(self) -> Result<Generated, PipelineError> {
        self.run_with(&Silent)
    }

    /// As [`run`](Self::run), telling `events` how it goes on.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(self, events: &dyn EventSink) -> Result<Generated, PipelineError> {
        let devices = self.session.models.devices(&self.checked.loader());
        let active = ActiveRun::begin(self.session, self.id, devices, &self.cancel)?;
        let run = active.reporting(events);
        let Checked { request, start, sampling, .. } = &self.checked;
        let Checkpoint { model, text_encoders, vae } = self.load(&run)?;
        run.check()?;
        run.phase(Phase::Encode);
        let encode = |prompt: &str| {
            let encoded = run.encode_prompt(&text_encoders, prompt)?;
            let guided = |cond: &Cond| Cond { guidance: request.guidance, ..cond.clone() };
            Ok::<_, PipelineError>(encoded.map(guided))
        };
        let positive = encode(&request.prompt)?;
        run.check()?;
        let negative = encode(&request.negative_prompt)?;
        run.check()?;
        let told = Told { positive, negative };
        let (told, latent) = match start {
            Start::Nothing { batch, cells } => {
                (told, Latent::empty(*batch, model.latent_format().channels, *cells))
            }
            Start::Picture(start) => self.encode_start(&run, start, &model, &vae, told)?,
        };
        run.phase(Phase::Sample);
        let guider = Guider::cfg(model, told.positive, told.negative, request.cfg);
        let latent = run.sample(&guider, sampling, &latent)?;
        run.check()?;
        run.phase(Phase::Decode);
        let pictures = run.decode(&vae, &latent)?;
        Ok(Generated { run: self.id, pictures, latent, seed: request.seed })
    }

    /// The checkpoint with its LoRAs; refused where a component will not have the memory for what it is to do.
    fn load(&self, run: &Run<'_>) -> Result<Checkpoint, PipelineError> {
        run.phase(Phase::Load);
        let checked = &self.checked;
        let loader = checked.loader();
        if let Err(error) = self.session.models.check(&loader) {
            if let Ok(plans) = self.session.models.plan(&loader) {
                let (model, tasks) = (checked.name.clone(), checked.tasks);
                run.tell(Event::Planned { model, tasks, plans });
            }
            return Err(error);
        }
        for warning in &checked.warnings {
            run.warn(warning);
        }
        let mut checkpoint = run.load_checkpoint(&loader)?;
        for lora in &checked.loras {
            run.check()?;
            let file = LoraFile::new(Arc::clone(&lora.file), &checked.file.model)
                .map_err(|error| PipelineError::argument(Argument::Lora, error))?;
            let file = Arc::new(file);
            checkpoint.model = checkpoint.model.with_lora(&file, lora.strength_model);
            checkpoint.text_encoders =
                checkpoint.text_encoders.with_lora(&file, lora.strength_text);
        }
        if let Some(layer) = checked.request.clip_skip {
            checkpoint.text_encoders.clip_skip = Some(layer);
        }
        Ok(checkpoint)
    }

    /// The latent of the picture to start from, and what inpainting models are told of it.
    fn encode_start(
        &self,
        run: &Run<'_>,
        Picture { image, mask }: &Picture,
        model: &Model,
        vae: &Vae,
        told: Told,
    ) -> Result<(Told, Latent), PipelineError> {
        let mut latent = run.encode_pictures(vae, image)?;
        let mut told = told;
        if let Some(mask) = mask {
            let mask = inpaint::fit(mask, image)?;
            let cut = inpaint::cropped(&mask, vae.downscale());
            if fills_in(model) {
                let grey = run.encode_pictures(vae, &inpaint::greyed(image, &mask))?;
                let picture = ConcatPicture { latent: grey, mask: Some(cut.clone()) };
                told = told.map(|cond| Cond { picture: Some(picture.clone()), ..cond.clone() });
            }
            latent.noise_mask = Some(cut);
        }
        let times = usize::try_from(self.checked.request.batch).unwrap_or(usize::MAX);
        if times > 1 {
            let too_large = |error| PipelineError::argument(Argument::Batch, error);
            latent = latent.repeated(times).map_err(too_large)?;
        }
        Ok((told, latent))
    }
}

/// What the model is told.
struct Told {
    positive: Conditioning,
    negative: Conditioning,
}

impl Told {
    fn map(&self, change: impl Fn(&Cond) -> Cond) -> Self {
        Self { positive: self.positive.map(&change), negative: self.negative.map(&change) }
    }
}

/// Whether a model is told of what is around the part that it fills in.
fn fills_in(model: &Model) -> bool {
    matches!(
        model.reads().extra,
        ExtraChannels::MaskAndPicture { .. } | ExtraChannels::PictureAndMaskPatches
    )
}

impl fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("id", &self.id)
            .field("checkpoint", &self.checked.name)
            .finish_non_exhaustive()
    }
}
