//! Names of files that clients send, which stay in their folders.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a name is not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// There is none.
    #[error("the name is empty")]
    Empty,
    /// It leads somewhere else, or would on another system.
    #[error("the name leads out of its folder: a name, with folders below it at most")]
    Outside,
    /// It has a character that no name should have.
    #[error("the name has a character that names of files do not have")]
    Character,
    /// It is longer than file systems take.
    #[error("the name is too long")]
    TooLong,
}

/// Bytes of one part of a path that file systems take.
const LONGEST_PART: usize = 255;

/// Names that are devices on Windows, with any ending.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// The path below a folder that a client's name means: parts between slashes of either kind, none of which leads up,
/// out, or to a device. What is harmless here but is not on another system is refused too, so that a folder can move.
///
/// # Errors
/// When the name is empty, leads out, or has characters that names do not have.
pub fn relative(name: &str) -> Result<PathBuf, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.starts_with(['/', '\\', '~']) {
        return Err(NameError::Outside);
    }
    let mut path = PathBuf::new();
    for part in name.split(['/', '\\']) {
        match part {
            "" | "." => continue,
            ".." => return Err(NameError::Outside),
            _ => path.push(checked(part)?),
        }
    }
    match path.as_os_str().is_empty() {
        true => Err(NameError::Empty),
        false => Ok(path),
    }
}

/// As [`relative`], where nothing stands for the folder itself.
///
/// # Errors
/// As [`relative`].
pub fn folder(name: &str) -> Result<PathBuf, NameError> {
    match name.split(['/', '\\']).all(|part| matches!(part, "" | "."))
        && !name.starts_with(['/', '\\'])
    {
        true => Ok(PathBuf::new()),
        false => relative(name),
    }
}

fn checked(part: &str) -> Result<&str, NameError> {
    if part.len() > LONGEST_PART {
        return Err(NameError::TooLong);
    }
    // A colon is a drive or a stream on Windows; control characters are in no name that people write.
    if part.chars().any(|c| c.is_control() || ":*?\"<>|".contains(c)) {
        return Err(NameError::Character);
    }
    // Windows drops dots and spaces at the end: `.. ` would lead up.
    if part.ends_with(['.', ' ']) {
        return Err(NameError::Outside);
    }
    let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let port = |kind: &str| {
        stem.strip_prefix(kind).is_some_and(|rest| rest.chars().count() == 1 && rest != "0")
    };
    match DEVICES.contains(&stem.as_str()) || port("com") || port("lpt") {
        true => Err(NameError::Outside),
        false => Ok(part),
    }
}

/// Whether a path that exists lies in a folder, links followed.
pub fn is_inside(folder: &Path, path: &Path) -> bool {
    match (folder.canonicalize(), path.canonicalize()) {
        (Ok(folder), Ok(path)) => path.starts_with(folder),
        _ => false,
    }
}

/// Whether a path that need not exist would lie in a folder: the part of it that is there does, links followed.
pub fn would_be_inside(folder: &Path, path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    match there {
        Some(there) if folder.starts_with(there) => true,
        Some(there) => is_inside(folder, there),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in [
            "..",
            "../a",
            "a/../../b",
            "a\\..\\b",
            "/etc/passwd",
            "\\\\server\\share",
            "\\a",
            "~/a",
            "C:\\a",
            "C:a",
            "c:/a",
            "a.png:stream",
            "a/.. /b",
            "a/...",
            "nul",
            "NUL.png",
            "a/con.txt",
            "COM1",
            "lpt9.png",
            "a\0b",
            "a\nb",
            "",
            "/",
            ".",
            "./",
        ] {
            assert!(relative(name).is_err(), "{name:?}");
        }
        assert!(relative(&"a".repeat(300)).is_err());
    }

    #[test]
    fn names_below_the_folder_are_paths() {
        for (name, path) in [
            ("a.png", "a.png"),
            ("./a/b.png", "a/b.png"),
            ("a\\b c.png", "a/b c.png"),
            ("a//b", "a/b"),
            ("..a", "..a"),
            ("ä/ü (1).png", "ä/ü (1).png"),
            ("com.png", "com.png"),
            ("console", "console"),
        ] {
            assert_eq!(relative(name), Ok(PathBuf::from(path)), "{name}");
        }
        assert_eq!(folder(""), Ok(PathBuf::new()));
        assert_eq!(folder("."), Ok(PathBuf::new()));
        assert_eq!(folder("a/b/"), Ok(PathBuf::from("a/b")));
        assert!(folder("/").is_err() && folder("..").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_out_are_seen() {
        let base = tempfile::tempdir().unwrap();
        let inside = base.path().join("inside");
        std::fs::create_dir_all(inside.join("below")).unwrap();
        std::fs::write(base.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(base.path(), inside.join("out")).unwrap();
        std::os::unix::fs::symlink(base.path().join("new"), inside.join("dangling")).unwrap();
        assert!(is_inside(&inside, &inside.join("below")));
        assert!(!is_inside(&inside, &inside.join("out/secret")));
        assert!(would_be_inside(&inside, &inside.join("below/new/file")));
        assert!(!would_be_inside(&inside, &inside.join("out/file")));
        assert!(!would_be_inside(&inside, &inside.join("dangling")));
        // A folder that is not there yet.
        assert!(would_be_inside(&base.path().join("later"), &base.path().join("later/file")));
    }
}
