//! Finding model files: which folders hold which kind of model, what is in them, and the path
//! behind a name.
//!
//! The rules are ComfyUI's, so that one installation serves both programs: the built-in folders
//! under `<base>/models` ([`ModelKind::folders`]), further ones from `extra_model_paths.yaml`
//! ([`parse_extra_paths`]), and names relative to these folders, `sub/model.safetensors`, always
//! with forward slashes. [`ModelFolders`] puts the three together.
//!
//! Nothing here opens a model file.

mod error;
mod expand;
mod extra_paths;
mod kind;
mod name;
mod scan;
mod single;
mod suggest;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use std::{fs, io};

pub use error::{FolderError, FolderWarning};
pub use extra_paths::{ExtraFolder, ExtraPaths, MAX_EXTRA_PATHS_BYTES, parse_extra_paths};
pub use kind::{ModelKind, UnknownKind};
pub use suggest::near_names;

use scan::Scan;
use single::SingleFile;

/// The file that [`ModelFolders::new`] reads in the base directory when it is there.
pub const EXTRA_PATHS_FILE: &str = "extra_model_paths.yaml";

/// Looks up an environment variable. Given as a function so that a caller decides what is seen.
pub type Environment = dyn Fn(&str) -> Option<OsString> + Send + Sync;

/// One folder that is searched for models of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Absolute path of the folder, without `.` and `..`. It need not exist.
    pub path: PathBuf,
    /// Who asked for it.
    pub origin: RootOrigin,
}

/// Where a [`Root`] comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootOrigin {
    /// One of the folders under `<base>/models`.
    BuiltIn,
    /// An entry of an extra model paths file.
    ExtraPaths {
        /// The YAML file.
        file: PathBuf,
        /// Line of the entry's value, from 1.
        line: u64,
        /// The top-level section that holds the entry.
        section: String,
    },
}

/// One model file of a [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Path below the root, with forward slashes: what [`ModelFolders::resolve`] takes.
    pub name: String,
    /// The file, as the root joined with the name; links are not resolved.
    pub path: PathBuf,
    /// Size of the file, of its target if it is a link. Read anew on each listing.
    pub bytes: u64,
    /// The root it was found in.
    pub root: PathBuf,
}

/// The model files of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by name in code-point order, each name once: of files with the same name in several
    /// roots the first root's is listed.
    pub entries: Vec<Entry>,
    /// What had to be left out: missing roots, unreadable folders, links that lead nowhere.
    pub warnings: Vec<FolderWarning>,
}

/// The folders that models are found in.
///
/// It may be shared between threads. Files added, removed or replaced are seen by the next call,
/// and so are changes of the extra model paths files. A listing walks a root again only when one
/// of the folders in it has changed; otherwise it costs one `stat` for each folder and file.
pub struct ModelFolders {
    base_dir: PathBuf,
    environment: Box<Environment>,
    state: Mutex<State>,
}

impl ModelFolders {
    /// The folders of `base_dir` (the directory that holds `models/`), of its
    /// `extra_model_paths.yaml` when there is one, and of the files `extra_yaml`.
    ///
    /// # Errors
    /// A file of `extra_yaml` that does not exist, or a file that cannot be read or understood.
    pub fn new(base_dir: &Path, extra_yaml: &[PathBuf]) -> Result<Self, FolderError> {
        Self::with_environment(base_dir, extra_yaml, Box::new(process_environment))
    }

    /// As [`ModelFolders::new`], with the environment that `~` and `$VARIABLE` in the YAML files
    /// are looked up in.
    ///
    /// # Errors
    /// As for [`ModelFolders::new`].
    pub fn with_environment(
        base_dir: &Path,
        extra_yaml: &[PathBuf],
        environment: Box<Environment>,
    ) -> Result<Self, FolderError> {
        let base_dir = absolute(base_dir)?;
        let mut yaml_files = vec![YamlFile::optional(base_dir.join(EXTRA_PATHS_FILE))];
        for path in extra_yaml {
            let path = absolute(path)?;
            match yaml_files.iter_mut().find(|file| file.path == path) {
                Some(file) => file.required = true,
                None => yaml_files.push(YamlFile::required(path)),
            }
        }
        let state = Mutex::new(State { yaml_files, ..State::default() });
        let folders = Self { base_dir, environment, state };
        // Reads the YAML files, so that a mistake in them is told here.
        drop(folders.state()?);
        Ok(folders)
    }

    /// The directory whose `models/` is searched, absolute.
    pub fn base_dir(&self) -> &Path {
        &self.base_dir
    }

    /// The folders searched for `kind`, in search order: those of `is_default` sections in
    /// written order, the built-in ones, then all others in written order; each folder once.
    ///
    /// # Errors
    /// An extra model paths file that has become unreadable or wrong.
    pub fn roots(&self, kind: ModelKind) -> Result<Vec<Root>, FolderError> {
        Ok(self.state()?.roots(&self.base_dir, kind))
    }

