//! Running the binary as a user does.

#![allow(dead_code, clippy::unwrap_used)] // helpers of tests, each used by some of them

use std::path::Path;

use assert_cmd::Command;
use distorch_checkpoint::Dtype;
use distorch_test_support::key_list::KeyList;
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

/// Writes a file with the keys of `list` at `path` whose data is a hole. Its metadata say what size of pictures it is
/// for, where that is given.
pub fn sparse_list(list: &str, dtype: Dtype, path: &Path, resolution: Option<&str>) {
    let metadata: Vec<_> =
        resolution.map(|size| ("modelspec.resolution", size)).into_iter().collect();
    KeyList::load(list).write_sparse(path, dtype, &metadata);
}

/// A base folder whose checkpoints folder holds a file with the keys of `list`.
pub fn base_with(list: &str, dtype: Dtype) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("models/checkpoints/real/model.safetensors");
    sparse_list(list, dtype, &path, None);
    dir
}
