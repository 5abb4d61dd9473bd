//! What a run is given from outside: folders, devices and the models that stay loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use distorch_allocation::{Layout, Topology, TopologyError};
use distorch_checkpoint::folders::{FolderError, ModelFolders};
use distorch_runtime::{DType, devices};
use thiserror::Error;

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
    pub layout: Layout,
    /// Whether the pictures carry the workflow that made them.
    pub save_metadata: bool,
    /// The models.
    pub models: ModelStore,
    cancel: Arc<AtomicBool>,
}

impl Environment {
    /// The folder that holds `models/`, `input/` and `output/`, on the devices that are there.
    ///
    /// # Errors
    /// When the model folders cannot be read.
    pub fn new(base_dir: &Path) -> Result<Self, EnvironmentError> {
        let devices = devices::survey().devices.into_iter().map(|device| device.info).collect();
        Ok(Self::on(ModelFolders::new(base_dir, &[])?, Topology::new(devices)?, None))
    }

    /// On these devices. `dtype` is what every model computes in; without it, each device has its
    /// own.
    pub fn on(folders: ModelFolders, topology: Topology, dtype: Option<DType>) -> Self {
        let base = folders.base_dir().to_owned();
        Self {
            models: ModelStore::new(topology.clone(), dtype),
            input_dir: base.join("input"),
            output_dir: base.join("output"),
            temp_dir: base.join("temp"),
            layout: Layout::default(),
            save_metadata: true,
            cancel: Arc::default(),
            folders,
            topology,
        }
    }

    /// A switch that stops the run at the next step when it is set. It is cleared as a run begins.
    pub fn cancel_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// Whether the run is to stop.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}
