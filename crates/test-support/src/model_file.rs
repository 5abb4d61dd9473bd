//! Model files in the safetensors format, in memory, on disk, or with a hole where the data would be.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use distorch_checkpoint::decode::fp8_lookup;
use distorch_checkpoint::{Checkpoint, Dtype};
use serde_json::{Value as Json, json};

/// A model file in the making. Tensors lie in the order in which they are added.
#[derive(Clone, Debug, Default)]
pub struct ModelFile {
    header: Header,
    data: Vec<u8>,
}

impl ModelFile {
    /// A file without tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file of F32 tensors: key, shape, values.
    pub fn of_values<K: AsRef<str>>(
        tensors: impl IntoIterator<Item = (K, Vec<usize>, Vec<f32>)>,
    ) -> Self {
        let mut file = Self::new();
        for (key, shape, values) in tensors {
            file.add(key.as_ref(), Dtype::F32, &shape, &values);
        }
        file
    }

    /// The same file with an entry of metadata.
    pub fn with_metadata(mut self, key: &str, value: &str) -> Self {
        self.header.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a tensor of these values; 16 bits are rounded to the nearest, 8 bits towards 0.
    pub fn add(&mut self, key: &str, dtype: Dtype, shape: &[usize], values: &[f32]) {
        self.add_bytes(key, dtype, shape, &encode(values, dtype));
    }

    /// Adds a tensor of these stored bytes.
    pub fn add_bytes(&mut self, key: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
        let start = self.data.len() as u64;
        self.data.extend(bytes);
        self.header.add(key, dtype, shape, [start, self.data.len() as u64]);
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.header.to_bytes()[..], &self.data].concat()
    }

    /// Writes the file, and the folder that it lies in.
    pub fn write(&self, path: &Path) {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(path, self.to_bytes()).unwrap();
    }

    /// The file opened in memory under this name.
    pub fn open(&self, name: &str) -> Checkpoint {
        Checkpoint::from_bytes(name, self.to_bytes()).unwrap()
    }
}

/// Writes a file with these metadata and tensors (key, dtype, shape) whose data is a hole, and the folder that it lies
/// in. Returns where in the file each tensor's data starts.
pub fn write_sparse<'t>(
    path: &Path,
    metadata: &[(&str, &str)],
    tensors: impl IntoIterator<Item = (&'t str, Dtype, &'t [usize])>,
) -> HashMap<String, u64> {
    let (mut header, mut end, mut starts) = (Header::default(), 0, HashMap::new());
    for (key, value) in metadata {
        header.metadata.insert((*key).to_owned(), (*value).into());
    }
    for (key, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() as u64 * dtype.size() as u64;
        header.add(key, dtype, shape, [start, end]);
        starts.insert(key.to_owned(), start);
    }
    let bytes = header.to_bytes();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).unwrap();
    }
    let mut file = File::create(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_len(bytes.len() as u64 + end).unwrap();
    starts.values_mut().for_each(|start| *start += bytes.len() as u64);
    starts
}

/// Values as they are stored.
pub fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        // The upper half of an f16.
        Dtype::F8E5M2 => values.iter().map(|v| half::f16::from_f32(*v).to_le_bytes()[1]).collect(),
        Dtype::F8E4M3 => {
            // The codes of numbers from 0 to 448 are in their order.
            let codes = &fp8_lookup(dtype).unwrap()[..0x7f];
            let code = |v: &f32| {
                let above = codes.partition_point(|code| *code <= v.abs());
                (above - 1) as u8 | u8::from(v.is_sign_negative()) << 7
            };
            values.iter().map(code).collect()
        }
        other => panic!("no test writes values as {other}"),
    }
}

#[derive(Clone, Debug, Default)]
struct Header {
    metadata: serde_json::Map<String, Json>,
    /// `"key":{…}`, one after the other.
    entries: Vec<String>,
}

impl Header {
    fn add(&mut self, key: &str, dtype: Dtype, shape: &[usize], offsets: [u64; 2]) {
        let entry = json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": offsets });
        self.entries.push(format!("{}:{entry}", json!(key)));
    }

    /// Its length and its text, filled up with spaces to a multiple of 8 as the format asks of writers.
    fn to_bytes(&self) -> Vec<u8> {
        let mut entries = self.entries.clone();
        if !self.metadata.is_empty() {
            entries.insert(0, format!("\"__metadata__\":{}", json!(self.metadata)));
        }
        let mut text = format!("{{{}}}", entries.join(",")).into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        [&(text.len() as u64).to_le_bytes()[..], &text].concat()
    }
}
