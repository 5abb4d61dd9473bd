//! The state of the files that nodes load, for the keys of their results, and whether they are there.

use std::path::Path;

use distorch_checkpoint::folders::ModelKind;

use crate::environment::Environment;
use crate::files::input_file;
use crate::inputs::Inputs;

/// A model file's place, size and date, for the key of a loader's result.
pub(super) fn file_state(environment: &Environment, kind: ModelKind, name: &str) -> String {
    let Ok(path) = environment.session.folders.resolve(kind, name) else { return String::new() };
    path_state(&path)
}

/// The place, size and date of a file that an input names, for the key of a loader's result.
pub(super) fn input_state(environment: &Environment, inputs: &Inputs, input: &str) -> String {
    let name = inputs.text(input).unwrap_or_default();
    input_file::find(environment, name).map_or_else(|_| String::new(), |path| path_state(&path))
}

/// Whether there is the file that an input names, unless it is linked.
pub(super) fn input_is_there(
    environment: &Environment,
    inputs: &Inputs,
    input: &str,
) -> Result<(), String> {
    let Ok(name) = inputs.text(input) else { return Ok(()) };
    input_file::find(environment, name).map(drop).map_err(|error| format!("{input}: {error}"))
}

/// A file's place, size and date.
pub(super) fn path_state(path: &Path) -> String {
    let data = std::fs::metadata(path).ok();
    let state = data.map(|data| (data.len(), data.modified().ok()));
    format!("{} {state:?}", path.display())
}
