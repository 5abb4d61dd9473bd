//! Walking one root, and telling later whether the walk would still give the same.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Entry, FolderWarning, ModelKind};

/// A folder changed so shortly before a scan may have changed again after it without its time
/// stamp telling: file systems round time stamps, FAT to two seconds.
const SETTLING_TIME: Duration = Duration::from_secs(3);

/// The model files of one root, as they were found.
#[derive(Debug)]
pub(super) struct Scan {
    /// Name below the root and path of each model file.
    files: Vec<(String, PathBuf)>,
    pub(super) warnings: Vec<FolderWarning>,
    /// Every folder that was looked at; a change in one makes the scan outdated.
    folders: Vec<(PathBuf, Stamp)>,
    /// Links that led nowhere: their targets may come back with no folder of the root changing.
    broken_links: Vec<PathBuf>,
    /// Whether the time stamps can be relied on.
    settled: bool,
}

/// A folder that waits to be visited.
struct Pending {
    name: String,
    path: PathBuf,
    /// Its path with all links resolved, which says whether it was visited before.
    real: PathBuf,
}

impl Scan {
    /// Walks `root`, which should be a folder. Real folders come before linked ones, so that a
    /// folder reachable both ways goes by its real name. The walk keeps its own list of folders
    /// to visit, so a deep tree costs memory, not stack.
    pub(super) fn of(root: &Path, now: SystemTime) -> Self {
        let mut walk = Walk::default();
        match fs::canonicalize(root) {
            Ok(real) => {
                walk.folders.push(Pending { name: String::new(), path: root.to_owned(), real });
            }
            Err(error) => walk.unreadable(root, &error),
        }
        while let Some(folder) = walk.next() {
            walk.visit(folder);
        }
        let mut scan = walk.scan;
        let latest = now.checked_sub(SETTLING_TIME);
        scan.settled = !walk.incomplete
            && scan.folders.iter().all(|(_, stamp)| latest.is_some_and(|l| stamp.latest() < l));
        scan
    }

    /// Whether a new scan would find the same files under the same names.
    pub(super) fn is_current(&self) -> bool {
        self.settled
            && self.folders.iter().all(|(path, stamp)| Stamp::of(path).is_ok_and(|s| s == *stamp))
            && !self.broken_links.iter().any(|link| link.exists())
    }

    /// The files with their present sizes; `None` if one of them is gone, as happens when the
    /// target of a link is removed.
    pub(super) fn entries(&self, root: &Path) -> Option<Vec<Entry>> {
        self.files.iter().map(|(name, path)| entry(root, name, path)).collect()
    }

    /// The files that are still there, with their present sizes.
    pub(super) fn entries_that_exist(&self, root: &Path) -> Vec<Entry> {
        self.files.iter().filter_map(|(name, path)| entry(root, name, path)).collect()
    }
}

fn entry(root: &Path, name: &str, path: &Path) -> Option<Entry> {
    let metadata = fs::metadata(path).ok().filter(Metadata::is_file)?;
    let (name, path, root) = (name.to_owned(), path.to_owned(), root.to_owned());
    Some(Entry { name, path, bytes: metadata.len(), root })
}

struct Walk {
    scan: Scan,
    folders: Vec<Pending>,
    /// Links to folders, by name so that the walk's outcome does not depend on the order in which
    /// the system lists them.
    linked: BTreeMap<String, Pending>,
    visited: HashSet<PathBuf>,
    incomplete: bool,
}

impl Default for Walk {
    fn default() -> Self {
        let scan = Scan {
            files: Vec::new(),
            warnings: Vec::new(),
            folders: Vec::new(),
            broken_links: Vec::new(),
            settled: false,
        };
        Self {
            scan,
            folders: Vec::new(),
            linked: BTreeMap::new(),
            visited: HashSet::new(),
            incomplete: false,
        }
    }
}

impl Walk {
    fn next(&mut self) -> Option<Pending> {
        self.folders.pop().or_else(|| self.linked.pop_first().map(|(_, folder)| folder))
    }

    fn visit(&mut self, folder: Pending) {
        // Before reading, so that a change during it is noticed later. A folder visited before is
        // watched under this name too: the name may come to mean another folder.
        match Stamp::of(&folder.path) {
            Ok(stamp) => self.scan.folders.push((folder.path.clone(), stamp)),
            Err(error) => return self.unreadable(&folder.path, &error),
        }
        if !self.visited.insert(folder.real.clone()) {
            return;
        }
        let items = match fs::read_dir(&folder.path) {
            Ok(items) => items,
            Err(error) => return self.unreadable(&folder.path, &error),
        };
        for item in items {
            let found = item.and_then(|item| {
                let kind = item.file_type()?;
                Ok((item, kind))
            });
            match found {
                Ok((item, kind)) if kind.is_symlink() => self.link(&folder, &item),
                Ok((item, kind)) if kind.is_dir() => {
                    let real = folder.real.join(item.file_name());
                    self.folder(&folder, &item, real, false);
                }
                Ok((item, kind)) if kind.is_file() => self.file(&folder, &item),
                // A pipe or device is no model.
                Ok(_) => {}
                Err(error) => self.unreadable(&folder.path, &error),
            }
        }
    }

    fn link(&mut self, parent: &Pending, item: &DirEntry) {
        let path = item.path();
        match fs::metadata(&path) {
            Ok(target) if target.is_dir() => match fs::canonicalize(&path) {
                Ok(real) => self.folder(parent, item, real, true),
                Err(error) => self.unreadable(&path, &error),
            },
            Ok(target) if target.is_file() => self.file(parent, item),
            Ok(_) => {}
            Err(_) => {
                self.scan.warnings.push(FolderWarning::BrokenLink { path: path.clone() });
                self.scan.broken_links.push(path);
            }
        }
    }

