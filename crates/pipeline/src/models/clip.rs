//! Text encoders as nodes hand them on.

use std::fmt;
use std::sync::Arc;

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::family::Family;
use distorch_models::conditioning::ConditioningError;
use distorch_models::estimate::Workload;
use distorch_models::family;
use distorch_models::prompt::embedding::Embeddings;
use distorch_models::text::{Prompt, PromptPicture, T5Padding, TextOptions};
use distorch_runtime::lora::{LoraFile, LoraPatch};
use distorch_runtime::tensor::cpu;

use crate::diffusion::conditioning::Cond;
use crate::error::PipelineError;
use crate::finite;
use crate::models::part::Part;
use crate::run::Run;

/// The text encoders of a file.
#[derive(Clone)]
pub struct Clip {
    part: Arc<Part>,
    family: Family,
    loras: LoraPatch,
    /// The layer that is read, counted from the last, which is 1; without it, the family's own.
    pub clip_skip: Option<usize>,
    /// How T5's prompts are filled up; without it, as the family does it.
    pub t5_padding: Option<T5Padding>,
}

impl Clip {
    /// The text encoders of a part, for the diffusion model of the same file.
    ///
    /// # Errors
    /// When it cannot be told what the text encoders are for.
    pub fn new(part: Arc<Part>) -> Result<Self, PipelineError> {
        let file = part.file();
        let family = file.model.family().ok_or_else(|| {
            PipelineError::failed(format!("`{}` has no diffusion model to encode for", file.name))
        })?;
        Ok(Self::of_family(part, family))
    }

    /// The text encoders of a part, for diffusion models of this family, from whatever file these come.
    pub fn of_family(part: Arc<Part>, family: Family) -> Self {
        let loras = LoraPatch::new(ComponentKind::TextEncoders);
        Self { part, family, loras, clip_skip: None, t5_padding: None }
    }

    /// The family whose prompts these encode.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The encoders' weights.
    pub fn part(&self) -> &Arc<Part> {
        &self.part
    }

    /// The same text encoders with one LoRA more.
    pub fn with_lora(&self, file: &Arc<LoraFile>, strength: f32) -> Self {
        Self { loras: self.loras.with(file, strength), ..self.clone() }
    }

    /// Encodes a prompt, or one for each encoder. Textual inversions that are left out are warned of.
    ///
    /// # Errors
    /// When the weights cannot be had, or the prompt cannot be encoded.
    pub fn encode(
        &self,
        run: &Run<'_>,
        prompt: &Prompt,
        options: &TextOptions,
    ) -> Result<Cond, PipelineError> {
        let embeddings =
            Embeddings::from_folders(&run.session().folders).map_err(PipelineError::failed)?;
        let workload = Workload::of_prompt(prompt.pictures().iter().map(PromptPicture::size));
        let scope = run.load(&self.part, &self.loras, workload)?;
        let encoders = &self.part.file().model.text_encoders;
        let conditioner =
            family::of(self.family).text(&scope, encoders).map_err(PipelineError::failed)?;
        if !prompt.pictures().is_empty() && !conditioner.sees_pictures() {
            let family = self.family;
            return Err(PipelineError::failed(ConditioningError::NoPictures { family }));
        }
        let options = TextOptions {
            clip_skip: options.clip_skip.or(self.clip_skip),
            t5_padding: options.t5_padding.or(self.t5_padding),
            ..*options
        };
        let encoded = run.attempt(&self.part, workload, || {
            conditioner.encode(prompt, &embeddings, &options).map_err(PipelineError::failed)
        })?;
        for warning in &encoded.warnings {
            run.warn(&warning.to_string());
        }
        let pooled = encoded.states.pooled.map(|pooled| pooled.to_device(&cpu()));
        let states = encoded.states.context.to_device(&cpu());
        let odd = finite::odd_in(&states).or_else(|| pooled.as_ref().and_then(finite::odd_in));
        if let Some(odd) = odd {
            finite::refuse(run, finite::given_by(&self.part, odd, "for the prompt"))?;
        }
        let reference_slots = encoded.states.picture_slots;
        Ok(Cond { reference_slots, ..Cond::new(states, pooled) })
    }
}

impl fmt::Debug for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text encoders of {}", self.part.file().name)
    }
}
