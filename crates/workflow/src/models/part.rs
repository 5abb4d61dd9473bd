//! One component of a model file, with a plan and, once needed, its weights.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use distorch_allocation::{DeviceId, Plan};
use distorch_checkpoint::{Component, ComponentKind};
use distorch_runtime::patch::Patch;
use distorch_runtime::weights::WeightError;
use distorch_runtime::{DType, Device, LayerSource, Resident, Scope};
use thiserror::Error;

use crate::models::ModelFile;

/// Why a component's weights cannot be had.
#[derive(Debug, Error)]
pub enum PartError {
    /// The file does not hold it.
    #[error("`{file}` has no {component}")]
    Missing {
        /// The file.
        file: String,
        /// The component, in words.
        component: &'static str,
    },
    /// They cannot be read or moved.
    #[error("`{file}`: {source}")]
    Weights {
        /// The file.
        file: String,
        /// What went wrong.
        source: WeightError,
    },
}

/// Hears of stored bytes loaded, and of all that are to be.
pub type LoadProgress<'a> = dyn FnMut(u64, u64) + 'a;

/// One component of a model file.
pub struct Part {
    file: Arc<ModelFile>,
    kind: ComponentKind,
    plan: Plan,
    device: Device,
    dtype: DType,
    weights: Mutex<Option<Arc<Resident>>>,
}

impl Part {
    /// A component with its plan; nothing is loaded yet.
    pub fn new(
        file: Arc<ModelFile>,
        kind: ComponentKind,
        plan: Plan,
        device: Device,
        dtype: DType,
    ) -> Self {
        Self { file, kind, plan, device, dtype, weights: Mutex::new(None) }
    }

    /// The file.
    pub fn file(&self) -> &Arc<ModelFile> {
        &self.file
    }

    /// Which component.
    pub fn kind(&self) -> ComponentKind {
        self.kind
    }

    /// Where its blocks live.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device that computes, by name.
    pub fn compute_device(&self) -> DeviceId {
        self.plan.compute_device
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The compute dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether its weights are loaded.
    pub fn is_loaded(&self) -> bool {
        self.weights().is_some()
    }

    /// Drops the weights; they are loaded again when needed.
    pub fn unload(&self) {
        self.weights().take();
    }

    /// The layers, loaded now if they are not yet, with a patch on their weights.
    ///
    /// # Errors
    /// When the weights cannot be read or moved.
    pub fn scope(
        &self,
        patch: Option<Arc<dyn Patch>>,
        progress: &mut LoadProgress<'_>,
    ) -> Result<Scope, PartError> {
        let wrong = |source| PartError::Weights { file: self.file.name.clone(), source };
        let mut weights = self.weights();
        let source = match &*weights {
            Some(source) => Arc::clone(source),
            None => {
                let source = Arc::new(self.load(progress)?);
                *weights = Some(Arc::clone(&source));
                source
            }
        };
        let _ = (patch, wrong);
        Ok(Scope::new(source as Arc<dyn LayerSource>))
    }

    fn load(&self, progress: &mut LoadProgress<'_>) -> Result<Resident, PartError> {
        let component = self.component()?;
        let (mut done, total) = (0, component.bytes());
        Resident::load(&self.file.checkpoint, component, self.device.clone(), self.dtype, |layer| {
            done += layer.bytes();
            progress(done, total);
        })
        .map_err(|source| PartError::Weights { file: self.file.name.clone(), source })
    }

    fn component(&self) -> Result<&Component, PartError> {
        self.file.model.component(self.kind).ok_or_else(|| PartError::Missing {
            file: self.file.name.clone(),
            component: in_words(self.kind),
        })
    }

    fn weights(&self) -> MutexGuard<'_, Option<Arc<Resident>>> {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A component's name for people.
pub fn in_words(kind: ComponentKind) -> &'static str {
    match kind {
        ComponentKind::DiffusionModel => "diffusion model",
        ComponentKind::TextEncoders => "text encoder",
        ComponentKind::Vae => "VAE",
    }
}
