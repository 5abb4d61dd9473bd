//! Why a file cannot be used as a LoRA.

use std::fmt;

use crate::family::Model;
use crate::file::{OpenError, Quoted};

/// What is known of a LoRA that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    Nothing,
    /// The family that it seems to be made for.
    MadeFor(&'static str),
    /// It fits another component of the same model: text encoders, or the diffusion model.
    OtherComponent,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::Nothing => Ok(()),
            Hint::MadeFor(family) => write!(f, " (the LoRA seems to be made for {family})"),
            Hint::OtherComponent => f.write_str(
                " here (it changes another component of the model: LoraLoader takes the model and \
                 the text encoders)",
            ),
        }
    }
}

/// Why a file cannot be used as a LoRA.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// No key ends as those of a LoRA do.
    #[error(
        "this is no LoRA: none of its {tensors} keys ends in `.lora_up.weight`, `.lora_A.weight`, `.hada_w1_a`, `.lokr_w1`, `.diff` or the like; give a LoRA file"
    )]
    NotALora {
        /// Tensors in the file.
        tensors: usize,
    },

    /// A tensor of an adapter is there without its counterpart.
    #[error("{} needs {needed} beside it, which the file does not have: it is incomplete, download it again", Quoted(.key))]
    Incomplete {
        /// The key that is there.
        key: String,
        /// What is missing, in words.
        needed: &'static str,
    },

    /// Nothing of it changes what it is meant for.
    #[error(
        "none of its {keys} keys fits {models}{hint}; the first is {}: take a LoRA for this model",
        Quoted(.first)
    )]
    NothingFits {
        /// Tensors in the file.
        keys: usize,
        /// The first key of an adapter.
        first: String,
        /// What the models are.
        models: String,
        /// What the LoRA seems made for.
        hint: Hint,
    },

    /// A tensor does not fit the layer or the rest of its adapter.
    #[error("{} has the shape {found:?} where `{layer}` asks for {expected}: this LoRA was made for {made_for}", Quoted(.key))]
    Shape {
        /// The tensor's key.
        key: String,
        /// The layer's canonical name.
        layer: String,
        /// What would fit, in words.
        expected: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// What the LoRA seems to be made for, and what the model is.
        made_for: String,
    },

    /// A weight is stored in a dtype that weights are never stored in.
    #[error("{} is stored as {dtype}: an adapter's weights must be floating-point; take its F32, F16 or BF16 version", Quoted(.key))]
    Dtype {
        /// The tensor's key.
        key: String,
        /// The stored dtype as the file names it.
        dtype: String,
    },

    /// An alpha that is no number to multiply with.
    #[error("{} is {found}: alpha must be one finite number", Quoted(.key))]
    Alpha {
        /// The tensor's key.
        key: String,
        /// What it is, in words.
        found: String,
    },

    /// A shape that is none.
    #[error("{} is {found}: the shape that a weight is widened to must be two whole numbers over 0", Quoted(.key))]
    Reshape {
        /// The tensor's key.
        key: String,
        /// What it is, in words.
        found: String,
    },

    /// Two tensors say the same thing of one layer, or belong to two kinds of adapters.
    #[error("{} and {} cannot both change one layer: the file is broken, download it again", Quoted(.first), Quoted(.second))]
    Conflict {
        /// One key.
        first: String,
        /// The other key.
        second: String,
    },

    /// A change of a parameter that the layer does not have.
    #[error("{} changes the bias of `{layer}`, which has none: this LoRA was made for another model", Quoted(.key))]
    NoBias {
        /// The tensor's key.
        key: String,
        /// The layer's canonical name.
        layer: String,
    },

    /// A kind of adapter that is known and not supported.
    #[error("{} belongs to {kind}, which distorch does not apply: LoRA, LoCon, LoHa, LoKr, GLoRA, OFT, BOFT, DoRA, full differences and replacements are supported", Quoted(.key))]
    Unsupported {
        /// The tensor's key.
        key: String,
        /// The kind, with its article.
        kind: &'static str,
    },

    /// `lora_adapter_metadata` is not what diffusers writes.
    #[error(
        "the file's `lora_adapter_metadata` cannot be read, so its scales are not known: {reason}"
    )]
    Metadata {
        /// What is wrong with it.
        reason: String,
    },

    /// A tensor's data could not be had.
    #[error(transparent)]
    Data(#[from] OpenError),
}

impl LoraError {
    /// The error with the family that the file seems to be made for, where it is about a shape and that
    /// family is another one than the model's.
    pub(super) fn made_for(
        mut self,
        family: impl FnOnce() -> Option<&'static str>,
        model: &Model,
    ) -> Self {
        if let LoraError::Shape { made_for, .. } = &mut self
            && let Some(family) = family()
        {
            let label = model.label();
            if !label.starts_with(family) {
                *made_for = format!("{family}, it seems, and the model is {label}");
            }
        }
        self
    }
}
