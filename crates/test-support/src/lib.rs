//! What the tests of the other crates share. A dev-dependency of theirs, and of nothing else: it panics where something
//! goes wrong, as tests do.
//!
//! Without features it knows model files ([`model_file`], [`small_models`], [`key_list`]) and seeded values ([`seeded`]),
//! and no Burn.

pub mod key_list;
pub mod model_file;
#[cfg(feature = "runs")]
pub mod runs;
pub mod seeded;
pub mod small_models;
#[cfg(feature = "tensors")]
pub mod tensors;

use std::io::Read;
use std::path::{Path, PathBuf};

/// A `tekken.json` of the first tokens of Mistral's vocabulary; see the notice beside it.
pub fn tekken() -> Vec<u8> {
    unpacked(include_bytes!("../data/tekken.json.gz"))
}

/// A SentencePiece model with Gemma's settings and 2048 pieces; `tools/reference/make_gemma2.py` trained it.
pub fn gemma() -> Vec<u8> {
    unpacked(include_bytes!("../data/gemma.model.gz"))
}

fn unpacked(file: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}