    fn folder(&mut self, parent: &Pending, item: &DirEntry, real: PathBuf, is_link: bool) {
        let path = item.path();
        if item.file_name() == ".git" {
            return;
        }
        let Some(name) = self.name_below(parent, item) else { return };
        let folder = Pending { name, path, real };
        if is_link {
            self.linked.insert(folder.name.clone(), folder);
        } else {
            self.folders.push(folder);
        }
    }

    fn file(&mut self, parent: &Pending, item: &DirEntry) {
        let path = item.path();
        let is_model = ModelKind::has_model_extension(&path) || ModelKind::is_model_index(&path);
        if is_model && let Some(name) = self.name_below(parent, item) {
            self.scan.files.push((name, path));
        }
    }

    /// The item's name below the root, or a warning if it can have none.
    fn name_below(&mut self, parent: &Pending, item: &DirEntry) -> Option<String> {
        let own = item.file_name();
        let reason = match own.to_str() {
            None => "its name is not UTF-8",
            Some(own) if own.contains('\\') => {
                "its name has a `\\` in it, which separates folders in model names"
            }
            Some(own) if parent.name.is_empty() => return Some(own.to_owned()),
            Some(own) => return Some(format!("{}/{own}", parent.name)),
        };
        self.scan.warnings.push(FolderWarning::UnusableName { path: item.path(), reason });
        None
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.incomplete = true;
        let (path, reason) = (path.to_owned(), error.to_string());
        self.scan.warnings.push(FolderWarning::Unreadable { path, reason });
    }
}

/// What changes when something is added to, removed from or renamed in a folder, or when its path
/// comes to mean another folder.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    /// Where the system has them: the time of the last change of any kind, which no program can
    /// set back as archivers do with the modification time; and which folder it is.
    #[cfg(unix)]
    changed: (i64, i64),
    #[cfg(unix)]
    folder: (u64, u64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;

        let metadata = fs::metadata(path)?;
        Ok(Self {
            modified: metadata.modified()?,
            #[cfg(unix)]
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            #[cfg(unix)]
            folder: (metadata.dev(), metadata.ino()),
        })
    }

    fn latest(&self) -> SystemTime {
        // Rounded up: the nanoseconds do not matter against the settling time.
        #[cfg(unix)]
        if let Ok(seconds) = u64::try_from(self.changed.0)
            && let Some(changed) =
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.saturating_add(1)))
        {
            return self.modified.max(changed);
        }
        self.modified
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scan as if it were made a minute from now, when every folder has long settled.
    fn settled(root: &Path) -> Scan {
        Scan::of(root, SystemTime::now() + Duration::from_secs(60))
    }

    #[test]
    fn a_settled_scan_stays_current_until_a_folder_changes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a.ckpt"), "1").unwrap();
        let scan = settled(dir.path());
        assert!(scan.is_current());

        fs::write(dir.path().join("sub/a.ckpt"), "12").unwrap();
        assert!(scan.is_current(), "a file that grows changes no folder");
        assert_eq!(scan.entries(dir.path()).unwrap()[0].bytes, 2);

        fs::write(dir.path().join("sub/b.ckpt"), "1").unwrap();
        assert!(!scan.is_current());
    }

    #[test]
    fn a_scan_of_a_folder_just_changed_is_not_relied_on() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.ckpt"), "1").unwrap();
        assert!(!Scan::of(dir.path(), SystemTime::now()).is_current());
    }

    #[test]
    fn a_time_stamp_that_was_set_back_deceives_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let before = fs::metadata(dir.path()).unwrap().modified().unwrap();
        let scan = settled(dir.path());
        // Long enough for the coarsest clock of a Linux file system to tick.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(dir.path().join("a.ckpt"), "1").unwrap();
        let folder = fs::File::open(dir.path()).unwrap();
        folder.set_modified(before).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().modified().unwrap(), before);
        assert!(!scan.is_current());
    }

    #[cfg(unix)]
    mod links {
        use std::os::unix::fs::symlink;

        use super::*;

        #[test]
        fn a_broken_link_that_comes_to_life_makes_the_scan_outdated() {
            let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let target = other.path().join("target.ckpt");
            symlink(&target, dir.path().join("link.ckpt")).unwrap();
            let scan = settled(dir.path());
            assert_eq!(scan.files, []);
            assert!(scan.is_current());
            fs::write(&target, "1").unwrap();
            assert!(!scan.is_current());
        }

        #[test]
        fn a_link_whose_target_goes_is_noticed() {
            let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let target = other.path().join("target.ckpt");
            fs::write(&target, "1").unwrap();
            symlink(&target, dir.path().join("link.ckpt")).unwrap();
            let scan = settled(dir.path());
            assert_eq!(scan.entries(dir.path()).unwrap().len(), 1);
            fs::remove_file(&target).unwrap();
            assert!(scan.entries(dir.path()).is_none());
            assert!(scan.entries_that_exist(dir.path()).is_empty());
        }

        #[test]
        fn a_chain_of_links_that_is_redirected_is_noticed() {
            let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (v1, v2) = (other.path().join("v1"), other.path().join("v2"));
            fs::create_dir(&v1).unwrap();
            fs::create_dir(&v2).unwrap();
            let current = other.path().join("current");
            symlink(&v1, &current).unwrap();
            symlink(&current, dir.path().join("a")).unwrap();
            symlink(&v1, dir.path().join("b")).unwrap();
            let scan = settled(dir.path());
            assert!(scan.is_current());
            fs::remove_file(&current).unwrap();
            symlink(&v2, &current).unwrap();
            assert!(!scan.is_current());
        }
    }
}
