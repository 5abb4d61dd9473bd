//! Why nothing was measured.

use std::error::Error;
use std::io;

use distorch_runtime::offload::LoadError;
use thiserror::Error as ThisError;

type Source = Box<dyn Error + Send + Sync>;

/// Why nothing was measured.
#[derive(Debug, ThisError)]
pub enum BenchError {
    /// What was asked for cannot be measured: something else can.
    #[error(transparent)]
    Input(Source),
    /// Weights could not be loaded.
    #[error(transparent)]
    Load(LoadError),
    /// The machine failed.
    #[error(transparent)]
    Failed(Source),
}

impl BenchError {
    pub(crate) fn input(error: impl Into<Source>) -> Self {
        Self::Input(error.into())
    }

    pub(crate) fn failed(error: impl Into<Source>) -> Self {
        Self::Failed(error.into())
    }
}

impl From<io::Error> for BenchError {
    fn from(error: io::Error) -> Self {
        Self::failed(error)
    }
}
