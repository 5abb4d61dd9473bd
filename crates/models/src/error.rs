//! Why a model could not be built or run.

use distorch_runtime::WeightError;

/// Why a model could not be built or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A layer's weights could not be had.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A layer's weights do not fit what comes in.
    #[error("`{layer}` takes {expected}, but gets {found}")]
    Layer {
        /// The layer's canonical name.
        layer: String,
        /// What its weights are made for.
        expected: String,
        /// What came.
        found: String,
    },
    /// A layer's weights do not make what the model goes on with.
    #[error("`{layer}` makes {found} features, but the model goes on with {expected}")]
    Output {
        /// The layer's canonical name.
        layer: String,
        /// The features that the model needs.
        expected: usize,
        /// Those that the weights make.
        found: usize,
    },
    /// An input of the model has a shape that the model cannot take.
    #[error("the {model} takes a {input} of {expected}, but gets {found}")]
    Input {
        /// The model.
        model: &'static str,
        /// Which of its inputs.
        input: &'static str,
        /// What it takes.
        expected: String,
        /// What came.
        found: String,
    },
    /// The configuration contradicts itself.
    #[error("the {model} cannot be built: {reason}")]
    Config {
        /// The model.
        model: &'static str,
        /// The contradiction.
        reason: String,
    },
}

impl ModelError {
    /// An error unless an input of a model is what the model takes.
    pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(
        model: &'static str,
        input: &'static str,
        expected: &T,
        found: &T,
    ) -> Result<(), Self> {
        if expected == found {
            return Ok(());
        }
        Err(Self::Input {
            model,
            input,
            expected: format!("{expected:?}"),
            found: format!("{found:?}"),
        })
    }
}
