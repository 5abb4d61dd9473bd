//! The folders that clients read and write: of pictures to load, of results, of temporary files.

use std::path::PathBuf;

use distorch_workflow::Environment;

use super::object_info::blocking;
use crate::error::ApiError;
use crate::safety::paths::{self, NameError};
use crate::state::AppState;

/// One of the folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folder {
    Input,
    Output,
    Temp,
}

impl Folder {
    pub const ALL: [Self; 3] = [Self::Input, Self::Output, Self::Temp];

    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Temp => "temp",
        }
    }

    pub fn named(name: &str) -> Result<Self, ApiError> {
        Self::ALL.into_iter().find(|folder| folder.name() == name).ok_or_else(|| {
            ApiError::bad_request(format!(
                "no folder is named `{name}`; there are input, output, temp"
            ))
        })
    }

    pub fn path(self, environment: &Environment) -> PathBuf {
        match self {
            Self::Input => environment.input_dir.clone(),
            Self::Output => environment.output_dir.clone(),
            Self::Temp => environment.temp_dir.clone(),
        }
    }
}

/// A name with the folder that it is marked with (`picture.png [output]`), if it is.
pub(super) fn unmarked(name: &str) -> (&str, Option<Folder>) {
    let marked = Folder::ALL.into_iter().find_map(|folder| {
        let name = name.strip_suffix(']')?.strip_suffix(folder.name())?.strip_suffix('[')?;
        Some((name.trim_end(), Some(folder)))
    });
    marked.unwrap_or((name, None))
}

/// The path of a file that is there and in its folder, links followed. A result that is not here is fetched from where
/// results are kept.
pub(super) async fn find(
    state: &AppState,
    name: String,
    subfolder: String,
    folder: Folder,
) -> Result<PathBuf, ApiError> {
    let here = || {
        let (state, name, subfolder) = (state.clone(), name.clone(), subfolder.clone());
        blocking(move || {
            Named { name: &name, subfolder: &subfolder, folder }.find(&state.environment)
        })
    };
    let found = here().await?;
    let (plain, marked) = unmarked(&name);
    match (&found, &state.config.outputs) {
        (Err(error), Some(outputs))
            if error.is_not_found() && marked.unwrap_or(folder) == Folder::Output =>
        {
            let root = &state.environment.output_dir;
            match outputs.fetch(root, &subfolder, plain).await.map_err(ApiError::internal)? {
                Some(_) => here().await?,
                None => found,
            }
        }
        _ => found,
    }
}

/// A file that clients name.
pub(super) struct Named<'a> {
    pub name: &'a str,
    pub subfolder: &'a str,
    /// The folder, where the name is not marked with one.
    pub folder: Folder,
}

impl Named<'_> {
    /// The path of the file, which is there and in its folder, links followed.
    pub fn find(&self, environment: &Environment) -> Result<PathBuf, ApiError> {
        let (name, marked) = unmarked(self.name);
        let root = marked.unwrap_or(self.folder).path(environment);
        let below = paths::folder(self.subfolder).map_err(forbidden)?;
        let name = paths::relative(name).map_err(bad)?;
        let missing = || ApiError::not_found("there is no such file");
        let path = root.join(below).join(name.file_name().ok_or_else(missing)?);
        let path = path.canonicalize().map_err(|_| missing())?;
        match paths::is_inside(&root, &path) {
            true if path.is_file() => Ok(path),
            true => Err(missing()),
            false => Err(forbidden(NameError::Outside)),
        }
    }
}

pub(super) fn bad(error: NameError) -> ApiError {
    ApiError::bad_request(error.to_string())
}

pub(super) fn forbidden(error: NameError) -> ApiError {
    ApiError::forbidden(error.to_string())
}
