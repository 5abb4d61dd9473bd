//! Model files that are open and recognised.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use distorch_checkpoint::family::{self, Model};
use distorch_checkpoint::file::Checkpoint;
use distorch_checkpoint::source::{ModelFiles, SourceError};
use distorch_models::estimate::Workload;

/// A model file, mapped and recognised; or several that make one model.
#[derive(Debug)]
pub struct ModelFile {
    /// The name that it was asked for by.
    pub name: String,
    /// The file's path, or what stands for those of several.
    pub path: PathBuf,
    /// The tensors.
    pub checkpoint: Arc<Checkpoint>,
    /// What they are.
    pub model: Model,
}

/// What tells a model's files from others, and from themselves after a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    files: ModelFiles,
    /// Bytes and date of each.
    versions: Vec<(u64, Option<SystemTime>)>,
}

impl Identity {
    /// What stands for the files' path.
    pub fn path(&self) -> PathBuf {
        self.files.path()
    }

    /// The files.
    pub fn paths(&self) -> &[PathBuf] {
        &self.files.paths
    }

    /// The identity of the files as they are now.
    pub fn of(files: &ModelFiles) -> Self {
        let versions = files.paths.iter().map(|path| {
            let data = std::fs::metadata(path).ok();
            let bytes = data.as_ref().map_or(0, std::fs::Metadata::len);
            (bytes, data.and_then(|data| data.modified().ok()))
        });
        Self { files: files.clone(), versions: versions.collect() }
    }
}

/// One picture of the size that a model was trained on: what its file says, else its family's.
pub fn native(checkpoint: &Checkpoint, model: &Model) -> Workload {
    let native = Workload::native(model);
    match family::trained_resolution(checkpoint.metadata()) {
        Some([width, height]) => Workload { width, height, ..native },
        None => native,
    }
}

impl ModelFile {
    /// Opens files and recognises the model that they make.
    ///
    /// # Errors
    /// When one cannot be opened, is nothing that is known, or they make no model.
    pub fn open(name: &str, files: &ModelFiles) -> Result<Self, SourceError> {
        let (checkpoint, model) = files.open(name)?;
        Ok(Self { name: name.to_owned(), path: files.path(), checkpoint, model })
    }

    /// One picture of the size that the model was trained on: what its file says, else its family's.
    pub fn native(&self) -> Workload {
        native(&self.checkpoint, &self.model)
    }
}
