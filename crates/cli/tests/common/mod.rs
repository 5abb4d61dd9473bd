//! Running the binary as a user does.

#![allow(dead_code, clippy::unwrap_used)] // helpers of tests, each used by some of them

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// `distorch` with these arguments, away from any model folders of the machine's user.
pub fn distorch(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("distorch").unwrap();
    command.env_remove("COMFYUI_PATH").current_dir(env!("CARGO_TARGET_TMPDIR")).args(args);
    command
}

/// Standard output of a run that succeeds.
pub fn stdout(args: &[&str]) -> String {
    let output = distorch(args).assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

/// Standard output of a run that succeeds, as JSON.
pub fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// Standard error of a run that ends with exit code 2: bad usage or input.
pub fn refused(args: &[&str]) -> String {
    let output = distorch(args).assert().code(2).get_output().clone();
    assert!(output.stdout.is_empty(), "an error belongs on standard error");
    String::from_utf8(output.stderr).unwrap()
}

/// Writes a safetensors file of `shapes` in `dtype` whose data is a hole in the file. Its metadata say what
/// size of pictures it is for, where that is given.
pub fn sparse_safetensors(
    path: &Path,
    shapes: &[(String, Vec<u64>)],
    dtype: (&str, u64),
    resolution: Option<&str>,
) {
    let mut header = serde_json::Map::new();
    if let Some(resolution) = resolution {
        let metadata = serde_json::json!({ "modelspec.resolution": resolution });
        header.insert("__metadata__".into(), metadata);
    }
    let mut end = 0;
    for (name, shape) in shapes {
        let start = end;
        end += shape.iter().product::<u64>() * dtype.1;
        let entry = serde_json::json!({
            "dtype": dtype.0, "shape": shape, "data_offsets": [start, end]
        });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    std::fs::write(path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64 + end).unwrap();
}

#[derive(Deserialize)]
struct KeyList {
    tensors: BTreeMap<String, Vec<u64>>,
}

/// Writes a file with the keys of `list` at `path`.
pub fn sparse_list(list: &str, dtype: (&str, u64), path: &Path, resolution: Option<&str>) {
    let keys = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../checkpoint/tests/fixtures/keys/{list}.json.gz"));
    let list: KeyList = serde_json::from_reader(GzDecoder::new(File::open(keys).unwrap())).unwrap();
    let shapes: Vec<_> = list.tensors.into_iter().collect();
    sparse_safetensors(path, &shapes, dtype, resolution);
}

/// A base folder whose checkpoints folder holds a file with the keys of `list`.
pub fn base_with(list: &str, dtype: (&str, u64)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("models/checkpoints/real");
    std::fs::create_dir_all(&folder).unwrap();
    sparse_list(list, dtype, &folder.join("model.safetensors"), None);
    dir
}
