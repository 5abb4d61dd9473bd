//! A transformer at its full width with few blocks, compared with what `bench_flux.py`, `bench_mmdit.py` or
//! `bench_transformer.py` of `tools/reference` left in a folder, and its blocks, or all of it, timed.
//!
//! ```text
//! cargo run --release -p distorch-models --example blocks -- FOLDER [--threads 2] [--runs 3]
//! ```

#[path = "../tests/common/seeded.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod seeded;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use distorch_checkpoint::Dtype;
use distorch_checkpoint::config::DiffusionConfig;
use distorch_checkpoint::family::{Configs, blank, recognise};
use distorch_models::family::{self, NetworkPatches};
use distorch_models::network::{NetworkInput, ReferenceMethod, SkipLayers};
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Tensor};
use safetensors::SafeTensors;
use serde::Deserialize;

/// `model.json`.
#[derive(Deserialize)]
struct Description {
    config: DiffusionConfig,
    params: BTreeMap<String, Vec<usize>>,
    seed: u64,
    /// Shapes of the seeded inputs.
    inputs: BTreeMap<String, Vec<usize>>,
    timestep: f32,
    guidance: Option<f32>,
    /// How many blocks there are of each kind.
    blocks: BTreeMap<String, usize>,
    /// By dtype: of the first block of each kind, or of the `network`.
    seconds: BTreeMap<String, BTreeMap<String, f64>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let folder =
        Path::new(arguments.get(1).ok_or("give the folder of a script that measures PyTorch")?);
    rayon::ThreadPoolBuilder::new().num_threads(option("--threads", 2)).build_global()?;

    let about: Description = serde_json::from_slice(&std::fs::read(folder.join("model.json"))?)?;
    let diffusion = Some(about.config.clone());
    let file = blank("blank", &Configs { diffusion, ..Configs::default() }, Dtype::F32)?;
    let model = recognise(&file)?.diffusion.ok_or("no diffusion model")?;
    let bytes = std::fs::read(folder.join("out.safetensors"))?;
    let reference = SafeTensors::deserialize(&bytes)?;
    let expected = floats(reference.tensor("out")?.data());

    for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
        let shapes = about.params.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let scope = seeded::component_as(shapes, about.seed, dtype);
        let patches = NetworkPatches::default();
        let network = family::of(model.family).network(&scope, &model, &patches)?;
        let out = network.forward(about.input(SkipLayers::default())?)?;
        let out = out.into_data().to_vec::<f32>().map_err(|error| format!("{error:?}"))?;
        let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        let pairs = out.iter().zip(&expected);
        let error = pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest;
        println!("{name}: error {error:.1e} of the largest value");

        let best = |skip: &dyn Fn() -> SkipLayers| -> Result<f64, Box<dyn Error>> {
            let mut best = f64::MAX;
            for _ in 0..option("--runs", 3) {
                let input = about.input(skip())?;
                let start = Instant::now();
                network.forward(input)?;
                best = best.min(start.elapsed().as_secs_f64());
            }
            Ok(best)
        };
        // A block is what the network takes longer with it than without any.
        let rest = if about.blocks.is_empty() { 0.0 } else { best(&|| about.only(None))? };
        for (kind, theirs) in &about.seconds[name] {
            let ours = match about.blocks.contains_key(kind) {
                true => best(&|| about.only(Some(kind)))? - rest,
                false => best(&SkipLayers::default)?,
            };
            let ratio = ours / theirs;
            println!("{name}, {kind}: {ours:.3} s, PyTorch {theirs:.3} s: {ratio:.2}");
        }
    }
    Ok(())
}

impl Description {
    /// What is skipped where only the first block of a kind, or none, is computed.
    fn only(&self, kind: Option<&str>) -> SkipLayers {
        let skipped = |of: &str| {
            let count = self.blocks.get(of).copied().unwrap_or(0);
            (usize::from(kind == Some(of))..count).collect()
        };
        SkipLayers { double: skipped("double"), single: skipped("single") }
    }

    fn input(&self, skip: SkipLayers) -> Result<NetworkInput, Box<dyn Error>> {
        let one = |value: f32| Tensor::from_data([value], (&cpu(), DType::F32));
        Ok(NetworkInput {
            x: self.seeded("x")?,
            timesteps: one(self.timestep),
            context: self.seeded("context")?,
            vector: self
                .inputs
                .contains_key("vector")
                .then(|| self.seeded("vector"))
                .transpose()?,
            guidance: self.guidance.map(one),
            reference_latents: Vec::new(),
            reference_method: ReferenceMethod::default(),
            reference_slots: Vec::new(),
            skip,
        })
    }

    fn seeded<const D: usize>(&self, name: &str) -> Result<Tensor<D>, Box<dyn Error>> {
        let shape = self.inputs.get(name).ok_or("an input has no shape")?.clone();
        let values = seeded::uniform(name, shape.iter().product(), self.seed);
        Ok(Tensor::from_data(TensorData::new(values, shape), (&cpu(), DType::F32)))
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}
