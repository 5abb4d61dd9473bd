//! Which file is meant.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use distorch_checkpoint::folders::{ModelFolders, ModelKind, near_names};

use crate::error::{Argument, PipelineError};

/// The most names of a folder that are looked at for one that may have been meant.
const MOST_NAMES: usize = 10_000;

/// A model file: by the name that it has in the session's model folders, or by its path.
///
/// Texts are names, paths are paths: `"style/ink.safetensors".into()`, `Path::new("/mnt/ink.safetensors").into()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A name below one of the session's model folders, with forward slashes.
    Name(String),
    /// A path.
    Path(PathBuf),
}

impl ModelSource {
    /// The name for people, and the file's path.
    ///
    /// # Errors
    /// When there is no such file, with names that may have been meant.
    pub(crate) fn find(
        &self,
        folders: &ModelFolders,
        kind: ModelKind,
        argument: Argument,
    ) -> Result<(String, PathBuf), PipelineError> {
        let wrong = |problem: String| PipelineError::argument(argument, problem);
        match self {
            ModelSource::Name(name) => match folders.resolve(kind, name) {
                Ok(path) => Ok((name.clone(), path)),
                Err(error) => Err(wrong(error.to_string())),
            },
            ModelSource::Path(path) if path.is_file() => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                Ok((name.to_string_lossy().into_owned(), path.clone()))
            }
            ModelSource::Path(path) => Err(wrong(no_file(path))),
        }
    }
}

/// A path that leads to no file, with what may have been meant.
fn no_file(path: &Path) -> String {
    let shown = path.display();
    if path.exists() {
        return format!("`{shown}` is not a file");
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = parent.unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(MOST_NAMES);
    let names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let near = near_names(&name, names.iter().map(String::as_str));
    let near: Vec<String> =
        near.iter().map(|name| format!("`{}`", folder.join(name).display())).collect();
    match near.is_empty() {
        true => format!("there is no file `{shown}`"),
        false => format!("there is no file `{shown}`; did you mean {}?", near.join(" or ")),
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelSource::Name(name) => f.write_str(name),
            ModelSource::Path(path) => path.display().fmt(f),
        }
    }
}

impl From<&str> for ModelSource {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for ModelSource {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<&Path> for ModelSource {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for ModelSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}
