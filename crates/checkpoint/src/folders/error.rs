//! What can go wrong in finding models, and what is worth a word though nothing went wrong.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{ModelKind, RootOrigin};

/// Why a model, or the list of model folders, could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A path could not be made absolute.
    #[error("`{}` cannot be made an absolute path: {error}", path.display())]
    NotAbsolute {
        /// The path as given.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },

    /// An extra model paths file could not be read.
    #[error("cannot read the extra model paths file `{}`: {error}", path.display())]
    ReadExtraPaths {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },

    /// An extra model paths file is far larger than a list of folders can be.
    #[error(
        "`{}` has {bytes} bytes; an extra model paths file has at most {}: is it another file?",
        path.display(),
        super::MAX_EXTRA_PATHS_BYTES
    )]
    ExtraPathsTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },

    /// An extra model paths file is not YAML, or not of the form that is expected.
    #[error("{}{}: {message}", Place(path, *line), InSection(section.as_deref()))]
    ExtraPaths {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1; 0 if it is not known.
        line: u64,
        /// The top-level section that the mistake is in.
        section: Option<String>,
        /// What is wrong and what is expected.
        message: String,
    },

    /// A model name that cannot be the name of a file in a model folder.
    #[error("`{name}` is no name of a model: {reason}")]
    BadName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// No root has a file of this name.
    #[error(
        "there is no {} `{name}`{}{}{}",
        kind.singular(), DidYouMean(near), BrokenLink(broken_link.as_deref()), Searched(searched)
    )]
    NotFound {
        /// The kind looked for.
        kind: ModelKind,
        /// The name as given.
        name: String,
        /// Names in the listing that may have been meant, likeliest first.
        near: Vec<String>,
        /// The folders searched, in order.
        searched: Vec<PathBuf>,
        /// A link of this name whose target is missing.
        broken_link: Option<PathBuf>,
    },
}

/// Something that was left out or looks mistaken, though the rest could be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FolderWarning {
    /// A root does not exist, or is no longer there.
    #[error("the folder `{}` for {kind}{} does not exist and is skipped", path.display(), AskedFor(origin))]
    MissingRoot {
        /// The kind that was listed.
        kind: ModelKind,
        /// The folder.
        path: PathBuf,
        /// Who asked for it.
        origin: RootOrigin,
    },

    /// A folder, or something in it, could not be read.
    #[error("cannot read `{}`, which is skipped: {reason}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },

    /// A link whose target does not exist.
    #[error("the link `{}` leads nowhere and is not listed", path.display())]
    BrokenLink {
        /// The link.
        path: PathBuf,
    },

    /// A file or folder whose name cannot be part of a model name.
    #[error("`{}` is not listed: {reason}; rename it to use it", path.display())]
    UnusableName {
        /// The file or folder.
        path: PathBuf,
        /// Why its name will not do.
        reason: &'static str,
    },

    /// An extra model paths file names a kind of model that is not known.
    #[error(
        "{}, section `{section}`: `{name}` is no known kind of model and is skipped{}",
        Place(file, *line), MeantKind(*suggestion)
    )]
    UnknownKind {
        /// The YAML file.
        file: PathBuf,
        /// Line of the key.
        line: u64,
        /// The section it is in.
        section: String,
        /// The key.
        name: String,
        /// The kind that was probably meant.
        suggestion: Option<ModelKind>,
    },

    /// A path in an extra model paths file uses a variable that is not set.
    #[error(
        "{}, section `{section}`: the environment variable `{variable}` is not set; it stays in \
         the path as written",
        Place(file, *line)
    )]
    UnsetVariable {
        /// The YAML file.
        file: PathBuf,
        /// Line of the path.
        line: u64,
        /// The section it is in.
        section: String,
        /// Name of the variable.
        variable: String,
    },

    /// A key of an extra model paths file is written twice.
    #[error("{}: `{key}` is written twice; only the last one counts", Place(file, *line))]
    WrittenTwice {
        /// The YAML file.
        file: PathBuf,
        /// Line of the one that counts.
        line: u64,
        /// The section or key.
        key: String,
    },
}

/// `file, line 3`
struct Place<'a>(&'a Path, u64);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())?;
        if self.1 > 0 { write!(f, ", line {}", self.1) } else { Ok(()) }
    }
}

/// `, section name`
struct InSection<'a>(Option<&'a str>);

impl fmt::Display for InSection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |section| write!(f, ", section `{section}`"))
    }
}

/// ` (asked for by file, line 3, section …)` for folders that a file asked for.
struct AskedFor<'a>(&'a RootOrigin);

impl fmt::Display for AskedFor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RootOrigin::BuiltIn => Ok(()),
            RootOrigin::ExtraPaths { file, line, section } => {
                write!(f, " (asked for by {}, section `{section}`)", Place(file, *line))
            }
        }
    }
}

struct MeantKind(Option<ModelKind>);

impl fmt::Display for MeantKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |kind| write!(f, "; did you mean `{kind}`?"))
    }
}

struct DidYouMean<'a>(&'a [String]);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            write!(f, "{}`{name}`", if i == 0 { "; did you mean " } else { " or " })?;
        }
        f.write_str(if self.0.is_empty() { "" } else { "?" })
    }
}

struct BrokenLink<'a>(Option<&'a Path>);

impl fmt::Display for BrokenLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |link| write!(f, "; the link `{}` leads nowhere", link.display()))
    }
}

struct Searched<'a>(&'a [PathBuf]);

impl fmt::Display for Searched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, path) in self.0.iter().enumerate() {
            let missing = if path.is_dir() { "" } else { " (which does not exist)" };
            let before = if i == 0 { "\nsearched: " } else { ", " };
            write!(f, "{before}`{}`{missing}", path.display())?;
        }
        f.write_str(
            "\nput the file into one of these folders, or name its folder in an \
             extra_model_paths.yaml",
        )
    }
}
