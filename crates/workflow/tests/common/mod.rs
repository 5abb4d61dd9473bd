//! The fixtures of these tests, and what is read from values.

use std::fs;
use std::path::{Path, PathBuf};

use distorch_pipeline::Latent;
use distorch_workflow::value::Value;
use serde_json::Value as Json;

/// The folder of fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A fixture of JSON.
#[allow(dead_code)] // not every test has one
pub fn fixture(name: &str) -> Json {
    serde_json::from_str(&fs::read_to_string(fixtures().join(name)).unwrap()).unwrap()
}

/// The shape and values of latents.
#[allow(dead_code)] // not every test has some
pub fn latent(value: &Value) -> (Latent, [usize; 4], Vec<f32>) {
    let Value::Latent(latent) = value else { panic!("{value:?} is no latent") };
    let values = latent.samples.clone().into_data().convert::<f32>().into_vec().unwrap();
    (latent.clone(), latent.samples.dims(), values)
}

/// Numbers of JSON.
#[allow(dead_code)] // not every test has some
pub fn numbers(json: &Json) -> Vec<f32> {
    json.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect()
}
