//! SD3.5 medium at its full width with two joint blocks, compared with what `tools/reference/bench_mmdit.py` left in a
//! folder, and the first of them timed.
//!
//! ```text
//! cargo run --release -p distorch-models --example joint_block -- FOLDER [--threads 2] [--runs 3]
//! ```

#[path = "../tests/common/seeded.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod seeded;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use distorch_checkpoint::config::MmditConfig;
use distorch_models::network::{Network, NetworkInput, ReferenceMethod, SkipLayers};
use distorch_models::sd3::Mmdit;
use distorch_runtime::tensor::{TensorData, cpu};
use distorch_runtime::{DType, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let folder = Path::new(arguments.get(1).ok_or("give the folder of bench_mmdit.py")?);
    rayon::ThreadPoolBuilder::new().num_threads(option("--threads", 2)).build_global()?;

    let model: Value = serde_json::from_slice(&std::fs::read(folder.join("model.json"))?)?;
    let seed = model["seed"].as_u64().ok_or("no seed")?;
    let params: BTreeMap<String, Vec<usize>> = serde_json::from_value(model["params"].clone())?;
    let config: MmditConfig = serde_json::from_value(model["config"].clone())?;
    let bytes = std::fs::read(folder.join("out.safetensors"))?;
    let reference = SafeTensors::deserialize(&bytes)?;
    let expected = floats(reference.tensor("out")?.data());

    for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
        let shapes = params.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let mmdit = Mmdit::load(&seeded::component_as(shapes, seed, dtype), &config)?;
        let out = mmdit.forward(input(&model, seed, SkipLayers::default())?)?;
        let out = out.into_data().to_vec::<f32>().map_err(|error| format!("{error:?}"))?;
        let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        let pairs = out.iter().zip(&expected);
        let error = pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest;
        println!("{name}: error {error:.1e} of the largest value");

        // Without blocks and with the first one: what it adds is its time.
        let [mut rest, mut block] = [f64::MAX; 2];
        for _ in 0..option("--runs", 3) {
            for (best, double) in [(&mut rest, vec![0, 1]), (&mut block, vec![1])] {
                let input = input(&model, seed, SkipLayers { double, single: Vec::new() })?;
                let start = Instant::now();
                mmdit.forward(input)?;
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        let (seconds, theirs) = (block - rest, model["seconds"][name].as_f64().ok_or("no time")?);
        let ratio = seconds / theirs;
        println!("{name}, joint block: {seconds:.3} s, PyTorch {theirs:.3} s: {ratio:.2}");
    }
    Ok(())
}

fn input(model: &Value, seed: u64, skip: SkipLayers) -> Result<NetworkInput, Box<dyn Error>> {
    fn seeded<const D: usize>(
        model: &Value,
        seed: u64,
        name: &str,
    ) -> Result<Tensor<D>, Box<dyn Error>> {
        let shape: Vec<usize> = serde_json::from_value(model["inputs"][name].clone())?;
        let values = seeded::uniform(name, shape.iter().product(), seed);
        Ok(Tensor::from_data(TensorData::new(values, shape), (&cpu(), DType::F32)))
    }
    Ok(NetworkInput {
        x: seeded(model, seed, "x")?,
        timesteps: Tensor::from_data([500.0_f32], (&cpu(), DType::F32)),
        context: seeded(model, seed, "context")?,
        vector: Some(seeded(model, seed, "vector")?),
        guidance: None,
        reference_latents: Vec::new(),
        reference_method: ReferenceMethod::default(),
        skip,
    })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}
