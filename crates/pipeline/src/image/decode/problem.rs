//! Why a file is not read as a picture.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A file is not read as a picture.
#[derive(Debug, Error)]
#[error("`{}`: {problem}", path.display())]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a picture.
#[derive(Debug, Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// It is no picture, or of a kind that is not read.
    #[error("this is no picture that can be read: PNG, JPEG, WebP, GIF, BMP and TIFF can")]
    Format,
    /// It is broken, or has something that is not supported.
    #[error("this {format} cannot be decoded: {reason}")]
    Broken {
        /// The format.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// It is too large.
    #[error(
        "{width}×{height} pixels{} are more than the {most} that are read: make the picture \
         smaller",
        in_frames(*frames)
    )]
    TooLarge {
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
        /// Frames so far.
        frames: u64,
        /// The most pixels of all frames together.
        most: u64,
    },
    /// The memory that it needs is not there.
    #[error(
        "{width}×{height} pixels need {} MiB of memory, which are not free: make the picture smaller",
        bytes.div_ceil(1 << 20)
    )]
    Memory {
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
        /// What was asked for.
        bytes: u64,
    },
    /// It has no frame.
    #[error("there is no picture in it")]
    Empty,
}

fn in_frames(frames: u64) -> String {
    match frames {
        0 | 1 => String::new(),
        several => format!(" in {several} frames"),
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Problem::Read(error)
    }
}

impl Problem {
    pub(super) fn broken(format: &'static str, reason: impl ToString) -> Self {
        Problem::Broken { format, reason: reason.to_string() }
    }
}
