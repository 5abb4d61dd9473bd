//! Files that `torch.save` wrote.
//!
//! Both containers, the zip [`archive`] and the [`legacy`] one, hold a pickle and storages. The
//! pickle is read as data ([`super::pickle`]); [`state_dict`] finds the tensors in it; a tensor
//! is a strided view of a [`storage`](super::storage).

mod archive;
mod legacy;
mod state_dict;
mod zip;

pub(crate) use archive::read_archive;
pub(crate) use legacy::{read_bare, read_legacy};
