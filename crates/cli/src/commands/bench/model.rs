//! What is timed: a checkpoint's models, or models of random weights.

use std::sync::Arc;

use distorch_checkpoint::family::{self, Model};
use distorch_checkpoint::folders::ModelKind;
use distorch_checkpoint::{Checkpoint, ComponentKind, Dtype};
use distorch_runtime::{DType, Device, Resident, Scope};

use super::random;
use crate::args::{BenchArgs, RandomModel, Shared};
use crate::commands::recognise;
use crate::failure::Failure;
use crate::machine;
use crate::model_file;
use crate::progress::Progress;

/// A recognised model and where its weights come from.
pub struct Subject {
    pub model: Model,
    pub checkpoint: Checkpoint,
    random: Option<RandomModel>,
}

impl Subject {
    /// Opens the checkpoint that the arguments name, or lists the tensors of a random one.
    pub fn open(shared: &Shared, args: &BenchArgs) -> Result<Self, Failure> {
        if let Some(random) = args.random {
            let configs = random::configs(random);
            let checkpoint =
                family::blank("random weights", &configs, Dtype::F32).map_err(Failure::machine)?;
            let model = family::recognise(&checkpoint).map_err(Failure::machine)?;
            return Ok(Self { model, checkpoint, random: Some(random) });
        }
        let folders = machine::folders(shared)?;
        let name = args.ckpt.as_deref().unwrap_or_default();
        let path = model_file::path(&folders, ModelKind::Checkpoints, name)?;
        let (checkpoint, model) = recognise(&path)?;
        Ok(Self { model, checkpoint, random: None })
    }

    /// What the model is, for people.
    pub fn label(&self) -> String {
        self.model.label()
    }

    /// Where its weights are from: a path, or `random`.
    pub fn weights(&self) -> String {
        match self.random {
            Some(_) => "random".to_owned(),
            None => self.checkpoint.path().display().to_string(),
        }
    }

    /// The layers of a component on a device, where the model has that component.
    pub fn load(
        &self,
        kind: ComponentKind,
        device: &Device,
        dtype: DType,
    ) -> Result<Option<Scope>, Failure> {
        let Some(component) = self.model.component(kind) else { return Ok(None) };
        let name = match kind {
            ComponentKind::DiffusionModel => "diffusion model",
            ComponentKind::TextEncoders => "text encoders",
            ComponentKind::Vae => "VAE",
        };
        let progress = Progress::new(&format!("loading the {name}"), component.layers.len() as u64);
        let resident = match self.random {
            Some(_) => {
                let mut resident = Resident::new(device.clone(), dtype);
                for layer in &component.layers {
                    resident.insert(&layer.name, random::layer(layer));
                    progress.advance();
                }
                resident
            }
            None => {
                let loaded = |_: &_| progress.advance();
                let (file, device) = (&self.checkpoint, device.clone());
                Resident::load(file, component, device, dtype, loaded).map_err(Failure::input)?
            }
        };
        Ok(Some(Scope::new(Arc::new(resident))))
    }
}
