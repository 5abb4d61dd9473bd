//! What a run is given from outside: folders, devices and the models that stay loaded.

use std::path::{Path, PathBuf};

use distorch_allocation::{LayoutChoice, Topology, TopologyError};
use distorch_checkpoint::folders::{FolderError, ModelFolders};
use distorch_runtime::devices;
use distorch_runtime::placed::Interrupt;
use thiserror::Error;

use crate::diffusion::noise::NoiseChoice;
use crate::models::ModelStore;

/// Why there is no environment.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// The model folders cannot be read.
    #[error(transparent)]
    Folders(#[from] FolderError),
    /// The devices contradict each other.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

/// What a run is given from outside. Lives as long as the program, and keeps its models.
pub struct Environment {
    /// Where models are found.
    pub folders: ModelFolders,
    /// The devices.
    pub topology: Topology,
    /// Where pictures to load are found.
    pub input_dir: PathBuf,
    /// Where pictures are saved.
    pub output_dir: PathBuf,
    /// Where previews are saved.
    pub temp_dir: PathBuf,
    /// Which blocks leave the compute device.
    pub layout: LayoutChoice,
    /// Whether the pictures carry the workflow that made them.
    pub save_metadata: bool,
    /// Whether a run goes on, with a warning, where a model gives NaN or infinity.
    pub allow_nan: bool,
    /// Whose generator makes the noise that samplers add between steps.
    pub noise: NoiseChoice,
    /// The models.
    pub models: ModelStore,
    interrupt: Interrupt,
}

impl Environment {
    /// The folder that holds `models/`, `input/` and `output/`, on the devices that are there.
    ///
    /// # Errors
    /// When the model folders cannot be read.
    pub fn new(base_dir: &Path) -> Result<Self, EnvironmentError> {
        let devices = devices::survey().devices.into_iter().map(|device| device.info).collect();
        Ok(Self::on(ModelFolders::new(base_dir, &[])?, Topology::new(devices)?))
    }

    /// These folders, on these devices.
    pub fn on(folders: ModelFolders, topology: Topology) -> Self {
        let interrupt = Interrupt::default();
        let base = folders.base_dir().to_owned();
        Self {
            models: ModelStore::new(topology.clone(), interrupt.clone()),
            input_dir: base.join("input"),
            output_dir: base.join("output"),
            temp_dir: base.join("temp"),
            layout: LayoutChoice::default(),
            save_metadata: true,
            allow_nan: false,
            noise: NoiseChoice::default(),
            interrupt,
            folders,
            topology,
        }
    }

    /// The same with another store of models on the same devices: of another dtype, say.
    pub fn with_models(self, change: impl FnOnce(ModelStore) -> ModelStore) -> Self {
        Self { models: change(self.models), ..self }
    }

    /// What stops the run at the next step when it is raised. It is cleared as a run begins.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Whether the run is to stop.
    pub fn cancelled(&self) -> bool {
        self.interrupt.is_raised()
    }
}
