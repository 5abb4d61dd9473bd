//! Files that are written whole: in their folder under another name first, then renamed, so that a
//! file of the final name is whole or is not there, whatever ends the program.
//!
//! Until it is renamed a file is called `.distorch-…`, and its writer holds a lock on it. A program
//! that was killed leaves such files without a lock; whoever writes next in the folder removes them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use thiserror::Error;

/// What the names of unfinished files begin with.
const PREFIX: &str = ".distorch-";

/// Why no file can be made in a folder.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A part of the path is something else.
    #[error("`{}` is not a folder{}: name another folder", path.display(), beyond(path, folder))]
    NotAFolder {
        /// The part.
        path: PathBuf,
        /// The whole path.
        folder: PathBuf,
    },
    /// A part of the path is a link whose target is missing.
    #[error(
        "`{}` is a link to `{}`, which is missing: make that folder, or name another",
        path.display(), target.display()
    )]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// What it points to.
        target: PathBuf,
    },
    /// The system refuses.
    #[error("no file can be made in `{}`: {error}", path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What the rest of a path would be, in words.
fn beyond(path: &Path, folder: &Path) -> String {
    match path == folder {
        true => String::new(),
        false => format!(", and `{}` would be in it", folder.display()),
    }
}

/// Checks, without leaving anything behind, that a file of this name could be made in the folder or,
/// where the folder is missing, that it could be made with its file.
///
/// # Errors
/// When not, with the part of the path that is to blame.
pub fn check(folder: &Path, name: &str) -> Result<(), FolderError> {
    // With a slash at its end a path is that of a folder only.
    let folder: &Path = &folder.components().collect::<PathBuf>();
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |error| FolderError::Refused { path, error }
    };
    let mut missing = vec![name.as_ref()];
    for part in folder.ancestors() {
        let part = if part.as_os_str().is_empty() { Path::new(".") } else { part };
        match fs::symlink_metadata(part) {
            Ok(_) => {}
            Err(error) if part != Path::new(".") && is_missing(&error) => {
                missing.extend(part.file_name());
                continue;
            }
            Err(error) => return Err(refused(part)(error)),
        }
        match fs::metadata(part) {
            Ok(data) if data.is_dir() => {}
            Ok(_) => {
                return Err(FolderError::NotAFolder { path: part.into(), folder: folder.into() });
            }
            Err(error) if is_missing(&error) => {
                let target = fs::read_link(part).unwrap_or_default();
                return Err(FolderError::DanglingLink { path: part.into(), target });
            }
            Err(error) => return Err(refused(part)(error)),
        }
        // Names that are too long, say, are no names in this folder.
        for name in missing {
            match fs::symlink_metadata(part.join(name)) {
                Err(error) if !is_missing(&error) => return Err(refused(part)(error)),
                _ => {}
            }
        }
        return temporary(part).map(drop).map_err(refused(part));
    }
    Ok(())
}

