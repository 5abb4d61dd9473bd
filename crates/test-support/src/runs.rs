//! Workflows run in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};

use distorch_allocation::{DeviceId, DeviceInfo, Topology};
use distorch_checkpoint::family::Configs;
use distorch_checkpoint::folders::ModelFolders;
use distorch_pipeline::diffusion::conditioning::Cond;
use distorch_runtime::devices;
use distorch_workflow::execute::Report;
use distorch_workflow::graph::Prompt;
use distorch_workflow::observe::Silent;
use distorch_workflow::value::Value;
use distorch_workflow::{Environment, ExecutionError, Executor, nodes};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::tensors::values;
use crate::{repository, small_models};

/// An executor, and the folder that it reads from and writes to.
pub struct Harness {
    /// Where `input/`, `output/`, `temp/` and, but for [`shipped`](Self::shipped), `models/` are.
    pub folder: TempDir,
    /// The executor, with what it has cached.
    pub executor: Executor,
}

impl Harness {
    /// Empty folders, on the CPU.
    pub fn empty() -> Self {
        Self::empty_on("")
    }

    /// As [`empty`](Self::empty), with simulated devices as `--simulate` takes them.
    pub fn empty_on(simulated: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["input", "output", "temp"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let cpu = DeviceInfo::new(DeviceId::CPU, "CPU", 8 << 30);
        let folders = ModelFolders::new(folder.path(), &[]).unwrap();
        let mut topology = Topology::new(vec![cpu]).unwrap();
        if !simulated.is_empty() {
            topology = topology.simulate(simulated).unwrap();
        }
        let environment = Environment::on(folders, topology);
        Self { folder, executor: Executor::new(environment, nodes::all()) }
    }

    /// As [`empty`](Self::empty), with one model file: its path below `models/`, and what is in it.
    pub fn with(path: &str, configs: &Configs) -> Self {
        let harness = Self::empty();
        small_models::write(&harness.model_path(path), configs);
        harness
    }

    /// With `tiny.safetensors`, of SD 1.x, among the checkpoints.
    pub fn sd1() -> Self {
        Self::with("checkpoints/tiny.safetensors", &small_models::sd1())
    }

    /// The models and inputs of the repository, on this machine's CPU.
    pub fn shipped() -> Self {
        Self::shipped_on("")
    }

    /// As [`shipped`](Self::shipped), with simulated devices as `--simulate` takes them.
    pub fn shipped_on(simulated: &str) -> Self {
        let real = devices::survey().devices.into_iter().map(|device| device.info);
        let cpu = real.filter(|info| info.id.is_cpu()).collect();
        let mut topology = Topology::new(cpu).unwrap();
        if !simulated.is_empty() {
            topology = topology.simulate(simulated).unwrap();
        }
        let folders = ModelFolders::new(&repository(), &[]).unwrap();
        let mut environment = Environment::on(folders, topology);
        let folder = tempfile::tempdir().unwrap();
        environment.output_dir = folder.path().join("output");
        environment.temp_dir = folder.path().join("temp");
        Self { folder, executor: Executor::new(environment, nodes::all()) }
    }

    /// What runs are given.
    pub fn environment(&self) -> &Environment {
        self.executor.environment()
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of a model file.
    pub fn model_path(&self, path: &str) -> PathBuf {
        self.path("models").join(path)
    }

    /// Copies a file into the input folder, and returns its name there.
    pub fn put(&self, file: &Path) -> String {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(file, self.path("input").join(&name)).unwrap();
        name
    }

    /// A workflow of `examples/`.
    pub fn example(&self, name: &str) -> Prompt {
        let path = repository().join("examples").join(format!("{name}.json"));
        Prompt::from_json(&fs::read_to_string(path).unwrap(), &nodes::all()).unwrap()
    }

    /// Runs a node and what it needs.
    ///
    /// # Errors
    /// What the executor says.
    pub fn report(&mut self, prompt: &Json, node: &str) -> Result<Report, ExecutionError> {
        let prompt = Prompt::from_json(&prompt.to_string(), &nodes::all()).unwrap();
        self.executor.run_nodes(&prompt, &[node], &Silent)
    }

    /// The outputs of a node.
    ///
    /// # Errors
    /// What the executor says.
    pub fn try_run(&mut self, prompt: &Json, node: &str) -> Result<Vec<Value>, ExecutionError> {
        Ok(self.report(prompt, node)?.values.remove(node).unwrap())
    }

    /// The outputs of a node that succeeds.
    pub fn run(&mut self, prompt: &Json, node: &str) -> Vec<Value> {
        self.try_run(prompt, node).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Why a node fails.
    pub fn fail(&mut self, prompt: &Json, node: &str) -> String {
        self.try_run(prompt, node).map(drop).unwrap_err().to_string()
    }

    /// The latent of an output slot.
    pub fn latent(&mut self, prompt: &Json, node: &str, slot: usize) -> Vec<f32> {
        match &self.run(prompt, node)[slot] {
            Value::Latent(latent) => values(&latent.samples),
            other => panic!("{other:?} is no latent"),
        }
    }

    /// The conditionings of a node.
    pub fn conds(&mut self, prompt: &Json, node: &str) -> Vec<Cond> {
        match &self.run(prompt, node)[0] {
            Value::Conditioning(conditioning) => conditioning.conds().to_vec(),
            other => panic!("{other:?} is no conditioning"),
        }
    }

    /// The files that an output node shows.
    pub fn saved(&self, ui: &Json) -> Vec<PathBuf> {
        let file = |file: &Json| {
            let part = |name: &str| file[name].as_str().unwrap().to_owned();
            self.path(&part("type")).join(part("subfolder")).join(part("filename"))
        };
        ui["images"].as_array().unwrap().iter().map(file).collect()
    }
}

/// A node of a prompt.
pub fn node(class: &str, inputs: Json) -> Json {
    json!({ "class_type": class, "inputs": inputs })
}

/// A prompt of these nodes.
pub fn prompt(nodes: &[(&str, Json)]) -> Json {
    Json::Object(nodes.iter().map(|(id, node)| ((*id).to_owned(), node.clone())).collect())
}
