//! A model file that is open and recognised.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use distorch_checkpoint::family::{self, FamilyError, Model};
use distorch_checkpoint::file::{Checkpoint, OpenError};
use distorch_models::estimate::Workload;
use thiserror::Error;

/// Why a model file cannot be used.
#[derive(Debug, Error)]
pub enum OpenFailure {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is nothing that is known.
    #[error("`{name}`: {error}")]
    Family {
        /// The file's name.
        name: String,
        /// What was looked for.
        error: FamilyError,
    },
}

/// A model file, mapped and recognised.
#[derive(Debug)]
pub struct ModelFile {
    /// The name that it was asked for by.
    pub name: String,
    /// The tensors.
    pub checkpoint: Arc<Checkpoint>,
    /// What they are.
    pub model: Model,
}

/// What tells a file from another, and from itself after a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity of the file as it is now.
    pub fn of(path: &Path) -> Self {
        let data = std::fs::metadata(path).ok();
        Self {
            path: path.to_owned(),
            bytes: data.as_ref().map_or(0, std::fs::Metadata::len),
            modified: data.and_then(|data| data.modified().ok()),
        }
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
    /// Opens and recognises a file.
    ///
    /// # Errors
    /// When it cannot be opened, or is nothing that is known.
    pub fn open(name: &str, path: &Path) -> Result<Self, OpenFailure> {
        let checkpoint = Checkpoint::open(path)?;
        let model = family::recognise(&checkpoint)
            .map_err(|error| OpenFailure::Family { name: name.to_owned(), error })?;
        Ok(Self { name: name.to_owned(), checkpoint: Arc::new(checkpoint), model })
    }

    /// One picture of the size that the model was trained on: what its file says, else its family's.
    pub fn native(&self) -> Workload {
        native(&self.checkpoint, &self.model)
    }
}
