//! Files that `torch.save` wrote.
//!
//! Both containers, the zip [`archive`] and the [`legacy`] one, hold a pickle and storages. The
//! pickle is read as data ([`super::pickle`]); [`state_dict`] finds the tensors in it; a tensor
//! is a strided view of a [`storage`].

mod archive;
mod legacy;
mod state_dict;
mod storage;
mod zip;

use indexmap::IndexMap;

pub(crate) use archive::read_archive;
pub(crate) use legacy::{read_bare, read_legacy};
pub(crate) use storage::{Storage, Strided};

use super::tensor::TensorInfo;
use super::unread::Unread;

/// What a PyTorch file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The simple values next to the tensors.
    pub metadata: IndexMap<String, String>,
    /// The tensors in the order of their dict.
    pub tensors: IndexMap<String, TensorInfo>,
    /// Those of dtypes and kinds that are not read.
    pub unread: IndexMap<String, Unread>,
    /// What strided tensors are views of.
    pub storages: Vec<Storage>,
}
