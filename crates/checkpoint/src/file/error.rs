//! What can be wrong with a model file, said so that its owner knows what to do.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::io;
use std::path::PathBuf;

/// A file that could not be opened or read: which one, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct OpenError {
    /// The file; the name that was given for bytes in memory.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a file, without its path.
///
/// Names from the file (keys, globals) are in here as they are; the messages show them shortened
/// and with control characters escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The operating system's answer.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// A path to something else than a file.
    #[error("is {0}, not a file: name a .safetensors, .ckpt, .pt, .pth or .bin file")]
    NotAFile(&'static str),
    /// A file that is not a checkpoint, though it may be named like one.
    #[error("is not a checkpoint but {looks_like}: {way_out}")]
    NotACheckpoint {
        /// What the first bytes say it is.
        looks_like: Cow<'static, str>,
        /// What to do about it.
        way_out: &'static str,
    },
    /// The file ends before what its own header announces.
    #[error(
        "is cut short: it has {actual} bytes of {expected}, {} short: download or copy it again",
        Size(expected.saturating_sub(*actual))
    )]
    CutShort {
        /// Bytes that the file should have at least.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// A safetensors header that breaks the format's rules.
    #[error(
        "has a bad safetensors header: {0}; the file is damaged or was written by a broken tool: \
         download it again or save it anew"
    )]
    Header(String),
    /// A tensor whose description cannot be true.
    #[error(
        "tensor {}: {reason}; the file is damaged or was written by a broken tool: download it \
         again or save it anew",
        Quoted(key)
    )]
    Tensor {
        /// The tensor's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file whose tensors are all of dtypes that this project does not carry.
    #[error(
        "tensor {} is stored as {}, which is not carried (carried: F64 F32 F16 BF16 F8_E4M3 F8_E5M2 \
         I64 I32 I16 I8 U8 BOOL), and there is no other: convert it and save the file anew",
        Quoted(key),
        Shortened(dtype)
    )]
    DtypeNotCarried {
        /// The tensor's key, or where in the pickle it is built.
        key: String,
        /// The dtype as the file names it, or the kind of tensor.
        dtype: String,
    },
    /// A zip archive that is damaged or is no PyTorch checkpoint.
    #[error("has a bad zip archive: {0}; download it again or save it anew with torch.save")]
    Zip(String),
    /// A pickle that breaks its format's rules or goes past a bound.
    #[error(
        "has a bad pickle, at byte {offset}: {reason}; the file is damaged or was not written by \
         torch.save: save its state_dict anew, best as .safetensors"
    )]
    Pickle {
        /// Where in the pickle.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A pickle that wants a function or class that tensors don't need. Nothing was run.
    #[error(
        "refuses `{}` (at byte {offset} of the pickle): only what tensors need is read, and \
         nothing in a checkpoint is ever run; if you trust the file, save its state_dict as \
         .safetensors where it was made",
        Shortened(global)
    )]
    RefusedGlobal {
        /// Module and name, such as `os.system`.
        global: String,
        /// Where in the pickle.
        offset: u64,
    },
    /// A readable file without any tensor.
    #[error("has no tensors: it is not a checkpoint, or they are where no loader looks for them")]
    NoTensors,
    /// A file that is not what it was when it was opened.
    #[error("was changed on disk after it was opened: let it be, and load it again")]
    Changed,
    /// A key that the file does not have.
    #[error("has no tensor {}: list its keys with `distorch inspect --layers`", Quoted(.0))]
    NoSuchTensor(String),
    /// The data of a tensor of a checkpoint without data.
    #[error(
        "tensor {}: this checkpoint was made of keys and shapes alone and has no data: open a \
         file instead",
        Quoted(.0)
    )]
    NoData(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Problem {
    /// A [`Problem::Tensor`].
    pub(crate) fn tensor(key: &str, reason: impl Into<String>) -> Problem {
        Problem::Tensor { key: key.to_owned(), reason: reason.into() }
    }

    /// This problem as that of a file.
    pub(crate) fn at(self, path: impl Into<PathBuf>) -> OpenError {
        OpenError { path: path.into(), problem: self }
    }
}

/// Characters of a name from a file that a message shows.
const SHOWN: usize = 160;

/// A name from a file: control characters escaped, overlong ones cut.
pub(crate) struct Shortened<'a>(pub &'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        for c in chars.by_ref().take(SHOWN) {
            match c {
                // Quotes need no escape: names are shown between backquotes.
                '\'' | '"' => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        if chars.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}

/// A [`Shortened`] name between backquotes.
pub(crate) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", Shortened(self.0))
    }
}

/// A number of bytes for people: `12.3 MiB`.
pub(crate) struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS.get(unit).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_files_are_shown_safely() {
        assert_eq!(Quoted("a\x1b[31m\n").to_string(), "`a\\u{1b}[31m\\n`");
        assert_eq!(Quoted("it's").to_string(), "`it's`");
        let long = Quoted(&"x".repeat(1000)).to_string();
        assert_eq!(long.chars().count(), SHOWN + 3);
        assert!(long.ends_with("x…`"));
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!(Size(0).to_string(), "0 bytes");
        assert_eq!(Size(1023).to_string(), "1023 bytes");
        assert_eq!(Size(12_897_485).to_string(), "12.3 MiB");
        assert_eq!(Size(u64::MAX).to_string(), "16.0 EiB");
    }
}