/// Whether there is nothing of the name. A file in place of a folder on the way is seen later.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A file was not saved.
#[derive(Debug, Error)]
#[error("cannot save `{}`: {error}", path.display())]
pub struct SaveError {
    /// The file, or its folder.
    pub path: PathBuf,
    /// What went wrong.
    pub error: io::Error,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Unfinished {
    file: NamedTempFile,
    folder: PathBuf,
}

impl Unfinished {
    /// A file in this folder, which is made where it is missing.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        // What creating says of a file in place of a folder is that it "exists".
        fs::create_dir_all(folder).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
            _ => error,
        })?;
        remove_abandoned(folder);
        Ok(Self { file: temporary(folder)?, folder: folder.to_owned() })
    }

    /// Gives the file this name, in place of what has it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(self, name: &str) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(self.folder.join(name)).map_err(|error| error.error)?;
        sync_folder(&self.folder);
        Ok(())
    }

    /// Gives the file the first of these names that nothing has, and returns it.
    ///
    /// # Errors
    /// When it cannot be written; of the kind `AlreadyExists` when all names are taken.
    pub fn publish(self, names: impl IntoIterator<Item = String>) -> io::Result<String> {
        let Self { mut file, folder } = self;
        file.as_file().sync_all()?;
        for name in names {
            match file.persist_noclobber(folder.join(&name)) {
                Ok(_) => {
                    sync_folder(&folder);
                    return Ok(name);
                }
                Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => {
                    file = taken.file;
                }
                Err(error) => return Err(error.error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A locked file with a name that no other has. It is removed when dropped.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
    // Readable as the user's mask says, not only by its owner as is usual for temporary files.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    for _ in 0..16 {
        let file = builder.tempfile_in(folder)?;
        // Where locks are not supported, nobody removes files without one either.
        let _ = file.as_file().lock();
        // Between creation and lock another program may have taken it for an abandoned one.
        if file.path().symlink_metadata().is_ok() {
            return Ok(file);
        }
    }
    Err(io::Error::other("another program removes temporary files as they are made"))
}

/// Removes the unfinished files of programs that are no more: those that nobody holds a lock on.
/// Failures are no concern of whoever writes here now.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !is_unfinished(&entry.file_name()) || !entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            continue;
        }
        let Ok(file) = File::options().write(true).open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a name is one that [`temporary`] gives: six letters or digits after the prefix.
fn is_unfinished(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    random.is_some_and(|random| {
        random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Makes a new name last: without it a crash of the machine may lose the file that has it. Not every
/// file system can, and the file is there either way.
fn sync_folder(folder: &Path) {
    if cfg!(unix) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_file_takes_the_first_free_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "old").unwrap();
        let names = || ["a", "b"].map(str::to_owned);
        let write = |text: &str| {
            let mut file = Unfinished::in_folder(folder.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        assert_eq!(write("new").publish(names()).unwrap(), "b");
        let taken = write("third").publish(names()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        write("fourth").replace("a").unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("a"), read("b")), ("fourth".to_owned(), "new".to_owned()));
        assert_eq!(entries(folder.path()), 2);
    }

    #[test]
    fn what_a_killed_program_left_is_removed_and_what_is_being_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let other = Unfinished::in_folder(folder.path()).unwrap();
        fs::write(folder.path().join(".distorch-x1y2z3"), "half a picture").unwrap();
        fs::write(folder.path().join(".distorch-settings"), "the user's").unwrap();
        assert_eq!(entries(folder.path()), 3);
        let file = Unfinished::in_folder(folder.path()).unwrap();
        assert!(!folder.path().join(".distorch-x1y2z3").exists());
        file.publish(["a".to_owned()]).unwrap();
        other.publish(["b".to_owned()]).unwrap();
        assert_eq!(entries(folder.path()), 3);
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let names = || (0..).map(|n| format!("{n}"));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    Unfinished::in_folder(folder.path()).unwrap().publish(names()).unwrap()
                });
            }
        });
        let mut found: Vec<u32> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
            .collect();
        found.sort_unstable();
        assert_eq!(found, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        fs::write(path("file"), "x").unwrap();
        for good in ["", "new", "new/and/newer"] {
            check(&path(good), "x.png").unwrap();
        }
        check(Path::new(""), "x.png").unwrap();
        for (folder, part) in [("file", "file"), ("file/", "file"), ("file/a/b", "file")] {
            let error = check(&path(folder), "x.png").unwrap_err();
            assert!(
                matches!(&error, FolderError::NotAFolder { path: found, .. } if *found == path(part)),
                "{error}"
            );
            let made = Unfinished::in_folder(&path(folder)).unwrap_err();
            assert_ne!(made.kind(), io::ErrorKind::AlreadyExists);
        }
        let long = "x".repeat(300);
        for (folder, name) in [("", long.as_str()), (long.as_str(), "x.png")] {
            assert!(matches!(check(&path(folder), name), Err(FolderError::Refused { .. })));
        }
        assert_eq!(entries(base.path()), 1, "nothing is left behind");
    }

    #[cfg(unix)]
    #[test]
    fn a_dangling_link_and_a_device_are_no_folders() {
        let base = tempfile::tempdir().unwrap();
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path().join("gone"), &link).unwrap();
        for folder in [link.clone(), link.join("below")] {
            let error = check(&folder, "x.png").unwrap_err();
            assert!(error.to_string().contains("gone"), "{error}");
        }
        let error = check(Path::new("/dev/null/x"), "x.png").unwrap_err();
        assert!(error.to_string().starts_with("`/dev/null` is not a folder"), "{error}");
    }
}
