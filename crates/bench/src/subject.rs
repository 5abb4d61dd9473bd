//! What is timed: a checkpoint's models, or models of random weights.

use std::sync::Arc;

use distorch_checkpoint::family::{self, Model};
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_runtime::{DType, Device, Resident, Scope};

use crate::error::BenchError;
use crate::progress::Reporter;
use crate::random::{self, PublishedModel};

/// A recognised model and where its weights come from.
pub struct Subject {
    /// What the checkpoint holds.
    pub model: Model,
    /// The checkpoint; one without data where weights are random.
    pub checkpoint: Checkpoint,
    is_random: bool,
}

impl Subject {
    /// A model that was opened.
    pub fn opened(checkpoint: Checkpoint, model: Model) -> Self {
        Self { model, checkpoint, is_random: false }
    }

    /// Random weights in the sizes of a published model.
    ///
    /// # Errors
    /// When the built-in sizes are those of no model.
    pub fn random(model: PublishedModel) -> Result<Self, BenchError> {
        let configs = random::configs(model);
        let checkpoint =
            family::blank("random weights", &configs, Dtype::F32).map_err(BenchError::failed)?;
        let model = family::recognise(&checkpoint).map_err(BenchError::failed)?;
        Ok(Self { model, checkpoint, is_random: true })
    }

    /// What the model is, for people.
    pub fn label(&self) -> String {
        self.model.label()
    }

    /// Where its weights are from: a path, or `random`.
    pub fn weights(&self) -> String {
        match self.is_random {
            true => "random".to_owned(),
            false => self.checkpoint.path().display().to_string(),
        }
    }

    /// The layers of a component on a device, where the model has that component.
    pub(crate) fn load(
        &self,
        kind: ComponentKind,
        device: &Device,
        dtype: DType,
        reporter: &dyn Reporter,
    ) -> Result<Option<Scope>, BenchError> {
        let Some(component) = self.model.component(kind) else { return Ok(None) };
        let progress =
            reporter.stage(&format!("loading the {}", kind.title()), component.layers.len() as u64);
        let resident = match self.is_random {
            true => {
                let mut resident = Resident::new(device.clone(), dtype);
                for layer in &component.layers {
                    resident.insert(&layer.name, random::layer(layer));
                    progress.advance();
                }
                resident
            }
            false => {
                let loaded = |_: &_| progress.advance();
                let (file, device) = (&self.checkpoint, device.clone());
                Resident::load(file, component, device, dtype, loaded).map_err(BenchError::input)?
            }
        };
        Ok(Some(Scope::new(Arc::new(resident))))
    }
}
