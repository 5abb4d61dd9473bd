//! An executor on the shipped models and examples, whose pictures go to a temporary folder.
#![allow(dead_code)]

pub mod judge;

use std::path::{Path, PathBuf};

use distorch_allocation::Topology;
use distorch_checkpoint::folders::ModelFolders;
use distorch_runtime::devices;
use distorch_workflow::graph::Prompt;
use distorch_workflow::{Environment, Executor, nodes};
use serde_json::Value as Json;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// An executor with a folder for its pictures.
pub struct Bench {
    pub executor: Executor,
    output: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self::simulating("")
    }

    /// With simulated devices.
    pub fn simulating(devices: &str) -> Self {
        let real = devices::survey().devices.into_iter().map(|device| device.info);
        let cpu = real.filter(|info| info.id.is_cpu()).collect();
        let mut topology = Topology::new(cpu).unwrap();
        if !devices.is_empty() {
            topology = topology.simulate(devices).unwrap();
        }
        let folders = ModelFolders::new(&root(), &[]).unwrap();
        let mut environment = Environment::on(folders, topology);
        let output = tempfile::tempdir().unwrap();
        environment.output_dir = output.path().join("output");
        environment.temp_dir = output.path().join("temp");
        Self { executor: Executor::new(environment, nodes::all()), output }
    }

    /// A workflow of `examples/`.
    pub fn example(&self, name: &str) -> Prompt {
        let path = root().join("examples").join(format!("{name}.json"));
        Prompt::from_json(&std::fs::read_to_string(path).unwrap(), &nodes::all()).unwrap()
    }

    /// The files that an output node shows.
    pub fn saved(&self, ui: &Json) -> Vec<PathBuf> {
        let file = |file: &Json| {
            let part = |name: &str| file[name].as_str().unwrap().to_owned();
            self.output.path().join(part("type")).join(part("subfolder")).join(part("filename"))
        };
        ui["images"].as_array().unwrap().iter().map(file).collect()
    }
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}
