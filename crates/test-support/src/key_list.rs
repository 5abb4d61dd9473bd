//! Key lists of published checkpoints, as checkpoints and as files without data.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read as _;
use std::path::Path;

use distorch_checkpoint::{Checkpoint, Dtype};
use flate2::read::GzDecoder;
use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model_file::write_sparse;
use crate::repository;

/// The key list of a published checkpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct KeyList {
    /// Parameters by component: `unet`, `clip`, `vae`.
    #[serde(default)]
    pub parameters: BTreeMap<String, u64>,
    /// Keys that no model uses, sorted.
    #[serde(default)]
    pub extra: Vec<String>,
    /// Shapes, sorted by key.
    pub tensors: IndexMap<String, Vec<usize>>,
}

/// What a test changes in a key list.
pub type Tensors = IndexMap<String, (Dtype, Vec<usize>)>;

impl KeyList {
    /// The list of this name.
    pub fn load(name: &str) -> Self {
        read(name)
    }

    /// A checkpoint without data, all of one dtype.
    pub fn checkpoint(&self, dtype: Dtype) -> Checkpoint {
        self.checkpoint_with(|_| dtype, |_| {})
    }

    /// A checkpoint without data, with the dtype of each key, and changed.
    pub fn checkpoint_with(
        &self,
        dtype: impl Fn(&str) -> Dtype,
        change: impl FnOnce(&mut Tensors),
    ) -> Checkpoint {
        let tensors = self.tensors.iter();
        let mut tensors =
            tensors.map(|(key, shape)| (key.clone(), (dtype(key), shape.clone()))).collect();
        change(&mut tensors);
        parts(tensors, &[])
    }

    /// Writes a file whose data is a hole, and returns where each tensor's data starts.
    pub fn write_sparse(
        &self,
        path: &Path,
        dtype: Dtype,
        metadata: &[(&str, &str)],
    ) -> HashMap<String, u64> {
        let tensors = self.tensors.iter();
        let tensors = tensors.map(|(key, shape)| (key.as_str(), dtype, shape.as_slice()));
        write_sparse(path, metadata, tensors)
    }
}

/// A checkpoint without data.
pub fn parts(tensors: Tensors, metadata: &[(&str, &str)]) -> Checkpoint {
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let tensors = tensors.into_iter().map(|(key, (dtype, shape))| (key, dtype, shape));
    Checkpoint::from_parts("key list", metadata, tensors).unwrap()
}

/// A compressed JSON file among the key lists.
pub fn read<T: DeserializeOwned>(name: &str) -> T {
    let folder = repository().join("crates/checkpoint/tests/fixtures/keys");
    let compressed = fs::read(folder.join(format!("{name}.json.gz"))).unwrap();
    let mut text = String::new();
    GzDecoder::new(compressed.as_slice()).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}
