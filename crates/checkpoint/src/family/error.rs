//! Why a file could not be recognised or split.

use thiserror::Error;

use crate::dtype::Dtype;
use crate::file::Unread;

/// Why a file could not be recognised or split.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FamilyError {
    /// The file is something else that is well known.
    #[error("this is {what}, not a checkpoint that distorch loads: {way_out}")]
    Foreign {
        /// What the file is, with its article.
        what: String,
        /// What to do instead.
        way_out: String,
    },

    /// A family or a variant that is recognised and not supported.
    #[error("recognised {what}, which distorch does not run: {reason}")]
    Unsupported {
        /// What was recognised.
        what: String,
        /// What it needs that is missing here.
        reason: String,
    },

    /// A tensor that the configuration is read off is not there.
    #[error(
        "`{key}` is missing, and the model's configuration is read off its shape: the file is incomplete, or of a layout that distorch does not know"
    )]
    NoConfig {
        /// The full key.
        key: String,
    },

    /// A tensor that the configuration is read off has a shape that says nothing.
    #[error("`{key}` has the shape {shape:?}, which no known model has")]
    OddShape {
        /// The full key.
        key: String,
        /// The shape in the file.
        shape: Vec<usize>,
    },

    /// Tensors of a recognised part are not in the file.
    #[error("the {part} is incomplete: {total} of its tensors are missing, {}; download the file again or take one that holds the whole model", listed(.keys, *.total))]
    Missing {
        /// The part, such as "SDXL base diffusion model".
        part: String,
        /// The first missing keys.
        keys: Vec<String>,
        /// How many are missing in all.
        total: usize,
    },

    /// A tensor has another shape than the rest of the model asks for.
    #[error(
        "`{key}` of the {part} has the shape {found:?} where the rest of the model asks for {expected:?}"
    )]
    Shape {
        /// The part, such as "VAE".
        part: String,
        /// The full key.
        key: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },

    /// A weight is stored in a dtype that weights are never stored in.
    #[error(
        "`{key}` of the {part} is stored as {dtype}: weights must be floating-point (this may be a quantised model; take its F16, BF16 or FP8 version)"
    )]
    Quantised {
        /// The part, such as "VAE".
        part: String,
        /// The full key.
        key: String,
        /// The stored dtype.
        dtype: Dtype,
    },

    /// A tensor that is needed is stored in a dtype that is not read.
    #[error(
        "`{key}` of the {part} is stored as {dtype}, which is not read{quantisation}: take the model's F16, BF16 or FP8 version"
    )]
    NotRead {
        /// The part, such as "VAE".
        part: String,
        /// The full key.
        key: String,
        /// The dtype as the file names it.
        dtype: String,
        /// What the dtype is a sign of, in brackets; empty where nothing is known.
        quantisation: String,
    },

    /// Nothing in the file is known.
    #[error("none of the file's {tensors} tensors belongs to a diffusion model, text encoder or VAE that distorch knows; most of its keys start with {}", prefixes_listed(.prefixes))]
    Unknown {
        /// Number of tensors in the file.
        tensors: usize,
        /// The most frequent beginnings of keys with their counts.
        prefixes: Vec<(String, usize)>,
    },
}

impl FamilyError {
    /// A tensor that is needed and not read.
    pub(super) fn unread(part: &str, key: &str, unread: &Unread) -> Self {
        let quantisation = unread.quantisation;
        FamilyError::NotRead {
            part: part.to_owned(),
            key: key.to_owned(),
            dtype: unread.dtype.clone(),
            quantisation: quantisation.map_or_else(String::new, |kind| format!(" ({kind})")),
        }
    }
}

fn listed(keys: &[String], total: usize) -> String {
    let mut text = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    if total > keys.len() {
        text.push_str(", …");
    }
    text
}

fn prefixes_listed(prefixes: &[(String, usize)]) -> String {
    if prefixes.is_empty() {
        return "nothing: it is empty".to_owned();
    }
    prefixes.iter().map(|(prefix, n)| format!("`{prefix}` ({n})")).collect::<Vec<_>>().join(", ")
}