    /// What is odd, though not wrong, in the extra model paths files: kinds that are not known,
    /// variables that are not set, keys written twice.
    ///
    /// # Errors
    /// An extra model paths file that has become unreadable or wrong.
    pub fn config_warnings(&self) -> Result<Vec<FolderWarning>, FolderError> {
        let state = self.state()?;
        Ok(state.extra_paths().flat_map(|extra| extra.warnings.iter().cloned()).collect())
    }

    /// The model files of `kind` in all its roots, links followed.
    ///
    /// A file is listed when its extension is one of [`ModelKind::EXTENSIONS`]. Folders named
    /// `.git` are skipped. Each real folder of a root is visited once, so a link that leads back
    /// up, or to a folder listed already, adds no second name.
    ///
    /// # Errors
    /// An extra model paths file that has become unreadable or wrong. A root that is missing or
    /// unreadable is a warning of the listing, not an error.
    pub fn list(&self, kind: ModelKind) -> Result<Listing, FolderError> {
        let mut state = self.state()?;
        let roots = state.roots(&self.base_dir, kind);
        let mut warnings = Vec::new();
        let mut entries = BTreeMap::new();
        for entry in state.single_files.iter().filter_map(|file| file.entry(kind)) {
            entries.insert(entry.name.clone(), entry);
        }
        for root in roots {
            let found = state.list_root(kind, &root, &mut warnings).into_iter();
            for entry in found.filter(|entry| kind.lists(&entry.path)) {
                entries.entry(entry.name.clone()).or_insert(entry);
            }
        }
        Ok(Listing { entries: entries.into_values().collect(), warnings })
    }

    /// The file called `name` in the first root of `kind` that has it.
    ///
    /// `name` is a path below a root; `/` and `\` both separate, so that workflows saved on
    /// Windows work elsewhere. Links inside a root are followed wherever they lead; the name
    /// itself cannot leave its root.
    ///
    /// # Errors
    /// [`FolderError::BadName`] for a name that is empty, absolute or has a `..` in it;
    /// [`FolderError::NotFound`], with near names and the folders searched, when no root has such
    /// a file; or an extra model paths file that has become unreadable or wrong.
    pub fn resolve(&self, kind: ModelKind, name: &str) -> Result<PathBuf, FolderError> {
        let relative = name::relative_path(name)
            .map_err(|reason| FolderError::BadName { name: name.to_owned(), reason })?;
        let added = |file: &SingleFile| file.path(kind, &relative);
        if let Some(path) = self.state()?.single_files.iter().find_map(added) {
            return Ok(path);
        }
        let roots = self.roots(kind)?;
        let mut broken_link = None;
        for root in &roots {
            let path = root.path.join(&relative);
            if path.is_file() {
                return Ok(path);
            }
            if broken_link.is_none() && path.is_symlink() && !path.exists() {
                broken_link = Some(path);
            }
        }
        let listing = self.list(kind)?;
        let names = listing.entries.iter().map(|entry| entry.name.as_str());
        Err(FolderError::NotFound {
            kind,
            name: name.to_owned(),
            near: suggest::near_names(name, names),
            searched: roots.into_iter().map(|root| root.path).collect(),
            broken_link,
        })
    }

    /// The state, with the extra model paths files as they are on disk now.
    fn state(&self) -> Result<MutexGuard<'_, State>, FolderError> {
        // A panic elsewhere leaves at worst a scan that the next check finds outdated.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for file in &mut state.yaml_files {
            file.refresh(&*self.environment)?;
        }
        Ok(state)
    }
}

impl fmt::Debug for ModelFolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelFolders").field("base_dir", &self.base_dir).finish_non_exhaustive()
    }
}

/// The directory to look for `models/` in when the user names none: `working_dir` if it has a
/// `models` folder, else `comfyui_path` (the value of `$COMFYUI_PATH`) if set and not empty, else
/// `working_dir`.
pub fn default_base_dir(working_dir: &Path, comfyui_path: Option<&Path>) -> PathBuf {
    let comfyui_path = comfyui_path.filter(|path| !path.as_os_str().is_empty());
    match comfyui_path {
        Some(path) if !working_dir.join("models").is_dir() => path.to_owned(),
        _ => working_dir.to_owned(),
    }
}

#[derive(Default)]
struct State {
    yaml_files: Vec<YamlFile>,
    /// Files that no root holds, before those of roots.
    single_files: Vec<SingleFile>,
    scans: HashMap<PathBuf, Scan>,
    /// Roots that existed at some listing, so that the absence of a built-in one is news.
    seen: HashSet<PathBuf>,
}

impl State {
    fn extra_paths(&self) -> impl Iterator<Item = &ExtraPaths> {
        self.yaml_files.iter().filter_map(|file| file.loaded.as_ref()).map(|loaded| &loaded.parsed)
    }

