//! Finding the model file that a user means: by its name in the model folders, or by a path.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use distorch_checkpoint::folders::{FolderError, ModelFolders, ModelKind, near_names};

use crate::error::CliError;

/// A model file and the name that nodes find it by.
pub struct ModelFile {
    /// Its name among the models of its kind.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// The file that `given` means, which nodes find afterwards under the name that comes with it.
///
/// What looks like a path (`./model.ckpt`, `/mnt/model.ckpt`) is one. Anything else is a name in the model
/// folders first, and a path where no model has that name.
pub fn find(folders: &ModelFolders, kind: ModelKind, given: &str) -> Result<ModelFile, CliError> {
    let path = path(folders, kind, given)?;
    let by_name = !is_path(given) && folders.resolve(kind, given).is_ok_and(|found| found == path);
    let name = match by_name {
        true => given.to_owned(),
        false => folders.add_file(kind, &path).map_err(CliError::usage)?,
    };
    Ok(ModelFile { name, path })
}

/// The path of the file that `given` means.
pub fn path(folders: &ModelFolders, kind: ModelKind, given: &str) -> Result<PathBuf, CliError> {
    let by_name = match is_path(given) {
        true => None,
        false => match folders.resolve(kind, given) {
            Ok(path) => return Ok(path),
            Err(error) => Some(error),
        },
    };
    let path = Path::new(given);
    match (fs::metadata(path), by_name) {
        (Ok(found), _) if found.is_file() => Ok(path.to_owned()),
        (Ok(found), _) if found.is_dir() => Err(a_folder(path)),
        (Ok(_), _) => Err(CliError::usage(format!("`{given}` is a device or a pipe, not a file"))),
        (Err(_), Some(error)) => Err(no_model(error)),
        (Err(error), None) => Err(no_file(path, &error)),
    }
}

/// Whether this can only be meant as a path: names in model folders are relative, and have no `.` or `..`
/// before them.
fn is_path(given: &str) -> bool {
    let dots = given.split(['/', '\\']).next().is_some_and(|first| first == "." || first == "..");
    let path = Path::new(given);
    path.is_absolute() || path.has_root() || (dots && given.len() > 2)
}

/// A name that no model has.
fn no_model(error: FolderError) -> CliError {
    match error {
        FolderError::NotFound { kind, name, near, searched, broken_link } => {
            let message = format!("there is no {} `{name}`{}", kind.singular(), or_near(&near));
            let searched: Vec<_> = searched.iter().map(|path| shown(path)).collect();
            let link = broken_link.map(|link| format!("the link {} leads nowhere", shown(&link)));
            CliError::usage(message).maybe_hint(link).hint(format!(
                "put the file into {}, name its folder in an extra_model_paths.yaml, or give its \
                 path",
                searched.join(" or ")
            ))
        }
        other => CliError::usage(other),
    }
}

/// A folder with its state.
fn shown(path: &Path) -> String {
    let missing = if path.is_dir() || path.is_symlink() { "" } else { " (which does not exist)" };
    format!("`{}`{missing}", path.display())
}

fn a_folder(path: &Path) -> CliError {
    let models = listed(path, ModelKind::has_model_extension);
    let failure = CliError::usage(format!("`{}` is a folder; name a model file", path.display()));
    let few = models.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match models.len() {
        0 => failure,
        1..=5 => failure.hint(format!("it holds {few}")),
        many => failure.hint(format!("it holds {few} and {} more", many - 5)),
    }
}

/// A path that leads nowhere: says how far it leads, and what is there.
fn no_file(path: &Path, error: &io::Error) -> CliError {
    let given = path.display();
    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return CliError::usage(format!("cannot open `{given}`: {error}"));
    }
    if path.is_symlink() {
        return CliError::usage(format!("the link `{given}` leads nowhere"));
    }
    let there = path.ancestors().skip(1).find(|folder| folder.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("."));
    let next = path.strip_prefix(there).ok().and_then(|rest| rest.components().next());
    let next = next.map(|next| next.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    let parent = path.parent().unwrap_or(Path::new("")); // of an absolute or a dotted path
    let near: Vec<String> = near_names(&next, listed(there, |_| true).iter().map(String::as_str))
        .into_iter()
        .map(|name| there.join(name).display().to_string())
        .collect();
    let message = format!("there is no file `{given}`");
    if !there.is_dir() {
        return CliError::usage(format!("{message}: `{}` is not a folder", there.display()));
    }
    if there == parent {
        return CliError::usage(format!("{message}{}", or_near(&near)));
    }
    let missing = there.join(next);
    let missing = format!("there is no folder `{}`{}", missing.display(), or_near(&near));
    CliError::usage(format!("{message}: {missing}"))
}

/// `; did you mean a or b?`
fn or_near(near: &[String]) -> String {
    match near.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ") {
        names if names.is_empty() => names,
        names => format!("; did you mean {names}?"),
    }
}

/// Names in a folder, sorted; a few of a folder that holds many.
fn listed(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    const MOST: usize = 10_000;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(MOST);
    let names = entries.map(|entry| entry.path()).filter(|path| wanted(path));
    let mut names: Vec<String> =
        names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names() {
        for path in ["/a/b.ckpt", "./b.ckpt", "../b.ckpt", "../../x"] {
            assert!(is_path(path), "{path}");
        }
        for name in ["b.ckpt", "sub/b.ckpt", "..b/c.ckpt", ".hidden.ckpt", "", "."] {
            assert!(!is_path(name), "{name}");
        }
    }
}
