//! What a model file holds, whatever its format.

use indexmap::IndexMap;

use super::storage::Storage;
use super::tensor::TensorInfo;
use super::unread::Unread;

/// What every format's reader returns.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The simple values next to the tensors.
    pub metadata: IndexMap<String, String>,
    /// The tensors in the file's order.
    pub tensors: IndexMap<String, TensorInfo>,
    /// Those of dtypes and kinds that are not read.
    pub unread: IndexMap<String, Unread>,
    /// What strided tensors are views of.
    pub storages: Vec<Storage>,
}
