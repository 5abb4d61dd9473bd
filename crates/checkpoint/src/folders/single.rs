//! Single files that are found by name though no model folder holds them.

use std::path::{Path, PathBuf};

use super::{Entry, FolderError, ModelFolders, ModelKind, absolute, name};

/// A file from anywhere, under the name that it was given among the models of its kind.
#[derive(Debug)]
pub(super) struct SingleFile {
    kind: ModelKind,
    name: String,
    path: PathBuf,
}

impl SingleFile {
    /// Its entry in a listing, while the file is there.
    pub(super) fn entry(&self, kind: ModelKind) -> Option<Entry> {
        let root = self.path.parent()?.to_owned();
        let bytes = self.path.metadata().ok().filter(|_| self.kind == kind)?.len();
        Some(Entry { name: self.name.clone(), path: self.path.clone(), bytes, root })
    }

    /// Its path, where this is its name.
    pub(super) fn path(&self, kind: ModelKind, relative: &Path) -> Option<PathBuf> {
        let same = self.kind == kind && Path::new(&self.name) == relative && self.path.is_file();
        same.then(|| self.path.clone())
    }
}

impl ModelFolders {
    /// Adds a file from anywhere to the models of `kind`, and returns the name that it has there.
    ///
    /// A file in one of the kind's folders keeps its name. Any other is called by the end of its
    /// path: its own name, with as many folders before it as tell it from files that were added
    /// earlier. It is found before a model of this name in a folder.
    ///
    /// # Errors
    /// A path that cannot be made absolute, or a name that cannot be a model's.
    pub fn add_file(&self, kind: ModelKind, path: &Path) -> Result<String, FolderError> {
        let path = absolute(path)?;
        let mut state = self.state()?;
        for root in state.roots(&self.base_dir, kind) {
            let below = path.strip_prefix(&root.path).ok().and_then(Path::to_str);
            let taken = |name: &str| state.single_files.iter().any(|f| f.is(kind, name));
            if let Some(below) = below.filter(|below| !taken(below)) {
                return Ok(below.replace('\\', "/"));
            }
        }
        let bad = |reason| FolderError::BadName { name: path.display().to_string(), reason };
        let mut ending = String::new();
        for component in path.components().rev() {
            let component =
                component.as_os_str().to_str().ok_or_else(|| bad("it is not Unicode"))?;
            ending = match ending.as_str() {
                "" => component.to_owned(),
                _ => format!("{component}/{ending}"),
            };
            let other = |file: &&SingleFile| file.is(kind, &ending);
            match state.single_files.iter().find(other) {
                Some(file) if file.path == path => return Ok(ending),
                Some(_) => {}
                None => break,
            }
        }
        name::relative_path(&ending).map_err(bad)?;
        state.single_files.push(SingleFile { kind, name: ending.clone(), path });
        Ok(ending)
    }
}

impl SingleFile {
    fn is(&self, kind: ModelKind, name: &str) -> bool {
        self.kind == kind && self.name == name
    }
}
