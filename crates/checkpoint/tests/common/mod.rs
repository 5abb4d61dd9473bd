//! Recorded orders and names, beside the key lists.
#![allow(dead_code, unused_imports)] // each test binary uses a part

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

pub use distorch_test_support::key_list::{KeyList as Fixture, Tensors, parts, read};
use indexmap::IndexMap;

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
