//! Opening files that have an end.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Opens a file to be read, which must be one with an end: opening a pipe waits for whoever writes to
/// it, and a device may never end.
///
/// # Errors
/// When it cannot be opened, or is something else; of the kind `InvalidInput` then.
pub fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path)? {
        data if data.is_file() => File::open(path),
        data if data.is_dir() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "this is a folder"))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "this is a device or a pipe, and no file: save it as one first",
        )),
    }
}
