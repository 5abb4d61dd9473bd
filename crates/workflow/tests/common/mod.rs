//! A folder with `input/` and `output/` to run nodes in.

use std::fs;
use std::path::{Path, PathBuf};

use distorch_allocation::{DeviceInfo, Topology};
use distorch_checkpoint::folders::ModelFolders;
use distorch_pipeline::Latent;
use distorch_workflow::execute::Report;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::Silent;
use distorch_workflow::value::Value;
use distorch_workflow::{Environment, ExecutionError, Executor, nodes};
use serde_json::Value as Json;

/// An executor in a folder of its own.
pub struct Workplace {
    folder: tempfile::TempDir,
    executor: Executor,
}

impl Workplace {
    /// One with empty folders.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["input", "output", "temp"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let folders = ModelFolders::new(folder.path(), &[]).unwrap();
        let cpu = DeviceInfo::new("cpu".parse().unwrap(), "", 1 << 32);
        let topology = Topology::new(vec![cpu]).unwrap();
        Self { executor: Executor::new(Environment::on(folders, topology), nodes::all()), folder }
    }

    /// What runs are given.
    #[allow(dead_code)] // not every test asks
    pub fn environment(&self) -> &Environment {
        self.executor.environment()
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Copies a fixture into the input folder.
    #[allow(dead_code)] // not every test has some
    pub fn put(&self, fixture: &str) -> String {
        let from = fixtures().join(fixture);
        let name = from.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(&from, self.path("input").join(&name)).unwrap();
        name
    }

    /// Runs a node and what it needs.
    pub fn try_run(&mut self, prompt: &Json, node: &str) -> Result<Report, ExecutionError> {
        let prompt = Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap();
        self.executor.run_nodes(&prompt, &[node], &Silent)
    }

    /// What a node gives.
    pub fn run(&mut self, prompt: &Json, node: &str) -> Vec<Value> {
        match self.try_run(prompt, node) {
            Ok(mut report) => report.values.remove(node).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Why a node gives nothing.
    pub fn fail(&mut self, prompt: &Json, node: &str) -> String {
        self.try_run(prompt, node).map(drop).unwrap_err().to_string()
    }
}

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