    fn roots(&self, base_dir: &Path, kind: ModelKind) -> Vec<Root> {
        let extra = |is_default: bool| {
            self.yaml_files.iter().filter_map(|file| Some((file, file.loaded.as_ref()?))).flat_map(
                move |(file, loaded)| {
                    let folders = loaded.parsed.folders.iter();
                    folders
                        .filter(move |f| f.kind == kind && f.is_default == is_default)
                        .map(|folder| folder.to_root(&file.path))
                },
            )
        };
        let models = base_dir.join("models");
        let built_in = kind
            .folders()
            .iter()
            .map(|folder| Root { path: models.join(folder), origin: RootOrigin::BuiltIn });

        let mut known = HashSet::new();
        let mut roots: Vec<Root> = extra(true).chain(built_in).chain(extra(false)).collect();
        roots.retain(|root| known.insert(root.path.clone()));
        roots
    }

    /// The entries of one root, from its last scan if nothing has changed since.
    fn list_root(
        &mut self,
        kind: ModelKind,
        root: &Root,
        warnings: &mut Vec<FolderWarning>,
    ) -> Vec<Entry> {
        if !root.path.is_dir() {
            self.scans.remove(&root.path);
            let was_there = self.seen.contains(&root.path);
            if was_there || root.origin != RootOrigin::BuiltIn {
                let (path, origin) = (root.path.clone(), root.origin.clone());
                warnings.push(FolderWarning::MissingRoot { kind, path, origin });
            }
            return Vec::new();
        }
        self.seen.insert(root.path.clone());

        let cached = self.scans.get(&root.path).filter(|scan| scan.is_current());
        if let Some(scan) = cached
            && let Some(entries) = scan.entries(&root.path)
        {
            warnings.extend(scan.warnings.iter().cloned());
            return entries;
        }
        let scan = Scan::of(&root.path, SystemTime::now());
        // A file that went away since the scan, a moment ago, is simply not listed.
        let entries = scan.entries_that_exist(&root.path);
        warnings.extend(scan.warnings.iter().cloned());
        self.scans.insert(root.path.clone(), scan);
        entries
    }
}

/// An extra model paths file and what it said when it was last read.
struct YamlFile {
    path: PathBuf,
    required: bool,
    loaded: Option<LoadedYaml>,
}

struct LoadedYaml {
    text: String,
    parsed: ExtraPaths,
}

impl YamlFile {
    fn optional(path: PathBuf) -> Self {
        Self { path, required: false, loaded: None }
    }

    fn required(path: PathBuf) -> Self {
        Self { path, required: true, loaded: None }
    }

    /// Reads the file, and parses it if its text has changed. These files are a few hundred
    /// bytes, so comparing the text is as cheap as any time stamp, and never wrong.
    fn refresh(&mut self, environment: &Environment) -> Result<(), FolderError> {
        let text = match read_yaml(&self.path) {
            Ok(text) => text,
            Err(FolderError::ReadExtraPaths { error, .. })
                if error.kind() == io::ErrorKind::NotFound && !self.required =>
            {
                self.loaded = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if self.loaded.as_ref().is_none_or(|loaded| loaded.text != text) {
            let parsed = parse_extra_paths(&text, &self.path, environment)?;
            self.loaded = Some(LoadedYaml { text, parsed });
        }
        Ok(())
    }
}

fn read_yaml(path: &Path) -> Result<String, FolderError> {
    let failed = |error| FolderError::ReadExtraPaths { path: path.to_owned(), error };
    let metadata = fs::metadata(path).map_err(failed)?;
    // A pipe would be waited for, and a device may have no end.
    if !metadata.is_file() && !metadata.is_dir() {
        let problem = "this is a device or a pipe, and no file";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, problem)));
    }
    let bytes = metadata.len();
    if bytes > MAX_EXTRA_PATHS_BYTES {
        return Err(FolderError::ExtraPathsTooLarge { path: path.to_owned(), bytes });
    }
    fs::read_to_string(path).map_err(failed)
}

fn absolute(path: &Path) -> Result<PathBuf, FolderError> {
    std::path::absolute(path)
        .map(|path| expand::normalize(&path))
        .map_err(|error| FolderError::NotAbsolute { path: path.to_owned(), error })
}

/// The environment of this process; a home directory is known even where `HOME` is not set.
fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
        .or_else(|| (name == "HOME").then(std::env::home_dir).flatten().map(Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_directory_comes_first_when_it_has_models() {
        let dir = tempfile::tempdir().unwrap();
        let comfyui = Path::new("/opt/comfyui");
        assert_eq!(default_base_dir(dir.path(), None), dir.path());
        assert_eq!(default_base_dir(dir.path(), Some(Path::new(""))), dir.path());
        assert_eq!(default_base_dir(dir.path(), Some(comfyui)), comfyui);

        fs::create_dir(dir.path().join("models")).unwrap();
        assert_eq!(default_base_dir(dir.path(), Some(comfyui)), dir.path());
    }

    #[test]
    fn model_folders_may_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<ModelFolders>();
    }
}
