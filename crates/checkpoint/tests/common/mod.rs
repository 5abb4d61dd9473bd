//! Key lists as checkpoints.
#![allow(dead_code)] // each test binary uses a part

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use distorch_checkpoint::Dtype;
use distorch_checkpoint::file::Checkpoint;
use flate2::read::GzDecoder;
use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The key list of a published checkpoint.
#[derive(Clone, Deserialize)]
pub struct Fixture {
    /// Parameters by component: `unet`, `clip`, `vae`.
    pub parameters: BTreeMap<String, u64>,
    /// Keys that no model uses, sorted.
    pub extra: Vec<String>,
    /// Shapes, sorted by key.
    pub tensors: IndexMap<String, Vec<usize>>,
}

/// What a test changes in a key list.
pub type Tensors = IndexMap<String, (Dtype, Vec<usize>)>;

impl Fixture {
    pub fn load(name: &str) -> Self {
        read(name)
    }

    pub fn checkpoint(&self, dtype: Dtype) -> Checkpoint {
        self.checkpoint_with(|_| dtype, |_| {})
    }

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

    /// Writes a safetensors file whose data is a hole, and says where each tensor's data starts.
    pub fn write_sparse(&self, path: &Path, dtype: Dtype) -> HashMap<String, u64> {
        let mut at = 0u64;
        let mut starts = HashMap::new();
        let mut header = serde_json::Map::new();
        for (key, shape) in &self.tensors {
            let end = at + shape.iter().product::<usize>() as u64 * dtype.size() as u64;
            let entry = serde_json::json!({
                "dtype": dtype.name(), "shape": shape, "data_offsets": [at, end],
            });
            header.insert(key.clone(), entry);
            starts.insert(key.clone(), at);
            at = end;
        }
        let mut header = serde_json::to_vec(&header).unwrap();
        header.resize(header.len().next_multiple_of(8), b' ');
        let data = 8 + header.len() as u64;
        let mut file = File::create(path).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(&header).unwrap();
        file.set_len(data + at).unwrap();
        starts.values_mut().for_each(|start| *start += data);
        starts
    }
}

/// A checkpoint without data.
pub fn parts(tensors: Tensors, metadata: &[(&str, &str)]) -> Checkpoint {
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let tensors = tensors.into_iter().map(|(key, (dtype, shape))| (key, dtype, shape));
    Checkpoint::from_parts("key list", metadata, tensors).unwrap()
}

/// Recorded orders of layers: `use` and `definition`, by model.
pub fn orders() -> HashMap<String, HashMap<String, Vec<String>>> {
    read("orders")
}

/// The original names of UNets' leaf modules by diffusers' names, by model.
pub fn diffusers_names() -> HashMap<String, IndexMap<String, String>> {
    read("diffusers-names")
}

pub fn write_at(path: &Path, start: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(start)).unwrap();
    file.write_all(bytes).unwrap();
}

pub fn read<T: DeserializeOwned>(name: &str) -> T {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys");
    let compressed = fs::read(folder.join(format!("{name}.json.gz"))).unwrap();
    let mut text = String::new();
    GzDecoder::new(compressed.as_slice()).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}
