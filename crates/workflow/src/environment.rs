//! What a run is given from outside: the pipeline's session and the folders of ComfyUI.

use std::path::{Path, PathBuf};

use distorch_allocation::Topology;
use distorch_checkpoint::folders::ModelFolders;
use distorch_pipeline::Session;
use distorch_pipeline::models::ModelStore;
use distorch_pipeline::session::SessionError;

/// What a run is given from outside. Lives as long as the program, and keeps its models.
pub struct Environment {
    /// Devices, models and defaults.
    pub session: Session,
    /// Where pictures to load are found.
    pub input_dir: PathBuf,
    /// Where pictures are saved.
    pub output_dir: PathBuf,
    /// Where previews are saved.
    pub temp_dir: PathBuf,
    /// Whether the pictures carry the workflow that made them.
    pub save_metadata: bool,
}

impl Environment {
    /// The folder that holds `models/`, `input/` and `output/`, on the devices that are there.
    ///
    /// # Errors
    /// When the model folders cannot be read.
    pub fn new(base_dir: &Path) -> Result<Self, SessionError> {
        Ok(Self::of(Session::new(base_dir)?))
    }

    /// These folders, on these devices.
    pub fn on(folders: ModelFolders, topology: Topology) -> Self {
        Self::of(Session::on(folders, topology))
    }

    /// The folders beside the session's models.
    pub fn of(session: Session) -> Self {
        let base = session.folders.base_dir().to_owned();
        Self {
            session,
            input_dir: base.join("input"),
            output_dir: base.join("output"),
            temp_dir: base.join("temp"),
            save_metadata: true,
        }
    }

    /// The same with another store of models on the same devices: of another dtype, say.
    #[must_use]
    pub fn with_models(self, change: impl FnOnce(ModelStore) -> ModelStore) -> Self {
        Self { session: self.session.with_models(change), ..self }
    }
}
