//! What runs share: devices, model folders, the models that stay loaded, and defaults.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use distorch_allocation::{LayoutChoice, Topology, TopologyError};
use distorch_checkpoint::folders::{FolderError, ModelFolders};
use distorch_runtime::devices;
use thiserror::Error;

use crate::diffusion::noise::NoiseChoice;
use crate::error::PipelineError;
use crate::events::RunId;
use crate::models::store::{Loader, ModelStore, Parts};

/// Why there is no session.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The model folders cannot be read.
    #[error(transparent)]
    Folders(#[from] FolderError),
    /// The devices contradict each other.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

/// What runs share. Lives as long as the program, and keeps its models. Threads may share it: runs that share a device
/// compute one after the other, others side by side.
pub struct Session {
    /// Where models are found.
    pub folders: ModelFolders,
    /// Which blocks leave the compute device.
    pub layout: LayoutChoice,
    /// Whether a run goes on, with a warning, where a model gives NaN or infinity.
    pub allow_nan: bool,
    /// Whose generator makes the noise that samplers add between steps.
    pub noise: NoiseChoice,
    /// The models.
    pub models: ModelStore,
    topology: Topology,
    /// Checkpoints that requests loaded, by path: nothing else holds them between runs.
    kept: Mutex<HashMap<PathBuf, Parts>>,
}

impl Session {
    /// The folder that holds `models/`, on the devices that are there.
    ///
    /// # Errors
    /// When the model folders cannot be read.
    pub fn new(base_dir: &Path) -> Result<Self, SessionError> {
        let devices = devices::survey().devices.into_iter().map(|device| device.info).collect();
        Ok(Self::on(ModelFolders::new(base_dir, &[])?, Topology::new(devices)?))
    }

    /// These folders, on these devices.
    pub fn on(folders: ModelFolders, topology: Topology) -> Self {
        Self {
            models: ModelStore::new(topology.clone()),
            layout: LayoutChoice::default(),
            allow_nan: false,
            noise: NoiseChoice::default(),
            folders,
            topology,
            kept: Mutex::default(),
        }
    }

    /// The same with another store of models on the same devices: of another dtype, say.
    #[must_use]
    pub fn with_models(self, change: impl FnOnce(ModelStore) -> ModelStore) -> Self {
        Self { models: change(self.models), ..self }
    }

    /// The devices.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Drops the checkpoints that the session keeps, and the weights of all models but those of runs that go on.
    pub fn unload(&self) {
        self.kept().clear();
        self.models.unload_all();
    }

    /// Plans a file's components for a run, promises their memory, and keeps them for later runs.
    pub(crate) fn place(&self, run: RunId, loader: &Loader<'_>) -> Result<Parts, PipelineError> {
        let mut kept = self.kept();
        let own = loader.files.path();
        if loader.eject_models {
            kept.retain(|path, _| *path == own);
        }
        let parts = self.models.place(run, loader)?;
        kept.insert(own, parts.clone());
        Ok(parts)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<PathBuf, Parts>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
