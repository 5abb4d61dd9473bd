//! What runs share: devices, model folders, the models that stay loaded, and defaults.

use std::path::Path;

use distorch_allocation::{LayoutChoice, Topology, TopologyError};
use distorch_checkpoint::folders::{FolderError, ModelFolders};
use distorch_runtime::devices;
use distorch_runtime::offload::Interrupt;
use thiserror::Error;

use crate::diffusion::noise::NoiseChoice;
use crate::models::store::ModelStore;

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

/// What runs share. Lives as long as the program, and keeps its models.
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
    interrupt: Interrupt,
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
        let interrupt = Interrupt::default();
        Self {
            models: ModelStore::new(topology.clone(), interrupt.clone()),
            layout: LayoutChoice::default(),
            allow_nan: false,
            noise: NoiseChoice::default(),
            interrupt,
            folders,
            topology,
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

    /// What ends waits for weights.
    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }
}
