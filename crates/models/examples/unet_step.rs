//! One call of a full-size UNet, timed and compared with what `tools/reference/bench_diffusers.py`
//! left in a folder.
//!
//! ```text
//! cargo run --release -p distorch-models --example unet_step -- FOLDER [--threads 2] [--runs 3]
//! ```

#[path = "../tests/common/seeded.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod seeded;

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use distorch_checkpoint::config::UnetConfig;
use distorch_models::unet::Unet;
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
    let folder = Path::new(arguments.get(1).ok_or("give the folder of bench_diffusers.py")?);
    rayon::ThreadPoolBuilder::new().num_threads(option("--threads", 2)).build_global()?;

    let model: Value = serde_json::from_slice(&std::fs::read(folder.join("model.json"))?)?;
    let seed = model["seed"].as_u64().ok_or("no seed")?;
    let params: Vec<(String, Vec<usize>)> =
        serde_json::from_value::<std::collections::BTreeMap<_, _>>(model["params"].clone())?
            .into_iter()
            .collect();
    let shapes = params.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
    let dtype = if model["dtype"] == "bf16" { DType::BF16 } else { DType::F32 };
    let scope = seeded::component_as(shapes, seed, dtype);
    let config: UnetConfig = serde_json::from_value(model["config"].clone())?;
    let unet = Unet::load(&scope, &config)?;
    let loaded = peak_mib();

    let input = |name: &str| -> Result<TensorData, Box<dyn Error>> {
        let shape: Vec<usize> = serde_json::from_value(model["inputs"][name].clone())?;
        Ok(TensorData::new(seeded::uniform(name, shape.iter().product(), seed), shape))
    };
    let options = || (cpu(), DType::F32);
    let x = Tensor::<4>::from_data(input("x")?, (&options().0, options().1));
    let context = Tensor::<3>::from_data(input("context")?, (&options().0, options().1));
    let timesteps: Vec<f32> = serde_json::from_value(model["timesteps"].clone())?;
    let timesteps = Tensor::<1>::from_data(timesteps.as_slice(), (&options().0, options().1));
    let bytes = std::fs::read(folder.join("out.safetensors"))?;
    let reference = SafeTensors::deserialize(&bytes)?;
    let y = match reference.tensor("y") {
        Ok(y) => {
            let data = TensorData::new(floats(y.data()), y.shape().to_vec());
            Some(Tensor::<2>::from_data(data, (&options().0, options().1)))
        }
        Err(_) => None,
    };

    let (mut wall, mut cpu_time, mut out) = (f64::MAX, f64::MAX, Vec::new());
    for _ in 0..option("--runs", 3) {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        let result = unet.forward(x.clone(), timesteps.clone(), context.clone(), y.clone())?;
        out = result.into_data().to_vec::<f32>().map_err(|error| format!("{error:?}"))?;
        wall = wall.min(start.elapsed().as_secs_f64());
        cpu_time = cpu_time.min(cpu_seconds() - cpu_start);
    }
    let expected = floats(reference.tensor("out")?.data());
    let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let pairs = out.iter().zip(&expected);
    let error = pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest;
    println!("best: {wall:.2} s wall, {cpu_time:.2} s CPU; error {error:.1e} of the largest value");
    println!("peak memory {} MiB, {loaded} MiB of it before the first call", peak_mib());
    if let (Some(seconds), Some(cpu)) = (model["seconds"].as_f64(), model["cpu_seconds"].as_f64()) {
        let (wall, cpu_ratio) = (wall / seconds, cpu_time / cpu);
        println!("times diffusers': {wall:.2} wall, {cpu_ratio:.2} CPU");
    }
    Ok(())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// Seconds that this process's threads have computed; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    fields.take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The most memory this process has had; 0 where the system does not tell.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
